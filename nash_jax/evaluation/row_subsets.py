"""Subsets of rows that are scored together: all rows, and the rows of each task of a mixture, by the task's metric."""

import dataclasses
import functools
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.config.schema import TaskConfig
from nash_jax.data.tasks import TASKS
from nash_jax.errors import UserError
from nash_jax.evaluation.metrics import Metric, check_metric_rows, choose_metric
from nash_jax.evaluation.statistics import group_indices


@dataclasses.dataclass(frozen=True)
class RowSubset:
    """Rows that are scored together.

    Attributes:
      prefix: prefix of the names of their values: empty, or `task/`.
      name: of the metric, key of `METRICS`.
      metric: scores them, with the tokenizers.
      tokenizers: field of `TaskConfig` → tokenizer that the metric uses.
      indices: their indices among all rows.
      rows: the rows.
    """

    prefix: str
    name: str
    metric: Metric
    tokenizers: Mapping[str, str]
    indices: Sequence[int]
    rows: Sequence[Mapping[str, Any]]

    @functools.cached_property
    def groups(self) -> np.ndarray:
        """Group index of each row, int [n]."""
        return group_indices(self.rows)

    def measure(self, outputs: Sequence[str]) -> np.ndarray:
        """Returns the statistics of these rows, float64 [n, k], from the outputs of all rows."""
        return self.metric.measure([outputs[i] for i in self.indices], self.rows)


def split_by_task(
    metric: str, rows: Sequence[Mapping[str, Any]], settings: TaskConfig | None = None
) -> list[RowSubset]:
    """Returns the subset of all rows, then one subset for each task named by the rows.

    Args:
      metric: metric for all rows.
      rows: in any order.
      settings: has the settings of the metrics' tokenizers; None: each subset's references choose.
    """
    found = []
    for prefix, name, indices in _split(metric, rows):
        own = [rows[i] for i in indices]
        found.append(RowSubset(prefix, name, *choose_metric(name, own, settings), indices, own))
    return found


def check_subsets(metric: str, rows: Sequence[Mapping[str, Any]], settings: TaskConfig | None = None) -> list[str]:
    """Calls `check_metric_rows` for each subset, so that errors occur before training; returns its notes.

    Raises:
      UserError: as `check_metric_rows`, with the name of the task in a mixture.
    """
    notes = []
    for prefix, name, indices in _split(metric, rows):
        try:
            found = check_metric_rows(name, [rows[i] for i in indices], settings)
        except UserError as error:
            raise UserError(f"{prefix.replace('/', ': ')}{error}") from error
        notes += [f"{prefix.replace('/', ': ')}{note}" for note in found]
    return notes


def _split(metric: str, rows: Sequence[Mapping[str, Any]]) -> Iterator[tuple[str, str, list[int]]]:
    """(prefix, metric, row indices) of each subset."""
    yield "", metric, list(range(len(rows)))
    for name in dict.fromkeys(row["task"] for row in rows if "task" in row):
        yield f"{name}/", TASKS[name].metric, [i for i, row in enumerate(rows) if row.get("task") == name]


def merge_values(subsets: Sequence[RowSubset], found: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Merges the values of all subsets into one dict; names get the subset's prefix.

    Args:
      subsets: from `split_by_task`.
      found: for each subset, name → value.
    """
    return {
        subset.prefix + name: value
        for subset, values in zip(subsets, found, strict=True)
        for name, value in values.items()
    }


def chosen_tokenizers(subsets: Sequence[RowSubset]) -> dict[str, str]:
    """Returns the tokenizers of all subsets by field of `TaskConfig`, with the prefix of the subset."""
    return merge_values(subsets, [subset.tokenizers for subset in subsets])


def shared_labels(rows: Sequence[Mapping[str, Any]]) -> list[str]:
    """Returns the labels of the rows, which are then the only possible outputs.

    Raises:
      UserError: if rows have no labels, different ones, or outputs that are not labels (WSC).
    """
    labels = list(rows[0].get("labels") or [])
    if not labels or any(list(row.get("labels") or []) != labels or "targets" in row for row in rows):
        raise UserError(
            "config.evaluate.labels_only is True, and the rows have no labels, different ones, or other outputs",
            "rows of one classification task",
            "config.evaluate.labels_only=False",
        )
    return labels
