"""A grid of runs in one workdir: each cell is a run of the recipe, and cells alike up to fine-tuning share a teacher.

A config file makes a study by naming its cells:

    config.cells = {"nash-2": {"shorten": {"decoder_layers": 2}}, "nash-3": {"shorten": {"decoder_layers": 3}}}

Each cell is the config with these settings changed. `seeds` in a cell, as in {"seeds": (57, 58)}, makes one of each.
A cell is also a command of its own, so that many machines can work on one grid: nothing here schedules.

    workdir/cells/NAME/       a cell: a run's workdir, or `failed` with what went wrong
    workdir/teachers/NAME/    data and fine-tuned model of the cells that share them
    workdir/tables, report.html, study.json
"""

import contextlib
import dataclasses
import hashlib
import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax

from nash_jax.config.schema import TEACHER_STAGES, Config, all_settings, lasting_settings, teacher_settings
from nash_jax.errors import UserError, did_you_mean
from nash_jax.recipe.modes import times_shape
from nash_jax.recipe.run import PruningRun
from nash_jax.recipe.time_shape import TimingRun
from nash_jax.recipe.workdir import Workdir
from nash_jax.runtime.files import read_json, write_text
from nash_jax.runtime.locks import LockedError
from nash_jax.runtime.multihost import broadcast_from_host0, is_host0
from nash_jax.study.cell_record import make_record
from nash_jax.study.grid import Cell


