"""Corpus BLEU and chrF with sacrebleu: its statistics for each row, and its score of their sums."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nash_jax.evaluation.metric_tokenizers import AUTO, bleu_scorer, choose_bleu_tokenizer
from nash_jax.evaluation.statistics import Row, Values

BLEU_COLUMNS = 10  # length of output and closest reference; matching and total n-grams for n = 1 … 4


def measure_translation(outputs: Sequence[str], rows: Sequence[Row], bleu_tokenizer: str = AUTO) -> np.ndarray:
    """Statistics of BLEU, followed by those of chrF, float64 [n, k]."""
    scorers = (bleu_scorer(choose_bleu_tokenizer(bleu_tokenizer, rows)), _chrf_scorer())
    return np.concatenate([segment_statistics(scorer, outputs, rows) for scorer in scorers], axis=1)


def reduce_translation(statistics: np.ndarray) -> Values:
    """BLEU (exponential smoothing) and chrF (β = 2), as in WMT; 0 to 100."""
    bleu, chrf = np.split(statistics.sum(-2), [BLEU_COLUMNS], axis=-1)
    return {"bleu": corpus_score(bleu_scorer(), bleu), "chrf": corpus_score(_chrf_scorer(), chrf)}


def _chrf_scorer() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def segment_statistics(scorer: Any, outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Returns sacrebleu's counts for each row, float64 [n, k]; rows may have different numbers of references."""
    pairs = zip(outputs, rows, strict=True)
    found = [scorer._extract_corpus_statistics([o], [[r] for r in row["references"]])[0] for o, row in pairs]
    return np.asarray(found, float)


def corpus_score(scorer: Any, totals: np.ndarray) -> np.ndarray:
    """Returns the score [...] of summed counts [..., k]."""

    def score(counts: np.ndarray) -> float:
        return scorer._compute_score_from_stats([round(count) for count in counts]).score

    return np.apply_along_axis(score, -1, totals)
