"""Metrics for outputs that are label words or numbers, as in T5's evaluation (`t5/evaluation/metrics.py`).

`labels` of a row are the label words, the same for all rows; its first reference is one of them. An output that is not
a label is wrong and counts for the share `invalid`.
"""

import math
from collections.abc import Sequence

import numpy as np

from nash_jax.errors import UserError
from nash_jax.evaluation.statistics import Row, Values, percent


def measure_labels(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Computes indicators of correct, true and predicted labels; their sums give the confusion table's margins.

    The full table is not stored: with hundreds of labels it would need too much memory.

    Returns:
      float64 [n, 3 · labels + 1]; the last column counts invalid outputs.

    Raises:
      UserError: for rows without labels, with different labels, or with a reference that is not a label.
    """
    labels = _labels(rows)
    numbers = {label: i for i, label in enumerate(labels)}
    found = np.zeros((len(rows), 3 * len(labels) + 1))
    for counts, output, row in zip(found, outputs, rows, strict=True):
        true, given = numbers[row["references"][0]], numbers.get(output.strip(), len(labels))
        counts[true] = true == given
        counts[len(labels) + true] = counts[2 * len(labels) + given] = 1
    return found


def measure_binary(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Like `measure_labels`, for exactly two labels.

    Raises:
      UserError: as `measure_labels`, and for another number of labels.
    """
    labels = _labels(rows)
    if len(labels) != 2:
        raise UserError(f"the rows have the labels {labels}", "two, the second the positive one, for this metric")
    return measure_labels(outputs, rows)


def _labels(rows: Sequence[Row]) -> list[str]:
    """Returns the label words of all rows."""
    labels = list(rows[0].get("labels") or [])
    for row in rows:
        if list(row.get("labels") or []) != labels or row["references"][0] not in labels:
            found = f"the label words {list(row['labels'])}" if row.get("labels") else "no label words"
            known = "the same `labels` in all rows, the reference among them, for this metric"
            raise UserError(f"a row has {found} and the reference {row['references'][0]!r}", known)
    return labels


def _margins(statistics: np.ndarray) -> list[np.ndarray]:
    """Counts in [..., m, k]: correct [..., labels], true [..., labels], predicted [..., labels + 1]."""
    totals = statistics.sum(-2)
    labels = totals.shape[-1] // 3
    return np.split(totals, [labels, 2 * labels], axis=-1)


def reduce_accuracy(statistics: np.ndarray) -> Values:
    """Accuracy, and the share of invalid outputs, in per cent."""
    right, true, given = _margins(statistics)
    whole = true.sum(-1)
    return {"accuracy": percent(right.sum(-1), whole), "invalid": percent(given[..., -1], whole)}


def reduce_accuracy_f1(statistics: np.ndarray) -> Values:
    """Accuracy, F1 of the second label, and the share of invalid outputs, in per cent."""
    found = reduce_accuracy(statistics)
    return {"accuracy": found["accuracy"], "f1": binary_f1(statistics), "invalid": found["invalid"]}


def binary_f1(statistics: np.ndarray) -> np.ndarray:
    """F1 of the second of two labels, in per cent; an invalid output counts as a prediction of the wrong label."""
    right, true, _ = _margins(statistics)
    wrong = true.sum(-1) - right.sum(-1)
    return percent(2 * right[..., 1], 2 * right[..., 1] + wrong)


def reduce_accuracy_macro_f1(statistics: np.ndarray) -> Values:
    """Accuracy, and F1 averaged over labels, in per cent; an invalid output is a false negative of its true label.

    As in scikit-learn, the average is over the labels that some reference or output has.
    """
    (right, true, given), found = _margins(statistics), reduce_accuracy(statistics)
    counts = given[..., :-1] + true
    macro = percent(2 * right, counts).sum(-1) / (counts > 0).sum(-1)
    return {"accuracy": found["accuracy"], "macro_f1": macro, "invalid": found["invalid"]}


def reduce_matthews(statistics: np.ndarray) -> Values:
    """Matthews correlation × 100 for any number of labels (Gorodkin 2004); invalid outputs are an additional label.

    0 if all references or all outputs are equal, as in scikit-learn.
    """
    (right, true, given), found = _margins(statistics), reduce_accuracy(statistics)
    whole = true.sum(-1)
    numerator = right.sum(-1) * whole - (given[..., :-1] * true).sum(-1)
    spread = (whole**2 - (given**2).sum(-1)) * (whole**2 - (true**2).sum(-1))
    matthews = 100 * numerator / np.sqrt(np.where(spread > 0, spread, np.inf))
    return {"matthews": matthews, "accuracy": found["accuracy"], "invalid": found["invalid"]}


UNPARSABLE_NUMBER = -1.0  # as T5's `string_to_float`; smaller than all scores of STS-B, 0 to 5


def measure_numbers(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Returns float64 [n, 3]: the output as a number (-1 if it is not one), the reference, whether it is not one."""
    found = []
    for output, row in zip(outputs, rows, strict=True):
        given, true = _number(output), _number(row["references"][0])
        if true is None:
            raise UserError(f"a row has the reference {row['references'][0]!r}", "a number, for this metric")
        found.append([UNPARSABLE_NUMBER if given is None else given, true, given is None])
    return np.asarray(found, float).reshape(len(found), 3)


def _number(text: str) -> float | None:
    try:
        found = float(text)
    except ValueError:
        return None
    return found if math.isfinite(found) else None


def reduce_correlation(statistics: np.ndarray) -> Values:
    """Pearson and Spearman correlation × 100, and the percentage of outputs that are not numbers. Not additive."""
    from scipy.stats import rankdata  # imported here because it takes half a second

    outputs, truths, invalid = np.moveaxis(statistics, -1, 0)
    ranks = rankdata(outputs, axis=-1), rankdata(truths, axis=-1)
    share = percent(invalid.sum(-1), np.full(invalid.shape[:-1], invalid.shape[-1]))
    return {"pearson": _pearson(outputs, truths), "spearman": _pearson(*ranks), "invalid": share}


def _pearson(x: np.ndarray, y: np.ndarray) -> np.ndarray:
    """Correlation × 100 along the last axis; 0 if one side is constant."""
    varied = (np.ptp(x, axis=-1) > 0) & (np.ptp(y, axis=-1) > 0)  # the mean is rounded: x - mean may not be 0
    x, y = x - x.mean(-1, keepdims=True), y - y.mean(-1, keepdims=True)
    spread = (x**2).sum(-1) * (y**2).sum(-1)
    return 100 * (x * y).sum(-1) / np.sqrt(np.where(varied, spread, np.inf))
