"""Metrics of label words and numbers against scikit-learn, scipy and the values that T5's own tests have."""

import numpy as np
import pytest
from scipy import stats
from sklearn import metrics as sklearn

from nash_jax.errors import UserError
from nash_jax.evaluation.metrics import METRICS

WORDS = ("entailment", "contradiction", "neutral")


def score(name, truths, outputs, labels=WORDS):
    """Truths and outputs as numbers of labels; an output that is none is a word of its own."""
    rows = [{"references": [labels[truth]], "labels": labels} for truth in truths]
    return METRICS[name].score([labels[o] if 0 <= o < len(labels) else "what?" for o in outputs], rows)


def random_numbers(seed, labels, invalid=0):
    rng = np.random.default_rng(seed)
    truths = rng.integers(0, labels, 60)
    return truths, np.where(rng.random(60) < 0.6, truths, rng.integers(0, labels + invalid, 60))


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("invalid", [0, 1])
def test_against_scikit_learn(seed, invalid):
    """An invalid output is a class of its own that no F1 is averaged over."""
    truths, outputs = random_numbers(seed, 3, invalid)
    macro, matthews = score("accuracy_macro_f1", truths, outputs), score("matthews", truths, outputs)
    share = 100 * np.mean(outputs == 3)
    assert (share > 0) == bool(invalid)
    f1 = sklearn.f1_score(truths, outputs, labels=range(3), average="macro")
    assert macro["macro_f1"] == pytest.approx(100 * f1, abs=1e-6)
    assert matthews["matthews"] == pytest.approx(100 * sklearn.matthews_corrcoef(truths, outputs), abs=1e-6)
    accuracy = 100 * sklearn.accuracy_score(truths, outputs)
    for found in (macro, matthews, score("accuracy", truths, outputs)):
        assert found["accuracy"] == pytest.approx(accuracy, abs=1e-6) and found["invalid"] == pytest.approx(share)


@pytest.mark.parametrize("seed", range(5))
def test_f1_of_two_labels(seed):
    """The second label is the positive one; an invalid output is the label that is wrong."""
    truths, outputs = random_numbers(seed, 2, invalid=1)
    found = score("accuracy_f1", truths, outputs, WORDS[:2])
    wrong = np.where(outputs == 2, 1 - truths, outputs)
    assert found["f1"] == pytest.approx(100 * sklearn.f1_score(truths, wrong), abs=1e-6)
    assert found["accuracy"] == pytest.approx(100 * np.mean(truths == outputs))


def test_values_of_t5():
    """The values in t5/evaluation/metrics_test.py of google-research/text-to-text-transfer-transformer."""
    assert score("accuracy_macro_f1", [0, 1, 1, 2], [0, 0, 2, 2])["macro_f1"] == pytest.approx(44.44444444444444)
    assert score("matthews", [0, 0, 2, 1], [0, 1, 2, 1])["matthews"] == pytest.approx(70)
    assert score("accuracy", [0, 0, 2, 1], [0, 1, 2, 1])["accuracy"] == pytest.approx(75)
    assert score("accuracy_f1", [0, 1, 1, 0], [0, 1, 2, 2], WORDS[:2])["f1"] == pytest.approx(50)


def test_documented_values():
    """Examples of `evaluate`: metrics/f1/f1.py, metrics/matthews_correlation/README.md, metrics/glue/README.md."""
    assert score("accuracy_f1", [0, 1, 0, 1, 0], [0, 0, 1, 1, 0], WORDS[:2])["f1"] == pytest.approx(50)
    macro = score("accuracy_macro_f1", [0, 1, 2, 0, 1, 2], [0, 2, 1, 0, 0, 1])["macro_f1"]
    assert macro == pytest.approx(80 / 3) and round(macro) == 27
    four = ("a", "b", "c", "d")
    found = score("matthews", [1, 3, 2, 0, 3, 2], [1, 2, 2, 0, 3, 3], four)["matthews"]
    assert found == pytest.approx(53.84615384615384)
    assert score("matthews", [0, 1], [1, 1], four)["matthews"] == 0  # all outputs alike


