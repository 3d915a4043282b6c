"""What a generation gives: tokens, and if they are asked for their log-probabilities.

Letters: B inputs, n outputs for each, R = B·n rows, L output length in tokens, P prompt length.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np


class Decoded(NamedTuple):
    """Result of a decoding loop, on the device.

    Attributes:
      tokens: int32 [R, L].
      width: number of used columns, int32 scalar.
      log_probs: of each token, 0 for prompt and padding, float32 [R, L]; None if scores are off.
      scores: scores of beam search, float32 [R]; None without beams, or if scores are off.
    """

    tokens: jax.Array
    width: jax.Array
    log_probs: jax.Array | None = None
    scores: jax.Array | None = None


class ScoredIds(NamedTuple):
    """Token ids and their scores.

    `token_log_probs` are the model's own: log_softmax of its logits, before processors, temperature, top-k and top-p.
    So they say how probable the model finds an output, whatever the options were; `compute_transition_scores` of
    transformers gives them for `output_logits` with `normalize_logits=True`.

    Attributes:
      ids: int32 [R, L], as without scores: start token or prompt, generated tokens, padding.
      log_probs: of each output, the sum over its tokens, float32 [R].
      token_log_probs: of the tokens `ids[:, P:]`, EOS included, float32 [R, L-P]; 0 for padding.
      sequences_scores: what beam search ranks by, as in transformers, float32 [R]: the sum of log-probabilities after
        processors, divided by length ** length_penalty. None without beams.
    """

    ids: np.ndarray
    log_probs: np.ndarray
    token_log_probs: np.ndarray
    sequences_scores: np.ndarray | None


class ScoredTexts(NamedTuple):
    """Texts and their scores, in the order of the inputs.

    Attributes:
      texts: R texts.
      log_probs: of each output, as in `ScoredIds`, float32 [R].
      token_ids: generated tokens of each output, up to and including EOS, R arrays int32 [t].
      token_log_probs: of these tokens, as in `ScoredIds`, R arrays float32 [t].
      sequences_scores: as in `ScoredIds`.
    """

    texts: list[str]
    log_probs: np.ndarray
    token_ids: list[np.ndarray]
    token_log_probs: list[np.ndarray]
    sequences_scores: np.ndarray | None


class RowScore(NamedTuple):
    """Score of one output; attributes as those of `ScoredTexts`, for one row."""

    log_prob: float
    token_ids: np.ndarray
    token_log_probs: np.ndarray
    sequence_score: float | None


def to_host(decoded: Decoded, rows: int, prompt_length: int) -> ScoredIds:
    """Copies the used part of a result with scores to the host.

    Args:
      decoded: result of the loop.
      rows: R without the padding of the batch.
      prompt_length: P.
    """
    width = int(decoded.width)
    own = np.asarray(decoded.log_probs)[:rows, prompt_length:width]
    scores = None if decoded.scores is None else np.asarray(decoded.scores)[:rows]
    return ScoredIds(np.asarray(decoded.tokens)[:rows, :width], own.sum(1), own, scores)


def row_scores(scored: ScoredIds, eos_ids: Any) -> list[RowScore]:
    """Splits the scores of a batch into rows without padding.

    Args:
      scored: of outputs that begin with one start token.
      eos_ids: ids that end a row.
    """
    found = []
    for i, tokens in enumerate(scored.ids[:, 1:]):
        ends = np.flatnonzero(np.isin(tokens, eos_ids))
        length = int(ends[0]) + 1 if len(ends) else len(tokens)
        beams = None if scored.sequences_scores is None else float(scored.sequences_scores[i])
        own = scored.token_log_probs[i, :length]
        found.append(RowScore(float(scored.log_probs[i]), tokens[:length], own, beams))
    return found


def join_rows(texts: list[str], rows: list[RowScore]) -> ScoredTexts:
    """Joins texts and the scores of their rows."""
    beams = [row.sequence_score for row in rows if row.sequence_score is not None]
    return ScoredTexts(
        texts,
        np.array([row.log_prob for row in rows], np.float32),
        [row.token_ids for row in rows],
        [row.token_log_probs for row in rows],
        np.array(beams, np.float32) if beams else None,
    )


def log_prob_of(logits: jax.Array, tokens: jax.Array) -> jax.Array:
    """Returns log_softmax(logits) at tokens, float32 [R], for logits [R, V] and tokens [R]."""
    chosen = jnp.take_along_axis(logits, tokens[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits, axis=-1)
