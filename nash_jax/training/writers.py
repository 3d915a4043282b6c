"""Where numbers of a run go: metrics.jsonl, TensorBoard or Weights & Biases if installed."""

import contextlib
import hashlib
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Protocol

from nash_jax.errors import UserError
from nash_jax.runtime.checksums import json_checksum
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
        kept = [r for r in read_rows(self.path) if r["phase"] != phase or r.get("step", 0) <= step]
        write_text(self.path, "".join(json.dumps(r) + "\n" for r in kept))

    def checksum(self, phase: str) -> str:
        """Of the rows of a phase."""
        return rows_checksum(read_rows(self.path), phase)

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
    """Rows of a metrics.jsonl; what is none is left out, as a last line cut short by a kill."""
    rows = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines() if path.exists() else []:
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and isinstance(row.get("phase"), str) and isinstance(row.get("step", 0), int):
            rows.append(row)
    return rows


def rows_checksum(rows: Iterable[Mapping[str, Any]], phase: str) -> str:
    """SHA-256 of the rows of a phase, in their order."""
    return json_checksum([row for row in rows if row["phase"] == phase])


def changed_phases(rows: Sequence[Mapping[str, Any]], stages: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """Phases that are done whose rows are not as they were logged.

    Args:
      rows: of all phases.
      stages: name of a stage that is done → what it returned, for a phase with `rows_checksum`.
    """
    known = {phase: result["rows_checksum"] for phase, result in stages.items() if "rows_checksum" in result}
    return [phase for phase, expected in known.items() if rows_checksum(rows, phase) != expected]


def logged_rows(paths: Iterable[Path], stages: Mapping[str, Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Rows of some metrics.jsonl as they were logged: those of a phase with another checksum are left out, with a note.

    Args:
      paths: the files.
      stages: as of `changed_phases`.
    """
    rows = [row for path in paths for row in read_rows(path)]
    changed = changed_phases(rows, stages)
    if changed:
        names = ", ".join(changed)
        print(f"note: metrics.jsonl: rows of {names} were changed since they were logged; left out", file=sys.stderr)
    return [row for row in rows if row["phase"] not in changed]
