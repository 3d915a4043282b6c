"""Scores of queries with keys, and sums of values by weights: for whole sequences, and for the few queries of a step.

Letters: B batch, T queries, S keys, N heads, H head size.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

Weigh = Callable[[jax.Array], jax.Array]


def by_head(x: jax.Array) -> jax.Array:
    """Keys or values [B, S, N, H] → [B, N, S, H], as attention takes them and caches hold them.

    A head's rows lie together, so that XLA for GPUs fuses a whole attention of few queries: it fuses a softmax only
    along the last axis of what it is computed from.
    """
    return jnp.swapaxes(x, 1, 2)


def attention_scores(query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns float32 [B, N, T, S] of queries [B, T, N, H] and keys [B, N, S, H]."""
    return jnp.einsum("BTNH,BNSH->BNTS", query, key, preferred_element_type=jnp.float32)


def attention_context(weights: jax.Array, value: jax.Array) -> jax.Array:
    """Returns the sums [B, T, N, H] of values [B, N, S, H] by weights [B, N, T, S]."""
    return jnp.einsum("BNTS,BNSH->BTNH", weights, value)


def attend_few(query: jax.Array, key: jax.Array, value: jax.Array, weigh: Weigh) -> jax.Array:
    """Returns the context [B, T, N, H] of few queries; the way to it depends on the device that runs the program.

    Args:
      query: [B, T, N, H].
      key: [B, N, S, H].
      value: [B, N, S, H].
      weigh: scores float32 [B, N, T, S] → weights.
    """

    def by_products(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
        return attention_context(weigh(attention_scores(query, key)), value)

    by_sums = functools.partial(attend_by_sums, weigh=weigh)
    found: jax.Array = jax.lax.platform_dependent(query, key, value, cuda=by_sums, default=by_products)
    return found


def attend_by_sums(query: jax.Array, key: jax.Array, value: jax.Array, weigh: Weigh) -> jax.Array:
    """As `attend_few`, without matrix units: XLA for GPUs makes one kernel of it, where products would be five.

    Args:
      query: as of `attend_few`.
      key: as of `attend_few`.
      value: as of `attend_few`.
      weigh: as of `attend_few`.
    """
    rows, keys, values = (x.astype(jnp.float32) for x in (by_head(query), key, value))
    weights = weigh(jnp.sum(rows[:, :, :, None] * keys[:, :, None], axis=-1))
    context = jnp.sum(weights.astype(jnp.float32)[..., None] * values[:, :, None], axis=3)
    return by_head(context).astype(value.dtype)
