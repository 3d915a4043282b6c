"""Confidence intervals have their nominal coverage, and the paired test has uniform p-values under the null."""

import dataclasses
import time

import numpy as np
import pytest
from scipy import stats

from nash_jax.evaluation.bootstrap import bootstrap_values, compare_paired, confidence_intervals
from nash_jax.evaluation.metrics import METRICS
from nash_jax.evaluation.statistics import group_indices

ROUGE, EXACT, CORRELATION = METRICS["rouge"], METRICS["exact_match"], METRICS["correlation"]
PAIR = ["no", "yes"]


def rouge_statistics(rng, rows, mean=0.4):
    """Scores of rows around a mean; the four values differ only by noise."""
    scores = np.clip(rng.normal(mean, 0.15, (rows, 1)) + rng.normal(0, 0.05, (rows, 4)), 0, 1)
    return np.concatenate([scores, np.ones((rows, 1))], axis=1)


def hits(values):
    return np.stack([values, np.ones(len(values))], axis=1).astype(float)


def label_statistics(truths, outputs):
    rows = [{"references": [PAIR[truth]], "labels": PAIR} for truth in truths]
    return METRICS["accuracy_f1"].measure([PAIR[output] for output in outputs], rows)


def compared(metric, dense, pruned, groups=None, resamples=1000):
    groups = np.arange(len(dense)) if groups is None else groups
    draws = tuple(bootstrap_values(metric, statistics, groups, resamples) for statistics in (dense, pruned))
    return compare_paired(metric, (dense, pruned), draws, groups)


def covered(found, truth):
    low, high = found
    return low <= truth <= high


def test_intervals_of_a_mean_cover_it():
    rng = np.random.default_rng(0)
    share = np.mean(
        [
            covered(
                confidence_intervals(bootstrap_values(EXACT, hits(rng.random(100) < 0.7), np.arange(100), 400))[
                    "exact_match"
                ],
                70,
            )
            for _ in range(200)
        ]
    )
    assert 0.90 <= share <= 0.99


def test_intervals_of_a_corpus_value_cover_it():
    """F1 where 3 of 10 truths are positive and 8 of 10 outputs right: 2·24 / (2·24 + 6 + 14) by expected counts."""
    rng, found = np.random.default_rng(1), []
    for _ in range(200):
        truths = (rng.random(200) < 0.3).astype(int)
        outputs = np.where(rng.random(200) < 0.8, truths, 1 - truths)
        draws = bootstrap_values(METRICS["accuracy_f1"], label_statistics(truths, outputs), np.arange(200), 400)
        found.append(covered(confidence_intervals(draws)["f1"], 100 * 48 / 68))
    assert 0.90 <= np.mean(found) <= 0.99


def test_groups_are_drawn_whole():
    """Rows of a question are right or wrong together: as single rows they would count as five times as many."""
    rng, by_group, by_row = np.random.default_rng(2), [], []
    rows = [{"group": f"question {i // 5}"} for i in range(200)]
    for _ in range(200):
        statistics = hits(np.repeat(rng.random(40) < 0.6, 5))
        for found, groups in ((by_group, group_indices(rows)), (by_row, np.arange(200))):
            found.append(
                covered(confidence_intervals(bootstrap_values(EXACT, statistics, groups, 300))["exact_match"], 60)
            )
    assert 0.90 <= np.mean(by_group) <= 0.99 and np.mean(by_row) < 0.75


def test_groups_of_unequal_size():
    """Every resample is the mean of the rows of as many groups as there are, all of their rows."""
    groups = group_indices([{"group": "a"}, {}, {"group": "b"}, {"group": "a"}])
    np.testing.assert_array_equal(groups, [0, 1, 2, 0])
    found = bootstrap_values(EXACT, hits([True, False, False, True]), groups)["exact_match"]
    possible = {100 * 2 * a / (2 * a + 3 - a) for a in range(4)}
    assert {round(value, 6) for value in found} == {round(value, 6) for value in possible}


@pytest.mark.parametrize("name", ["rouge", "accuracy_f1"])
def test_sums_are_as_good_as_rows(name):
    """Resampling of sums equals reducing the resampled rows, also for groups, and so does the comparison."""
    rng, metric = np.random.default_rng(3), METRICS[name]
    if name == "rouge":
        pair = [rouge_statistics(rng, 40) for _ in range(2)]
    else:
        pair = [label_statistics(rng.integers(0, 2, 40), rng.integers(0, 2, 40)) for _ in range(2)]
    slow, groups = dataclasses.replace(metric, additive=False), np.sort(rng.permutation(np.arange(40) % 15))
    for value, draws in bootstrap_values(metric, pair[0], groups, 120).items():
        assert draws.shape == (120,)
        np.testing.assert_allclose(draws, bootstrap_values(slow, pair[0], groups, 120)[value])
    fast, rows = (compared(m, *pair, groups, resamples=120) for m in (metric, slow))
    for value in fast:
        assert fast[value] == pytest.approx(rows[value])


