"""The study of "To Asymmetry and Beyond" as one grid: which side costs quality, which costs time. And NASH beside it.

Command:   python -m nash_jax.main --config=configs/study.py:VARIANT [--list-cells | --cell=NAME]
             pronunciation (default)  every method on letters → phonemes, a model of 6 + 6 layers; no network
             students                 what a student gains from the dense model's outputs and logits, from averages, and
                                      from a model halfway, against the same shape on the references; letters → phonemes
             targets                  models for a speed, beside CoFi and dropped layers; letters → phonemes
             local, local=LAYERS      the same cells on your own files and model, as configs/local.py takes them;
                                      LAYERS of each side of the model, 6 unless named; --config.contrasts=FILE
             flan-t5                  the study's own: FLAN-T5 small, base and large on CNN/DailyMail, XSum and SAMSum
             latency                  the 16 shapes of FLAN-T5 small and base with random weights, on a CPU
             latency-gpu              small, base and large at the study's lengths
Hardware:  two CPU cores for pronunciation and latency; a GPU or TPU host with 24 GiB or more for flan-t5 and
           latency-gpu. Cells are commands of their own: launch/README.md spreads them over machines.
Time:      pronunciation 3 to 6 hours, 3 to 8 minutes a cell by how busy the cores are; latency 50 minutes for small,
           30 for base; flan-t5 and latency-gpu are not yet run here.
Expected:  docs/results.md: pronunciation (three seeds) 64.3 % word accuracy dense; NASH with 2 layers and 30 % 61.2 %
           at 2.3 to 2.9×, two layers alone 62.2 % at 2.2 to 2.7×, CoFi at 70 % 59.5 % at 2.0 to 2.5×.
"""

import re
import runpy
from pathlib import Path

from nash_jax.config.schema import default_config
from nash_jax.errors import UserError, did_you_mean
from nash_jax.pruning.layer_selection import study_sixths

GRID = [(6, d) for d in (5, 4, 3, 2, 1)] + [(e, 6) for e in (5, 4, 3, 2, 1)] + [(n, n) for n in (5, 4, 3, 2, 1)]
SEEDS = (57, 58, 59)
FLAN_T5 = {"small": 8, "base": 12, "large": 24}  # layers of each side


def get_config(variant="pronunciation"):
    makers = {
        "pronunciation": _pronunciation,
        "students": _students,
        "targets": _targets,
        "local": _local,
        "flan-t5": _flan_t5,
        "latency": _latency,
        "latency-gpu": _latency_gpu,
    }
    if own := re.fullmatch(r"local=(\d+)", variant):
        return _local(int(own[1]))
    if variant not in makers:
        raise UserError(
            f"--config: no variant {variant!r}{did_you_mean(variant, makers)}", f"one of {', '.join(makers)}"
        )
    return makers[variant]()


def _beside(name):
    """The config of another file of this folder."""
    return runpy.run_path(str(Path(__file__).with_name(f"{name}.py")))["get_config"]()


def _drop(depth, encoder, decoder):
    """Keeps so many sixths of each side: the study's layers where it has a list, else evenly spread ones.

    A side of six sixths is left as it is, however many layers it has.
    """
    listed = depth in FLAN_T5.values()
    sixths = study_sixths(depth) if listed else {n: range(round(depth * n / 6)) for n in range(1, 7)}
    shortened = {"encoder_layers": encoder, "decoder_layers": decoder}
    layers = {side: len(sixths[n]) if n < 6 else 0 for side, n in shortened.items()}
    return {"method": "drop", "shorten": layers | {"selection": "study" if listed else "uniform"}}


def _methods(config, seeds):
    """Every method at several sizes, trained alike; the rows that are compared have several seeds."""
    depth = config.model.decoder_layers
    half, third = depth // 2, depth // 3
    compared = {
        "none": {"method": "none"},
        **{f"drop-6-{sixths}": _drop(depth, 6, sixths) for sixths in (3, 2, 1)},
        **{f"drop-{n}-{n}": _drop(depth, n, n) for n in (3, 2)},
        "importance-6-2": _drop(depth, 6, 2) | {"shorten": {"decoder_layers": third, "selection": "importance"}},
        **{
            f"nash-{k}-{percent}": {
                "method": "nash", "shorten": {"decoder_layers": k}, "prune": {"sparsity": percent / 100}
            }
            for k, percent in ((third, 30), (third, 60), (half, 30))
        },
        f"auto-{third}-30": {
            "method": "nash_auto", "shorten": {"decoder_layers": third}, "prune": {"sparsity": 0.3}
        },
        **{f"cofi-{percent}": {"method": "cofi", "prune": {"sparsity": percent / 100}} for percent in (50, 70)},
    }  # fmt: skip
    rest = {f"drop-{e}-{d}": _drop(depth, e, d) for e, d in GRID}
    cells = {name: cell | {"seeds": seeds} for name, cell in compared.items()} | {
        name: cell for name, cell in rest.items() if name not in compared
    }
    # without gates, fine-tuned for as long as gates and what they leave are trained; also where flags change that
    both = {"retrain": {"epochs": config.prune.get_ref("epochs") + config.retrain.get_ref("epochs")}}
    return {name: cell | (both if cell["method"] in ("drop", "none") else {}) for name, cell in cells.items()}


