"""Devices: the mesh, where each logical axis lives on it, and how batches are laid over it."""

import platform
from collections.abc import Mapping
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from nash_jax.errors import UserError
from nash_jax.tree import map_with_path

# last part of a logical axis' name → mesh axis; axes not named here are replicated
MESH_AXIS = {"vocab": "model", "heads": "model", "units": "model"}


def device_name() -> str:
    """The devices of the run, as reports name them: "8 × NVIDIA H100 (x86_64)"."""
    return f"{jax.device_count()} × {jax.devices()[0].device_kind} ({platform.machine()})"


def make_mesh(model_parallel: int = 1) -> Mesh:
    """A (data, model) mesh over all devices of all hosts.

    Raises:
      UserError: when the devices cannot be divided into groups of `model_parallel`.
    """
    count = jax.device_count()
    if count % model_parallel:
        raise UserError(f"model_parallel is {model_parallel}", f"a divisor of the {count} devices")
    return jax.make_mesh((count // model_parallel, model_parallel), ("data", "model"), axis_types=(AxisType.Auto,) * 2)


def param_shardings(
    mesh: Mesh, axes: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int]
) -> dict[str, NamedSharding]:
    """Parameter path → sharding, read off the table of logical axes.

    An axis whose size the mesh axis does not divide (a ragged layer) is replicated; so is a second axis of
    one parameter that wants a mesh axis already used.
    """
    shardings = {}
    for path, names in axes.items():
        placed: list[str | None] = []
        for name in names:
            mesh_axis = MESH_AXIS.get(name.rpartition(".")[2])
            fits = mesh_axis is not None and mesh_axis not in placed and sizes[name] % mesh.shape[mesh_axis] == 0
            placed.append(mesh_axis if fits else None)
        shardings[path] = NamedSharding(mesh, PartitionSpec(*placed))
    return shardings


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_params(mesh: Mesh, params: Mapping[str, Any], shardings: Mapping[str, NamedSharding]) -> dict[str, Any]:
    """Parameters on the mesh: each by its own sharding, those without one replicated."""
    return map_with_path(lambda path, leaf: place(leaf, shardings.get(path, replicated(mesh))), params)


def place(leaf: Any, sharding: NamedSharding) -> jax.Array:
    """An array that every process holds whole → a global one, of which each keeps its devices' parts."""
    leaf = np.asarray(leaf)
    return jax.make_array_from_callback(leaf.shape, sharding, lambda index: leaf[index])


def state_shardings(state: Any, mesh: Mesh, model: Mapping[str, NamedSharding]) -> Any:
    """Shardings of a whole train state: what sits at a model parameter's path, and its moments, as that
    parameter; all else replicated.

    Args:
      state: the state or its shapes.
      mesh: the mesh.
      model: parameter path → sharding.
    """

    def choose(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", "")))) for k in path]
        for start, key in enumerate(keys):
            sharding = model.get("/".join(keys[start + 1 :])) if key == "model" else None
            if sharding is not None and len(sharding.spec) == np.ndim(leaf):
                return sharding
        return replicated(mesh)

    return jax.tree_util.tree_map_with_path(choose, state)


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch that every process holds whole → global arrays split over the mesh's data axis.

    Whole, because which rows a process needs depends on the mesh: a model spread over hosts shares its rows.
    """
    sharding = NamedSharding(mesh, PartitionSpec("data"))
    return {name: place(rows, sharding) for name, rows in batch.items()}


def to_host(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as NumPy arrays on every host, gathered where they are sharded across hosts."""
    return map_with_path(lambda _, leaf: _gather(leaf), params)


def _gather(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def check_batch(mesh: Mesh, batch_size: int, name: str) -> None:
    """A batch can be split over the data axis.

    Raises:
      UserError: when it cannot.
    """
    if batch_size % mesh.shape["data"]:
        raise UserError(f"{name} is {batch_size}", f"a multiple of the {mesh.shape['data']} data-parallel devices")
