"""Evaluation mode: one model's metrics, sizes, sparsity and times; and runs of some stages only."""

import dataclasses
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from commands import LIMIT, on_devices

from nash_jax.benchmark import components
from nash_jax.benchmark.components import component_contributions, component_times, keep_components, present_components
from nash_jax.config.derived import all_stages, chosen_stages
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import Config, default_config
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.evaluation.sizes import component_sizes, sparsities
from nash_jax.generation.engine import Engine
from nash_jax.recipe.evaluate_model import EvaluationRun
from nash_jax.recipe.modes import make_run
from nash_jax.recipe.run import PruningRun
from nash_jax.report.console import summary
from nash_jax.seq2seq import Seq2Seq
from nash_jax.spec import DecoderLayer, EncoderLayer, ModelSpec, dense_spec
from nash_jax.testing import random_params, random_spec
from nash_jax.tree import count_params

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["cat", "act", "tac", "bat", "tab", "cab"]  # of one length: one shape of batches
SIZES = {"d_model": 8, "d_ff": 12, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 2}
RAGGED = (EncoderLayer((1,), 7), EncoderLayer((0, 1), 0)), (DecoderLayer((0,), (0, 1), 5),)  # of SIZES, cut
SETTINGS = {
    "task.name": "letters", "task.source": "files", "task.prefix": "", "task.metric": "exact_match",
    "task.test_file": "test.jsonl", "task.max_source_length": 8, "task.max_new_tokens": 4, "evaluate.batch_size": 8,
    "benchmark.batch_sizes": (2,), "benchmark.source_length": 8, "benchmark.new_tokens": (8,), "benchmark.runs": 3,
}  # fmt: skip


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder with test rows and models: a dense one, in both layouts, and one cut from it."""
    place = tmp_path_factory.mktemp("place")
    rows = [{"source": word, "references": [" ".join(word.upper())]} for word in WORDS]
    lines = (json.dumps({"document": row["source"], "summary": row["references"][0]}) for row in rows)
    (place / "test.jsonl").write_text("\n".join(lines))
    tokenizer = build_pronunciation_tokenizer(rows)
    dense = dense_spec(vocab_size=len(tokenizer), tied=False, dropout_rate=0.0, **SIZES)
    model = Seq2Seq(dense, random_params(dense), tokenizer)
    model.save(place / "dense")
    model.save_hf(place / "hub")
    ragged = dataclasses.replace(dense, encoder=RAGGED[0], decoder=RAGGED[1])
    Seq2Seq(ragged, random_params(ragged), tokenizer).save(place / "ragged")
    return place


def make_config(place: Path, **settings: object):
    """The settings with others, paths within `place`."""
    config = default_config()
    for name, value in (SETTINGS | settings).items():
        *groups, last = name.split(".")
        group = config
        for part in groups:
            group = group[part]
        group[last] = str(place / value) if last in ("init", "reference") or last.endswith("_file") else value
    return parse_config(config)


@pytest.fixture(scope="module")
def run(place):
    """`run(*flags)` → what the real command printed, started in `place`."""
    flags = [f"--config.{name}={value}" for name, value in SETTINGS.items()]
    environment = os.environ | on_devices(1) | {"PYTHONPATH": str(ROOT)}  # this checkout, not one that is installed

    def run(*more: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "nash_jax.main", f"--config={ROOT}/configs/local.py", *flags, *more],
            cwd=place, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    return run


MODEL = ("--config.model.init=ragged", "--config.evaluate.reference=dense")


@pytest.fixture(scope="module")
def printed(run) -> str:
    return run("--config.stages=evaluate,benchmark", *MODEL)


@pytest.fixture(scope="module")
def report(place, printed) -> dict:
    return json.loads((place / "runs" / "local-evaluate" / "report.json").read_text())


@pytest.mark.parametrize("engine", ["ctranslate2", "ctranslate2_int8", "jax_int8", "onnxruntime"])
def test_another_engine_is_scored_beside_ours(place, tmp_path, engine):
    config = make_config(place, **{"model.init": "ragged", "stages": "evaluate", "evaluate.engine": engine})
    report = EvaluationRun(config, tmp_path / engine).run()
    metrics, paired = report["metrics"], report["paired"]["exact_match"]
    assert set(metrics) == {"jax", "model", "baselines"}
    assert paired["difference"] == metrics["model"]["exact_match"] - metrics["jax"]["exact_match"]
    if engine in ("ctranslate2", "onnxruntime"):
        assert metrics["model"] == metrics["jax"]  # the same outputs
    low, high = paired["difference_low"], paired["difference_high"]
    assert f"({low:+.2f} to {high:+.2f}) against jax" in summary(report)


def test_only_the_stages_asked_for(place, printed):
    folder = place / "runs" / "local-evaluate"  # never the folder of a training run of the same config file
    assert sorted(path.name for path in folder.iterdir() if path.is_dir()) == ["benchmark", "evaluate"]
    assert printed.splitlines()[-1] == "report: runs/local-evaluate/report.html"


def test_report_keys(report):
    promised = "task config device dtype versions metrics params benchmark speedup stages components"
    assert set(promised.split()) <= set(report)
    assert report["model"] == "ragged" and report["num_test_examples"] == len(WORDS)
    assert set(report["metrics"]["model"]) == {"exact_match", "generated_length"}
    assert [row["model"] for row in report["benchmark"]] == ["model"] and report["speedup"] == {}
    assert set(report["stages"]) == {"evaluate", "benchmark"}


def test_parameters_add_up(place, report):
    sizes = report["components"]["parameters"]["model"]
    assert sum(sizes.values()) == report["params"]["model"]
    # by hand: heads of 4 · 8 weights of each of query, key, value and output; an FFN unit has 2 · 8
    assert sizes["encoder attention"] == 3 * 4 * 32 and sizes["encoder FFN"] == 7 * 16
    assert sizes["decoder self-attention"] == 4 * 32 and sizes["decoder cross-attention"] == 2 * 4 * 32
    assert sizes["decoder FFN"] == 5 * 16 and sizes["encoder norms"] == 4 * 8 and sizes["decoder norms"] == 4 * 8
    assert sizes["embeddings"] == sizes["LM head"] == 8 * 11 and sizes["position tables"] == 2 * 32 * 2


def test_sparsity_against_the_reference(report):
    dense = {"encoder": 2 * (2 * 4 * 32 + 12 * 16), "decoder": 2 * (2 * 2 * 4 * 32 + 12 * 16)}
    kept = {"encoder": 3 * 4 * 32 + 7 * 16, "decoder": 3 * 4 * 32 + 5 * 16}
    for side, size in dense.items():
        assert report["params"][f"{side}_sparsity"] == pytest.approx(1 - kept[side] / size)
    assert report["params"]["reference"] == "dense"


def test_component_rows(report):
    rows = {row["component"]: row for row in report["components"]["times"]}
    parts = [components.LOOP, *components.ONCE, *components.DECODER]
    assert set(rows) == {*parts, components.SUM, components.WHOLE, components.REMAINDER}
    for row in rows.values():
        keys = ["component", "batch_size", "source_length", "new_tokens", "runs"]
        assert list(row) == [*keys, "median_ms", "std_ms", "per_token_ms", "share"]
        assert [row[key] for key in keys[1:]] == [2, 8, 8, 3]
    for value in ("median_ms", "share"):
        assert sum(rows[part][value] for part in parts) == pytest.approx(rows[components.SUM][value])
        left = rows[components.WHOLE][value] - rows[components.SUM][value]
        assert left == pytest.approx(rows[components.REMAINDER][value])
    assert rows[components.WHOLE]["share"] == 1 and rows[components.WHOLE]["std_ms"] > 0
    each = [rows[part]["per_token_ms"] for part in parts if part not in components.ONCE]
    assert sum(each) == pytest.approx(rows[components.SUM]["per_token_ms"])
    assert {rows[part]["per_token_ms"] for part in components.ONCE} == {None}


def test_it_is_printed_and_on_the_page(place, report, printed):
    page = (place / "runs" / "local-evaluate" / "report.html").read_text()
    for name in [
        *report["components"]["parameters"]["model"],
        *(r["component"] for r in report["components"]["times"]),
    ]:
        assert f"\n  {name}  " in printed and name in page, name
    assert f"{report['params']['model']:,}" in printed and "exact_match" in printed
    assert f"{100 * report['params']['encoder_sparsity']:.1f} %  against dense" in printed
    assert "Time by component" in page and "evaluation report" in page and "Small numbers compare" not in page


def test_another_model_wants_another_workdir(place, printed):
    config = make_config(place, **{"model.init": "dense", "stages": "benchmark"})
    with pytest.raises(UserError, match="local-evaluate holds a run with config"):
        EvaluationRun(config, place / "runs" / "local-evaluate")


def test_both_layouts_of_a_model_score_alike(place, tmp_path):
    """Stages one by one, in one workdir; a model written over the first is not taken for it."""
    found = {}
    for name in ("dense", "hub"):
        config = make_config(place, **{"model.init": name, "stages": "evaluate"})
        found[name] = EvaluationRun(config, tmp_path / name).run()
    assert found["dense"]["metrics"] == found["hub"]["metrics"]
    assert found["dense"]["components"]["parameters"] == found["hub"]["components"]["parameters"]
    assert (
        found["hub"]["params"]["encoder_sparsity"] is None and found["hub"]["params"]["encoder_sparsity_at_least"] == 0
    )
    assert "not known  at least 0.0 %" in summary(found["hub"]) and found["hub"]["benchmark"] == []
    copy = tmp_path / "copy"
    for seed in (0, 1):
        spec = dense_spec(vocab_size=11, **SIZES)
        Seq2Seq(spec, random_params(spec, seed)).save(copy)
        config = make_config(tmp_path, **{"model.init": "copy", "stages": "benchmark"})
        if seed:
            with pytest.raises(UserError, match=r"holds a run with config\.weights="):
                EvaluationRun(config, tmp_path / "run")
        else:
            recipe = EvaluationRun(config, tmp_path / "run")
            recipe.workdir.run("benchmark", lambda folder: {"benchmark": [], "components": []})


def test_a_model_without_tokenizer(place, tmp_path):
    spec = dense_spec(vocab_size=11, **SIZES)
    Seq2Seq(spec, random_params(spec)).save(tmp_path / "bare")
    config = make_config(place, **{"model.init": tmp_path / "bare", "stages": "evaluate"})
    with pytest.raises(
        UserError, match=r"bare' has no tokenizer; expected its files beside the weights, or config\.task"
    ):
        EvaluationRun(config, tmp_path / "run").run()


@pytest.mark.parametrize(
    ("stages", "expected"),
    [
        ("all", all_stages(Config())),
        ("evaluate,benchmark", ("evaluate", "benchmark")),
        ("finetune, data", ("data", "finetune")),
    ],
)
def test_stages_are_named_in_any_order(place, stages, expected):
    assert chosen_stages(make_config(place, stages=stages)) == expected


@pytest.mark.parametrize("stages", ["evaluate,benchmrk", "", "all,evaluate", "evaluate,"])
def test_misspelt_stages(place, stages):
    with pytest.raises(UserError, match=r"config\.stages names .*; expected all, or some of data,finetune"):
        make_config(place, stages=stages)


def test_some_stages_of_a_run(place, tmp_path):
    """In order, whatever was asked for before; then the trained run is what `evaluate` means in its workdir."""
    settings = {f"{phase}.epochs": 0.0 for phase in ("finetune", "prune", "retrain")}
    settings |= {"model.init": "dense", "shorten.decoder_layers": 1}
    settings |= {f"task.{split}_file": "test.jsonl" for split in ("train", "validation")}
    settings |= {"finetune.batch_size": 4, "retrain.batch_size": 4}  # a multiple of the fake devices

    def recipe(stages: str) -> PruningRun | EvaluationRun:
        return make_run(make_config(place, **settings, stages=stages), str(tmp_path / "run"), "letters")

    with pytest.raises(UserError, match="stage shorten needs the result of finetune, which is not done in"):
        recipe("data,shorten").run()
    assert not (tmp_path / "run" / "data" / "done").exists()
    report = recipe("data,finetune").run()
    assert list(report["stages"]) == ["data", "finetune"] and report["left"] == list(all_stages(Config())[2:])
    left = "shorten, prune, compact, retrain, evaluate, benchmark, export"
    assert summary(report) == f"stages done: data, finetune; left: {left}"
    with pytest.raises(UserError, match="stage evaluate needs the result of retrain, which is not done in"):
        recipe("evaluate").run()
    report = recipe("retrain,compact,prune,shorten").run()
    assert list(report["stages"]) == list(all_stages(Config())[:6])
    assert isinstance(recipe("evaluate"), PruningRun)


@pytest.mark.parametrize(
    ("stages", "refused"),
    [("evaluate", ""), ("benchmark", "benchmark.source_length"), ("evaluate,benchmark", "benchmark.source_length")],
)
def test_only_what_is_run_must_fit_the_positions(place, tmp_path, stages, refused):
    """A model of 8 positions, and the default settings of the benchmark."""
    rows = [{"source": word, "references": [" ".join(word.upper())]} for word in WORDS]
    tokenizer = build_pronunciation_tokenizer(rows)
    spec = dense_spec(vocab_size=len(tokenizer), family="bart", max_positions=8, **SIZES)
    Seq2Seq(spec, random_params(spec), tokenizer).save(tmp_path / "small")
    settings = {"model.init": tmp_path / "small", "benchmark.source_length": 256, "stages": stages}
    if refused:
        with pytest.raises(UserError, match=rf"config.{refused} is 256; expected no more than the model's 8"):
            EvaluationRun(make_config(place, **settings), tmp_path / "run")
    else:
        report = EvaluationRun(make_config(place, **settings), tmp_path / "run").run()
        assert report["metrics"]["model"]["exact_match"] >= 0


def test_a_batch_is_checked_when_its_stage_is_run(place, tmp_path):
    """Not before, and in every start that runs it."""
    settings = {"model.init": "dense", "shorten.decoder_layers": 1, "prune.epochs": 0.0, "finetune.epochs": 0.0}
    settings |= {f"task.{split}_file": "test.jsonl" for split in ("train", "validation")}
    settings |= {"retrain.batch_size": 64, "finetune.batch_size": 8}
    says = r"config.retrain.batch_size is 64, with 6 training rows; expected no more than there are rows"
    for stages, refused in (
        ("data,finetune,shorten,prune,compact", False), ("retrain", True), ("retrain,evaluate", True),
    ):  # fmt: skip
        run = PruningRun(make_config(place, **settings, stages=stages), tmp_path / "run")
        if refused:
            with pytest.raises(UserError, match=says):
                run.run()
        else:
            assert "compact" in run.run()["stages"]


def test_no_model_to_evaluate(place, tmp_path):
    with pytest.raises(UserError, match=r"config\.stages=evaluate without a model; expected config\.model\.init"):
        make_run(make_config(place, stages="evaluate"), str(tmp_path), "letters")


# -- sizes --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(6))
def test_component_sizes_add_up(seed):
    spec = random_spec(seed, ragged=seed % 2 == 0)
    sizes = component_sizes(random_params(spec))
    assert sum(sizes.values()) == count_params(random_params(spec))
    assert "other" not in sizes and list(sizes) == [name for name in sizes if sizes[name]]


def test_sparsity_without_a_reference_is_a_lower_bound():
    spec = dense_spec(vocab_size=11, **SIZES)
    ragged = dataclasses.replace(spec, encoder=RAGGED[0], decoder=RAGGED[1])
    found = sparsities(ragged)
    assert found["encoder_sparsity"] is None and found["decoder_sparsity"] is None
    # one layer fewer and 12 units may have been there: what is known are 2 heads, and the widest layer's units
    wide = {"encoder": 2 * (2 * 4 * 32 + 7 * 16), "decoder": 2 * 2 * 4 * 32 + 5 * 16}
    kept = {"encoder": 3 * 4 * 32 + 7 * 16, "decoder": 3 * 4 * 32 + 5 * 16}
    exact = sparsities(ragged, spec)
    for side in wide:
        assert found[f"{side}_sparsity_at_least"] == pytest.approx(1 - kept[side] / wide[side])
        assert exact[f"{side}_sparsity"] >= exact[f"{side}_sparsity_at_least"] == found[f"{side}_sparsity_at_least"]


@pytest.mark.parametrize(
    ("flags", "says"),
    [
        ({"num_heads": 4}, r"reference has num_heads=4; expected that of the model, 2"),
        ({"d_ff": 3}, r"the encoder of config\.evaluate\.reference is smaller than the model's"),
    ],
)
def test_a_reference_that_cannot_be(flags, says):
    spec = dense_spec(vocab_size=11, **SIZES)
    with pytest.raises(UserError, match=says):
        sparsities(spec, dense_spec(vocab_size=11, **(SIZES | flags)))


# -- times --------------------------------------------------------------------------------------------------


def test_contributions_add_up_and_share_what_parts_share():
    """Four parts of known cost; two of them cost 6 less together, which is split between them."""
    parts, cost = ["a", "b", "c", "d"], {"a": 10.0, "b": 1.0, "c": 4.0, "d": 2.0}

    def ms(kept: frozenset[str]) -> np.ndarray:
        return np.array([sum(cost.get(p, 100.0) for p in kept) - 6.0 * ({"a", "d"} <= kept)])

    added = component_contributions(ms, frozenset({"base"}), parts)
    assert {part: value.item() for part, value in added.items()} == {"a": 7.0, "b": 1.0, "c": 4.0, "d": -1.0}


@pytest.mark.parametrize("seed", range(4))
def test_parts_of_a_spec(seed):
    spec = random_spec(seed, ragged=seed % 2 == 0, tied=False)
    assert keep_components(spec, {*components.ENCODER, *components.DECODER}) == spec
    bare = keep_components(spec, ())
    assert bare.vocab_size == 8 and all(size == 0 for _, size in bare.sublayers().values())
    only = keep_components(spec, {"decoder FFN"})
    assert [layer.ffn for layer in only.decoder] == [layer.ffn for layer in spec.decoder]
    assert present_components(bare) == frozenset()


def test_a_large_component_takes_the_time():
    """Ragged; without cross-attention, so that no encoder runs; the FFN is far larger than all else."""
    spec = ModelSpec(
        vocab_size=16, d_model=128, head_dim=4, num_heads=2, encoder=(EncoderLayer((1,), 8),),
        decoder=(DecoderLayer((0,), (), 16384), DecoderLayer((), (), 0)),
    )  # fmt: skip
    rows = component_times(Engine(spec, random_params(spec, scale=0.05)), 1, 8, 8, runs=5)
    ms = {row["component"]: row["median_ms"] for row in rows}
    parts = [components.LOOP, "decoder self-attention", "decoder FFN", components.HEAD]
    assert list(ms) == [*parts, components.SUM, components.WHOLE, components.REMAINDER]
    assert ms["decoder FFN"] > 2 * max(ms[part] for part in parts if part != "decoder FFN")
