"""Metrics of outputs that are one of a row's label words, or a number, as T5 has them.

A row's `labels` are the label words, the same for all rows, its first reference one of them. An output that is none is
wrong, and part of the share `invalid`. What else that means for a metric follows T5's evaluation
(`t5/evaluation/metrics.py`).
"""

import math
from collections.abc import Sequence

import numpy as np

from nash_jax.errors import UserError
from nash_jax.evaluation.statistics import Row, Values, percent


def measure_labels(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """For each row one cell of the confusion table [labels, labels + 1], flat; the last column are invalid outputs.

    Raises:
      UserError: for rows without labels, with labels of their own, or whose reference is none.
    """
    labels = _labels(rows)
    cells = np.zeros((len(rows), len(labels), len(labels) + 1))
    for cell, output, row in zip(cells, outputs, rows, strict=True):
        given = output.strip()
        cell[labels.index(row["references"][0]), labels.index(given) if given in labels else -1] = 1
    return cells.reshape(len(rows), -1)


def measure_binary(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """`measure_labels` of two labels.

    Raises:
      UserError: as there, and for other numbers of labels.
    """
    labels = _labels(rows)
    if len(labels) != 2:
        raise UserError(f"the rows have the labels {labels}", "two, the second the positive one, for this metric")
    return measure_labels(outputs, rows)


def _labels(rows: Sequence[Row]) -> list[str]:
    """The label words of all rows."""
    labels = list(rows[0].get("labels") or [])
    for row in rows:
        if list(row.get("labels") or []) != labels or row["references"][0] not in labels:
            found = f"the label words {list(row['labels'])}" if row.get("labels") else "no label words"
            known = "the same `labels` in all rows, the reference among them, for this metric"
            raise UserError(f"a row has {found} and the reference {row['references'][0]!r}", known)
    return labels


def confusion(statistics: np.ndarray) -> np.ndarray:
    """The confusion table [..., labels, labels + 1] of statistics [..., m, k]: truth by output."""
    totals = statistics.sum(-2)
    labels = math.isqrt(totals.shape[-1])
    return totals.reshape(*totals.shape[:-1], labels, labels + 1)


def reduce_accuracy(statistics: np.ndarray) -> Values:
    """Share of right outputs, and of those that are no label."""
    table = confusion(statistics)
    whole = table.sum((-2, -1))
    right = np.trace(table, axis1=-2, axis2=-1)
    return {"accuracy": percent(right, whole), "invalid": percent(table[..., -1].sum(-1), whole)}


def reduce_accuracy_f1(statistics: np.ndarray) -> Values:
    """Accuracy, and F1 of the second label."""
    found = reduce_accuracy(statistics)
    return {"accuracy": found["accuracy"], "f1": binary_f1(confusion(statistics)), "invalid": found["invalid"]}


def binary_f1(table: np.ndarray) -> np.ndarray:
    """F1 of the second of two labels; an invalid output counts as the wrong one of the two."""
    right, wrong = table[..., 1, 1], table.sum((-2, -1)) - table[..., 0, 0] - table[..., 1, 1]
    return percent(2 * right, 2 * right + wrong)


def reduce_accuracy_macro_f1(statistics: np.ndarray) -> Values:
    """Accuracy, and the mean of all labels' F1; an invalid output is a miss of its true label and no other's hit."""
    table, found = confusion(statistics), reduce_accuracy(statistics)
    right = np.diagonal(table, axis1=-2, axis2=-1)
    given, true = table[..., :-1].sum(-2), table.sum(-1)
    each = percent(2 * right, given + true)
    return {"accuracy": found["accuracy"], "macro_f1": each.mean(-1), "invalid": found["invalid"]}


def reduce_matthews(statistics: np.ndarray) -> Values:
    """Matthews' correlation, for any number of labels (Gorodkin 2004); invalid is a label that is never true.

    0 where all truths or all outputs are the same, as scikit-learn has it.
    """
    table, found = confusion(statistics), reduce_accuracy(statistics)
    right, given, true = np.trace(table, axis1=-2, axis2=-1), table.sum(-2), table.sum(-1)
    whole = table.sum((-2, -1))
    numerator = right * whole - (given[..., :-1] * true).sum(-1)
    spread = (whole**2 - (given**2).sum(-1)) * (whole**2 - (true**2).sum(-1))
    matthews = 100 * numerator / np.sqrt(np.where(spread > 0, spread, np.inf))
    return {"matthews": matthews, "accuracy": found["accuracy"], "invalid": found["invalid"]}


UNREADABLE = -1.0  # T5's `string_to_float`: below all scores of STS-B, 0 to 5


def measure_numbers(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """The output's number (-1 where it is none), the reference's, and whether the output is none."""
    found = []
    for output, row in zip(outputs, rows, strict=True):
        given, true = _number(output), _number(row["references"][0])
        if true is None:
            raise UserError(f"a row has the reference {row['references'][0]!r}", "a number, for this metric")
        found.append([UNREADABLE if given is None else given, true, given is None])
    return np.asarray(found, float).reshape(len(found), 3)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def reduce_correlation(statistics: np.ndarray) -> Values:
    """Pearson's and Spearman's correlation, and the share of outputs that are no number. Not additive over rows."""
    from scipy.stats import rankdata  # here, for it takes half a second to import

    outputs, truths, invalid = np.moveaxis(statistics, -1, 0)
    ranks = rankdata(outputs, axis=-1), rankdata(truths, axis=-1)
    share = percent(invalid.sum(-1), np.full(invalid.shape[:-1], invalid.shape[-1]))
    return {"pearson": _pearson(outputs, truths), "spearman": _pearson(*ranks), "invalid": share}


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation along the last axis, in per cent; 0 where one side is constant, for it then says nothing."""
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    spread = (x**2).sum(-1) * (y**2).sum(-1)
    return 100 * (x * y).sum(-1) / np.sqrt(np.where(spread > 0, spread, np.inf))