def _pronunciation():
    config = _beside("quickstart")
    config.task.max_eval_examples = 2000
    config.model.update(encoder_layers=6, decoder_layers=6, decoder_d_ff=256)
    config.finetune.update(epochs=1.5, learning_rate=2e-3)
    config.prune.update(epochs=0.2, sparsity_warmup_epochs=0.08, eval_every=0.05)
    config.retrain.epochs = 0.5
    config.cells = _methods(config, SEEDS)
    config.contrasts = str(Path(__file__).with_name("contrasts") / "letters.json")
    return config


def _students():
    """Ten seeds, all test words, and 0.7 epochs of training in each cell, as in `pronunciation`."""
    config = _pronunciation()
    config.task.max_eval_examples = 0
    taught = {"label": {"share": 1.0}}
    trained = {"epochs": config.prune.epochs + config.retrain.epochs}
    with_logits = {"retrain": trained | {"distill": {"logits": 0.8}}}
    averaged = {"retrain": trained | {"eval_every": 0.02, "average_last": 6}}
    half = {"epochs": trained["epochs"] / 2}
    alike = {key: config.retrain[key] for key in ("batch_size", "optimizer", "learning_rate", "beta2", "eval_every")}
    cells = {
        "none": {"method": "none", "retrain": trained},
        "scratch-6-2": _drop(6, 6, 2) | {"method": "scratch", "retrain": trained},
        "drop-6-2": _drop(6, 6, 2) | {"retrain": trained},
        "drop-6-2-taught": _drop(6, 6, 2) | taught | with_logits,
        "drop-6-2-averaged": _drop(6, 6, 2) | averaged,
        "drop-6-2-halfway": _drop(6, 6, 2) | {"halfway": alike | half | {"decoder_layers": 4}, "retrain": half},
        "drop-6-5": _drop(6, 6, 5) | {"retrain": trained},
        "drop-6-5-taught": _drop(6, 6, 5) | taught | with_logits,
    }
    config.cells = {name: cell | {"seeds": tuple(range(57, 67))} for name, cell in cells.items()}
    config.contrasts = str(Path(__file__).with_name("contrasts") / "students.json")
    return config


def _targets():
    """What the search finds is timed at its target's batch size alone, and trained as long as dropped layers are."""
    config = _pronunciation()
    config.task.max_eval_examples = 0
    trained = {"retrain": {"epochs": config.prune.epochs + config.retrain.epochs}}
    paid = {  # gates that pay for time, and for parameters, which come to about this speed
        "latency-2_5-b16": {"method": "latency", "target_speedup": 2.5, "benchmark": {"batch_sizes": (16,)}},
        **{f"cofi-{percent}": {"method": "cofi", "prune": {"sparsity": percent / 100}} for percent in (60, 70)},
    }
    shapes = ((6, 3), (6, 2), (4, 3), (4, 2), (3, 2), (2, 2))
    dropped = {f"drop-{e}-{d}": _drop(6, e, d) | trained for e, d in shapes}
    found = {
        f"auto-{target:g}-b{rows}".replace(".", "_"): {"target_speedup": target, "benchmark": {"batch_sizes": (rows,)}}
        | trained
        for rows in (16, 1)
        for target in (2.0, 2.5, 3.0)
    }
    config.cells = {name: cell | {"seeds": (57,)} for name, cell in (found | paid | dropped).items()}
    config.contrasts = ""
    return config


def _local(depth=6):
    if depth < 6:
        raise UserError(f"--config: local={depth}", "the layers of each side of the model, 6 or more: sixths are kept")
    config = _beside("local")
    config.model.update(encoder_layers=depth, decoder_layers=depth)
    config.cells = _methods(config, ())
    config.contrasts = ""  # --config.contrasts=FILE
    return config


def _flan_t5():
    config = default_config()
    config.task.update(source="hub", prefix="summarize: ", metric="rouge")
    config.task.update(max_source_length=1024, max_target_length=128, max_new_tokens=128)
    config.model.dtype = "bfloat16"
    for phase in (config.finetune, config.retrain):
        phase.update(epochs=3.0, batch_size=64, accumulation=8, learning_rate=1e-4, schedule="constant")
        phase.weight_decay = 0.01
    config.benchmark.update(source_length=1024, new_tokens=(20, 26, 71, 128), runs=7)
    config.cells = {
        f"{size}-{task}-{e}-{d}": _drop(depth, e, d)
        | {"model": {"init": f"google/flan-t5-{size}"}, "task": {"name": task}}
        for size, depth in FLAN_T5.items()
        for task in ("cnn_dailymail", "xsum", "samsum")
        for e, d in [(6, 6), *GRID]
    }
    return config


def _shapes(sizes):
    """The study's 16 shapes of each size."""
    return {
        f"{size}-{e}-{d}": _drop(FLAN_T5[size], e, d) | {"model": {"preset": f"flan-t5-{size}"}, **own}
        for size, own in sizes.items()
        for e, d in [(6, 6), *GRID]
    }


def _latency():
    config = default_config()
    config.stages = "benchmark"
    config.benchmark.update(source_length=128, new_tokens=(20, 26, 71, 128), runs=7)
    config.cells = _shapes(
        {"small": {"benchmark": {"batch_sizes": (1, 8)}}, "base": {"benchmark": {"batch_sizes": (1,)}}}
    )
    return config


def _latency_gpu():
    config = default_config()
    config.stages = "benchmark"
    config.benchmark.update(source_length=1024, new_tokens=(20, 26, 71, 128), runs=7)
    config.cells = _shapes({size: {} for size in FLAN_T5})
    return config
