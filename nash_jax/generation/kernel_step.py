"""Decoding with the kernels of `nash_jax.kernels`: the step of `EncoderDecoder.decode_step`, from packed weights.

Letters: B inputs, R decoded rows, D d_model, S source length, T decoder positions, N heads, H' padded head size, V
vocabulary size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nash_jax.generation.cache import CachedDecoder, Encoded, KeysValues, pick_beams, set_column
from nash_jax.generation.kernel_layers import KernelLayers, Packed, layer_bias
from nash_jax.kernels.attention import attend_self, attend_source, pad_heads
from nash_jax.kernels.matrices import argmax, product


class RowCache(NamedTuple):
    """Self-attention keys and values; beams read positions from the rows that computed them, so none is copied.

    Attributes:
      layers: keys and values [R, N, T, H'] of each layer (None: no heads).
      ancestors: the row that has each position of a row, int32 [R, T].
    """

    layers: list[KeysValues | None]
    ancestors: jax.Array


def in_kernel_layout(model: Any, encoded: Encoded) -> Encoded:
    """Returns an encoded batch as the kernels read it: cross [B, N, S, H'], cross_bias [B, S], bias [N, 2T-1] a layer.

    Args:
      model: a module of `nash_jax.models`.
      encoded: from `encode`.
    """
    cross, cross_bias, bias = encoded
    biases = [layer_bias(bias, i, layer.self_heads) for i, layer in enumerate(model.spec.decoder)]
    return Encoded([jax.tree.map(pad_heads, layer) for layer in cross], cross_bias[:, 0, 0], biases)


def _own_rows(rows: int, length: int) -> jax.Array:
    """Ancestors [R, T] of rows that have computed all positions themselves."""
    return jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32)[:, None], (rows, length))


class KernelDecoder(CachedDecoder, KernelLayers):
    """A model and an encoded batch, whose steps call the kernels.

    Args:
      model: a module of `nash_jax.models`, float32.
      params: its parameters.
      encoded: from `in_kernel_layout`.
      packed: what steps multiply by, path → matrix.
    """

    def __init__(self, model: Any, params: Any, encoded: Encoded, packed: Packed) -> None:
        CachedDecoder.__init__(self, model, params, encoded)
        KernelLayers.__init__(self, model, params, "decoder")
        self.packed = packed

    def empty_cache(self, rows: int, max_length: int) -> RowCache:
        """As `CachedDecoder.empty_cache`."""
        layers = super().empty_cache(rows, max_length)
        return RowCache([jax.tree.map(pad_heads, layer) for layer in layers], _own_rows(rows, max_length))

    def step(self, token_ids: jax.Array, position: jax.Array, cache: RowCache) -> tuple[jax.Array, RowCache]:
        """As `CachedDecoder.step`."""
        own = jnp.arange(len(token_ids), dtype=jnp.int32)
        ancestors, layers = set_column(cache.ancestors, own, position), list(cache.layers)
        x = self.model.apply({"params": self.params}, token_ids, position, method="embed_token")[:, 0]  # [R, D]
        for i in range(len(layers)):
            x, layers[i] = self._attend_self(i, x, layers[i], ancestors, position)
            x = self._attend_source(i, x)
            x = self.transform(i, x)
        return self._logits(x), RowCache(layers, ancestors)

    def repeat(self, cache: RowCache, times: int) -> RowCache:
        """As `CachedDecoder.repeat`."""
        layers, (rows, length) = super().repeat(cache.layers, times), cache.ancestors.shape
        return RowCache(layers, _own_rows(rows * times, length))

    def start_beams(self, prompt: jax.Array, prompt_length: jax.Array, num_beams: int, long_prompt: bool) -> RowCache:
        """As `CachedDecoder.start_beams`."""
        cache: RowCache = self.start_cache(prompt, prompt_length, num_beams, long_prompt)
        return cache

    def reorder(self, cache: RowCache, parents: jax.Array) -> RowCache:
        """As `CachedDecoder.reorder`."""
        by_input = cache.ancestors.reshape(*parents.shape, -1)
        return RowCache(cache.layers, pick_beams(by_input, parents).reshape(cache.ancestors.shape))

    def best_tokens(self, scores: jax.Array) -> jax.Array:
        """As `CachedDecoder.best_tokens`."""
        return argmax(scores)

    def _attend_self(
        self, index: int, x: jax.Array, cache: KeysValues | None, ancestors: jax.Array, position: jax.Array
    ) -> tuple[jax.Array, KeysValues | None]:
        path = f"decoder/layers_{index}/self_attention"
        if cache is None:
            return self.add(path, "out", x, None), None
        qkv = self.project(f"{path}/qkv", self.sublayer_input(path, x))
        context, cache = attend_self(qkv, cache, self.encoded.bias[index], ancestors, position, self.scale)
        return self.add(path, "out", x, context), cache

    def _attend_source(self, index: int, x: jax.Array) -> jax.Array:
        path, cross = f"decoder/layers_{index}/cross_attention", self.encoded.cross[index]
        if cross is None:
            return self.add(path, "out", x, None)
        query = self.project(f"{path}/q", self.sublayer_input(path, x))
        even = not self.model.spec.absolute_positions
        context = attend_source(query, cross, self.encoded.cross_bias, self.scale, attends_padding=even)
        return self.add(path, "out", x, context)

    def multiply(self, path: str, x: jax.Array) -> jax.Array:
        """As `KernelLayers.multiply`."""
        return product(x, self.packed[path])

    def _logits(self, x: jax.Array) -> jax.Array:
        """Residual stream after the last layer [R, D] → logits [R, V]."""
        x = self.model.apply({"params": self.params}, x[:, None], method="decoder_output")[:, 0]
        logits, bias = product(x, self.packed["lm_head"]), self.flat.get("logits_bias")
        return logits if bias is None else logits + jnp.broadcast_to(bias, logits.shape)
