"""Attention of one query in each row to cached keys and values, and of all positions of a sequence to each other.

Letters: R rows, B sources, N heads, H head size, H' = H padded to a multiple of 16, T positions of the cache, S source
length.
"""

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.kernels.matrices import LANES

MASKED = -5e8  # a bias below: the position is padding, as in common.h
KeysValues = tuple[jax.Array, jax.Array]


def pad_heads(x: jax.Array) -> jax.Array:
    """Keys or values [B, N, S, H] → [B, N, S, H'], as the kernels read them; padded with zeros."""
    return jnp.pad(x, [(0, 0)] * (x.ndim - 1) + [(0, -x.shape[-1] % LANES)])


def attend_self(
    qkv: jax.Array, cache: KeysValues, bias: jax.Array, ancestors: jax.Array, position: jax.Array, scale: float
) -> tuple[jax.Array, KeysValues]:
    """Attends to the positions of a row up to its own, whose key and value it adds to the cache in place.

    Args:
      qkv: query, key and value of the position, float32 [R, 3·N·H].
      cache: keys and values, each [R, N, T, H'].
      bias: by key position minus query position, float32 [N, 2T-1].
      ancestors: the row of the cache that has each position of a row, int32 [R, T].
      position: int32 scalar.
      scale: factor of the scores.

    Returns:
      The context [R, N·H] and the updated cache.
    """
    context = jax.ShapeDtypeStruct((qkv.shape[0], qkv.shape[1] // 3), jnp.float32)
    same = [jax.ShapeDtypeStruct(x.shape, x.dtype) for x in cache]
    call = jax.ffi.ffi_call("nash_jax_self_attention", (context, *same), input_output_aliases={1: 1, 2: 2})
    found, keys, values = call(qkv, *cache, bias, ancestors, position[None], scale=np.float32(scale))
    return found, (keys, values)


def attend_source(
    query: jax.Array, cross: KeysValues, bias: jax.Array, scale: float, *, attends_padding: bool
) -> jax.Array:
    """Attends to the source; returns the context [R, N·H].

    Args:
      query: float32 [R, N·H]; the R / B rows of a source are consecutive.
      cross: keys and values of the source, each [B, N, S, H'].
      bias: of the positions of the source, float32 [B, S].
      scale: factor of the scores.
      attends_padding: a source of nothing but padding is attended to evenly; otherwise its context is 0.
    """
    shape = jax.ShapeDtypeStruct(query.shape, jnp.float32)
    call = jax.ffi.ffi_call("nash_jax_cross_attention", shape)
    return call(query, *cross, bias, scale=np.float32(scale), attends_padding=attends_padding)


def attend_sequence(
    qkv: jax.Array, bias: jax.Array, padding: jax.Array, scale: float, *, attends_padding: bool
) -> jax.Array:
    """Attends from all positions of each source to all of them; returns the context [B·S, N·H].

    Args:
      qkv: queries, keys and values, float32 [B·S, 3·N·H].
      bias: by key position minus query position, float32 [N, 2S-1].
      padding: bias of the positions of the source, float32 [B, S]. The context of those after the last token is 0.
      scale: factor of the scores.
      attends_padding: as of `attend_source`.
    """
    shape = jax.ShapeDtypeStruct((qkv.shape[0], qkv.shape[1] // 3), jnp.float32)
    call = jax.ffi.ffi_call("nash_jax_sequence_attention", shape)
    return call(qkv, bias, padding, scale=np.float32(scale), attends_padding=attends_padding)


def attend_sequence_by_xla(
    qkv: jax.Array, bias: jax.Array, padding: jax.Array, scale: float, *, attends_padding: bool
) -> jax.Array:
    """As `attend_sequence`, without the kernels; positions after the last token attend as well."""
    (sources, length), heads = padding.shape, len(bias)
    query, key, value = jnp.moveaxis(qkv.reshape(sources, length, 3, heads, -1), 2, 0)
    distance = jnp.arange(length)[None] - jnp.arange(length)[:, None] + length - 1
    scores = jnp.einsum("BTNH,BSNH->BNTS", query * np.float32(scale), key) + bias[:, distance][None]
    weights = jax.nn.softmax(scores + padding[:, None, None], axis=-1)
    if not attends_padding:
        weights = weights * (jnp.max(padding, axis=-1) > MASKED)[:, None, None, None]
    return jnp.einsum("BNTS,BSNH->BTNH", weights, value).reshape(sources * length, -1)
