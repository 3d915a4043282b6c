"""What all metrics share: rows, groups of rows, and values from sums over rows."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.errors import UserError

Row = Mapping[str, Any]  # {"source": text, "references": [text, …]}, and what a metric or its groups need
Values = dict[str, np.ndarray]  # name → value, for each of the leading axes of the statistics


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 · part / whole, where `whole` is a count; 0 of nothing."""
    return 100 * part / np.maximum(whole, 1)


def mean_reducer(*names: str) -> Callable[[np.ndarray], Values]:
    """The `reduce` of statistics [..., m, k + 1]: k columns by name, and the number that they are means over."""

    def reduce(statistics: np.ndarray) -> Values:
        totals = statistics.sum(-2)
        return {name: percent(totals[..., i], totals[..., -1]) for i, name in enumerate(names)}

    return reduce


def append_count(columns: Sequence[Sequence[float]], width: int) -> np.ndarray:
    """Statistics [n, width] as float64, with a last column of ones."""
    found = np.asarray(columns, float).reshape(len(columns), width)
    return np.concatenate([found, np.ones((len(found), 1))], axis=1)


def index_keys(keys: Sequence[Hashable]) -> np.ndarray:
    """Number of each key, in the order of their first sight."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], int)


def group_indices(rows: Sequence[Row]) -> np.ndarray:
    """Number of each row's `group`, in the order of their first rows; a row without one is its own."""
    return index_keys([("group", row["group"]) if "group" in row else ("row", i) for i, row in enumerate(rows)])


def is_first(numbers: np.ndarray) -> np.ndarray:
    """1.0 for the first row of each number, else 0.0."""
    found = np.zeros(len(numbers))
    found[np.unique(numbers, return_index=True)[1]] = 1
    return found


def missing_package(package: str) -> UserError:
    """The error for a metric whose package is not installed."""
    return UserError(f"config.task.metric needs the package {package}", do=f"pip install {package}")
