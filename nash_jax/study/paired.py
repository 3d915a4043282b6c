"""Statistics of differences that are paired by seed: intervals, tests, and what they could have seen.

The distributions are scipy's. It takes half a second to import, and is imported where it is used.
"""

import math
from collections.abc import Sequence
from functools import cache

import numpy as np

CONFIDENCE, ALPHA, POWER = 0.95, 0.05, 0.8
FEWEST = 3  # seeds, below which there is no interval and no verdict

Interval = tuple[float, float]


@cache
def _quantile(df: float, probability: float = (1 + CONFIDENCE) / 2) -> float:
    from scipy import stats

    return float(stats.t.ppf(probability, df))


def t_interval(mean: float, std: float | None, n: int) -> Interval | None:
    """The 95 % t-interval of a mean: mean ± t(n - 1) · std / √n.

    Args:
      mean: of the values.
      std: their sample standard deviation.
      n: how many they are.

    Returns:
      (low, high); None for fewer than `FEWEST` values.
    """
    if std is None or n < FEWEST:
        return None
    reach = _quantile(n - 1) * std / math.sqrt(n)
    return mean - reach, mean + reach


def differs_at_all(differences: Sequence[float]) -> bool:
    """Whether the differences vary by more than rounding: those that do not say nothing about another seed."""
    return bool(np.ptp(differences) > 1e-9 * max(1.0, float(np.max(np.abs(differences)))))


def difference_p(differences: Sequence[float]) -> float:
    """Two-sided p-value of the paired t-test that the mean difference is 0."""
    from scipy import stats

    return float(stats.ttest_1samp(differences, 0.0).pvalue)


def equivalence_p(differences: Sequence[float], margin: float) -> float:
    """p-value of two one-sided paired t-tests (Schuirmann 1987) that the mean difference is beyond ±margin.

    Args:
      differences: one for each seed.
      margin: above 0.

    Returns:
      The larger of the two; below 5 %, the two are equivalent within the margin.
    """
    from scipy import stats

    sides = ((-margin, "greater"), (margin, "less"))
    return max(float(stats.ttest_1samp(differences, bound, alternative=side).pvalue) for bound, side in sides)


def holm(ps: Sequence[float]) -> list[float]:
    """p-values corrected for their number by Holm (1979), in the order given.

    The k-th smallest of m is multiplied by m - k + 1; none is smaller than one before it, or larger than 1.
    """
    found, least = [1.0] * len(ps), 0.0
    for rank, place in enumerate(sorted(range(len(ps)), key=lambda i: ps[i])):
        least = max(least, min(1.0, (len(ps) - rank) * ps[place]))
        found[place] = least
    return found


def seeds_and_rows_interval(differences: Sequence[float], resampled: np.ndarray, units: int) -> Interval | None:
    """A 95 % interval of the mean difference for other seeds and other test rows, by a bootstrap of two levels.

    The variance of the mean under resampled seeds is s² / n, with the factor n / (n - 1) that a bootstrap of few seeds
    lacks. That under resampled rows is added, the same rows for all seeds, for all answer the same. The quantile is
    that of t with the degrees of freedom of such a sum (Satterthwaite 1946); where that makes it narrower than the
    t-interval over seeds, it is as wide as this. Percentiles would cover three of four truths with three seeds,
    whatever the level. Noise of one row in one seed is in both variances: where there is no other, the interval is
    wider than it need be.

    Args:
      differences: one for each seed.
      resampled: the mean over the seeds of the difference, in each resample of the test rows [resamples].
      units: number of rows, or groups of rows, that were drawn.

    Returns:
      (low, high); None for fewer than `FEWEST` seeds, or a single unit.
    """
    seeds = len(differences)
    if seeds < FEWEST or units < 2:
        return None
    parts = (float(np.var(differences, ddof=1)) / seeds, seeds - 1), (float(np.var(resampled, ddof=1)), units - 1)
    total = math.fsum(variance for variance, _ in parts)
    if total == 0:
        return None
    df = total**2 / math.fsum(variance**2 / degrees for variance, degrees in parts)
    reach = max(_quantile(df) * math.sqrt(total), _quantile(seeds - 1) * math.sqrt(parts[0][0]))
    return float(np.mean(differences)) - reach, float(np.mean(differences)) + reach


def smallest_difference(std: float, seeds: int) -> float:
    """The difference that the paired t-test (5 %, two-sided) finds in 80 of 100 studies.

    Args:
      std: standard deviation of the paired differences.
      seeds: how many there are, `FEWEST` or more.
    """
    from scipy import optimize, stats

    limit, df = _quantile(seeds - 1), seeds - 1

    def lacking(shift: float) -> float:  # the other tail is below 1e-5 where the power is 80 %
        return float(stats.nct.sf(limit, df, shift)) - POWER

    return float(optimize.brentq(lacking, 1.0, 8.0)) * std / math.sqrt(seeds)
