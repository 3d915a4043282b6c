"""Common parts of the metrics: rows, groups of rows, and values from sums over rows."""

from collections.abc import Callable, Hashable, Mapping, Sequence
from typing import Any

import numpy as np

Row = Mapping[str, Any]  # {"source": text, "references": [text, …]}, and keys that a metric needs
Values = dict[str, np.ndarray]  # name → values with the leading axes of the statistics


def percent(part: np.ndarray, whole: np.ndarray) -> np.ndarray:
    """100 · part / whole, where `whole` is a count; 0 if whole is 0."""
    return 100 * part / np.maximum(whole, 1)


def mean_reducer(*names: str) -> Callable[[np.ndarray], Values]:
    """Returns a `reduce` for statistics [..., m, k + 1]: k named columns, and the count by which sums are divided."""

    def reduce(statistics: np.ndarray) -> Values:
        totals = statistics.sum(-2)
        return {name: percent(totals[..., i], totals[..., -1]) for i, name in enumerate(names)}

    return reduce


def append_count(columns: Sequence[Sequence[float]], width: int) -> np.ndarray:
    """Returns statistics [n, width] as float64 [n, width + 1], with a last column of ones."""
    found = np.asarray(columns, float).reshape(len(columns), width)
    return np.concatenate([found, np.ones((len(found), 1))], axis=1)


def index_keys(keys: Sequence[Hashable]) -> np.ndarray:
    """Returns the index of each key among the distinct keys, in order of first occurrence, int [n]."""
    known: dict[Hashable, int] = {}
    return np.array([known.setdefault(key, len(known)) for key in keys], int)


def group_indices(rows: Sequence[Row]) -> np.ndarray:
    """Returns the index of each row's `group`, in order of first occurrence, int [n]; a row without one is a group."""
    return index_keys([("group", row["group"]) if "group" in row else ("row", i) for i, row in enumerate(rows)])


def is_first(numbers: np.ndarray) -> np.ndarray:
    """Returns 1.0 at the first occurrence of each number, else 0.0; float64 [n]."""
    found = np.zeros(len(numbers))
    found[np.unique(numbers, return_index=True)[1]] = 1
    return found
