"""Decoding with the kernels of `nash_jax.kernels`: the step of `EncoderDecoder.decode_step`, from packed weights.

Letters: B inputs, R decoded rows, D d_model, S source length, T decoder positions, N heads, H' padded head size, V
vocabulary size.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.generation.cache import CachedDecoder, Encoded, KeysValues, encode, set_column
from nash_jax.kernels.attention import attend_self, attend_source, by_head
from nash_jax.kernels.matrices import PackedMatrix, Quantized, argmax, product
from nash_jax.models.layers import ACTIVATION_FNS, make_norm
from nash_jax.tree import flatten, unflatten

Packed = dict[str, PackedMatrix]
_INPUT_AXES = {"qkv": 1, "q": 1, "wi": 1, "out": 2, "wo": 1, "lm_head": 1}  # matrix → axes of its inputs, the first


class RowCache(NamedTuple):
    """Self-attention keys and values; beams read positions from the rows that computed them, so none is copied.

    Attributes:
      layers: keys and values [R, N, T, H'] of each layer (None: no heads).
      ancestors: the row that has each position of a row, int32 [R, T].
    """

    layers: list[KeysValues | None]
    ancestors: jax.Array


def _as_matrix(path: str, leaf: np.ndarray) -> np.ndarray:
    axes = _INPUT_AXES[path.rpartition("/")[2]]
    return np.asarray(leaf, np.float32).reshape(int(np.prod(leaf.shape[:axes])), -1)


def _read_by_steps(path: str) -> bool:
    """Whether each step multiplies by a parameter: the decoder's matrices, but those of cross-attention keys."""
    return path == "lm_head" or (path.startswith("decoder/") and path.rpartition("/")[2] in _INPUT_AXES)


def matrices_of_steps(params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns path → matrix [K, M], float32, for all that a step multiplies by.

    Args:
      params: of a model with a separate LM head.
    """
    return {path: _as_matrix(path, leaf) for path, leaf in flatten(params).items() if _read_by_steps(path)}


def round_params(params: Mapping[str, Any], rounded: Mapping[str, Quantized]) -> dict[str, Any]:
    """Returns the parameters with the values of matrices that were rounded to 8 bits.

    Args:
      params: of a model with a separate LM head.
      rounded: path → matrix, of `matrices_of_steps`.
    """
    flat = flatten(params)
    return unflatten(flat | {path: m.values().reshape(flat[path].shape) for path, m in rounded.items()})


def encode_for_kernels(
    model: Any, params: Any, input_ids: jax.Array, attention_mask: jax.Array, max_length: int
) -> Encoded:
    """As `encode`, in the layouts of the kernels: cross [B, N, S, H'], cross_bias [B, S], bias [N, 2T-1] of each layer.

    Args:
      model: as of `encode`.
      params: as of `encode`.
      input_ids: as of `encode`.
      attention_mask: as of `encode`.
      max_length: as of `encode`.
    """
    cross, cross_bias, bias = encode(model, params, input_ids, attention_mask, max_length)
    biases = [_layer_bias(bias, i, layer.self_heads) for i, layer in enumerate(model.spec.decoder)]
    return Encoded([jax.tree.map(by_head, layer) for layer in cross], cross_bias[:, 0, 0], biases)


def _layer_bias(bias: Any, index: int, heads: tuple[int, ...]) -> jax.Array | None:
    """Bias [N, 2T-1] of a layer; None without heads."""
    if not heads:
        return None
    own = bias[index] if isinstance(bias, list) else bias
    if not isinstance(bias, list) and len(own) > 1:
        own = own[jnp.array(heads)]
    return jnp.broadcast_to(own, (len(heads), own.shape[1]))


def _own_rows(rows: int, length: int) -> jax.Array:
    """Ancestors [R, T] of rows that have computed all positions themselves."""
    return jnp.broadcast_to(jnp.arange(rows, dtype=jnp.int32)[:, None], (rows, length))


class KernelDecoder(CachedDecoder):
    """A model and an encoded batch, whose steps call the kernels.

    Args:
      model: a module of `nash_jax.models`, float32.
      params: its parameters.
      encoded: from `encode_for_kernels`.
      packed: what steps multiply by, path → matrix.
    """

    def __init__(self, model: Any, params: Any, encoded: Encoded, packed: Packed) -> None:
        super().__init__(model, params, encoded)
        self.packed, self._flat = packed, flatten(params)

    def empty_cache(self, rows: int, max_length: int) -> RowCache:
        """As `CachedDecoder.empty_cache`."""
        layers = super().empty_cache(rows, max_length)
        return RowCache([jax.tree.map(by_head, layer) for layer in layers], _own_rows(rows, max_length))

    def step(self, token_ids: jax.Array, position: jax.Array, cache: RowCache) -> tuple[jax.Array, RowCache]:
        """As `CachedDecoder.step`."""
        own = jnp.arange(len(token_ids), dtype=jnp.int32)
        ancestors, layers = set_column(cache.ancestors, own, position), list(cache.layers)
        x = self.model.apply({"params": self.params}, token_ids, position, method="embed_token")[:, 0]  # [R, D]
        for i in range(len(layers)):
            x, layers[i] = self._attend_self(i, x, layers[i], ancestors, position)
            x = self._attend_source(i, x)
            x = self._transform(i, x)
        return self._logits(x), RowCache(layers, ancestors)

    def repeat(self, cache: RowCache, times: int) -> RowCache:
        """As `CachedDecoder.repeat`."""
        layers, (rows, length) = super().repeat(cache.layers, times), cache.ancestors.shape
        return RowCache(layers, _own_rows(rows * times, length))

    def reorder(self, cache: RowCache, rows: jax.Array) -> RowCache:
        """As `CachedDecoder.reorder`; keys and values stay where they are."""
        return RowCache(cache.layers, jnp.take(cache.ancestors, rows, axis=0))

    def best_tokens(self, scores: jax.Array) -> jax.Array:
        """As `CachedDecoder.best_tokens`."""
        return argmax(scores)

    def _attend_self(
        self, index: int, x: jax.Array, cache: KeysValues | None, ancestors: jax.Array, position: jax.Array
    ) -> tuple[jax.Array, KeysValues | None]:
        path = f"decoder/layers_{index}/self_attention"
        if cache is None:
            return self._add(path, "out", x, None), None
        qkv = self._project(f"{path}/qkv", self._input(path, x))
        context, cache = attend_self(qkv, cache, self.encoded.bias[index], ancestors, position, self._scale)
        return self._add(path, "out", x, context), cache

    def _attend_source(self, index: int, x: jax.Array) -> jax.Array:
        path, cross = f"decoder/layers_{index}/cross_attention", self.encoded.cross[index]
        if cross is None:
            return self._add(path, "out", x, None)
        query = self._project(f"{path}/q", self._input(path, x))
        even = not self.model.spec.absolute_positions
        context = attend_source(query, cross, self.encoded.cross_bias, self._scale, attends_padding=even)
        return self._add(path, "out", x, context)

    def _transform(self, index: int, x: jax.Array) -> jax.Array:
        path, spec = f"decoder/layers_{index}/ffn", self.model.spec
        units, act = spec.decoder[index].ffn, ACTIVATION_FNS[spec.activation]
        if not units:
            return self._add(path, "wo", x, None)
        hidden = self._project(f"{path}/wi", self._input(path, x))  # [R, F], gated: [R, 2F]
        activated = act(hidden[:, :units]) * hidden[:, units:] if spec.gated else act(hidden)
        return self._add(path, "wo", x, activated)

    @property
    def _scale(self) -> float:
        spec = self.model.spec
        return spec.head_dim_of("decoder") ** -0.5 if spec.scaled_attention else 1.0

    def _input(self, path: str, x: jax.Array) -> jax.Array:
        """Input of a sub-layer from the residual stream x [R, D]."""
        return self._norm(path, x) if self.model.spec.pre_norm else x

    def _project(self, path: str, x: jax.Array) -> jax.Array:
        """x [R, K] · matrix + bias, [R, M]."""
        y, bias = product(x, self.packed[path]), self._flat.get(f"{path}_bias")
        return y if bias is None else y + jnp.broadcast_to(bias.reshape(-1), y.shape)

    def _add(self, path: str, matrix: str, x: jax.Array, inner: jax.Array | None) -> jax.Array:
        """Adds what a sub-layer has computed, `inner` [R, K] · its output matrix + bias, to the residual stream x."""
        if inner is not None:
            x = x + self._project(f"{path}/{matrix}", inner)
        elif self.model.spec.bias:
            x = x + jnp.broadcast_to(self._flat[f"{path}/{matrix}_bias"], x.shape)
        return x if self.model.spec.pre_norm else self._norm(path, x)

    def _norm(self, path: str, x: jax.Array) -> jax.Array:
        start = f"{path}/norm/"
        own = {name.removeprefix(start): leaf for name, leaf in self._flat.items() if name.startswith(start)}
        return jnp.asarray(make_norm(self.model.spec, jnp.float32).apply({"params": own}, x))

    def _logits(self, x: jax.Array) -> jax.Array:
        """Residual stream after the last layer [R, D] → logits [R, V]."""
        x = self.model.apply({"params": self.params}, x[:, None], method="decoder_output")[:, 0]
        logits, bias = product(x, self.packed["lm_head"]), self._flat.get("logits_bias")
        return logits if bias is None else logits + jnp.broadcast_to(bias, logits.shape)
