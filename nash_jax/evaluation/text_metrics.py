"""Metrics of generated texts, each in per cent, and baselines that need no model."""

import re
from collections.abc import Callable, Sequence

Metric = Callable[[Sequence[str], Sequence[Sequence[str]]], dict[str, float]]


def rouge(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """ROUGE-1/2/L/Lsum F1 with stemmer (rouge-score), each of a row's best reference for it; Lsum by sentences."""
    from rouge_score import rouge_scorer  # here, for it takes over a second to import, with all of nltk and scipy

    names = ("rouge1", "rouge2", "rougeL", "rougeLsum")
    scorer = rouge_scorer.RougeScorer(names, use_stemmer=True)
    totals = dict.fromkeys(names, 0.0)
    for output, row in zip(outputs, references, strict=True):
        scores = scorer.score_multi([split_sentences(r) for r in row], split_sentences(output))
        for name in names:
            totals[name] += scores[name].fmeasure
    return {name: 100 * total / max(len(outputs), 1) for name, total in totals.items()}


def transcription(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Edit-distance rates of words written as space-separated phonemes, against the nearest reference.

    `phoneme_error_rate`: edits over phonemes of the nearest references; `word_error_rate`: share of rows
    with any edit; `word_accuracy`: the other rows.
    """
    from nltk.metrics.distance import edit_distance  # here, as above

    edits = symbols = wrong = 0
    for output, row in zip(outputs, references, strict=True):
        candidates = [reference.split() for reference in row]
        distances = [edit_distance(output.split(), c) for c in candidates]
        nearest = min(range(len(row)), key=lambda i: distances[i] / max(len(candidates[i]), 1))
        edits, symbols = edits + distances[nearest], symbols + len(candidates[nearest])
        wrong += distances[nearest] > 0
    rate = 100 * wrong / max(len(outputs), 1)
    return {
        "phoneme_error_rate": 100 * edits / max(symbols, 1),
        "word_error_rate": rate,
        "word_accuracy": 100 - rate,
    }


def exact_match(outputs: Sequence[str], references: Sequence[Sequence[str]]) -> dict[str, float]:
    """Share of outputs equal to a reference, surrounding space aside."""
    hits = sum(o.strip() in {r.strip() for r in row} for o, row in zip(outputs, references, strict=True))
    return {"exact_match": 100 * hits / max(len(outputs), 1)}


METRICS: dict[str, tuple[Metric, str]] = {  # name → (metric, the value that selects checkpoints; larger is better)
    "rouge": (rouge, "rougeL"),
    "transcription": (transcription, "word_accuracy"),
    "exact_match": (exact_match, "exact_match"),
}


def split_sentences(text: str) -> str:
    """Sentences on lines of their own, as ROUGE-Lsum wants them."""
    return re.sub(r"(?<=[.!?])\s+", "\n", text.strip())


def first_sentence(text: str) -> str:
    """A text up to its first sentence end."""
    return split_sentences(text).partition("\n")[0]


def lead(text: str, words: int) -> str:
    """The first words of a text."""
    return " ".join(text.split()[:words])


def baselines(
    metric: str, sources: Sequence[str], references: Sequence[Sequence[str]], prefix: str
) -> dict[str, dict[str, float]]:
    """Metrics of summaries that need no model: first sentence, and as many first words as a reference has on average.

    Empty for tasks other than summarization.
    """
    if metric != "rouge":
        return {}
    texts = [s.removeprefix(prefix) for s in sources]
    mean_words = round(sum(len(row[0].split()) for row in references) / len(references))
    return {
        "first_sentence": rouge([first_sentence(t) for t in texts], references),
        f"first_{mean_words}_words": rouge([lead(t, mean_words) for t in texts], references),
    }
