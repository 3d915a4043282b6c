"""Runs that prune by importance: at once, or from where gates begin."""

import json

import numpy as np
import pytest
from commands import call
from html_page import Page
from safetensors.numpy import load_file
from small_run import SETTINGS, make_flags

import nash_jax
from nash_jax.main import main
from nash_jax.pruning.compact import compact, removed_fraction
from nash_jax.recipe.prune_at_once import importance_start
from nash_jax.report.console import summary
from nash_jax.training.writers import read_rows
from nash_jax.tree import flatten

ROWS = {"train": 64, "validation": 8, "test": 4}
QUICK = SETTINGS | {f"{phase}.epochs": 0.0 for phase in ("finetune", "retrain")} | {"prune.sparsity": 0.4}


def run(folder, **settings):
    """Runs the command in a folder that has, or gets, its data and its model."""
    flags = make_flags(folder, ROWS, QUICK | settings)
    done = call(main, *flags, f"--workdir={folder / 'run'}")
    assert done.returncode == 0, done.stderr
    return folder / "run", done.stdout + done.stderr


@pytest.fixture(scope="module")
def one_shot(tmp_path_factory):
    return run(tmp_path_factory.mktemp("oneshot"), method="oneshot", **{"prune.importance_rows": 20})


def test_a_run_without_trained_gates(one_shot, logits):
    workdir, printed = one_shot
    assert "prune: batch 3/3" in printed and "importance (fisher)" in printed  # 20 rows of batches of 8
    report = json.loads((workdir / "report.json").read_text())
    short, fitted, small = (nash_jax.load(workdir / stage / "model") for stage in ("shorten", "prune", "compact"))
    masks = load_file(workdir / "prune" / "masks.safetensors")
    assert {name.split(".")[0] for name in masks} == {"encoder"}
    assert set(np.concatenate([np.unique(mask) for mask in masks.values()])) == {0.0, 1.0}
    assert report["params"]["encoder_sparsity"] == removed_fraction(short.spec, small.spec, "encoder")
    assert report["params"]["encoder_sparsity"] == pytest.approx(0.4, abs=16 / 2048 + 1e-6)  # half a unit
    assert report["params"]["kept_decoder_layers"] == [0] and report["stages"]["prune"]["steps"] == 0
    before, after = flatten(short.params), flatten(fitted.params)
    changed = {path.rpartition("/")[2] for path in before if not np.array_equal(before[path], after[path])}
    assert changed <= {"out", "wo"} and changed
    assert compact(fitted.spec, fitted.params, masks)[0] == small.spec


def test_the_report_says_what_cutting_did(one_shot):
    workdir, _ = one_shot
    report = json.loads((workdir / "report.json").read_text())
    losses = report["cutting"]["losses"]
    assert list(losses) == ["before", "cut", "fitted"] and len(set(losses.values())) == 3
    assert set(report["cutting"]["importance"]) == {
        "encoder.0", "encoder.0.attention", "encoder.0.ffn",
        "decoder.0", "decoder.0.self_attention", "decoder.0.cross_attention", "decoder.0.ffn",
    }  # fmt: skip
    page = Page((workdir / "report.html").read_text())
    assert page.faults == [] and "outputs fitted to what is left" in page.texts
    assert f"cut {losses['cut']:.4f}, outputs fitted {losses['fitted']:.4f}" in summary(report)
    assert not any("the gates expected" in text for text in page.texts)


def test_gates_that_begin_by_importance(tmp_path):
    """At the target from the first step on; what was measured is kept for a run that is stopped and started again."""
    settings = {"prune.init": "importance", "prune.epochs": 0.5, "prune.gate_learning_rate": 0.05}
    settings |= {"prune.importance": "taylor", "prune.sparsity_warmup_epochs": 10}
    settings |= {"stages": "data,finetune,shorten,prune"}
    workdir, printed = run(tmp_path, **settings)
    assert "importance (taylor)" in printed
    first = next(row for row in read_rows(workdir / "metrics.jsonl") if row["phase"] == "prune")
    assert first["target_sparsity"] == pytest.approx(0.4)
    assert first["expected_sparsity"] == pytest.approx(0.4, abs=0.001)
    written = json.loads((workdir / "prune" / "start.json").read_text())
    start = importance_start(None, workdir / "prune", None, None, None, None)  # needs nothing but the file
    assert {name: row.tolist() for name, row in start.items()} == written