def test_statistics_of_many_labels_are_small():
    """150 intents: the cells of the confusion table of 5,500 rows would be a gigabyte for each model."""
    truths, outputs = random_numbers(0, 150, invalid=1)
    labels = [f"intent {i}" for i in range(150)]
    rows = [{"references": [labels[truth]], "labels": labels} for truth in truths]
    statistics = METRICS["matthews"].measure([labels[o] if o < 150 else "?" for o in outputs], rows)
    assert statistics.shape == (60, 451)
    expected = 100 * sklearn.matthews_corrcoef(truths, outputs)
    assert METRICS["matthews"].values(statistics)["matthews"] == pytest.approx(expected, abs=1e-6)


def test_labels_are_compared_without_space_around():
    rows = [{"references": ["yes"], "labels": ["no", "yes"]}] * 2
    assert METRICS["accuracy"].score([" yes\n", "Yes"], rows) == {"accuracy": 50, "invalid": 50}


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("accuracy", [{"references": ["yes"]}]),
        ("accuracy", [{"references": ["maybe"], "labels": ["no", "yes"]}]),
        ("matthews", [{"references": ["a"], "labels": labels} for labels in ("ab", "abc")]),
        ("accuracy_f1", [{"references": ["a"], "labels": "abc"}]),
        ("correlation", [{"references": ["four"]}]),
    ],
)
def test_rows_that_cannot_be_scored(name, rows):
    with pytest.raises(UserError, match="for this metric"):
        METRICS[name].measure(["yes"] * len(rows), rows)


def correlation(outputs, truths):
    return METRICS["correlation"].score([str(o) for o in outputs], [{"references": [str(t)]} for t in truths])


def test_correlation_against_scipy():
    """Scores of STS-B: 26 values, so many ties; some outputs are no number and count as -1."""
    rng = np.random.default_rng(0)
    truths = rng.integers(0, 26, 80) / 5
    outputs = np.round(5 * np.clip(truths + rng.normal(size=80), 0, 5)) / 5
    texts: list = outputs.tolist()
    texts[3:7] = ["", "five", "nan", "inf"]
    outputs[3:7] = -1
    found = correlation(texts, truths)
    assert found["pearson"] == pytest.approx(100 * stats.pearsonr(outputs, truths).statistic, abs=1e-6)
    assert found["spearman"] == pytest.approx(100 * stats.spearmanr(outputs, truths).statistic, abs=1e-6)
    assert found["invalid"] == 5


def test_documented_values_of_correlation():
    """T5's metrics_test.py; metrics/spearmanr/spearmanr.py, pearsonr/pearsonr.py and glue/README.md of `evaluate`."""
    assert correlation([0, 1, 2], [0, 2, 1])["spearman"] == pytest.approx(50)
    found = correlation([10, 9, 2.5, 6, 4], [1, 2, 3, 4, 5])
    assert found["spearman"] == pytest.approx(-70) and round(found["pearson"]) == -74
    found = correlation([-10, -11, -12, -13, -14, -15], range(6))
    assert found == pytest.approx({"pearson": -100, "spearman": -100, "invalid": 0})
    assert correlation([3, 3, 3], [1, 2, 3]) == {"pearson": 0, "spearman": 0, "invalid": 0}  # not a number in scipy


@pytest.mark.parametrize("rows", [1, 3, 7, 30])
@pytest.mark.parametrize(("output", "truth"), [(3.8, 3.8), (0.2, 4.6)])
def test_correlation_of_constants(rows, output, truth):
    """Their means are off by a rounding, which is not to count as a spread that both share."""
    assert correlation([output] * rows, [truth] * rows) == {"pearson": 0, "spearman": 0, "invalid": 0}
