"""Paired statistics: against scipy and hand-written formulas, and how often they are right in simulated studies."""

import math

import numpy as np
import pytest
from scipy import integrate, stats

from nash_jax.study.paired import (
    difference_p,
    differs_at_all,
    equivalence_p,
    holm,
    seeds_and_rows_interval,
    smallest_difference,
    t_interval,
)

A, B = np.array([61.9, 60.4, 61.1, 62.0]), np.array([62.6, 60.1, 59.9, 61.2])


def test_t_interval_and_p_are_those_of_the_paired_t_test():
    theirs, differences = stats.ttest_rel(A, B), A - B
    assert difference_p(differences) == pytest.approx(theirs.pvalue)
    found = t_interval(differences.mean(), differences.std(ddof=1), 4)
    assert found == pytest.approx(tuple(theirs.confidence_interval(0.95)))
    # by the table of t for 3 degrees of freedom
    assert found[1] == pytest.approx(differences.mean() + 3.182446 * differences.std(ddof=1) / 2)


def test_too_few_seeds_have_no_interval():
    assert t_interval(1.0, 0.5, 2) is None and t_interval(1.0, None, 1) is None
    assert seeds_and_rows_interval([1.0, 2.0], np.zeros(9), 5) is None
    assert seeds_and_rows_interval([1.0, 2.0, 3.0], np.zeros(9), 1) is None


def test_two_one_sided_tests_by_hand():
    differences = np.array([0.1, -0.2, 0.15, 0.05])
    error = differences.std(ddof=1) / 2
    sides = [stats.t.sf((differences.mean() + 0.5) / error, 3), stats.t.cdf((differences.mean() - 0.5) / error, 3)]
    assert equivalence_p(differences, 0.5) == pytest.approx(max(sides)) and max(sides) < 0.05
    # the same as: the 90 % interval lies within the margin
    low, high = stats.t.interval(0.9, 3, differences.mean(), error)
    assert equivalence_p(differences, max(-low, high)) == pytest.approx(0.05)
    assert equivalence_p(differences + 0.5, 0.5) > 0.5


def test_holm_by_hand():
    """Of four: 4 · 0.01; 3 · 0.03; 2 · 0.04 is smaller than that; 1 · 0.2."""
    assert holm([0.03, 0.2, 0.01, 0.04]) == pytest.approx([0.09, 0.2, 0.04, 0.09])
    assert holm([0.5, 0.9]) == [1.0, 1.0] and holm([]) == []


def test_differences_that_vary_by_rounding_only():
    assert not differs_at_all([0.1 + 0.2, 0.3, 0.3]) and not differs_at_all([0.0, 0.0, 0.0])
    assert differs_at_all([0.3, 0.3, 0.301])


def power(shift, seeds):
    """P(t > limit) of a noncentral t, by integrating over the standard deviation."""
    df = seeds - 1
    limit = stats.t.isf(0.025, df)

    def given(std):
        return stats.norm.sf(limit * std - shift) * stats.chi2.pdf(df * std**2, df) * 2 * df * std

    return integrate.quad(given, 0, 8)[0]


@pytest.mark.parametrize("seeds", [3, 5, 12])
def test_smallest_difference_has_80_per_cent_power(seeds):
    found = smallest_difference(0.7, seeds)
    assert power(found * math.sqrt(seeds) / 0.7, seeds) == pytest.approx(0.8, abs=2e-3)
    assert smallest_difference(1.4, seeds) == pytest.approx(2 * found)


def test_smallest_difference_of_the_tables():
    """G*Power, two-sided paired t-test, 80 %: 10 pairs find 0.996 standard deviations, 3 find 3.26."""
    assert smallest_difference(1.0, 10) == pytest.approx(0.996, abs=1e-3)
    assert smallest_difference(1.0, 3) == pytest.approx(3.264, abs=1e-3)


# -- simulated studies ----------------------------------------------------------------------------------------

TRUTH, STUDIES, SEEDS, ROWS = 1.0, 400, 3, 60


def simulate(rng, seed_std, row_std, noise_std):
    """Differences of rows [seeds, rows] around the truth, and means of resampled rows [seeds, resamples]."""
    rows = TRUTH + rng.normal(0, seed_std, (SEEDS, 1)) + rng.normal(0, row_std, ROWS)
    rows = rows + rng.normal(0, noise_std, (SEEDS, ROWS))
    counts = rng.multinomial(ROWS, [1 / ROWS] * ROWS, 200)  # the same rows for all seeds
    return rows, rows @ counts.T / ROWS


def covers(interval):
    return interval[0] <= TRUTH <= interval[1]


def percentiles(rng, resampled):
    """What a bootstrap of seeds, then rows, gives without a correction for few seeds."""
    seeds = rng.integers(0, SEEDS, (resampled.shape[1], SEEDS))
    return np.quantile(resampled[seeds.T, np.arange(resampled.shape[1])].mean(0), [0.025, 0.975])


@pytest.mark.parametrize(
    ("seed_std", "row_std", "noise_std", "least", "most"),
    [
        (1.0, 0.0, 0.01, 0.92, 0.975),  # other seeds alone: the t-interval
        (0.01, 4.0, 0.01, 0.92, 0.975),  # other rows alone
        (1.0, 8.0, 0.01, 0.92, 0.975),
        (0.5, 3.0, 3.0, 0.94, 1.0),
        (0.01, 0.01, 4.0, 0.97, 1.0),  # in both variances
    ],
)
def test_coverage_over_seeds_and_rows(seed_std, row_std, noise_std, least, most):
    rng, found = np.random.default_rng(0), []
    for _ in range(STUDIES):
        rows, resampled = simulate(rng, seed_std, row_std, noise_std)
        found.append(covers(seeds_and_rows_interval(rows.mean(1), resampled.mean(0), ROWS)))
    assert least <= np.mean(found) <= most


def test_seeds_alone_do_not_cover_other_test_rows():
    """Why there are two intervals: where rows matter, the t-interval over seeds is of these rows alone."""
    rng, found = np.random.default_rng(3), []
    for _ in range(STUDIES):
        rows, _ = simulate(rng, 1.0, 8.0, 0.01)
        found.append(covers(t_interval(rows.mean(), rows.mean(1).std(ddof=1), SEEDS)))
    assert 0.75 <= np.mean(found) <= 0.88


def test_percentiles_of_three_seeds_would_cover_too_little():
    """Why the interval is no pair of percentiles: of three seeds these are the least and the largest, 1 - 2 / 2³."""
    rng, found = np.random.default_rng(1), []
    for _ in range(STUDIES):
        _, resampled = simulate(rng, 1.0, 0.0, 0.01)
        found.append(covers(percentiles(rng, resampled)))
    assert 0.68 <= np.mean(found) <= 0.82


def test_what_is_not_level_is_called_level_in_5_of_100_studies_at_most():
    """At the margin itself, where it is most likely; and what is level is found so."""
    rng = np.random.default_rng(2)
    at_margin, at_zero = (
        np.mean([equivalence_p(rng.normal(truth, 0.1, 4), 0.5) < 0.05 for _ in range(STUDIES)]) for truth in (0.5, 0.0)
    )
    assert 0.02 <= at_margin <= 0.08 and at_zero > 0.9
