"""Metrics of generated texts by the row, and baselines that need no model."""

import re
from collections.abc import Sequence

import numpy as np

from nash_jax.evaluation.statistics import Row, Values, append_count, mean_reducer, percent

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def measure_rouge(outputs: Sequence[str], rows: Sequence[Row], names: Sequence[str] = ROUGE_TYPES) -> np.ndarray:
    """ROUGE F1 with stemmer (rouge-score), each of a row's best reference for it; Lsum by sentences."""
    from rouge_score import rouge_scorer  # here, for it takes over a second to import, with all of nltk and scipy

    scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
    found = []
    for output, row in zip(outputs, rows, strict=True):
        scores = scorer.score_multi([split_sentences(r) for r in row["references"]], split_sentences(output))
        found.append([scores[name].fmeasure for name in names])
    return append_count(found, len(names))


reduce_rouge = mean_reducer(*ROUGE_TYPES)


def measure_transcription(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Edits and phonemes of the nearest reference, and whether there is any edit."""
    from nltk.metrics.distance import edit_distance  # here, as above

    found = []
    for output, row in zip(outputs, rows, strict=True):
        candidates = [reference.split() for reference in row["references"]]
        edits = [(edit_distance(output.split(), candidate), len(candidate)) for candidate in candidates]
        distance, length = min(edits, key=lambda pair: pair[0] / max(pair[1], 1))
        found.append([distance, length, distance > 0])
    return append_count(found, 3)


def reduce_transcription(statistics: np.ndarray) -> Values:
    """Edit-distance rates of words written as space-separated phonemes.

    `phoneme_error_rate`: edits over phonemes of the nearest references; `word_error_rate`: share of rows
    with any edit; `word_accuracy`: the other rows.
    """
    edits, symbols, wrong, rows = np.moveaxis(statistics.sum(-2), -1, 0)
    rate = percent(wrong, rows)
    return {"phoneme_error_rate": percent(edits, symbols), "word_error_rate": rate, "word_accuracy": 100 - rate}


def measure_exact_match(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Whether an output equals a reference, surrounding space aside."""
    hits = [[o.strip() in {r.strip() for r in row["references"]}] for o, row in zip(outputs, rows, strict=True)]
    return append_count(hits, 1)


reduce_exact_match = mean_reducer("exact_match")


def split_sentences(text: str) -> str:
    """Sentences on lines of their own, as ROUGE-Lsum wants them."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())


def first_sentence(text: str) -> str:
    """A text up to its first sentence end."""
    return split_sentences(text).partition("\n")[0]


def first_words(text: str, words: int) -> str:
    """The first words of a text."""
    return " ".join(text.split()[:words])


def baseline_outputs(metric: str, rows: Sequence[Row], prefix: str) -> dict[str, list[str]]:
    """Summaries that need no model: first sentence, and as many first words as a reference has on average.

    Empty for tasks other than summarization.
    """
    if metric != "rouge":
        return {}
    texts = [row["source"].removeprefix(prefix) for row in rows]
    mean_words = round(sum(len(row["references"][0].split()) for row in rows) / len(rows))
    return {
        "first_sentence": [first_sentence(text) for text in texts],
        f"first_{mean_words}_words": [first_words(text, mean_words) for text in texts],
    }
