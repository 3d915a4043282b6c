"""Weights and inputs of generation on a mesh of devices."""

import functools
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh, NamedSharding

from nash_jax.generation.inputs import PaddedInputs
from nash_jax.generation.program_args import TracedArgs
from nash_jax.models.placement import model_shardings
from nash_jax.runtime.sharding import place, replicated, rows_sharding
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten

BY_ROW = ("prompt", "source", "row_ids")  # fields of `TracedArgs`


def weight_shardings(mesh: Mesh, spec: ModelSpec) -> dict[str, Any]:
    """Shardings of a model's parameters, nested.

    Args:
      mesh: the devices.
      spec: the model.
    """
    return unflatten(model_shardings(mesh, spec))


def place_weights(mesh: Mesh, spec: ModelSpec, params: Mapping[str, Any], dtype: Any) -> dict[str, Any]:
    """Parameters in the compute dtype, each split over the mesh as in training, and a separate LM head.

    Args:
      mesh: the devices.
      spec: the model, with a separate LM head.
      params: its parameters, of which the LM head may be missing: arrays of the host, or split over the mesh.
      dtype: compute dtype.
    """
    shardings, dtype = model_shardings(mesh, spec), jnp.dtype(dtype)
    placed = {
        path: leaf if _is_on(leaf, mesh) else place(leaf, shardings[path], dtype)
        for path, leaf in flatten(params).items()
    }
    for path, leaf in placed.items():
        if leaf.dtype != dtype:
            placed[path] = _convert(dtype, shardings[path])(leaf)
    if "lm_head" not in placed:
        table = placed["shared/embedding" if "shared/embedding" in placed else "decoder/embedding"]
        placed["lm_head"] = _turn(shardings["lm_head"])(table)
    return unflatten(placed)


@functools.lru_cache(maxsize=32)
def _convert(dtype: Any, sharding: NamedSharding) -> Any:
    return jax.jit(lambda leaf: leaf.astype(dtype), out_shardings=sharding)


@functools.lru_cache(maxsize=8)
def _turn(sharding: NamedSharding) -> Any:
    return jax.jit(lambda table: table.T, out_shardings=sharding)


def _is_on(leaf: Any, mesh: Mesh) -> bool:
    return isinstance(leaf, jax.Array) and isinstance(leaf.sharding, NamedSharding) and leaf.sharding.mesh == mesh


def place_inputs(mesh: Mesh, inputs: PaddedInputs, traced: TracedArgs) -> tuple[jax.Array, jax.Array, TracedArgs]:
    """Ids, mask and other arguments of a generation on the mesh, rows split as far as they can be divided.

    Args:
      mesh: the devices.
      inputs: of all rows; every process has them.
      traced: the same.
    """
    rows, whole = rows_sharding(mesh, len(inputs.input_ids)), replicated(mesh)
    ids, mask = (place(x, rows) for x in (inputs.input_ids, inputs.attention_mask))

    def put(name: str, value: Any) -> Any:
        sharding = rows if name in BY_ROW else whole
        return jax.tree.map(lambda x: _put(x, sharding), value)

    placed = {name: put(name, value) for name, value in traced._asdict().items()}
    return ids, mask, TracedArgs(**placed)


def _put(leaf: Any, sharding: NamedSharding) -> jax.Array:
    is_key = isinstance(leaf, jax.Array) and jnp.issubdtype(leaf.dtype, jax.dtypes.prng_key)
    return jax.device_put(leaf, sharding) if is_key else place(np.asarray(leaf), sharding)
