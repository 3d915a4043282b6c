"""Row-level metrics of generated texts, and baselines that need no model."""

from collections.abc import Sequence

import numpy as np

from nash_jax.evaluation.metric_tokenizers import AUTO, choose_rouge_tokenizer, rouge_scorer
from nash_jax.evaluation.scripts import count_words, first_sentence, first_words, split_sentences
from nash_jax.evaluation.statistics import Row, Values, append_count, mean_reducer, percent

ROUGE_TYPES = ("rouge1", "rouge2", "rougeL", "rougeLsum")


def measure_rouge(
    outputs: Sequence[str], rows: Sequence[Row], names: Sequence[str] = ROUGE_TYPES, rouge_tokenizer: str = AUTO
) -> np.ndarray:
    """ROUGE F1 (rouge-score), each with the best reference of a row; Lsum on sentences."""
    scorer = rouge_scorer(names, choose_rouge_tokenizer(rouge_tokenizer, rows))
    found = []
    for output, row in zip(outputs, rows, strict=True):
        scores = scorer.score_multi([split_sentences(r) for r in row["references"]], split_sentences(output))
        found.append([scores[name].fmeasure for name in names])
    return append_count(found, len(names))


reduce_rouge = mean_reducer(*ROUGE_TYPES)


def measure_transcription(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Edit distance to and length of the closest reference in phonemes, and whether there is any edit."""
    from nltk.metrics.distance import edit_distance  # imported here: it takes a second

    found = []
    for output, row in zip(outputs, rows, strict=True):
        candidates = [reference.split() for reference in row["references"]]
        edits = [(edit_distance(output.split(), candidate), len(candidate)) for candidate in candidates]
        distance, length = min(edits, key=lambda pair: pair[0] / max(pair[1], 1))
        found.append([distance, length, distance > 0])
    return append_count(found, 3)


def reduce_transcription(statistics: np.ndarray) -> Values:
    """Edit-distance rates of words written as space-separated phonemes, in per cent.

    `phoneme_error_rate`: edits / phonemes of the closest references; `word_error_rate`: share of rows with any edit;
    `word_accuracy`: 100 - `word_error_rate`.
    """
    edits, symbols, wrong, rows = np.moveaxis(statistics.sum(-2), -1, 0)
    rate = percent(wrong, rows)
    return {"phoneme_error_rate": percent(edits, symbols), "word_error_rate": rate, "word_accuracy": 100 - rate}


def measure_exact_match(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Whether an output equals a reference, ignoring surrounding white space."""
    hits = [[o.strip() in {r.strip() for r in row["references"]}] for o, row in zip(outputs, rows, strict=True)]
    return append_count(hits, 1)


reduce_exact_match = mean_reducer("exact_match")


def baseline_outputs(metric: str, rows: Sequence[Row], prefix: str) -> dict[str, list[str]]:
    """Returns baseline summaries: the first sentence, and as many first words as references have on average.

    In scripts without spaces the words are characters. Empty for tasks other than summarization.
    """
    if metric != "rouge":
        return {}
    texts = [row["source"].removeprefix(prefix) for row in rows]
    mean_words = round(sum(count_words(row["references"][0]) for row in rows) / len(rows))
    return {
        "first_sentence": [first_sentence(text) for text in texts],
        f"first_{mean_words}_words": [first_words(text, mean_words) for text in texts],
    }
