"""Where numbers of a run go: metrics.jsonl, TensorBoard or Weights & Biases if installed."""

import contextlib
import hashlib
import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

from nash_jax.errors import UserError
from nash_jax.runtime.files import write_text


class Writer(Protocol):
    """Takes one row of numbers at a time."""

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        """One logged step."""

    def close(self) -> None:
        """Nothing more will come."""


class JsonlWriter:
    """One JSON object a logged step: {"phase", "step", …}. Appends; a resumed phase replaces its later rows."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def rewind(self, phase: str, step: int) -> None:
        """Drops rows of a phase after a step: those a killed run logged beyond its last checkpoint."""
        kept = [r for r in read_rows(self.path) if r["phase"] != phase or r["step"] <= step]
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in kept))

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps({"phase": phase, "step": step, **values}) + "\n")

    def close(self) -> None:
        pass


class TensorBoardWriter:
    """TensorBoard event files, with the extra `tensorboard`."""

    def __init__(self, folder: Path) -> None:
        from tensorboardX import SummaryWriter

        self._writer = SummaryWriter(str(folder))

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        for name, value in values.items():
            self._writer.add_scalar(f"{phase}/{name}", value, step)

    def close(self) -> None:
        self._writer.close()


class WandbWriter:
    """Weights & Biases, with the extra `wandb` and WANDB_PROJECT set."""

    def __init__(self, folder: Path) -> None:
        try:
            import wandb
        except ImportError as error:
            raise UserError(
                "WANDB_PROJECT is set, but wandb is not installed", "both or neither", "pip install 'nash_jax[wandb]'"
            ) from error
        run_id = hashlib.sha256(str(folder.resolve()).encode()).hexdigest()[:16]  # folders of a name are many
        self._run = wandb.init(dir=str(folder), resume="allow", id=run_id, name=folder.name)

    def write(self, phase: str, step: int, values: Mapping[str, float]) -> None:
        self._run.log({f"{phase}/{name}": value for name, value in values.items()} | {f"{phase}/step": step})

    def close(self) -> None:
        self._run.finish()


def optional_writers(workdir: Path) -> list[Writer]:
    """TensorBoard where tensorboardX is installed, Weights & Biases where WANDB_PROJECT is set."""
    writers: list[Writer] = []
    with contextlib.suppress(ImportError):
        writers.append(TensorBoardWriter(workdir / "tensorboard"))
    if os.environ.get("WANDB_PROJECT"):
        writers.append(WandbWriter(workdir))
    return writers


def read_rows(path: Path) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line cut short by a kill is left out."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            rows.append(json.loads(line))
        except ValueError:
            continue
    return rows
