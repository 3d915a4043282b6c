"""Corpus BLEU and chrF with sacrebleu: its statistics for each row, and its score of their sums."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nash_jax.errors import require_packages
from nash_jax.evaluation.statistics import Row, Values

BLEU_COLUMNS = 10  # length of output and closest reference; matching and total n-grams for n = 1 … 4


def measure_translation(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Statistics of BLEU, followed by those of chrF, float64 [n, k]."""
    return np.concatenate([segment_statistics(s, outputs, rows) for s in (bleu_scorer(), _chrf_scorer())], axis=1)


def reduce_translation(statistics: np.ndarray) -> Values:
    """BLEU (13a tokenization, exponential smoothing) and chrF (β = 2), as in WMT; 0 to 100."""
    bleu, chrf = np.split(statistics.sum(-2), [BLEU_COLUMNS], axis=-1)
    return {"bleu": corpus_score(bleu_scorer(), bleu), "chrf": corpus_score(_chrf_scorer(), chrf)}


def bleu_scorer(**options: Any) -> Any:
    """Returns a `sacrebleu.BLEU`.

    Raises:
      UserError: if sacrebleu is not installed.
    """
    require_packages("metrics")
    from sacrebleu.metrics.bleu import BLEU

    return BLEU(force=True, **options)  # `force`: no warning for tokenized texts such as "a b ."


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