class Study:
    """The cells of a grid in a workdir.

    Args:
      cells: the grid.
      workdir: its folder.

    Raises:
      UserError: when a cell of that name was run there with other settings.
    """

    def __init__(self, cells: list[Cell], workdir: str | Path) -> None:
        self.cells = {cell.name: cell for cell in cells}
        self.workdir = Workdir(workdir, {})
        for cell in cells:
            if self._folder(cell).exists():
                Workdir(self._folder(cell), lasting_settings(cell.config))

    def run(self, only: str | None = None) -> dict[str, Any]:
        """Runs the cells that are not done, or one of them, and gathers what is done into tables.

        A cell that fails is recorded and skipped; a cell that another process runs is skipped.

        Args:
          only: the one to run.

        Returns:
          What study.json holds.

        Raises:
          UserError: for an unknown cell, or when the cell asked for by name fails or is locked by another process.
        """
        if only is not None:
            cell = self._named(only)
            try:
                self._run_one(cell)
            except Exception:
                if jax.process_count() == 1:  # of several, the others may wait in the middle of it
                    self.gather()
                raise
            return self.gather()
        for number, cell in enumerate(self.cells.values(), 1):
            state = self.state(cell)
            if is_host0():
                print(f"cell {cell.name} ({number} of {len(self.cells)}): {state}", flush=True)
            if state != "done":
                self._attempt(cell)
        return self.gather()

    def _named(self, name: str) -> Cell:
        if name not in self.cells:
            known = ", ".join(list(self.cells)[:20])
            raise UserError(f"--cell={name}: no such cell{did_you_mean(name, self.cells)}", f"one of {known}")
        return self.cells[name]

    def _folder(self, cell: Cell) -> Path:
        return self.workdir.folder / "cells" / cell.name

    def _attempt(self, cell: Cell) -> None:
        """Runs a cell; a failure is printed and recorded."""
        try:
            self._run_one(cell)
        except UserError as error:
            print(f"cell {cell.name}: {error}", flush=True)
        except Exception:
            if jax.process_count() > 1:  # the others wait in the middle of it
                raise
            traceback.print_exc()

    def _run_one(self, cell: Cell) -> None:
        """Runs a cell unless it is done.

        Raises:
          LockedError: when another process runs it.
          Exception: what else went wrong in it, after recording it.
        """
        if self.state(cell) == "done":
            return
        folder = self._folder(cell)
        try:
            self._make_run(cell).run()
            (folder / "failed").unlink(missing_ok=True)
        except Exception as error:
            if is_host0() and not isinstance(error, LockedError):
                folder.mkdir(parents=True, exist_ok=True)
                reason = str(error) if isinstance(error, UserError) else traceback.format_exc()
                with contextlib.suppress(FileNotFoundError):  # another process fails at the same teacher
                    write_text(folder / "failed", reason)
            raise

    def _make_run(self, cell: Cell) -> PruningRun | TimingRun:
        if times_shape(cell.config):
            return TimingRun(cell.config, self._folder(cell))
        teacher = self._teacher(cell)
        return PruningRun(cell.config, self._folder(cell), teacher, labels=self._labels(cell, teacher))

    def _teacher(self, cell: Cell) -> Workdir:
        """The workdir of the cell's teacher, trained by the process that comes first; the others wait."""
        config = teacher_settings(cell.config)
        teacher = PruningRun(config, self.workdir.folder / "teachers" / f"{config.task.name}-{_settings_hash(config)}")
        if teacher.workdir.result(TEACHER_STAGES[-1]) is None:
            teacher.run(wait=True)
        return teacher.workdir

    def _labels(self, cell: Cell, teacher: Workdir) -> Workdir | None:
        """The workdir with what the cell's teacher wrote, where its students learn that."""
        if not cell.config.label.is_on:
            return None
        config = dataclasses.replace(teacher_settings(cell.config), label=cell.config.label, stages="label")
        name = f"{config.task.name}-labels-{_settings_hash(config)}"
        labels = PruningRun(config, self.workdir.folder / "teachers" / name, teacher)
        if labels.workdir.result("label") is None:
            labels.run(wait=True)
        return labels.workdir

    def state(self, cell: Cell) -> str:
        """`done`, `running`, `failed: …` or `waiting`."""
        return str(broadcast_from_host0(self._seen(cell) if is_host0() else None))

    def _seen(self, cell: Cell) -> str:
        folder = self._folder(cell)
        if (folder / "report.json").exists():  # written last
            return "done"
        if folder.exists() and Workdir(folder, lasting_settings(cell.config)).is_locked():
            return "running"
        with contextlib.suppress(FileNotFoundError):  # it goes when another process has done the cell
            return f"failed: {(folder / 'failed').read_text(encoding='utf-8').strip().splitlines()[-1]}"
        return "waiting"

    def gather(self) -> dict[str, Any]:
        """Writes tables, figures and page from the cells that are done; returns what study.json holds."""
        from nash_jax.study.report import write_study  # here, for figures need matplotlib

        with self.workdir.locked(wait=True):  # who comes last sees all
            states = {name: self.state(cell) for name, cell in self.cells.items()}
            records = [self._record(cell) for cell in self.cells.values() if states[cell.name] == "done"]
            if is_host0():
                write_study(self.workdir.folder, self.workdir.folder.name, records, states)
        return {"records": records, "states": states}

    def _record(self, cell: Cell) -> dict[str, Any]:
        report = read_json(self._folder(cell) / "report.json")
        own = {"cell": cell.name, "group": cell.group, "method": cell.config.method, "seed": cell.config.seed}
        alike = teacher_settings(dataclasses.replace(cell.config, seed=0))
        return own | {"teacher": _settings_hash(alike)} | make_record(report)


def _settings_hash(config: Config) -> str:
    """Eight hexadecimal digits, the same for the same settings."""
    settings = json.dumps(all_settings(config), sort_keys=True)
    return hashlib.sha256(settings.encode()).hexdigest()[:8]


def check_failures(folder: Path, states: Mapping[str, str]) -> None:
    """Says which cells failed.

    Args:
      folder: the study's.
      states: from `Study.run`.

    Raises:
      UserError: when any did.
    """
    failed = [name for name, state in states.items() if state.startswith("failed")]
    if failed:
        raise UserError(
            f"{len(failed)} of {len(states)} cells failed: {', '.join(failed)}",
            do=f"{folder}/cells/NAME/failed says why, and the same command tries them again",
        )
