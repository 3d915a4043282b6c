"""Metrics of answers: SQuAD, MultiRC, ReCoRD, and the free-form answers of TweetQA and NarrativeQA."""

import collections
import functools
import re
import string
from collections.abc import Sequence

import numpy as np

from nash_jax.evaluation.classification import binary_f1, measure_binary, reduce_accuracy
from nash_jax.evaluation.metric_tokenizers import AUTO, bleu_scorer, choose_bleu_tokenizer
from nash_jax.evaluation.statistics import (
    Row,
    Values,
    append_count,
    group_indices,
    index_keys,
    is_first,
    mean_reducer,
    percent,
)
from nash_jax.evaluation.text_metrics import measure_rouge
from nash_jax.evaluation.translation import BLEU_COLUMNS, corpus_score, segment_statistics


def normalize_answer(answer: str) -> str:
    """Normalizes as SQuAD's evaluation: lower case, no punctuation, no articles, single spaces."""
    plain = "".join(letter for letter in answer.lower() if letter not in string.punctuation)
    return " ".join(re.sub(r"\b(a|an|the)\b", " ", plain).split())


def word_f1(output: str, reference: str) -> float:
    """Word-level F1 of two normalized answers, 0 to 1."""
    given, wanted = output.split(), reference.split()
    shared = sum((collections.Counter(given) & collections.Counter(wanted)).values())
    return 2 * shared / max(len(given) + len(wanted), 1)


def measure_squad(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Exact match and word-level F1, each with the best reference of a row; float64 [n, 3], the last column ones."""
    pairs = zip(outputs, rows, strict=True)
    return append_count([_match(output, row["references"]) for output, row in pairs], 2)


def _match(output: str, references: Sequence[str]) -> tuple[float, float]:
    """Exact match and F1; an output equal to a reference has both, also if no word is left ("the", "!")."""
    given, wanted = normalize_answer(output), [normalize_answer(reference) for reference in references]
    same = output.strip() in {reference.strip() for reference in references}
    return float(given in wanted), max(float(same), *(word_f1(given, reference) for reference in wanted))


reduce_squad = mean_reducer("exact_match", "f1")


def measure_record(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Like `measure_squad`, but each query counts once: rows with the same group and source are merged.

    Some data has one row for each answer of a query. The merged query has all their answers as references, and the
    output of the first row is scored.
    """
    queries = index_keys([(n, row["source"]) for n, row in zip(group_indices(rows), rows, strict=True)])
    answers: dict[int, list[str]] = {}
    for query, row in zip(queries, rows, strict=True):
        answers.setdefault(query, []).extend(row["references"])
    merged = [{"references": answers[query]} for query in queries]
    return measure_squad(outputs, merged) * is_first(queries)[:, None]


reduce_record = mean_reducer("exact_match", "f1")


def measure_multirc(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """`measure_binary`, plus for the first row of each group (question): whether all its answers are correct, and 1."""
    answers, questions = measure_binary(outputs, rows), group_indices(rows)
    wrong = np.bincount(questions, weights=1 - answers[:, :2].sum(1))[questions]  # columns of correct labels
    first = is_first(questions)
    return np.concatenate([answers, (first * (wrong == 0))[:, None], first[:, None]], axis=1)


def reduce_multirc(statistics: np.ndarray) -> Values:
    """F1 over all answers, and the percentage of questions whose answers are all correct."""
    answers, (exact, questions) = statistics[..., :-2], np.moveaxis(statistics[..., -2:].sum(-2), -1, 0)
    invalid = reduce_accuracy(answers)["invalid"]
    return {"f1a": binary_f1(answers), "exact_match": percent(exact, questions), "invalid": invalid}


def measure_answers(
    outputs: Sequence[str], rows: Sequence[Row], rouge_tokenizer: str = AUTO, bleu_tokenizer: str = AUTO
) -> np.ndarray:
    """Counts for BLEU, ROUGE-L, a column of ones, and METEOR if WordNet is installed."""
    bleu = bleu_scorer(choose_bleu_tokenizer(bleu_tokenizer, rows), lowercase=True)
    parts = [
        segment_statistics(bleu, outputs, rows),
        measure_rouge(outputs, rows, ("rougeL",), rouge_tokenizer),
        *measure_meteor(outputs, rows),
    ]
    return np.concatenate(parts, axis=1)


def reduce_answers(statistics: np.ndarray) -> Values:
    """Corpus BLEU-1 and BLEU-4 (sacrebleu: lower case, no smoothing), mean ROUGE-L and METEOR."""
    totals = statistics.sum(-2)
    found = {}
    for order in (1, 4):
        columns = [0, 1, *range(2, 2 + order), *range(6, 6 + order)]
        scorer = bleu_scorer(lowercase=True, smooth_method="none", max_ngram_order=order)
        found[f"bleu{order}"] = corpus_score(scorer, totals[..., columns])
    means_of = totals[..., BLEU_COLUMNS:]
    for i, name in ((0, "rougeL"), (2, "meteor")):
        if i < means_of.shape[-1]:  # METEOR is optional
            found[name] = percent(means_of[..., i], means_of[..., 1])
    return found


def measure_meteor(outputs: Sequence[str], rows: Sequence[Row]) -> list[np.ndarray]:
    """METEOR (nltk) with the best reference, float64 [n, 1]; an empty list, and a note, if nltk has no WordNet."""
    if not has_wordnet():
        return []
    from nltk.tokenize import NLTKWordTokenizer
    from nltk.translate.meteor_score import meteor_score

    split = NLTKWordTokenizer().tokenize  # `word_tokenize` would also need the data of a sentence tokenizer
    found = [
        [meteor_score([split(reference) for reference in row["references"]], split(output))]
        for output, row in zip(outputs, rows, strict=True)
    ]
    return [np.asarray(found, float).reshape(len(found), 1)]


@functools.cache
def has_wordnet() -> bool:
    """Whether nltk finds WordNet; prints a note once if not."""
    from nltk.corpus import wordnet  # imported here because it takes a second

    try:
        wordnet.ensure_loaded()
    except LookupError:
        print("note: METEOR is not computed, since nltk has no WordNet: python -m nltk.downloader wordnet", flush=True)
        return False
    return True
