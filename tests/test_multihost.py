"""Two processes on one machine against one process with as many devices: the whole command, twice."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import nash_jax
from nash_jax.data.tokenizers import build_pronunciation_tokenizer, save_tokenizer

ROOT = Path(__file__).resolve().parents[1]
ROWS = {"train": 32, "validation": 5, "test": 6}
LENGTH = 6  # every text: one shape of batches, one compilation a phase
FLAGS = """
    --config.task.source_column=word --config.task.target_column=spelling --config.task.metric=exact_match
    --config.task.max_new_tokens=8 --config.evaluate.batch_size=4
    --config.model.d_model=16 --config.model.d_ff=32 --config.model.decoder_d_ff=16 --config.model.num_heads=4
    --config.model.encoder_layers=2 --config.model.decoder_layers=2 --config.model.dropout_rate=0.1
    --config.shorten.decoder_layers=1 --config.prune.prepruning_epochs=0 --config.prune.sparsity_warmup_epochs=0.5
    --config.prune.distill.logits=0.5 --config.prune.distill.hidden=0.5
    --config.benchmark.batch_sizes=(1,) --config.benchmark.source_length=8 --config.benchmark.new_tokens=8
    --config.benchmark.runs=1
""".split() + [
    f"--config.{phase}.{field}"
    for phase in ("finetune", "prune", "retrain")
    for field in ("epochs=1", "batch_size=8", "optimizer=adamw", "eval_every=0.5", "learning_rate=0.01")
]  # fmt: skip


@pytest.fixture(scope="module")
def command(tmp_path_factory: pytest.TempPathFactory) -> list[str]:
    """The command but for its workdir: to spell a word in capitals."""
    folder, rng = tmp_path_factory.mktemp("task"), np.random.default_rng(0)
    words = ["".join(rng.choice(list("abcdef"), LENGTH)) for _ in range(sum(ROWS.values()))]
    rows = [{"word": word, "spelling": " ".join(word.upper())} for word in words]
    task = []
    for split, count in ROWS.items():
        part, rows = rows[:count], rows[count:]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in part))
        task.append(f"--config.task.{split}_file={folder / split}.jsonl")
    vocabulary = [{"source": "abcdef", "references": ["A B C D E F"]}]
    save_tokenizer(build_pronunciation_tokenizer(vocabulary), folder / "tokenizer")
    task.append(f"--config.task.tokenizer={folder / 'tokenizer'}")
    return [sys.executable, "-m", "nash_jax.main", "--config=configs/local.py", *task, *FLAGS]


def run(command: list[str], workdir: Path, processes: int, devices: int) -> list[str]:
    """Runs the command in so many processes of so many fake devices each; what each printed."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    started = []
    for index in range(processes):
        flags = f"--xla_force_host_platform_device_count={devices} --xla_backend_optimization_level=0"
        environment = os.environ | {"XLA_FLAGS": flags, "JAX_PLATFORMS": "cpu"}
        environment["JAX_COMPILATION_CACHE_DIR"] = str(workdir.parent / "xla")
        if processes > 1:
            environment |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
            environment["JAX_PROCESS_ID"] = str(index)
        started.append(
            subprocess.Popen(
                [*command, f"--workdir={workdir}"], cwd=ROOT, env=environment, text=True,
                stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            )
        )  # fmt: skip
    try:
        printed = [process.communicate(timeout=100)[0] for process in started]
    finally:
        for process in started:
            process.kill()
    for process, text in zip(started, printed, strict=True):
        assert process.returncode == 0, text
    return printed


def losses(workdir: Path) -> dict[tuple[str, int], float]:
    """(phase, step) → loss, of every logged step."""
    rows = [json.loads(line) for line in (workdir / "metrics.jsonl").read_text().splitlines()]
    return {(row["phase"], row["step"]): row["loss"] for row in rows}


@pytest.mark.slow
def test_two_processes_train_as_one(command: list[str], tmp_path: Path) -> None:
    alone, together = tmp_path / "alone", tmp_path / "together"
    run(command, alone, processes=1, devices=2)
    run(command, together, processes=2, devices=1)
    one, two = losses(alone), losses(together)
    assert list(two) == list(one)
    for step, loss in one.items():
        assert two[step] == pytest.approx(loss, rel=1e-5), step