def test_no_difference_is_found_as_often_as_chance_has_it():
    """Two equally good models, on rows of different difficulty: p is about uniform."""
    rng, found = np.random.default_rng(4), []
    for _ in range(200):
        easy = rng.normal(0.5, 0.2, (80, 1))
        pair = [np.concatenate([easy + rng.normal(0, 0.1, (80, 4)), np.ones((80, 1))], 1) for _ in range(2)]
        found.append(compared(ROUGE, *pair, resamples=400)["rougeL"]["p"])
    assert stats.kstest(found, "uniform").pvalue > 0.01
    assert 0.01 <= np.mean(np.array(found) < 0.05) <= 0.10


def test_a_clear_difference_is_found():
    """The pruned model is worse by about 0.015 on every row: much less than rows differ, but consistently."""
    rng = np.random.default_rng(5)
    dense = rouge_statistics(rng, 200)
    pruned = dense.copy()
    pruned[:, :4] -= 0.01 + 0.01 * rng.random((200, 4))
    alone = confidence_intervals(bootstrap_values(ROUGE, dense, np.arange(200)))["rougeL"]
    found = compared(ROUGE, dense, pruned)["rougeL"]
    assert alone[0] < 100 * pruned[:, 2].mean()  # each alone could be the other
    assert found["p"] < 0.002 and found["high"] < 1
    assert found["difference"] == pytest.approx(100 * (pruned - dense)[:, 2].mean())
    assert found["kept"] == pytest.approx(pruned[:, 2].sum() / dense[:, 2].sum())
    assert found["low"] < found["kept"] < found["high"]


def test_the_intervals_of_share_kept_and_difference_cover_them():
    """Dense is right on 0.8, pruned on 0.72 of the rows, mostly the same ones: 90 % is kept."""
    rng, found = np.random.default_rng(6), []
    for _ in range(200):
        dense = rng.random(300) < 0.8
        pruned = np.where(dense, rng.random(300) < 0.85, rng.random(300) < 0.2)
        kept = compared(EXACT, hits(dense), hits(pruned), resamples=300)["exact_match"]
        difference = kept["difference_low"], kept["difference_high"]
        found.append((covered((kept["low"], kept["high"]), 0.9), covered(difference, -8)))
    assert (np.mean(found, axis=0) >= 0.90).all() and (np.mean(found, axis=0) <= 0.99).all()


def test_equal_outputs():
    statistics = rouge_statistics(np.random.default_rng(7), 30)
    for found in compared(ROUGE, statistics, statistics).values():
        assert found == {
            "difference": 0,
            "difference_low": 0,
            "difference_high": 0,
            "kept": 1,
            "low": 1,
            "high": 1,
            "p": 1,
        }


def test_nothing_is_kept_of_nothing():
    """The dense model has no hit, or no hit in some resample."""
    none, one = hits([False] * 8), hits([True] + [False] * 7)
    found = compared(EXACT, none, one)["exact_match"]
    assert found.pop("difference_low") == 0 < 12.5 < found.pop("difference_high")
    assert found == {"difference": 12.5, "kept": None, "low": None, "high": None, "p": 1}
    found = compared(EXACT, one, none)["exact_match"]
    assert found.pop("difference_low") < -12.5 < found.pop("difference_high") == 0
    assert found == {"difference": -12.5, "kept": 0, "low": None, "high": None, "p": 1}


def test_correlation_is_drawn_by_rows():
    rng = np.random.default_rng(8)
    truths = rng.integers(0, 26, 120) / 5
    near, far = (truths + rng.normal(0, noise, 120) for noise in (0.5, 2.0))
    pair = [np.stack([outputs, truths, np.zeros(120)], 1) for outputs in (near, far)]
    found = compared(CORRELATION, *pair, resamples=200)
    low, high = confidence_intervals(bootstrap_values(CORRELATION, pair[0], np.arange(120), 200))["spearman"]
    assert low < 100 * stats.spearmanr(near, truths).statistic < high
    assert found["spearman"]["p"] < 0.01 and found["pearson"]["high"] < 1


def test_draws_are_fast_and_the_same_each_time():
    statistics = rouge_statistics(np.random.default_rng(9), 13_000)
    started = time.process_time()
    first = bootstrap_values(ROUGE, statistics, np.arange(13_000))
    assert time.process_time() - started < 5  # half a second on an idle core
    again = bootstrap_values(ROUGE, statistics, np.arange(13_000))
    assert all(np.array_equal(first[name], again[name]) and len(first[name]) == 1000 for name in first)
