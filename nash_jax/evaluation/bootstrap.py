"""Uncertainty of metrics: bootstrap confidence intervals of one model, and paired tests of two models on the same rows.

All rows of a group are one unit of resampling.
"""

from collections.abc import Iterator, Mapping
from typing import Any

import numpy as np

from nash_jax.evaluation.metrics import Metric
from nash_jax.evaluation.statistics import Values

NUM_RESAMPLES = 1000
CONFIDENCE_LEVEL = 0.95
_SEED = 57
_CHUNK = 50  # resamples processed at a time, which limits the memory for the counts [chunk, units]

BootstrapValues = Mapping[str, np.ndarray]  # name of a value → its value in each resample [resamples]


def bootstrap_values(
    metric: Metric, statistics: np.ndarray, groups: np.ndarray, resamples: int = NUM_RESAMPLES
) -> Values:
    """Computes the values of bootstrap resamples: units drawn with replacement, as many as there are.

    The seed is fixed, so all models use the same resamples and the values of two models are paired.

    Args:
      metric: reduces the statistics.
      statistics: of the rows, float64 [n, k].
      groups: index of each row's unit, int [n], from 0.
      resamples: number of resamples.

    Returns:
      Name of a value → its value in each resample, float64 [resamples].
    """
    rng, units = np.random.default_rng(_SEED), int(groups.max()) + 1
    unit_totals, found = _unit_totals(statistics, groups), []
    for size in _chunks(resamples):
        drawn = rng.integers(0, units, (size, units)) + units * np.arange(size)[:, None]
        counts = np.bincount(drawn.ravel(), minlength=size * units).reshape(size, units)
        if metric.additive:
            found.append(metric.reduce((counts.astype(float) @ unit_totals)[:, None]))
        else:
            found += [metric.reduce(np.repeat(statistics, row[groups], axis=0)[None]) for row in counts]
    return _joined(found)


def confidence_intervals(draws: BootstrapValues) -> dict[str, list[float]]:
    """Percentile interval [low, high] of each value at `CONFIDENCE_LEVEL` (Efron and Tibshirani 1993, chapter 13)."""
    return {name: _bounds(values) for name, values in draws.items()}


def compare_paired(
    metric: Metric,
    models: tuple[np.ndarray, np.ndarray],
    draws: tuple[BootstrapValues, BootstrapValues],
    groups: np.ndarray,
) -> dict[str, dict[str, Any]]:
    """Compares the values of two models on the same rows.

    Args:
      metric: reduces the statistics.
      models: statistics of the rows [n, k] for the dense and for the pruned model.
      draws: values of both models from `bootstrap_values`.
      groups: index of each row's unit, int [n].

    Returns:
      Name of a value → {"difference": pruned − dense, with its interval "difference_low", "difference_high"; "kept":
      pruned / dense, with "low", "high"; both intervals by paired bootstrap (Koehn 2004); "p": two-sided p-value by
      approximate randomization (Noreen 1989; Riezler and Maxwell 2005)}. "kept" is None if the dense value is not
      positive; its interval, if it is not positive in some resample.
    """
    before, after = (metric.values(statistics) for statistics in models)
    shuffled = _differences(metric, *models, groups, len(next(iter(draws[0].values()))))
    found = {}
    for name in before:
        difference = after[name] - before[name]
        low, high = _ratio_bounds(draws[1][name], draws[0][name])
        least, most = _bounds(draws[1][name] - draws[0][name])
        found[name] = {
            "difference": difference,
            "difference_low": least,
            "difference_high": most,
            "kept": after[name] / before[name] if before[name] > 0 else None,
            "low": low,
            "high": high,
            "p": _p_value(difference, shuffled[name]),
        }
    return found


def _differences(metric: Metric, a: np.ndarray, b: np.ndarray, groups: np.ndarray, resamples: int) -> Values:
    """Differences of the values after randomly swapping the two models' outputs in each unit (probability 1/2)."""
    rng, units = np.random.default_rng(_SEED), int(groups.max()) + 1
    changes, found = _unit_totals(b - a, groups), []
    for size in _chunks(resamples):
        swapped = rng.integers(0, 2, (size, units))
        if metric.additive:
            moved = swapped.astype(float) @ changes
            sides = [
                metric.reduce((total + moved)[:, None]) for total, moved in ((a.sum(0), moved), (b.sum(0), -moved))
            ]
            found.append({name: sides[1][name] - sides[0][name] for name in sides[0]})
        else:
            for row in swapped[:, groups, None].astype(bool):
                mixed = [metric.reduce(np.where(row, *pair)[None]) for pair in ((b, a), (a, b))]
                found.append({name: mixed[1][name] - mixed[0][name] for name in mixed[0]})
    return _joined(found)


def _p_value(difference: float, shuffled: np.ndarray) -> float:
    """Share of the random differences that are at least as large as the observed one, which is counted as well."""
    rounding = 1e-9  # equal differences may differ by rounding, since sums are taken in another order
    return float((1 + (np.abs(shuffled) >= abs(difference) - rounding).sum()) / (1 + len(shuffled)))


def _unit_totals(statistics: np.ndarray, groups: np.ndarray) -> np.ndarray:
    """Sums of statistics over the rows of each unit, float64 [units, k]."""
    return np.stack([np.bincount(groups, weights=column) for column in statistics.T], axis=1)


def _chunks(resamples: int) -> Iterator[int]:
    for start in range(0, resamples, _CHUNK):
        yield min(_CHUNK, resamples - start)


def _joined(found: list[Values]) -> Values:
    return {name: np.concatenate([part[name] for part in found]) for name in found[0]}


def _bounds(values: np.ndarray) -> list[float]:
    return [float(bound) for bound in np.quantile(values, [(1 - CONFIDENCE_LEVEL) / 2, (1 + CONFIDENCE_LEVEL) / 2])]


def _ratio_bounds(numerators: np.ndarray, denominators: np.ndarray) -> list[float] | list[None]:
    return _bounds(numerators / denominators) if (denominators > 0).all() else [None, None]
