"""Metrics against rouge-score called directly and against values worked out by hand."""

import numpy as np
import pytest
from rouge_score import rouge_scorer

from nash_jax.errors import UserError
from nash_jax.evaluation.metrics import METRICS, check_metric_rows
from nash_jax.evaluation.text_metrics import baseline_outputs, first_sentence, first_words, split_sentences

NAMES = ("rouge1", "rouge2", "rougeL", "rougeLsum")
OUTPUT = "Amanda baked cookies. She will bring Jerry some tomorrow!"
LINES = "Amanda baked cookies.\nShe will bring Jerry some tomorrow!"
REFERENCE = "Jerry gets some tomorrow. Amanda baked cookies and will bring them."
REFERENCE_LINES = "Jerry gets some tomorrow.\nAmanda baked cookies and will bring them."


def score(name, outputs, references):
    return METRICS[name].score(outputs, [{"references": texts} for texts in references])


def rouge(outputs, references):
    return score("rouge", outputs, references)


def transcription(outputs, references):
    return score("transcription", outputs, references)


def direct(target, output):
    scores = rouge_scorer.RougeScorer(NAMES, use_stemmer=True).score(target, output)
    return {name: 100 * scores[name].fmeasure for name in NAMES}


def test_rouge_of_one_row():
    found = rouge([OUTPUT], [[REFERENCE]])
    assert found == pytest.approx(direct(REFERENCE_LINES, LINES))
    assert 0 < found["rouge2"] < found["rougeL"] < found["rougeLsum"] <= found["rouge1"] < 100


def test_lsum_goes_by_sentences_and_the_others_do_not():
    """The sentences of the reference are the output's, in another order: only Lsum does not mind."""
    output, reference = "One two three. Four five six.", "Four five six. One two three."
    found = rouge([output], [[reference]])
    assert found["rougeLsum"] == pytest.approx(100) and found["rougeL"] == pytest.approx(50)
    on_one_line = direct(reference, output)
    assert on_one_line["rougeLsum"] == pytest.approx(50)
    for name in ("rouge1", "rouge2", "rougeL"):
        assert found[name] == pytest.approx(on_one_line[name])


def test_each_score_takes_its_best_reference():
    """By hand: against "a b x x" 2 of 4 words and 1 of 3 pairs; against "d c b a" all words and no pair."""
    found = rouge(["a b c d"], [["a b x x", "d c b a"]])
    assert found["rouge1"] == pytest.approx(100)
    assert found["rouge2"] == pytest.approx(100 / 3)
    assert found["rougeL"] == pytest.approx(50)
    each = [direct(reference, "a b c d") for reference in ("a b x x", "d c b a")]
    assert found == pytest.approx({name: max(row[name] for row in each) for name in NAMES})


def test_rouge_is_the_mean_over_rows():
    outputs, references = [OUTPUT, "", "the cats sat"], [[REFERENCE], ["something"], ["the cat sat", "a dog"]]
    rows = [direct(REFERENCE_LINES, LINES), dict.fromkeys(NAMES, 0.0), dict.fromkeys(NAMES, 100.0)]  # stemmed: equal
    assert rouge(outputs, references) == pytest.approx({n: np.mean([row[n] for row in rows]) for n in NAMES})


@pytest.mark.parametrize("text", ["no end", "One. Two! Three? Four", "e.g. this", "3.5 is a number.", "  padded.  x "])
def test_split_sentences(text):
    lines = split_sentences(text).split("\n")
    assert " ".join(lines).split() == text.split()
    assert all(line == line.strip() and line for line in lines)
    assert len(lines) == {"no end": 1, "One. Two! Three? Four": 4, "3.5 is a number.": 1}.get(text, 2)
    assert first_sentence(text) == lines[0]


def test_transcription_by_hand():
    """Edits 0, 1 (substitution), 2 (deletions), 3 (insertions of all) over 3 + 3 + 4 + 2 phonemes."""
    outputs = ["K AE T", "B AE T", "S T", "AH B K D OW"]
    references = [["K AE T"], ["B EH T"], ["S T AA P"], ["B OW"]]
    assert transcription(outputs, references) == pytest.approx(
        {"phoneme_error_rate": 100 * 6 / 12, "word_error_rate": 75, "word_accuracy": 25}
    )


def test_transcription_takes_the_nearest_reference():
    """R IY D: one edit from R EH D (1/3), two of five from R IY D ER Z (2/5)."""
    found = transcription(["R IY D"], [["R IY D ER Z", "R EH D"]])
    assert found["phoneme_error_rate"] == pytest.approx(100 / 3)
    # as many edits, but a longer reference: the lower rate counts
    assert transcription(["A B"], [["A", "A B C D E F", "A B C"]])["phoneme_error_rate"] == pytest.approx(100 / 3)
    exact = transcription(["R IY D"], [["R EH D", "R IY D"]])
    assert exact == {"phoneme_error_rate": 0, "word_error_rate": 0, "word_accuracy": 100}


