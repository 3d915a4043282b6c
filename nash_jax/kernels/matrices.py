"""Matrices as the kernels read them: float32, or 8 bits with a factor for each output.

Letters: K inputs, M outputs, P = ⌈M / 16⌉ panels of 16 outputs, R rows.
"""

import dataclasses
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

LANES = 16  # outputs of a panel, as in decoding.cc
GROUP = 4  # inputs whose weights are unpacked together
_UNIT = np.float32(2.0**-24)  # of a weight of 8 bits, which the kernel reads as the highest byte of an int32
_LARGEST = np.float32(127)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class PackedMatrix:
    """A matrix [K, M] for `product`; K is padded with zeros to a multiple of 4.

    Attributes:
      panels: float32 [P, K, 16], or int8 [P, K / 4, 16, 4].
      scales: what sums are multiplied by, float32 [16 · P]; [0] for float32 panels.
      outputs: M.
    """

    panels: jax.Array
    scales: jax.Array
    outputs: int = dataclasses.field(metadata={"static": True})


class Quantized(NamedTuple):
    """A matrix rounded to 8 bits: about integers · scales.

    Attributes:
      integers: int8 [K, M], from -127 to 127.
      scales: of the outputs, float32 [M].
    """

    integers: np.ndarray
    scales: np.ndarray

    def values(self) -> np.ndarray:
        """Returns the rounded matrix, float32 [K, M]."""
        return self.integers * self.scales


def quantize(matrix: np.ndarray) -> Quantized:
    """Rounds a matrix to 8 bits; the largest weight of each output is exact.

    Args:
      matrix: float32 [K, M].
    """
    scales = np.abs(matrix).max(axis=0, initial=0) / _LARGEST
    scales = np.where(scales > 0, scales, np.float32(1))
    return Quantized(np.rint(matrix / scales).astype(np.int8), scales)


def pack(matrix: np.ndarray | Quantized) -> PackedMatrix:
    """Stores a matrix as the kernels read it.

    Args:
      matrix: float32 [K, M], or rounded.
    """
    if not isinstance(matrix, Quantized):
        panels, scales = jax.device_put((_panels(matrix), np.zeros(0, np.float32)))
        return PackedMatrix(panels, scales, matrix.shape[1])
    panels, outputs = _panels(matrix.integers), len(matrix.scales)
    grouped = panels.reshape(len(panels), -1, GROUP, LANES).swapaxes(2, 3)  # [P, K / 4, 16, 4]
    scales = np.pad(matrix.scales * _UNIT, (0, -outputs % LANES))
    panels, scales = jax.device_put((grouped, scales))
    return PackedMatrix(panels, scales, outputs)


def unpack(packed: PackedMatrix, inputs: int) -> np.ndarray:
    """Returns the matrix [K, M] of `pack`, float32; of 8 bits the rounded one.

    Args:
      packed: from `pack`.
      inputs: K.
    """
    panels, rounded = np.asarray(packed.panels), bool(packed.scales.size)
    if rounded:
        panels = panels.swapaxes(2, 3).reshape(len(panels), -1, LANES)  # [P, K, 16]
    matrix = panels.swapaxes(0, 1).reshape(panels.shape[1], -1)[:inputs, : packed.outputs]
    return matrix * (np.asarray(packed.scales)[: packed.outputs] / _UNIT) if rounded else np.ascontiguousarray(matrix)


def _panels(matrix: np.ndarray) -> np.ndarray:
    """[K, M] → [P, K, 16], padded with zeros."""
    padded = np.pad(matrix, [(0, -matrix.shape[0] % GROUP), (0, -matrix.shape[1] % LANES)])
    return padded.reshape(len(padded), -1, LANES).swapaxes(0, 1)


def product(x: jax.Array, matrix: PackedMatrix) -> jax.Array:
    """Returns x [R, K] · matrix [K, M], float32 [R, M].

    Args:
      x: float32.
      matrix: from `pack`.
    """
    shape = jax.ShapeDtypeStruct((x.shape[0], matrix.outputs), jnp.float32)
    return jax.ffi.ffi_call("nash_jax_product", shape)(x, matrix.panels, matrix.scales)


def quantized_product(x: jax.Array, matrix: PackedMatrix) -> jax.Array:
    """Returns `round_rows(x)` [R, K] · matrix [K, M], float32 [R, M]: scaled sums of integers; for many rows.

    Args:
      x: float32.
      matrix: from `pack`, of 8 bits.
    """
    shape = jax.ShapeDtypeStruct((x.shape[0], matrix.outputs), jnp.float32)
    return jax.ffi.ffi_call("nash_jax_quantized_product", shape)(x, matrix.panels, matrix.scales)


def round_rows(x: jax.Array) -> jax.Array:
    """Rounds x [..., K] to 8 bits with a factor for each row: integers from -127 to 127, times the largest / 127."""
    largest = jnp.max(jnp.abs(x), axis=-1, keepdims=True)
    inverse = jnp.where(largest > 0, _LARGEST / largest, 0)
    return jnp.rint(x * inverse) * (largest / _LARGEST)


def argmax(scores: jax.Array) -> jax.Array:
    """Returns the first index of the largest of each row of scores [R, V], int32 [R]; XLA's takes as long as a layer.

    Args:
      scores: float32, numbers.
    """
    return jax.ffi.ffi_call("nash_jax_argmax", jax.ShapeDtypeStruct(scores.shape[:1], jnp.int32))(scores)
