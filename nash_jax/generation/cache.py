"""What cached decoding carries from step to step, and what it computes once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nash_jax.models.layers import attention_bias
from nash_jax.spec import ModelSpec

KeysValues = tuple[jax.Array, jax.Array]


class Encoded(NamedTuple):
    """What is computed once for a batch.

    Attributes:
      cross: for each decoder layer, cross-attention keys and values [B, S, N, H] (None: sub-layer gone).
      cross_bias: padding bias [B, 1, 1, S].
      bias: causal position bias by distance [N, 2T-1] (None: no self-attention left).
    """

    cross: list[KeysValues | None]
    cross_bias: jax.Array
    bias: jax.Array | None


def encode(model: Any, params: Any, input_ids: jax.Array, attention_mask: jax.Array, max_length: int) -> Encoded:
    """Runs the encoder and prepares decoding.

    Args:
      model: a module of `nash_jax.models`.
      params: its parameters.
      input_ids: [B, S].
      attention_mask: [B, S] of 0/1.
      max_length: T, decoder positions to make room for.
    """
    variables = {"params": params}
    encoded, _ = model.apply(variables, input_ids, attention_mask, method="encode")
    cross = model.apply(variables, encoded, method="cross_keys_values")
    return Encoded(cross, attention_bias(attention_mask), model.apply(variables, max_length, method="decode_bias"))


def empty_cache(spec: ModelSpec, batch_size: int, max_length: int, dtype: Any) -> list[KeysValues | None]:
    """Self-attention keys and values of no positions: [B, T, N, H] for each layer that has heads."""

    def zeros(heads: int) -> KeysValues | None:
        shape = (batch_size, max_length, heads, spec.head_dim)
        return (jnp.zeros(shape, dtype), jnp.zeros(shape, dtype)) if heads else None

    return [zeros(len(layer.self_heads)) for layer in spec.decoder]
