"""A small run of all stages in several processes on this machine: started, finished, stopped, and what it came to."""

import json
import os
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import small_run
from commands import LIMIT, on_devices
from safetensors.numpy import load_file
from small_run import PHASES, ROOT

import nash_jax
from nash_jax.training.writers import read_rows

COMMAND = [sys.executable, "-m", "nash_jax.main"]
ROWS = {"train": 32, "validation": 4, "test": 4}
SETTINGS = small_run.SETTINGS | {
    "shorten.selection": "importance",  # by losses, of which the main process decides
    "prune.distill.logits": 0.5,
    "prune.init": "importance",  # measured on each process, of which the main one decides
    "benchmark.batch_sizes": (4,),
    "benchmark.new_tokens": "(8,)",
    "benchmark.runs": 1,
    **{f"{phase}.{name}": value for phase in PHASES for name, value in {"epochs": 1, "eval_every": 0.5}.items()},
}


def start(command: list[str], processes: int, devices: int, **more: str) -> list[subprocess.Popen[str]]:
    """Starts a command in so many processes of so many fake devices each."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        address = f"127.0.0.1:{free.getsockname()[1]}"
    environment = os.environ | on_devices(devices) | {"JAX_PLATFORMS": "cpu", "PYTHONFAULTHANDLER": "1"} | more
    started = []
    for index in range(processes):
        if processes > 1:
            environment |= {"JAX_COORDINATOR_ADDRESS": address, "JAX_NUM_PROCESSES": str(processes)}
            environment["JAX_PROCESS_ID"] = str(index)
        process = subprocess.Popen(
            command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
        )
        started.append(process)
    return started


def end_all(started: list[subprocess.Popen[str]]) -> list[str]:
    """What each process printed, when all have ended; none is left behind."""
    try:
        return [process.communicate(timeout=LIMIT)[0] for process in started]
    finally:
        for process in started:
            process.kill()


def finish(started: list[subprocess.Popen[str]]) -> list[str]:
    """What each process printed; all must end well."""
    printed = end_all(started)
    for process, text in zip(started, printed, strict=True):
        assert process.returncode == 0, f"status {process.returncode}\n{text}"
    return printed


def stop(started: list[subprocess.Popen[str]], checkpoint: Path, number: int, which: list[int]) -> list[str]:
    """Sends a signal to some of the processes when a checkpoint is there; what each printed, when all have ended."""
    try:
        while not any(path.name.isdigit() for path in checkpoint.glob("*")):
            assert all(process.poll() is None for process in started), end_all(started)
            time.sleep(0.01)
        for index in which:
            started[index].send_signal(number)
    except BaseException:
        for process in started:
            process.kill()
        raise
    printed = end_all(started)
    status = -number if number == signal.SIGKILL else 128 + number
    assert all(started[index].returncode == status for index in which), printed
    return printed


def losses(workdir: Path) -> dict[tuple[str, int], float]:
    """(phase, step) → loss, of every logged step."""
    return {(row["phase"], row["step"]): row["loss"] for row in read_rows(workdir / "metrics.jsonl")}


def outcome(workdir: Path) -> dict[str, object]:
    """What a run came to: masks that are 0, sizes of the pruned model, tokens, and metrics of both models."""
    model, report = nash_jax.load(workdir / "export"), json.loads((workdir / "report.json").read_text())
    masks = load_file(workdir / "prune" / "masks.safetensors")
    return {
        "masks": {name: np.flatnonzero(mask == 0).tolist() for name, mask in masks.items()},
        "spec": model.spec,
        "tokens": model.generate(["fade", "cab", "deface", "bad"]),
        "metrics": report["metrics"],
    }
