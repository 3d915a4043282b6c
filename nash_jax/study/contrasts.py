"""Contrasts: which cells a study compares and what is expected of them, written down before they are run.

    [{"name": "NASH against CoFi", "a": "nash-2-30", "b": "cofi-70", "metric": "word_accuracy",
      "predicted": "at least 1.0", "date": "2026-11-29"}]

A contrast is the difference a - b of a metric of the pruned models, seed by seed. `config.contrasts` of a study is the
path of such a file.
"""

import dataclasses
import datetime
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import ml_collections

from nash_jax.config.derived import teacher_settings
from nash_jax.errors import UserError, did_you_mean
from nash_jax.evaluation.metrics import METRICS
from nash_jax.runtime.files import check_local, read_small
from nash_jax.study.grid import Cell
from nash_jax.study.paired import Interval

MOST = 4
DENSE = "dense"  # in the place of a cell: the dense models of the other cell
HELD, REFUTED, OPEN = "held", "refuted", "not decided"
_NEEDED, _PREDICTIONS = ("name", "a", "b", "predicted", "date"), "at least X, at most X or within X, as in at least 1.0"


@dataclasses.dataclass(frozen=True)
class Contrast:
    """One difference, and what is predicted of it.

    Attributes:
      name: of the contrast.
      a: a cell by its name in `config.cells`, all seeds of it; or `dense`.
      b: what it is compared with.
      predicted: of a - b: `at least X`, `at most X` or `within X`.
      date: when this was written, as in 2026-11-29.
      metric: its name; empty: the one that checkpoints are chosen by.
      margin: cells that differ by less are level.
      why: the reason for the prediction.
    """

    name: str
    a: str
    b: str
    predicted: str
    date: str
    metric: str = ""
    margin: float = 0.5
    why: str = ""

    @property
    def prediction(self) -> tuple[str, float]:
        """The words, and their number."""
        words, _, number = self.predicted.rpartition(" ")
        return words, float(number)

    def verdict(self, interval: Interval, equivalent: bool) -> str:
        """Whether the prediction came true, as far as an interval of the difference tells.

        Args:
          interval: (low, high) of the difference.
          equivalent: whether two one-sided tests find it within the prediction's number.
        """
        (words, number), (low, high) = self.prediction, interval
        if words == "within":
            return HELD if equivalent else REFUTED if low > number or high < -number else OPEN
        if words == "at most":
            low, high, number = -high, -low, -number
        return HELD if low >= number else REFUTED if high < number else OPEN


def read_contrasts(config: ml_collections.ConfigDict, cells: Sequence[Cell]) -> list[Contrast]:
    """The contrasts of the file that a study names, in its order; none without a file.

    Args:
      config: of the study.
      cells: of the study.

    Raises:
      UserError: for a file that cannot be read, more than `MOST` contrasts, or one that does not fit the cells.
    """
    named = config.get("contrasts", "")
    if not isinstance(named, str):
        raise UserError(f"config.contrasts is {named!r}", "the path of a JSON file, or an empty text")
    check_local(named, "config.contrasts")
    rows = _read_file(Path(named).expanduser()) if named else []
    if len(rows) > MOST:
        do = "keep those that matter: every further one makes it harder for all to be shown (Holm)"
        raise UserError(f"{named}: {len(rows)} contrasts", f"{MOST} at most", do)
    found = [_parse(row, f"{named}: contrast {number}") for number, row in enumerate(rows, 1)]
    names = [own.name for own in found]
    if twice := [name for name in names if names.count(name) > 1]:
        raise UserError(f"{named}: two contrasts are called {twice[0]!r}", "a name of its own for each")
    return [_fit(own, cells, f"{named}: contrast {own.name!r}") for own in found]


def _read_file(path: Path) -> list[Any]:
    if not path.is_file():
        raise UserError(f"config.contrasts: no file {str(path)!r}", "a JSON file of contrasts (docs/study.md)")
    try:
        found = json.loads(read_small(path))
    except ValueError as error:
        raise UserError(f"{path} is not JSON: {error}", "a list of contrasts (docs/study.md)") from error
    if not isinstance(found, list):
        raise UserError(f"{path} holds a {type(found).__name__}", "a list of contrasts (docs/study.md)")
    return found


def _parse(row: Any, place: str) -> Contrast:
    fields = {field.name for field in dataclasses.fields(Contrast)}
    if not isinstance(row, dict):
        raise UserError(f"{place} is {row!r}", f"an object with {', '.join(_NEEDED)}")
    if unknown := [name for name in row if name not in fields]:
        raise UserError(f"{place} has {unknown[0]!r}{did_you_mean(unknown[0], fields)}", ", ".join(sorted(fields)))
    if missing := [name for name in _NEEDED if name not in row]:
        raise UserError(f"{place} has no {missing[0]}", ", ".join(_NEEDED))
    margin = row.get("margin", Contrast.margin)
    if isinstance(margin, bool) or not isinstance(margin, int | float) or not 0 < margin < float("inf"):
        raise UserError(f"{place}: margin is {margin!r}", "a number above 0, in units of the metric")
    if wrong := [name for name, value in row.items() if name != "margin" and not isinstance(value, str)]:
        raise UserError(f"{place}: {wrong[0]} is {row[wrong[0]]!r}", "a text")
    _check_texts(row, place)
    return Contrast(**row | {"margin": float(margin)})


def _check_texts(row: Mapping[str, str], place: str) -> None:
    if not re.fullmatch(r"(at least|at most) -?\d+(\.\d+)?|within (?!0*\.?0*$)\d+(\.\d+)?", row["predicted"]):
        raise UserError(f"{place}: predicted is {row['predicted']!r}", _PREDICTIONS)
    try:
        datetime.date.fromisoformat(row["date"])
    except ValueError as error:
        raise UserError(f"{place}: date is {row['date']!r}", "a day, as in 2026-11-29") from error


def _fit(own: Contrast, cells: Sequence[Cell], place: str) -> Contrast:
    """The contrast with its metric named, if its cells are there and may be paired."""
    groups = dict.fromkeys(cell.group for cell in cells)
    for side, name in (("a", own.a), ("b", own.b)):
        if name not in groups and name != DENSE:
            near = did_you_mean(name, groups)
            raise UserError(f"{place}: {side} is {name!r}{near}", f"dense, or one of {', '.join([*groups][:20])}")
    if own.a == own.b:
        raise UserError(f"{place}: a and b are both {own.a}", "two cells that differ")
    sides = [{cell.config.seed: cell.config for cell in cells if cell.group == name} for name in (own.a, own.b)]
    for seed in sides[0].keys() & sides[1].keys():
        if len({teacher_settings(side[seed]) for side in sides}) > 1:
            raise UserError(f"{place}: {own.a} and {own.b} have different teachers", "cells that share their teachers")
    first = next(iter((sides[0] or sides[1]).values()))
    return dataclasses.replace(own, metric=own.metric or METRICS[first.task.metric].selection)
