"""Commands where something that is always there is not: stdout, stderr, a home, room for what they print."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
from commands import LIMIT
from small_run import ROOT, make_flags

import nash_jax
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

FULL = "no space is left; what was done is kept, and the same command continues"
PLACES = {  # name → (what a shell adds to the command, environment, expected status and last line on stderr)
    "closed stdout": (">&-", {}, 0, ""),
    "closed stderr": ("2>&-", {}, 0, ""),
    "nothing open": (">&- 2>&- <&-", {}, 0, ""),
    "a reader that ends": ("| true", {}, 0, ""),
    "full stdout": (">/dev/full", {}, 2, FULL),
    "no home": ("", {"HOME": "/proc/none", "XDG_CACHE_HOME": "/proc/none"}, 0, ""),
    "ASCII": ("", {"LC_ALL": "C", "PYTHONIOENCODING": "ascii"}, 0, ""),
}


def run_in_place(place, *command):
    """Runs `python -m …` in such a place."""
    added, environment, *expected = PLACES[place]
    shell = f'set -o pipefail; "$@" {added}'
    done = subprocess.run(
        ["bash", "-c", shell, "bash", sys.executable, "-m", *command], capture_output=True, text=True, timeout=LIMIT,
        cwd=ROOT, env=os.environ | environment,
    )  # fmt: skip
    return done, *expected


@pytest.mark.parametrize("place", PLACES)
def test_verify(place, tmp_path):
    folder = tmp_path / "modèle"
    spec = dense_spec(vocab_size=9, d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    nash_jax.Seq2Seq(spec, random_params(spec)).save(folder)
    done, status, line = run_in_place(place, "nash_jax.verify", str(folder))
    assert done.returncode == status and line in done.stderr and "Traceback" not in done.stderr, done
    assert status or PLACES[place][0] or "ok  " in done.stdout


@pytest.mark.full
@pytest.mark.parametrize("place", PLACES)
def test_a_run(place, tmp_path):
    flags = make_flags(tmp_path, {"train": 8, "validation": 4, "test": 4}, {"task.name": "Löwe"})
    columns = ["--config.task.source_column=word", "--config.task.target_column=spelling"]
    done, status, line = run_in_place(
        place, "nash_jax.main", *flags, *columns, "--config.task.metric=exact_match", "--config.stages=data",
        f"--workdir={tmp_path}/läuft",
    )  # fmt: skip
    assert done.returncode == status and line in done.stderr and "Traceback" not in done.stderr, done
    assert Path(tmp_path, "läuft", "data", "done").exists()