def test_transcription_counts_symbols_not_letters():
    assert transcription(["AA1"], [["AA2"]])["phoneme_error_rate"] == 100
    assert transcription([" K  AE T "], [["K AE T"]])["word_accuracy"] == 100
    assert transcription([""], [["K AE"]]) == {"phoneme_error_rate": 100, "word_error_rate": 100, "word_accuracy": 0}


def test_exact_match():
    outputs, references = ["yes", " yes\n", "Yes", "", "b"], [["yes"], ["yes"], ["yes"], ["x", ""], ["a", "b"]]
    assert score("exact_match", outputs, references) == {"exact_match": 80}


def test_documented_values_of_rouge():
    """Examples of https://huggingface.co/spaces/evaluate-metric/rouge (README.md)."""
    outputs, references = ["hello goodbye", "ankh morpork"], ["goodbye", "general kenobi"]
    statistics = METRICS["rouge"].measure(outputs, [{"references": [text]} for text in references])
    np.testing.assert_allclose(statistics[:, 0], [2 / 3, 0], atol=1e-9)
    assert rouge(["hello goodbye", "ankh morpork"], [["goodbye morpork"], ["general kenobi"]])["rouge1"] == 25.0
    assert rouge(["hello there", "general kenobi"], [["hello there"], ["general kenobi"]]) == dict.fromkeys(NAMES, 100)


def own_rows(name, texts):
    """Rows that a metric takes, with these texts as references."""
    return [{"source": f"{i}", "references": [text], "labels": texts} for i, text in enumerate(texts)]


@pytest.mark.parametrize("name", METRICS)
def test_metrics_agree_on_perfection_and_on_rows(name):
    """The value that selects is 100 for the references and less for anything else: larger is better."""
    metric = METRICS[name]
    texts = {"correlation": ["1", "2.5"], "answers": ["a b c d e", "f g h i"]}.get(name, ["one two x y z", "three"])
    rows = own_rows(name, texts)
    best, worst = metric.score(texts, rows), metric.score(["§"] * 2, rows)
    assert best[metric.selection] == pytest.approx(100) and worst[metric.selection] <= 0
    assert best.keys() == worst.keys()
    with pytest.raises(ValueError, match="zip"):
        metric.measure(texts, rows[:1])


@pytest.mark.parametrize("name", METRICS)
def test_sums_of_rows_are_enough_where_they_are_said_to_be(name):
    texts = ["1", "2", "1", "2"] if name == "correlation" else ["one two x y z", "three a b c d"] * 2
    metric = METRICS[name]
    rows = [row | {"labels": sorted(set(texts))} for row in own_rows(name, texts)]
    statistics = metric.measure([texts[0], *texts[1:2] * 3], rows)
    summed = metric.values(statistics.sum(0, keepdims=True))
    assert (summed == pytest.approx(metric.values(statistics))) == metric.additive
    stacked = metric.reduce(np.stack([statistics, statistics[[0, 0, 1, 1]]]))
    for value in metric.values(statistics):
        each = [metric.values(statistics)[value], metric.values(statistics[[0, 0, 1, 1]])[value]]
        np.testing.assert_allclose(stacked[value], each)


def test_rows_are_checked_before_anything_is_trained():
    rows = [{"source": "s", "references": ["text"]}]
    check_metric_rows("rouge", rows)
    with pytest.raises(UserError, match="the same `labels` in all rows"):
        check_metric_rows("accuracy", rows)


def test_baselines():
    """References have 2 and 3 words, 2.5 on average: the first 2 words of each text."""
    texts = ["Alpha beta. Gamma delta.", "One two three four"]
    references = [["beta gamma", "left out of the mean"], ["one two three"]]
    rows = [{"source": f"summarize: {t}", "references": r} for t, r in zip(texts, references, strict=True)]
    found = baseline_outputs("rouge", rows, "summarize: ")
    assert found == {
        "first_sentence": ["Alpha beta.", "One two three four"],
        "first_2_words": ["Alpha beta.", "One two"],
    }
    assert first_words("  One  two\nthree ", 2) == "One two" and first_words("One", 5) == "One"
    assert baseline_outputs("transcription", rows, "") == baseline_outputs("exact_match", rows, "") == {}


@pytest.mark.parametrize(
    ("name", "rows", "odd"),
    [
        ("correlation", [{"references": [number]} for number in ("3.5", "1")], {"references": ["three"]}),
        ("accuracy", [{"references": ["a"], "labels": ["a", "b"]}], {"references": ["a"], "labels": ["a", "c"]}),
    ],
)
def test_a_late_row_is_refused_before_training(name, rows, odd):
    """As one of a mixture's smaller task, or of own numbers."""
    check_metric_rows(name, rows * 20)
    with pytest.raises(UserError, match="for this metric"):
        check_metric_rows(name, [*rows * 20, odd])
