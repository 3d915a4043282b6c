"""Tables for pages as data frames: their columns are titles, their cells values, `Cell` or `Bar`."""

import dataclasses
from collections.abc import Iterable, Sequence
from typing import Any

import pandas as pd

Row = dict[str, Any]  # title → cell


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number as text, with a small note below it and a tooltip."""

    text: str
    note: str = ""
    tooltip: str = ""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A share of a whole, from 0 to 1."""

    share: float


def make_frame(label: str, rows: Iterable[Sequence[Any] | Row], titles: Sequence[str] | None = None) -> pd.DataFrame:
    """A table of any values, which stay as they are; without rows it is empty.

    Args:
      label: what a screen reader calls it, kept in `attrs`; with `numeric`, which columns align right: those that hold
        nothing but numbers, cells, and gaps.
      rows: sequences of cells, or dicts from titles to cells; what a dict lacks is None among numbers, else empty.
      titles: of sequences.
    """
    frame = pd.DataFrame(list(rows), columns=titles, dtype=object)
    if titles is None:
        frame = frame.apply(lambda cells: cells.where(cells.notna(), None if _numeric(cells) else ""))
    numeric = [_numeric(cells) and any(cell != "" for cell in cells) for _, cells in frame.items()]
    frame.attrs = {"label": label, "numeric": numeric}
    return frame


def _numeric(cells: Iterable[Any]) -> bool:
    return all(isinstance(cell, int | float | Cell | None) or cell == "" for cell in cells)
