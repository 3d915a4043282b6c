"""A grid of runs in one workdir: each cell is a run of the recipe, and cells alike up to fine-tuning share a teacher.

A config file makes a study by naming its cells:

    config.cells = {"nash-2": {"shorten": {"decoder_layers": 2}}, "nash-3": {"shorten": {"decoder_layers": 3}}}

Each cell is the config with these settings changed. `seeds` in a cell, as in {"seeds": (57, 58)}, makes one of each.
A cell is also a command of its own, so that many machines can work on one grid: nothing here schedules.

    workdir/cells/NAME/       a cell: a run's workdir, or `failed` with what went wrong
    workdir/teachers/NAME/    data and fine-tuned model of the cells that share them
    workdir/trials/NAME.json  which of the settings that were tried the other seeds of a group take
    workdir/contrasts.json    the contrasts, and when the study first saw them
    workdir/tables, report.html, study.json
"""

import contextlib
import dataclasses
import functools
import hashlib
import json
import traceback
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax

from nash_jax.config.derived import all_settings, chosen_stages, lasting_settings, teacher_settings
from nash_jax.config.schema import TEACHER_STAGES, Config
from nash_jax.errors import UserError, did_you_mean
from nash_jax.evaluation.row_statistics import FILE, RowStatistics, load_statistics
from nash_jax.recipe.modes import times_shape
from nash_jax.recipe.run import PruningRun
from nash_jax.recipe.time_shape import TimingRun
from nash_jax.recipe.workdir import Workdir, read_done
from nash_jax.report.result import read_report
from nash_jax.runtime.files import write_text
from nash_jax.runtime.locks import LockedError
from nash_jax.runtime.multihost import broadcast_from_host0, is_host0
from nash_jax.study import trials
from nash_jax.study.cell_record import make_record
from nash_jax.study.contrasts import Contrast
from nash_jax.study.grid import Cell
from nash_jax.study.protocol import compare
from nash_jax.study.records import Record
from nash_jax.study.registry import register

_OVER = ("done", "tried", "diverged")  # states in which there is nothing to run


