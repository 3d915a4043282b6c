"""The stages that look at the pruned model and hand it over: `evaluate`, `benchmark`, `export`."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nash_jax.benchmark.latency import measure_latency, speedups
from nash_jax.benchmark.peers import find_systems, time_models
from nash_jax.config.derived import export_formats
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import check_positions, score_models
from nash_jax.evaluation.row_statistics import FILE, save_statistics
from nash_jax.recipe.context import RunContext
from nash_jax.runtime.multihost import broadcast_from_host0, is_host0
from nash_jax.runtime.sharding import device_name
from nash_jax.runtime.stored import read_stored
from nash_jax.seq2seq import Seq2Seq

_SAVE: dict[str, Callable[[Seq2Seq, Path], None]] = {  # EXPORT_FORMATS → how each is written
    "hf": Seq2Seq.save_hf,
    "ct2": Seq2Seq.save_ct2,
    "ct2_int8": functools.partial(Seq2Seq.save_ct2, quantization="int8"),
    "onnx": Seq2Seq.save_onnx,
    "onnx_int8": functools.partial(Seq2Seq.save_onnx, quantization="int8"),
    "stablehlo": Seq2Seq.save_stablehlo,
}


def evaluate(context: RunContext, folder: Path) -> dict[str, Any]:
    """Both models and the baselines on the test rows; what was measured of each row is kept beside the result."""
    check_positions(context.stored("finetune")[0], context.config)
    evaluator = context.evaluator("test", "finetune")
    smaller = {"pruned": context.evaluator("test", "retrain")} if context.vocabulary("retrain") else {}
    keep = functools.partial(save_statistics, folder / FILE) if is_host0() else None
    return score_models(evaluator, context.engines, writers=smaller, keep=keep)


def benchmark(context: RunContext, folder: Path) -> dict[str, Any]:
    """Dense against pruned, timed in turn."""
    check_positions(context.stored("finetune")[0], context.config)
    rows = measure_latency(context.timed_engines, context.config.benchmark)
    found = {"benchmark": rows, "speedup": speedups(rows), "device": device_name()}
    return found | ({"peers": _time_peers(context)} if context.config.benchmark.peers else {})


def _time_peers(context: RunContext) -> list[dict[str, Any]]:
    """Both models in other engines, each in a process of its own; host 0 alone, the others wait."""
    own = context.config.benchmark
    given = {
        "systems": ["nash_jax", *(name for name in find_systems(own.peers) if name != "nash_jax")],
        "batch_sizes": list(own.batch_sizes), "source_length": own.source_length, "new_tokens": own.new_tokens[0],
        "num_beams": 1, "runs": min(own.runs, 7), "starts": 1, "threads": os.cpu_count() or 1,
    }  # fmt: skip
    stages = {"dense": "finetune", "pruned": "retrain"}
    models = {name: Seq2Seq(*context.model(stage)) for name, stage in stages.items()}
    found: list[dict[str, Any]] = broadcast_from_host0(time_models(models, given) if is_host0() else None)
    return found


def export(context: RunContext, folder: Path) -> dict[str, Any]:
    """The pruned model: the export, and the formats that were asked for in folders of their names."""
    tokenizer, generation = context.tokenizer_of("retrain"), context.generation_of("retrain")
    spec, params = context.stored("retrain")
    Seq2Seq(spec, context.own_parts(spec, params), tokenizer, generation=generation).save(folder)
    formats = export_formats(context.config)
    whole = read_stored(params) if formats and is_host0() else params  # it alone writes the formats of others
    pruned = Seq2Seq(spec, whole, tokenizer, generation=generation)
    for name in formats:
        try:
            _SAVE[name](pruned, folder / name)
        except UserError as error:  # the export holds the model all the same
            print(f"note: no {folder / name}: {error}")
    return {"folder": str(folder)}
