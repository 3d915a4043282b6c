"""Drawing tokens: warpers that cut unlikely tokens off, and draws that do not depend on the batch.

R rows, V vocabulary.
"""

import jax
import jax.numpy as jnp

from nash_jax.generation.processors import ProcessorRules, Values

_INFINITE_BITS = 0x7F800000  # of float32 infinity; bits of floats from 0 up are ordered like the floats
_ROUNDING = 1e-6  # relative; scores nearer to each other than this are ties


def apply_warpers(rules: ProcessorRules, values: Values, scores: jax.Array) -> jax.Array:
    """Temperature, top-k, top-p and min-p in transformers' order; cut tokens become -inf.

    Each cut keeps scores from a threshold up, so tokens that tie with the last one kept are kept too. transformers does
    so for top-k; there top-p cuts ties wherever its unstable sort left them. With nothing on, or without sampling,
    `scores` itself is returned.

    Args:
      rules: static part, from `processors.make_rules`.
      values: dynamic part.
      scores: float32 [R, V] after `processors.apply_processors`.
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


def _greatest(scores: jax.Array, count: int) -> jax.Array:
    """The `count` greatest scores, descending, [R, count].

    Without the barrier a slice of them is merged into the search, which XLA's CPU backend then no longer knows as a
    top-k and does by sorting: 12 ms for 32128 scores instead of 0.2.
    """
    return jax.lax.optimization_barrier(jax.lax.top_k(scores, count)[0])


def _cut(scores: jax.Array, threshold: jax.Array, top: jax.Array) -> jax.Array:
    """Bans scores below the threshold [R, 1], or some 16 roundings of it and the top score [R, 1] below.

    XLA computes `scores` anew in each fusion that reads them, with other roundings (a division becomes a product, a
    product and a sum one operation): compared exactly, the very token that gave the threshold can fall below it.
    """
    slack = _ROUNDING * jnp.maximum(jnp.abs(threshold), jnp.abs(top))
    return jnp.where(scores < threshold - slack, -jnp.inf, scores)


def _nucleus_radius(scores: jax.Array, distance: jax.Array, top: jax.Array, top_p: jax.Array) -> jax.Array:
    """How far below the top score top-p reaches, [R, 1].

    A token is kept when those above it have less than `top_p` of the probability. The greatest distance for which that
    holds is found by bisection over the bits of float32, which needs no sort: sorting 32128 scores takes XLA's CPU
    backend 10 ms, this 0.5 ms.

    Args:
      scores: [R, V].
      distance: [R, N], from the top score down to every score that may be kept, in any order.
      top: [R, 1], the greatest score.
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
    """Scores with Gumbel noise: the greatest is a draw, the n greatest are n draws without replacement.

    The noise of a row hangs on the key, the row's id and the position alone: a row draws the same in any batch and at
    any place in it.

    Args:
      scores: float32 [R, V], logits or log-probabilities, -inf for what is not to be drawn.
      key: of `jax.random.key`.
      row_ids: int32 [R].
      position: int32 scalar.

    Returns:
      float32 [R, V].
    """

    def noise(row: jax.Array) -> jax.Array:
        own = jax.random.fold_in(jax.random.fold_in(key, row), position)
        return jax.random.gumbel(own, scores.shape[1:], scores.dtype)

    return scores + jax.vmap(noise)(row_ids)


def sample_tokens(scores: jax.Array, key: jax.Array, row_ids: jax.Array, position: jax.Array) -> jax.Array:
    """One token a row, int32 [R], with probability softmax(scores); arguments as in `add_gumbel_noise`."""
    return jnp.argmax(add_gumbel_noise(scores, key, row_ids, position), axis=-1).astype(jnp.int32)