class Study:
    """The cells of a grid in a workdir.

    Args:
      cells: the grid.
      workdir: its folder.
      contrasts: what is compared, and predicted.

    Raises:
      UserError: when a cell of that name was run there with other settings.
    """

    def __init__(self, cells: list[Cell], workdir: str | Path, contrasts: Sequence[Contrast] = ()) -> None:
        self.cells, self.contrasts = {cell.name: cell for cell in cells}, contrasts
        self.workdir = Workdir(workdir, {})
        for cell in cells:
            config = _settled(cell, self.choice(cell.group))
            if config is not None and self._folder(cell).exists():
                Workdir(self._folder(cell), lasting_settings(config))

    def run(self, only: str | None = None) -> dict[str, Any]:
        """Runs the cells that are not done, or one of them, and gathers what is done into tables.

        A cell that fails is recorded and skipped; a cell that another process runs is skipped.

        Args:
          only: the one to run.

        Returns:
          "records" and "states" as in study.json, and "said", contrasts and trials.

        Raises:
          UserError: for an unknown cell, or when the cell asked for by name fails or is locked by another process.
        """
        chosen = None if only is None else self._named(only)
        if self.contrasts:
            with self.workdir.locked(wait=True):
                self._register()  # before anything is run
        if chosen is not None:
            self._run_alone(chosen)
        for number, cell in enumerate(self.cells.values() if only is None else (), 1):
            state = self.state(cell)
            if is_host0():
                print(f"cell {cell.name} ({number} of {len(self.cells)}): {state}", flush=True)
            if not state.startswith(_OVER):
                self._attempt(cell)
            self._finish_chosen(cell)
        return self.gather()

    def _run_alone(self, cell: Cell) -> None:
        """Runs a cell; if it fails, the tables are written all the same."""
        try:
            self._run_one(cell)
            self._finish_chosen(cell)
        except Exception:
            if jax.process_count() == 1:  # of several, the others may wait in the middle of it
                self.gather()
            raise

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
        if self.state(cell).startswith(_OVER):
            return
        folder, config = self._folder(cell), self._config(cell)
        try:
            self._make_run(cell, config).run()
            (folder / "failed").unlink(missing_ok=True)
        except Exception as error:
            if is_host0() and not isinstance(error, LockedError):
                folder.mkdir(parents=True, exist_ok=True)
                reason = str(error) if isinstance(error, UserError) else traceback.format_exc()
                with contextlib.suppress(FileNotFoundError):  # another process fails at the same teacher
                    write_text(folder / "failed", reason)
            raise

    def _make_run(self, cell: Cell, config: Config) -> PruningRun | TimingRun:
        if times_shape(config):
            return TimingRun(config, self._folder(cell))
        teacher = self._teacher(config)
        return PruningRun(config, self._folder(cell), teacher, labels=self._labels(config, teacher))

    def _teacher(self, cell: Config) -> Workdir:
        """The workdir of a cell's teacher, trained by the process that comes first; the others wait."""
        config = teacher_settings(cell)
        teacher = PruningRun(config, self.workdir.folder / "teachers" / f"{config.task.name}-{_settings_hash(config)}")
        if teacher.workdir.result(TEACHER_STAGES[-1]) is None:
            teacher.run(wait=True)
        return teacher.workdir

    def _labels(self, cell: Config, teacher: Workdir) -> Workdir | None:
        """The workdir with what a cell's teacher wrote, where its students learn that."""
        if not cell.label.is_on:
            return None
        config = dataclasses.replace(teacher_settings(cell), label=cell.label, stages="label")
        name = f"{config.task.name}-labels-{_settings_hash(config)}"
        labels = PruningRun(config, self.workdir.folder / "teachers" / name, teacher)
        if labels.workdir.result("label") is None:
            labels.run(wait=True)
        return labels.workdir

    # -- trials -------------------------------------------------------------------------------------------

    def choice(self, group: str) -> dict[str, Any] | None:
        """What `trials.choose` says of a group; None also of a group without trials."""
        if not self._trials(group):
            return None
        found: dict[str, Any] | None = broadcast_from_host0(self._choice(group) if is_host0() else None)
        return found

    def _choice(self, group: str) -> dict[str, Any] | None:
        tried, folder = self._trials(group), self.workdir.folder
        return trials.choose(tried, folder / "cells", folder / "trials" / f"{group}.json") if tried else None

    def _config(self, cell: Cell) -> Config:
        """The settings that a cell is run with now.

        Raises:
          UserError: where its trials are not over.
        """
        choice = self.choice(cell.group)
        config = _settled(cell, choice)
        if config is None and set(chosen_stages(cell.config)) <= set(TEACHER_STAGES):
            return cell.config  # the same teacher under each trial
        if config is None:
            states = [f"{own.name} is {self.state(own)}" for own in self._trials(cell.group)]
            raise UserError(f"cell {cell.name} waits for its trials: {', '.join(states)}", "all of them over")
        is_chosen = choice is not None and choice["chosen"] == cell.trial
        return trials.trial_config(config) if cell.trial and not is_chosen else config

    def _trials(self, group: str) -> list[Cell]:
        return [cell for cell in self.cells.values() if cell.group == group and cell.trial]

    def _finish_chosen(self, last: Cell) -> None:
        """Once the last trial of a group is over, the one that was chosen is run to its end."""
        choice = (self.choice(last.group) if last.trial else None) or {"chosen": None}
        for cell in self._trials(last.group):
            if cell.trial == choice["chosen"] and self.state(cell) == "waiting":
                self._attempt(cell)

    # -- what is known ------------------------------------------------------------------------------------

    def state(self, cell: Cell) -> str:
        """`done`, `tried: …` (a trial that is over), `diverged: …`, `running`, `failed: …` or `waiting`."""
        return str(broadcast_from_host0(self._seen(cell) if is_host0() else None))

    def _seen(self, cell: Cell) -> str:
        folder, choice = self._folder(cell), self._choice(cell.group)
        if (folder / "report.json").exists():  # written last
            return "done"
        config = _settled(cell, choice)
        if config is None:
            return "waiting" if choice is None else "failed: every trial of its group diverged"
        if folder.exists() and Workdir(folder, lasting_settings(config)).is_locked():
            return "running"
        if cell.trial and (over := trials.outcome(cell, folder, choice)):
            return over
        with contextlib.suppress(FileNotFoundError):  # it goes when another process has done the cell
            return f"failed: {(folder / 'failed').read_text(encoding='utf-8').strip().splitlines()[-1]}"
        return "waiting"

    def gather(self) -> dict[str, Any]:
        """Writes tables, figures and page from the cells that are done; returns what `run` returns."""
        from nash_jax.study.report import Protocol, write_study  # here, for figures need matplotlib

        with self.workdir.locked(wait=True):  # who comes last sees all
            states = {name: self.state(cell) for name, cell in self.cells.items()}
            records = [self._record(cell) for cell in self.cells.values() if states[cell.name] == "done"]
            said = Protocol()
            if is_host0():
                said = Protocol(*self._compared(records), self._choices())
                write_study(self.workdir.folder, self.workdir.folder.name, records, states, said)
        return {"records": records, "states": states, "said": said}

    def _compared(self, records: Sequence[Record]) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """What the records say of each contrast, with when it was first seen; and the contrasts withdrawn."""
        known, withdrawn = self._register()
        read_rows = functools.cache(self._read_rows)
        results = compare(self.contrasts, records, lambda record: read_rows(record["cell"]))
        return [own | seen for own, seen in zip(results, known, strict=True)], withdrawn

    def _choices(self) -> dict[str, dict[str, Any]]:
        groups = dict.fromkeys(cell.group for cell in self.cells.values() if cell.trial)
        return {group: choice for group in groups if (choice := self._choice(group))}

    def _register(self) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
        """As `register`, by host 0 alone; with the lock of the workdir."""
        if not is_host0():
            return [], []
        done = [cell.group for cell in self.cells.values() if (self._folder(cell) / "report.json").exists()]
        return register(self.workdir.folder / "contrasts.json", self.contrasts, done)

    def _read_rows(self, name: str) -> RowStatistics:
        folder = self.workdir.folder / "cells" / name / "evaluate"
        read_done(folder)  # compares the checksums
        return load_statistics(folder / FILE)

    def _record(self, cell: Cell) -> Record:
        report = read_report(self._folder(cell))
        config = _settled(cell, self.choice(cell.group)) or cell.config
        own = {"cell": cell.name, "group": cell.group, "method": config.method, "seed": config.seed}
        own |= {"trials": max(1, len(self._trials(cell.group)))}
        alike = teacher_settings(dataclasses.replace(config, seed=0))
        return own | {"teacher": _settings_hash(alike)} | make_record(report)


def _settled(cell: Cell, choice: Mapping[str, Any] | None) -> Config | None:
    """The settings of a cell; None where its trials are not over, or all diverged."""
    if not cell.choices:
        return cell.config
    chosen = choice["chosen"] if choice else None
    return None if chosen is None else cell.choices[chosen - 1]


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
