"""Which rows are scored together: all of them, and those of each task of a mixture by the task's own metric."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.data.tasks import TASKS
from nash_jax.evaluation.metrics import METRICS, Metric, check_metric_rows
from nash_jax.evaluation.statistics import group_indices


@dataclasses.dataclass(frozen=True)
class RowSubset:
    """Rows that are scored together.

    Attributes:
      prefix: what their values' names begin with: nothing, or `task/`.
      metric: what they are scored by.
      numbers: which rows they are.
      rows: they themselves.
    """

    prefix: str
    metric: Metric
    numbers: Sequence[int]
    rows: Sequence[Mapping[str, Any]]

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """The number of each row's group [n]."""
        return group_indices(self.rows)

    def measure(self, outputs: Sequence[str]) -> np.ndarray:
        """Statistics of these rows [n, k], of the outputs of all."""
        return self.metric.measure([outputs[i] for i in self.numbers], self.rows)


def split_by_task(metric: str, rows: Sequence[Mapping[str, Any]]) -> list[RowSubset]:
    """All rows, and those of each task that rows name.

    Args:
      metric: of all rows.
      rows: of any order.
    """
    return [
        RowSubset(prefix, METRICS[own], numbers, [rows[i] for i in numbers])
        for prefix, own, numbers in _split(metric, rows)
    ]


def check_subsets(metric: str, rows: Sequence[Mapping[str, Any]]) -> None:
    """`check_metric_rows` of all rows and of each task's, before any training.

    Raises:
      UserError: as there.
    """
    for _, own, numbers in _split(metric, rows):
        check_metric_rows(own, [rows[i] for i in numbers])


def _split(metric: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[int]]]:
    """(prefix, metric, numbers of rows)."""
    yield "", metric, list(range(len(rows)))
    for name in dict.fromkeys(row["task"] for row in rows if "task" in row):
        yield f"{name}/", TASKS[name].metric, [i for i, row in enumerate(rows) if row.get("task") == name]


def merge_values(parts: Sequence[RowSubset], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """What was found for each part, by value, under one roof.

    Args:
      parts: of `split_by_task`.
      found: value → what is said of it, for each part.
    """
    return {part.prefix + name: said for part, own in zip(parts, found, strict=True) for name, said in own.items()}
