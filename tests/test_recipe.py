"""The main command as a user runs it: whole, killed and started again, on one device and on four."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import call, finish, kill_when, on_devices
from small_run import results

import nash_jax
from nash_jax.main import main
from nash_jax.training.writers import read_rows

ROOT = Path(__file__).resolve().parents[1]
STEPS = 24
FLAGS = {  # the quickstart, smaller: 2,000 words, a narrow model, 24 steps a phase
    "task.max_train_examples": 2000,
    "task.max_source_length": 8,  # two shapes of batches instead of three: compiling is most of the time
    "task.max_target_length": 8,
    "task.max_eval_examples": 60,
    "model.d_model": 32,
    "model.d_ff": 48,
    "model.decoder_d_ff": 32,
    "model.encoder_layers": 2,
    "model.decoder_layers": 3,
    "model.dropout_rate": 0.1,
    "evaluate.batch_size": 64,
    "benchmark.runs": 7,
    "benchmark.batch_sizes": "(1, 2)",
    "prune.sparsity_warmup_epochs": 0.2,
    **{f"{phase}.batch_size": 32 for phase in ("finetune", "prune", "retrain")},
    **{f"{phase}.epochs": 0.36 for phase in ("finetune", "prune", "retrain")},
    **{f"{phase}.optimizer": "adamw" for phase in ("finetune", "retrain")},  # compiles faster than prune's Muon
    **{f"{phase}.eval_every": 0.06 for phase in ("prune", "retrain")},  # and no checkpoint of finetune is evaluated
}

pytestmark = pytest.mark.slow


def arguments(workdir: Path, **flags: object) -> list[str]:
    settings = [f"--config.{name}={value}" for name, value in (FLAGS | flags).items()]
    return [f"--config={ROOT}/configs/quickstart.py", f"--workdir={workdir}", *settings]


def start(workdir: Path) -> subprocess.Popen[str]:
    """The command in a process of its own, on one device."""
    return subprocess.Popen(
        [sys.executable, "-m", "nash_jax.main", *arguments(workdir)],
        cwd=ROOT, env=os.environ | on_devices(1), text=True, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory) -> Path:
    workdir = tmp_path_factory.mktemp("unbroken") / "run"
    output = finish(start(workdir))
    assert "word_accuracy" in output and "report.html" in output
    return workdir


def test_report_has_the_promised_keys(unbroken) -> None:
    report = json.loads((unbroken / "report.json").read_text())
    promised = ["task", "config", "device", "dtype", "versions", "metrics", "params", "benchmark", "speedup", "stages"]
    assert set(promised) <= set(report)
    compared = {"phoneme_error_rate", "word_error_rate", "word_accuracy"}
    assert set(report["intervals"]["pruned"]) == set(report["paired"]) == compared
    assert set(report["paired"]["word_accuracy"]) == {
        "difference", "difference_low", "difference_high", "kept", "low", "high", "p",
    }  # fmt: skip
    assert set(report["params"]) >= set(
        ["dense", "pruned", "encoder_sparsity", "decoder_sparsity", "expected_encoder_sparsity", "kept_decoder_layers"]
    )
    wanted = "model batch_size source_length new_tokens num_beams runs mean_ms std_ms median_ms encode_ms per_token_ms"
    assert all(set(wanted.split()) <= set(row) for row in report["benchmark"])
    assert {(r["model"], r["batch_size"]) for r in report["benchmark"]} == {
        (m, b) for m in ("dense", "pruned") for b in (1, 2)
    }
    assert set(report["speedup"]) == {"1", "2"}
    assert report["stages"]["finetune"]["steps"] == STEPS
    assert "<svg" in (unbroken / "report.html").read_text()


def test_export_is_the_model_that_was_measured(unbroken) -> None:
    model = nash_jax.load(unbroken / "export")
    report = json.loads((unbroken / "report.json").read_text())
    assert sum(np.size(x) for x in _leaves(model.params)) == report["params"]["pruned"]
    texts = ["hello", "a", "jacksonville"]
    together = model.generate(texts, max_new_tokens=8)
    assert together == [model.generate([t], max_new_tokens=8)[0] for t in texts]
    assert all(re.fullmatch(r"([A-Z]+ ?)*", text) for text in together)
    twin = nash_jax.load(unbroken / "export" / "hf")  # padded to a rectangle: the same function
    ids = np.array([[3, 4, 5, 1]])
    expected = model.logits(ids, None, np.array([[0, 5]]))
    np.testing.assert_allclose(twin.logits(ids, None, np.array([[0, 5]])), expected, rtol=1e-4, atol=1e-5)


def _leaves(tree):
    return [x for v in tree.values() for x in _leaves(v)] if isinstance(tree, dict) else [tree]


def test_started_again_it_does_nothing_twice(unbroken) -> None:
    before = {p: p.stat().st_mtime_ns for p in unbroken.rglob("done")}
    first = results(unbroken)
    done = call(main, *arguments(unbroken))
    assert done.returncode == 0 and "step" not in done.stdout + done.stderr
    assert {p: p.stat().st_mtime_ns for p in unbroken.rglob("done")} == before
    assert results(unbroken) == first


def test_killed_three_times_it_ends_as_if_unbroken(unbroken, tmp_path) -> None:
    """SIGKILL while a checkpoint is written, inside a stage, and between two stages."""
    workdir = tmp_path / "run"
    checkpoints = workdir / "finetune" / "checkpoints"

    def writing() -> bool:
        names = [p.name for p in checkpoints.glob("*")] if checkpoints.exists() else []
        return any("tmp" in name for name in names) and any(name.isdigit() for name in names)

    kill_when(start(workdir), writing)
    assert any("tmp" in p.name for p in checkpoints.glob("*"))  # it was half-written, and is left so

    kill_when(start(workdir), (workdir / "finetune" / "done").exists)
    assert not (workdir / "prune" / "done").exists()

    def inside() -> bool:
        return any(r["phase"] == "prune" and r["step"] >= 7 for r in read_rows(workdir / "metrics.jsonl"))

    kill_when(start(workdir), inside)
    assert not (workdir / "prune" / "done").exists()
    finish(start(workdir))
    assert results(workdir) == results(unbroken)


@pytest.mark.full
def test_four_devices_give_the_losses_of_one(unbroken, tmp_path) -> None:
    """The first 20 steps of each phase, ≤ 1e-5 relative; this process has the four."""
    workdir = tmp_path / "run"
    stages = "data,finetune,shorten,prune,compact,retrain"
    assert jax.device_count() == 4 and call(main, *arguments(workdir, stages=stages)).returncode == 0
    for phase in ("finetune", "prune", "retrain"):
        one, four = (
            [r["loss"] for r in read_rows(d / "metrics.jsonl") if r["phase"] == phase][:20] for d in (unbroken, workdir)
        )
        assert len(one) == 20
        np.testing.assert_allclose(four, one, rtol=1e-5, err_msg=phase)
