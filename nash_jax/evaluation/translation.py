"""BLEU and chrF of a corpus through sacrebleu: its own statistics by the row, its own score of their sums."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nash_jax.evaluation.statistics import Row, Values, missing_package

BLEU_COLUMNS = 10  # length of the output, of the nearest reference; n-grams that match and all, n = 1 … 4


def measure_translation(outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """Statistics of BLEU, then those of chrF."""
    return np.concatenate([segment_statistics(s, outputs, rows) for s in (bleu_scorer(), _chrf_scorer())], axis=1)


def reduce_translation(statistics: np.ndarray) -> Values:
    """BLEU (tokens of 13a, exponential smoothing) and chrF (β = 2), both as WMT has them."""
    bleu, chrf = np.split(statistics.sum(-2), [BLEU_COLUMNS], axis=-1)
    return {"bleu": corpus_score(bleu_scorer(), bleu), "chrf": corpus_score(_chrf_scorer(), chrf)}


def bleu_scorer(**options: Any) -> Any:
    """A `sacrebleu.BLEU`.

    Raises:
      UserError: without sacrebleu.
    """
    try:
        from sacrebleu.metrics.bleu import BLEU
    except ImportError as error:
        raise missing_package("sacrebleu") from error
    return BLEU(force=True, **options)  # `force`: tokenised texts, as "a b .", are no mistake here


def _chrf_scorer() -> Any:
    from sacrebleu.metrics.chrf import CHRF

    return CHRF()


def segment_statistics(scorer: Any, outputs: Sequence[str], rows: Sequence[Row]) -> np.ndarray:
    """The counts [n, k] that sacrebleu sums over a corpus; rows may have different numbers of references."""
    pairs = zip(outputs, rows, strict=True)
    found = [scorer._extract_corpus_statistics([o], [[r] for r in row["references"]])[0] for o, row in pairs]
    return np.asarray(found, float)


def corpus_score(scorer: Any, totals: np.ndarray) -> np.ndarray:
    """The score of summed counts [..., k]."""

    def score(counts: np.ndarray) -> float:
        return scorer._compute_score_from_stats([round(count) for count in counts]).score

    return np.apply_along_axis(score, -1, totals)
