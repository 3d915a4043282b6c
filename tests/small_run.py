"""A run of all stages that takes seconds, in a process of its own: to be killed, stopped and given a full disk."""

import json
import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from commands import on_devices

import nash_jax
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.training.throughput import RATES
from nash_jax.training.writers import read_rows

ROOT = Path(__file__).resolve().parents[1]
LETTERS, LENGTH = "abcdef", 6  # all texts are of one length: one shape of batches
ROWS = {"train": 64, "validation": 4, "test": 4}
PHASES = ("finetune", "prune", "retrain")
SETTINGS = {
    "task.source_column": "word",
    "task.target_column": "spelling",
    "task.metric": "exact_match",
    "task.max_new_tokens": 8,
    "evaluate.batch_size": 4,
    "shorten.decoder_layers": 1,
    "prune.prepruning_epochs": 0,
    "prune.sparsity_warmup_epochs": 0.5,
    "benchmark.batch_sizes": (1,),
    "benchmark.source_length": 8,
    "benchmark.new_tokens": "(4,)",
    "benchmark.runs": 2,
    **{
        f"{phase}.{field}": value
        for phase in PHASES
        for field, value in {
            "epochs": 3, "batch_size": 8, "optimizer": "adamw", "eval_every": 1, "learning_rate": 0.01,
        }.items()
    },
}  # fmt: skip


def make_command(folder: Path) -> list[str]:
    """Writes data and a model to a folder; returns the command but for its workdir."""
    return [sys.executable, "-c", _MAIN, *make_flags(folder, ROWS, SETTINGS)]


def make_flags(folder: Path, counts: Mapping[str, int], settings: Mapping[str, Any]) -> list[str]:
    """Writes data and a model to a folder; returns the flags of a run that learns to spell in capitals."""
    rng = np.random.default_rng(0)
    settings = dict(settings)
    for split, count in counts.items():
        words = ["".join(rng.choice(list(LETTERS), LENGTH)) for _ in range(count)]
        rows = [json.dumps({"word": word, "spelling": " ".join(word.upper())}) for word in words]
        (folder / f"{split}.jsonl").write_text("\n".join(rows))
        settings[f"task.{split}_file"] = folder / f"{split}.jsonl"
    tokenizer = build_pronunciation_tokenizer([{"source": LETTERS, "references": [" ".join(LETTERS.upper())]}])
    spec = dense_spec(
        vocab_size=len(tokenizer), d_model=16, d_ff=32, num_heads=4, encoder_layers=1, decoder_layers=2,
        dropout_rate=0.0,  # compiles in half the time
    )  # fmt: skip
    nash_jax.Seq2Seq(spec, random_params(spec, scale=0.2), tokenizer).save(folder / "model")
    settings["model.init"] = folder / "model"
    flags = [f"--config.{name}={value}" for name, value in settings.items()]
    return ["--config=configs/local.py", *flags]


_MAIN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # which a background job of a shell is started to ignore
from nash_jax.main import main
sys.exit(main())
"""


def start(command: list[str], workdir: Path, **environment: str) -> subprocess.Popen[str]:
    """Starts the command on one device, in a process group of its own."""
    cache = {
        "JAX_COMPILATION_CACHE_DIR": os.environ.get("JAX_COMPILATION_CACHE_DIR", str(workdir.parent / "compiled")),
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }
    return subprocess.Popen(
        [*command, f"--workdir={workdir}"],
        cwd=ROOT, text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True,
        env=os.environ | cache | on_devices(1) | {"JAX_PLATFORMS": "cpu"} | environment,
    )  # fmt: skip


def results(workdir: Path) -> tuple[dict[str, Any], list[dict[str, Any]]]:
    """What must not depend on how a run was stopped: metrics, sizes, and every logged value but time."""
    report = json.loads((workdir / "report.json").read_text())
    rows = [
        {k: v for k, v in row.items() if k not in ("seconds", *RATES)} for row in read_rows(workdir / "metrics.jsonl")
    ]
    return {"metrics": report["metrics"], "params": report["params"]}, rows
