"""The weights of an engine as its programs take them: the parameters, and for the kernels also packed.

Letters: R decoded rows.
"""

import dataclasses
import functools
import sys
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nash_jax.errors import UserError
from nash_jax.generation.cache import CachedDecoder, Encoded, encode
from nash_jax.generation.kernel_encode import KernelEncoder
from nash_jax.generation.kernel_layers import Packed, matrices, round_params
from nash_jax.generation.kernel_step import KernelDecoder, in_kernel_layout
from nash_jax.generation.mesh_weights import place_weights
from nash_jax.kernels.build import is_asked_for, kernel_problem
from nash_jax.kernels.matrices import Quantized, pack, quantize
from nash_jax.models.head import tied_lm_head
from nash_jax.runtime.stored import read_stored
from nash_jax.spec import ModelSpec
from nash_jax.tree import map_with_path

# rows up to which kernels are known to be faster than XLA: python -m nash_jax.benchmark.kernel_cost
MAX_ROWS = 32


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """What a program reads.

    Attributes:
      params: parameters of the module.
      packed: path → matrix, for decoding with the kernels; None: without them.
      source: path → matrix of 8 bits, for encoding with the kernels (in float32 none is needed); None: without them.
      int8: what the encoder multiplies is rounded to 8 bits.
    """

    params: Any
    packed: Packed | None
    source: Packed | None
    int8: bool = dataclasses.field(metadata={"static": True})


def encode_batch(
    model: Any, weights: Weights, input_ids: jax.Array, attention_mask: jax.Array, max_length: int
) -> Encoded:
    """Runs `encode`, in the layouts that `make_decoder` needs.

    Args:
      model: as of `encode`.
      weights: of the model.
      input_ids: as of `encode`.
      attention_mask: as of `encode`.
      max_length: as of `encode`.
    """
    inputs = input_ids, attention_mask, max_length
    if weights.source is None and not weights.int8:
        found = encode(model, weights.params, *inputs)
    else:
        found = KernelEncoder(model, weights.params, weights.source, int8=weights.int8).encode(*inputs)
    return found if weights.packed is None else in_kernel_layout(model, found)


def make_decoder(model: Any, weights: Weights, encoded: Encoded) -> CachedDecoder:
    """Returns what decodes steps.

    Args:
      model: a module of `nash_jax.models`.
      weights: of the model.
      encoded: from `encode_batch`.
    """
    if weights.packed is None:
        return CachedDecoder(model, weights.params, encoded)
    return KernelDecoder(model, weights.params, encoded, weights.packed)


@functools.cache
def _note(text: str) -> None:
    """Prints a note, once."""
    print(f"note: {text}", file=sys.stderr)


class WeightStore:
    """Parameters on the device, packed for the kernels when these are first used.

    Args:
      dtype: type of the parameters; "int8": float32, where all matrices are rounded to 8 bits.
      kernels: use the kernels; None: where they are faster.
      mesh: devices that parameters are split over; None: the first device.
      spec: the model, for a mesh.

    Raises:
      UserError: for int8 on another device than a CPU.
    """

    _packed: Packed | None
    _source: Packed

    def __init__(
        self, dtype: Any, kernels: bool | None, mesh: Mesh | None = None, spec: ModelSpec | None = None
    ) -> None:
        self.int8 = isinstance(dtype, str) and dtype == "int8"
        self.dtype, self._kernels = jnp.dtype("float32" if self.int8 else dtype), kernels
        self._mesh, self._spec = mesh, spec
        if self.int8 and jax.default_backend() != "cpu":
            raise UserError(f"dtype is int8 on {jax.default_backend()}", "a CPU", "take bfloat16")
        if (self.int8 or kernels or is_asked_for()) and kernel_problem():
            _note(f"decoding without kernels, in {self.dtype}: {kernel_problem()}")

    def update(self, params: Mapping[str, Any]) -> None:
        """Replaces the parameters; the LM head may be missing."""
        if self._mesh is not None and self._spec is not None:
            self.params = place_weights(self._mesh, self._spec, params, self.dtype)
            self._packed, self._source, self._on_one_device = None, {}, False
            return
        params = read_stored(params)
        if "lm_head" not in params:
            params = {**params, "lm_head": tied_lm_head(params)}
        steps = _quantize(matrices(params, of_steps=True)) if self.int8 else {}
        source = _quantize(matrices(params, of_steps=False)) if self.int8 else {}
        given = round_params(params, steps | source)
        self.params = map_with_path(lambda _, leaf: jnp.asarray(leaf, self.dtype), given)
        self._on_one_device = all(len(leaf.devices()) == 1 for leaf in jax.tree.leaves(self.params))
        packs = self.int8 and self._has_kernels()
        self._packed, self._source = (_pack(steps), _pack(source)) if packs else (None, {})

    def clear(self) -> None:
        """Frees the memory; what is compiled stays, and is used again after `update`."""
        self.params, self._packed, self._source = dict[str, Any](), None, {}

    def of_rows(self, rows: int) -> Weights:
        """Returns the weights of a program that decodes R rows."""
        if self._kernels is False or not self._has_kernels():
            return Weights(self.params, None, None, self.int8)
        if not (self._kernels or rows <= MAX_ROWS):
            return Weights(self.params, None, self._source, self.int8)
        if self._packed is None:
            self._packed = _pack(matrices(self.params, of_steps=True))
        return Weights(self.params, self._packed, self._source, self.int8)

    def _has_kernels(self) -> bool:
        """Whether the kernels can be called: for float32 on one CPU."""
        return self.dtype == jnp.float32 and self._on_one_device and not kernel_problem()


def _quantize(unpacked: Mapping[str, np.ndarray]) -> dict[str, Quantized]:
    return {path: quantize(matrix) for path, matrix in unpacked.items()}


def _pack(unpacked: Mapping[str, np.ndarray | Quantized]) -> Packed:
    return {path: pack(matrix) for path, matrix in unpacked.items()}
