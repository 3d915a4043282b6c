"""Sub-layers whose matrices are packed for the kernels or rounded to 8 bits: what a step and an encoder share.

Letters: R rows (of a step, or all positions of a batch), D d_model, K inputs and M outputs of a matrix, F FFN units.
"""

import abc
import itertools
import math
from collections.abc import Iterable
from typing import Any

import jax
import jax.numpy as jnp

from nash_jax.kernels.matrices import PackedMatrix
from nash_jax.models.layers import ACTIVATION_FNS, make_norm
from nash_jax.tree import flatten

Packed = dict[str, PackedMatrix]
# matrix → how many axes are its inputs, the first
_INPUT_AXES = {"qkv": 1, "q": 1, "kv": 1, "wi": 1, "out": 2, "wo": 1, "lm_head": 1}


def as_matrix(path: str, leaf: Any) -> Any:
    """Returns a parameter as a matrix [K, M], of NumPy or JAX as it is.

    Args:
      path: of the parameter.
      leaf: its values.
    """
    return leaf.reshape(math.prod(leaf.shape[: _INPUT_AXES[path.rpartition("/")[2]]]), -1)


def matrix_paths(paths: Iterable[str]) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Returns those of the paths that are matrices.

    Args:
      paths: of the parameters of a model with a separate LM head.

    Returns:
      Those that a decoding step multiplies by; the encoder's and those of cross keys and values.
    """
    found = [path for path in paths if path.rpartition("/")[2] in _INPUT_AXES]
    return tuple(filter(_read_by_steps, found)), tuple(itertools.filterfalse(_read_by_steps, found))


def _read_by_steps(path: str) -> bool:
    return path == "lm_head" or (path.startswith("decoder/") and not path.endswith("/kv"))


class KernelLayers(abc.ABC):
    """Sub-layers of one side of a model, on rows of its residual stream [R, D].

    Args:
      model: a module of `nash_jax.models`, float32.
      params: its parameters.
      side: `encoder` or `decoder`.
    """

    def __init__(self, model: Any, params: Any, side: str) -> None:
        self.model, self.params, self.flat = model, params, flatten(params)
        spec, self.side = model.spec, side
        self.layers = spec.encoder if side == "encoder" else spec.decoder
        self.scale = spec.head_dim_of(side) ** -0.5 if spec.scaled_attention else 1.0

    @abc.abstractmethod
    def multiply(self, path: str, x: jax.Array) -> jax.Array:
        """x [R, K] · the matrix of that path [K, M] → [R, M]."""

    def project(self, path: str, x: jax.Array) -> jax.Array:
        """x [R, K] · matrix + bias, [R, M]."""
        y, bias = self.multiply(path, x), self.flat.get(f"{path}_bias")
        return y if bias is None else y + jnp.broadcast_to(bias.reshape(-1), y.shape)

    def sublayer_input(self, path: str, x: jax.Array) -> jax.Array:
        """Input of a sub-layer from the residual stream x [R, D]."""
        return self._norm(path, x) if self.model.spec.pre_norm else x

    def add(self, path: str, matrix: str, x: jax.Array, inner: jax.Array | None) -> jax.Array:
        """Adds what a sub-layer has computed, `inner` [R, K] · its output matrix + bias, to the residual stream x."""
        if inner is not None:
            x = x + self.project(f"{path}/{matrix}", inner)
        elif self.model.spec.bias:
            x = x + jnp.broadcast_to(self.flat[f"{path}/{matrix}_bias"], x.shape)
        return x if self.model.spec.pre_norm else self._norm(path, x)

    def transform(self, index: int, x: jax.Array) -> jax.Array:
        """The FFN of a layer: residual stream x [R, D] → [R, D]."""
        path, spec = f"{self.side}/layers_{index}/ffn", self.model.spec
        units, act = self.layers[index].ffn, ACTIVATION_FNS[spec.activation]
        if not units:
            return self.add(path, "wo", x, None)
        hidden = self.project(f"{path}/wi", self.sublayer_input(path, x))  # [R, F], gated: [R, 2F]
        activated = act(hidden[:, :units]) * hidden[:, units:] if spec.gated else act(hidden)
        return self.add(path, "wo", x, activated)

    def _norm(self, path: str, x: jax.Array) -> jax.Array:
        start = f"{path}/norm/"
        own = {name.removeprefix(start): leaf for name, leaf in self.flat.items() if name.startswith(start)}
        return jnp.asarray(make_norm(self.model.spec, jnp.float32).apply({"params": own}, x))


def layer_bias(bias: Any, index: int, heads: tuple[int, ...]) -> jax.Array | None:
    """Returns the bias [N, 2T-1] of a layer by key position minus query position; None without heads.

    Args:
      bias: of the model: one of [N, 2T-1] or [1, 2T-1], or a list of those of its layers.
      index: of the layer.
      heads: that the layer has.
    """
    if not heads:
        return None
    own = bias[index] if isinstance(bias, list) else bias
    if not isinstance(bias, list) and len(own) > 1:
        own = own[jnp.array(heads)]
    return jnp.broadcast_to(own, (len(heads), own.shape[1]))
