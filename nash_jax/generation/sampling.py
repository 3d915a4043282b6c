"""Sampling: warpers that exclude unlikely tokens, and random draws that do not depend on the batch.

R rows, V vocabulary size.
"""

import jax
import jax.numpy as jnp

from nash_jax.generation.processors import ProcessorRules, Values
from nash_jax.runtime.mesh import map_rows

_INFINITE_BITS = 0x7F800000  # of float32 infinity; the bits of non-negative floats are ordered like the floats
_ROUNDING = 1e-6  # relative; scores that differ by less are ties


def apply_warpers(rules: ProcessorRules, values: Values, scores: jax.Array) -> jax.Array:
    """Applies temperature, top-k, top-p and min-p in transformers' order; excluded tokens become -inf.

    Each warper keeps scores above a threshold, so tokens that tie with the last kept one are kept too. transformers
    does this for top-k; for top-p it cuts ties in the order of an unstable sort. Without active warpers, or without
    sampling, `scores` is returned unchanged.

    Args:
      rules: static part, from `processors.make_rules`.
      values: traced part.
      scores: float32 [R, V] after `processors.apply_processors`.

    Returns:
      float32 [R, V].
    """
    if "temperature" in rules.warpers:
        scores = scores / values["temperature"]
    best = scores
    if "top_k" in rules.warpers:
        best = _greatest(scores, rules.top_k)
        scores = _cut(scores, best[:, -1:], best[:, :1])
    if "top_p" in rules.warpers or "min_p" in rules.warpers:
        top = _greatest(best, rules.min_tokens_to_keep)
    if "top_p" in rules.warpers:
        distance = _nucleus_radius(scores, top[:, :1] - best, top[:, :1], values["top_p"])
        scores = _cut(scores, jnp.minimum(top[:, :1] - distance, top[:, -1:]), top[:, :1])
    if "min_p" in rules.warpers:
        scores = _cut(scores, jnp.minimum(top[:, :1] + values["log_min_p"], top[:, -1:]), top[:, :1])
    return jax.nn.log_softmax(scores, axis=-1) if "renormalize_logits" in rules.warpers else scores


def top_k(scores: jax.Array, count: int) -> tuple[jax.Array, jax.Array]:
    """Returns the `count` largest scores of each row and their places, both [R, count], as `jax.lax.top_k`.

    On a mesh each device sorts its own rows; a compiler would gather all scores on every device.
    """
    found: tuple[jax.Array, jax.Array] = map_rows(lambda own: tuple(jax.lax.top_k(own, count)), scores)
    return found


def _greatest(scores: jax.Array, count: int) -> jax.Array:
    """Returns the `count` largest scores in descending order, [R, count].

    Without the barrier, XLA's CPU backend merges later slices into the top-k, no longer recognizes it and sorts: 12 ms
    for 32128 scores instead of 0.2 ms.
    """
    return jax.lax.optimization_barrier(top_k(scores, count)[0])


def _cut(scores: jax.Array, threshold: jax.Array, top: jax.Array) -> jax.Array:
    """Excludes scores below the threshold [R, 1], with a tolerance of about 16 float32 roundings of threshold and top.

    XLA recomputes `scores` in each fusion that reads them, with different rounding (a division becomes a product, or a
    product and a sum one operation). In an exact comparison the token that defines the threshold could fall below it.
    """
    slack = _ROUNDING * jnp.maximum(jnp.abs(threshold), jnp.abs(top))
    return jnp.where(scores < threshold - slack, -jnp.inf, scores)


def _nucleus_radius(scores: jax.Array, distance: jax.Array, top: jax.Array, top_p: jax.Array) -> jax.Array:
    """Returns how far below the top score top-p reaches, [R, 1].

    A token is kept if the tokens above it have a total probability less than `top_p`. The largest distance with this
    property is found by bisection over the bits of float32, which needs no sort: sorting 32128 scores takes 10 ms on
    XLA's CPU backend, this 0.5 ms.

    Args:
      scores: float32 [R, V].
      distance: float32 [R, N], from the top score down to each score that may be kept, in any order.
      top: float32 [R, 1], the largest score.
      top_p: float32 scalar.
    """
    bits = jax.lax.bitcast_convert_type(distance, jnp.int32)
    prob = jnp.exp(top - distance - jax.nn.logsumexp(scores, axis=-1, keepdims=True))

    def halve(_: int, bounds: tuple[jax.Array, jax.Array]) -> tuple[jax.Array, jax.Array]:
        reached, beyond = bounds
        middle = reached + (beyond - reached) // 2
        fits = jnp.sum(jnp.where(bits < middle, prob, 0.0), axis=-1, keepdims=True) < top_p
        return jnp.where(fits, middle, reached), jnp.where(fits, beyond, middle)

    start = (jnp.zeros_like(bits[:, :1]), jnp.full_like(bits[:, :1], _INFINITE_BITS))
    reached, _ = jax.lax.fori_loop(0, _INFINITE_BITS.bit_length(), halve, start)
    return jax.lax.bitcast_convert_type(reached, jnp.float32)


def add_gumbel_noise(scores: jax.Array, key: jax.Array, row_ids: jax.Array, position: jax.Array) -> jax.Array:
    """Adds Gumbel noise: the largest score is a sample, the n largest are n samples without replacement.

    The noise of a row depends only on the key, the row's id and the position, not on the batch or the place in it.

    Args:
      scores: float32 [R, V], logits or log-probabilities, -inf for excluded tokens.
      key: from `jax.random.key`.
      row_ids: int32 [R].
      position: int32 scalar.

    Returns:
      float32 [R, V].
    """

    def noise(row: jax.Array) -> jax.Array:
        row_key = jax.random.fold_in(jax.random.fold_in(key, row), position)
        return jax.random.gumbel(row_key, scores.shape[1:], scores.dtype)

    return scores + jax.vmap(noise)(row_ids)


def sample_tokens(scores: jax.Array, key: jax.Array, row_ids: jax.Array, position: jax.Array) -> jax.Array:
    """Samples one token per row, int32 [R], with probability softmax(scores); arguments as in `add_gumbel_noise`."""
    return jnp.argmax(add_gumbel_noise(scores, key, row_ids, position), axis=-1).astype(jnp.int32)
