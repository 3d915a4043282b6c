"""Greedy decoding: one `while_loop`, static shapes, early exit when every row has ended."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nash_jax.generation.cache import Encoded, KeysValues, empty_cache


class GreedyState(NamedTuple):
    """The loop's carry.

    Attributes:
      position: of the last token written, int32 scalar.
      tokens: start token and what was generated, int32 [B, T+1]; padding after EOS.
      done: rows that have ended, bool [B].
      cache: self-attention keys and values by layer.
    """

    position: jax.Array
    tokens: jax.Array
    done: jax.Array
    cache: list[KeysValues | None]


def greedy(model: Any, params: Any, encoded: Encoded, limit: jax.Array, max_length: int, eos_id: int) -> jax.Array:
    """The most probable token at each step.

    Args:
      model: a module of `nash_jax.models`.
      params: its parameters.
      encoded: from `cache.encode`.
      limit: new tokens to generate at most, int32 scalar, not above `max_length`: another limit does not
        compile again.
      max_length: T, static.
      eos_id: token that ends a row; negative: none does.

    Returns:
      int32 [B, T+1]: the start token, generated tokens up to and with EOS, then padding.
    """
    spec = model.spec
    batch_size = encoded.cross_bias.shape[0]
    start = GreedyState(
        jnp.zeros((), jnp.int32),
        jnp.full((batch_size, max_length + 1), spec.pad_id, jnp.int32).at[:, 0].set(spec.decoder_start_id),
        jnp.zeros((batch_size,), bool),
        empty_cache(spec, batch_size, max_length, model.dtype),
    )

    def go_on(state: GreedyState) -> jax.Array:
        return (state.position < limit) & ~jnp.all(state.done)

    def step(state: GreedyState) -> GreedyState:
        last = jax.lax.dynamic_slice_in_dim(state.tokens, state.position, 1, axis=1)[:, 0]
        logits, cache = model.apply(
            {"params": params}, last, state.position, state.cache, encoded.bias, encoded.cross, encoded.cross_bias,
            method="decode_step",
        )  # fmt: skip
        token = jnp.where(state.done, spec.pad_id, jnp.argmax(logits, axis=-1).astype(jnp.int32))
        tokens = jax.lax.dynamic_update_slice_in_dim(state.tokens, token[:, None], state.position + 1, axis=1)
        return GreedyState(state.position + 1, tokens, state.done | (token == eos_id), cache)

    return jax.lax.while_loop(go_on, step, start).tokens
