"""BLEU and chrF against sacrebleu called directly and against the values that are documented elsewhere."""

import sys

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF

from nash_jax.errors import UserError
from nash_jax.evaluation.metrics import METRICS, check_metric_rows

OUTPUTS = ["The dog bit the man .", "It wasn't surprising.", "A man had just been bitten by the dog, again.", ""]
REFERENCES = [
    ["The dog bit the man.", "The dog had bit the man."],
    ["It was not unexpected.", "No one was surprised."],
    ["The man bit him first.", "The man had bitten the dog again."],
    ["Something.", "Anything."],
]


def score(outputs, references):
    return METRICS["translation"].score(outputs, [{"references": texts} for texts in references])


def test_against_sacrebleu():
    """The whole corpus, and every subset of its rows by their statistics."""
    metric = METRICS["translation"]
    statistics = metric.measure(OUTPUTS, [{"references": texts} for texts in REFERENCES])
    for rows in ([0, 1, 2, 3], [0, 0, 2], [1], [3]):
        outputs, streams = [OUTPUTS[i] for i in rows], list(zip(*(REFERENCES[i] for i in rows), strict=True))
        direct = {
            "bleu": BLEU(force=True).corpus_score(outputs, streams).score,
            "chrf": CHRF().corpus_score(outputs, streams).score,
        }
        assert metric.values(statistics[rows]) == pytest.approx(direct, abs=1e-6)
    assert 0 < metric.values(statistics)["bleu"] < 100


def test_documented_values():
    """Examples of `evaluate`: metrics/sacrebleu/README.md and metrics/chrf/README.md."""
    found = score(
        ["hello there general kenobi", "on our way to ankh morpork"],
        [["hello there general kenobi", "hello there !"], ["goodbye ankh morpork", "ankh morpork"]],
    )
    assert found["bleu"] == pytest.approx(39.76353643835252, abs=1e-6)
    found = score(
        [
            "The relationship between cats and dogs is not exactly friendly.",
            "a good bookshop is just a genteel black hole that knows how to read.",
        ],
        [
            ["The relationship between dogs and cats is not exactly friendly."],
            ["A good bookshop is just a genteel Black Hole that knows how to read."],
        ],
    )
    assert found["chrf"] == pytest.approx(84.64214891738334, abs=1e-6)


def test_rows_may_differ_in_their_number_of_references():
    """By hand: 4 of 4 words against either reference, and the nearer length, 4."""
    statistics = METRICS["translation"].measure(
        ["a b c d", "x"], [{"references": ["a b", "a b c d", "a b c d e f g"]}, {"references": ["y"]}]
    )
    np.testing.assert_array_equal(statistics[:, :10], [[4, 4, 4, 3, 2, 1, 4, 3, 2, 1], [1, 1, 0, 0, 0, 0, 1, 0, 0, 0]])


@pytest.mark.parametrize("name", ["translation", "answers"])
def test_without_sacrebleu(name, monkeypatch):
    monkeypatch.setitem(sys.modules, "sacrebleu", None)
    with pytest.raises(UserError, match=r"not installed: sacrebleu; .*pip install 'nash_jax\[metrics\]'"):
        check_metric_rows(name, [{"references": ["text"]}])
