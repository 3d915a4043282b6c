"""The weights of an engine as its programs take them: the parameters, and for the kernels also packed.

Letters: R decoded rows.
"""

import dataclasses
import functools
import math
import operator
import sys
import threading
import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nash_jax.axes import leaf_shapes
from nash_jax.errors import UserError
from nash_jax.generation.cache import CachedDecoder, Encoded, encode
from nash_jax.generation.kernel_encode import KernelEncoder
from nash_jax.generation.kernel_layers import Packed, as_matrix, matrix_paths
from nash_jax.generation.kernel_step import KernelDecoder, in_kernel_layout
from nash_jax.generation.mesh_weights import place_weights
from nash_jax.kernels.build import is_asked_for, kernel_problem
from nash_jax.kernels.matrices import pack, quantize, unpack
from nash_jax.runtime.memory import return_freed_memory
from nash_jax.runtime.stored import read_stored
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten

# rows up to which kernels are known to be faster than XLA: python -m nash_jax.benchmark.kernel_cost
MAX_ROWS = 128
_ALIGNED = 64  # bytes
_lock = threading.RLock()  # one thread packs what another reads; of the module, so that stores can be copied


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True)
class Weights:
    """What a program reads.

    Attributes:
      params: parameters of the module; those that the program reads packed may be missing.
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
    params = _fill(model, weights.params)
    if weights.source is None and not weights.int8:
        found = encode(model, params, *inputs)
    else:
        found = KernelEncoder(model, params, weights.source, int8=weights.int8).encode(*inputs)
    return found if weights.packed is None else in_kernel_layout(model, found)


def make_decoder(model: Any, weights: Weights, encoded: Encoded) -> CachedDecoder:
    """Returns what decodes steps.

    Args:
      model: a module of `nash_jax.models`.
      weights: of the model.
      encoded: from `encode_batch`.
    """
    params = _fill(model, weights.params)
    if weights.packed is None:
        return CachedDecoder(model, params, encoded)
    return KernelDecoder(model, params, encoded, weights.packed)


def _fill(model: Any, params: Any) -> Any:
    """Adds what is missing, which modules want to see and nothing reads: NaN, of which the compiler keeps nothing."""
    flat, shapes = flatten(params), leaf_shapes(model.spec)
    missing = {path: jnp.full(shape, jnp.nan) for path, shape in shapes.items() if path not in flat}
    return unflatten(flat | missing) if missing else params


@functools.cache
def _note(text: str) -> None:
    """Prints a note, once."""
    print(f"note: {text}", file=sys.stderr)


class WeightStore:
    """Parameters on the device, each held in one form: as the module has them, or packed for the kernels.

    What the kernels read is packed when they are first used, matrix by matrix, and its other form is freed. XLA's
    programs get that again where they need it; from then on both are kept.

    Args:
      dtype: type of the parameters; "int8": float32, where all matrices are rounded to 8 bits.
      kernels: use the kernels; None: where they are faster.
      spec: the model, with a separate LM head.
      mesh: devices that parameters are split over; None: the first device.

    Attributes:
      holds_params: `host_params` are those that `update` was given, so that nobody else needs to hold them.

    Raises:
      UserError: for int8 on another device than a CPU.
    """

    def __init__(self, dtype: Any, kernels: bool | None, spec: ModelSpec, mesh: Mesh | None = None) -> None:
        self.int8 = isinstance(dtype, str) and dtype == "int8"
        self.dtype, self._kernels = jnp.dtype("float32" if self.int8 else dtype), kernels
        self._mesh, self._spec, self._shapes = mesh, spec, leaf_shapes(spec)
        self._steps, source = matrix_paths(self._shapes)
        self._source_paths = source if self.int8 else ()
        self.clear()
        if self.int8 and jax.default_backend() != "cpu":
            raise UserError(f"dtype is int8 on {jax.default_backend()}", "a CPU", "take bfloat16")
        if (self.int8 or kernels or is_asked_for()) and kernel_problem():
            _note(f"decoding without kernels, in {self.dtype}: {kernel_problem()}")

    def clear(self) -> None:
        """Frees the memory; what is compiled stays, and is used again after `update`."""
        with _lock:
            self._given: tuple[str, ...] = ()
            self._plain: dict[str, jax.Array] = {}
            self._packed: Packed = {}
            self._source: Packed = {}
            self._made = dict[str, Weights]()  # by the name of what makes them
            self._keeps_plain, self._on_one_device = False, False  # keeps: also of what is packed
            self.holds_params = False
            self._unpacked = weakref.WeakValueDictionary[str, np.ndarray]()  # what others hold of `host_params`

    def update(self, params: Mapping[str, Any]) -> None:
        """Replaces the parameters; the LM head may be missing."""
        with _lock:
            self.clear()
            if self._mesh is not None:
                self._plain = flatten(place_weights(self._mesh, self._spec, params, self.dtype))
                return
            flat = flatten(read_stored(params))
            self._given, same = tuple(flat), all(getattr(leaf, "dtype", None) == self.dtype for leaf in flat.values())
            self._on_one_device = all(len(x.devices()) == 1 for x in flat.values() if isinstance(x, jax.Array))
            self.holds_params = same and not self.int8 and self._on_one_device and _on_cpu()
            if self.int8:
                flat = self._round(flat)
            self._plain = {path: _place(leaf, self.dtype) for path, leaf in flat.items()}

    def _round(self, flat: Mapping[str, Any]) -> dict[str, Any]:
        """Rounds all matrices to 8 bits; returns what is to be held unpacked."""
        left, packs = dict(flat), self._kernels is not False and self._has_kernels()
        for path in (*self._steps, *self._source_paths):
            rounded = quantize(as_matrix(path, np.asarray(_leaf(flat, path), np.float32)))
            if packs:
                (self._packed if path in self._steps else self._source)[path] = pack(rounded)
                left.pop(path, None)
            else:
                left[path] = rounded.values().reshape(self._shapes[path])
        return left

    @property
    def params(self) -> dict[str, Any]:
        """All parameters on the device, as the module has them; they are kept from then on."""
        self._keeps_plain = True
        return self._read(self._shapes)

    def host_params(self) -> dict[str, np.ndarray]:
        """Path → parameter, those that `update` was given, read-only. Only what is packed is copied, and not kept."""
        with _lock:
            return {
                path: np.asarray(self._plain[path]) if path in self._plain else self._unpack(path)
                for path in self._given
            }

    def _unpack(self, path: str) -> np.ndarray:
        found = self._unpacked.get(path)
        if found is None:
            packed, shape = (self._packed | self._source)[path], self._shapes[path]
            found = unpack(packed, math.prod(shape) // packed.outputs).reshape(shape)
            found.flags.writeable = False
            self._unpacked[path] = found
        return found

    def _read(self, paths: Iterable[str]) -> dict[str, Any]:
        """Returns parameters on the device, nested; makes those that are not there."""
        with _lock:
            for path in paths:
                if path not in self._plain:
                    packed = path in self._packed or path in self._source
                    leaf = self._unpack(path) if packed else _leaf(self._plain, path)
                    self._plain[path] = _place(leaf, self.dtype)
            return unflatten({path: self._plain[path] for path in sorted(paths)})

    def of_rows(self, rows: int, *, packed: bool = True) -> Weights:
        """Returns the weights of a program that decodes R rows.

        Args:
          rows: R.
          packed: the program can decode with the kernels.
        """
        if self._kernels is False or not self._has_kernels():
            make = self._of_module
        else:
            make = self._of_kernels if packed and (self._kernels or rows <= MAX_ROWS) else self._of_encoder_kernels
        name = make.__name__
        with _lock:
            if name not in self._made:
                self._made[name] = make()
            return self._made[name]

    def _of_module(self) -> Weights:
        return Weights(self.params, None, None, self.int8)

    def _of_encoder_kernels(self) -> Weights:
        self._keeps_plain = True
        return Weights(self._read(self._shapes.keys() - self._source.keys()), None, self._source, self.int8)

    def _of_kernels(self) -> Weights:
        self._pack_steps()
        plain = self._shapes.keys() - self._packed.keys() - self._source.keys()
        return Weights(self._read(plain), self._packed, self._source, self.int8)

    def _pack_steps(self) -> None:
        """Packs what decoding steps multiply by; one matrix at a time is held twice."""
        freed = False
        for path in self._steps:
            if path not in self._packed:
                self._packed[path] = pack(as_matrix(path, np.asarray(_leaf(self._plain, path), np.float32)))
            if not self._keeps_plain:
                freed = self._plain.pop(path, None) is not None or freed
        if freed:
            return_freed_memory()

    def _has_kernels(self) -> bool:
        """Whether the kernels can be called: for float32 on one CPU."""
        return self.dtype == jnp.float32 and self._on_one_device and not kernel_problem()


def share_params(params: dict[str, Any], dtype: str) -> dict[str, Any]:
    """Parameters for an engine; on a CPU it and the caller then hold the same memory.

    Args:
      params: nested; arrays that the engine reads as they are become views of what it reads, one after the other.
      dtype: of the engine.
    """
    flat = flatten(params)
    own, (steps, source) = np.dtype("float32" if dtype == "int8" else jnp.dtype(dtype)), matrix_paths(flat)
    packed, found = {*steps, *source} if dtype == "int8" else (), dict[str, Any]()
    for path, leaf in flat.items():
        found[path] = leaf
        if isinstance(leaf, np.ndarray) and leaf.dtype == own and path not in packed and _on_cpu():
            found[path] = _place(leaf, own)
            flat[path] = np.asarray(found[path])
            *parents, name = path.split("/")
            functools.reduce(operator.getitem, parents, params)[name] = flat[path]
    leaf = None  # the last one is freed too
    return_freed_memory()
    return unflatten(found)


def _place(leaf: Any, dtype: Any) -> jax.Array:
    """An array on the device, in memory that nobody else writes to.

    `jnp.asarray` would do the same with a second copy, by a program that is compiled for each shape.
    """
    if isinstance(leaf, jax.Array):
        return leaf.astype(dtype)
    given, leaf = leaf, np.asarray(leaf, dtype)
    if leaf is given and leaf.flags.writeable and leaf.ctypes.data % _ALIGNED == 0:
        leaf = leaf.copy()  # a CPU takes such memory as it is
    return jax.block_until_ready(jax.device_put(leaf))


def _on_cpu() -> bool:
    return jax.default_backend() == "cpu"


def _leaf(flat: Mapping[str, Any], path: str) -> Any:
    """A parameter; the LM head of a tied model is the transposed table of the decoder, a view."""
    if path == "lm_head" and path not in flat:
        table = "shared/embedding" if "shared/embedding" in flat else "decoder/embedding"
        return np.asarray(flat[table]).T
    return flat[path]
