"""Where arrays live on a mesh: parameters by the table of their logical axes, and the state of training with them."""

import platform
from collections.abc import Mapping, Sequence
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from nash_jax.errors import UserError
from nash_jax.runtime.mesh import ROW_AXES, mesh_text, row_axes
from nash_jax.runtime.stored import StoredArray
from nash_jax.tree import map_with_path

# last part of a logical axis' name → mesh axis; the largest of the other axes goes to `fsdp`
MESH_AXIS = {"vocab": "model", "encoder_vocab": "model", "heads": "model", "units": "model"}
_NAMED = 3  # parameters kept whole that are named in a line; the others are counted


def device_name() -> str:
    """The devices of the run, as reports name them: "8 × NVIDIA H100 (x86_64)"."""
    return f"{jax.device_count()} × {jax.devices()[0].device_kind} ({platform.machine()})"


def param_shardings(
    mesh: Mesh, axes: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int]
) -> dict[str, NamedSharding]:
    """Parameter path → sharding, read off the table of logical axes.

    Heads, units and vocabulary are split over `model`, and the largest axis that is left over `fsdp`. An axis that a
    mesh axis does not divide (a ragged layer) is not split, and of two axes of a parameter for one mesh axis the first.

    Args:
      mesh: the mesh.
      axes: parameter path → names of its axes.
      sizes: name → size.
    """
    shardings = {}
    for path, names in axes.items():
        placed: list[str | None] = []
        for name in names:
            mesh_axis = MESH_AXIS.get(name.rpartition(".")[2])
            fits = mesh_axis is not None and mesh_axis not in placed and sizes[name] % mesh.shape[mesh_axis] == 0
            placed.append(mesh_axis if fits and mesh.shape["model"] > 1 else None)
        shardings[path] = NamedSharding(mesh, _over_fsdp(mesh, [sizes[name] for name in names], placed))
    return shardings


def _over_fsdp(mesh: Mesh, shape: list[int] | tuple[int, ...], placed: list[str | None]) -> PartitionSpec:
    """The axes as placed, and `fsdp` at the largest of the others that it divides."""
    count, placed = mesh.shape["fsdp"], list(placed)
    free = [i for i, axis in enumerate(placed) if axis is None and shape[i] % count == 0 and shape[i]]
    if count > 1 and free:
        placed[max(free, key=lambda i: shape[i])] = "fsdp"
    return PartitionSpec(*placed)


def replicated(mesh: Mesh) -> NamedSharding:
    """The same values on every device."""
    return NamedSharding(mesh, PartitionSpec())


def place_params(
    mesh: Mesh, params: Mapping[str, Any], shardings: Mapping[str, NamedSharding], dtype: Any = None
) -> dict[str, Any]:
    """Parameters on the mesh: each by its own sharding, those without one replicated; `dtype` as of `place`."""
    return map_with_path(lambda path, leaf: place(leaf, shardings.get(path, replicated(mesh)), dtype), params)


def place(leaf: Any, sharding: NamedSharding, dtype: Any = None) -> jax.Array:
    """An array that every process holds whole, or can read → a global one, of which each keeps its devices' parts.

    Args:
      leaf: the array, which may be placed so already. Of a `StoredArray` only these parts are read, and they are on
        the devices before it returns.
      sharding: of the result.
      dtype: of the result; None: that of `leaf`.
    """
    if isinstance(leaf, jax.Array) and leaf.sharding == sharding and leaf.dtype == (dtype or leaf.dtype):
        return leaf
    stored = isinstance(leaf, StoredArray)
    array = leaf if stored else np.asarray(leaf)
    placed = jax.make_array_from_callback(
        array.shape, sharding, lambda index: array[index].astype(dtype or array.dtype, copy=False)
    )
    return placed.block_until_ready() if stored else placed


def state_shardings(state: Any, mesh: Mesh, model: Mapping[str, NamedSharding]) -> Any:
    """Shardings of a whole train state.

    What sits at a model parameter's path, and its moments, are split as that parameter; all else, such as gates, over
    `fsdp`.

    Args:
      state: the state or its shapes.
      mesh: the mesh.
      model: parameter path → sharding.
    """

    def choose(path: tuple[Any, ...], leaf: Any) -> NamedSharding:
        keys = [str(getattr(k, "key", getattr(k, "name", getattr(k, "idx", "")))) for k in path]
        for start, key in enumerate(keys):
            sharding = model.get("/".join(keys[start + 1 :])) if key == "model" else None
            if sharding is not None and _fits(sharding, np.shape(leaf)):
                return sharding
        if "rng" in keys:
            return replicated(mesh)
        shape = np.shape(leaf)
        return NamedSharding(mesh, _over_fsdp(mesh, shape, [None] * len(shape)))

    return jax.tree_util.tree_map_with_path(choose, state)


def _fits(sharding: NamedSharding, shape: tuple[int, ...]) -> bool:
    """Whether an array of this shape can be split so: an optimizer keeps less than a parameter's shape of some."""
    spec, mesh = sharding.spec, sharding.mesh
    return len(spec) == len(shape) and all(
        axis is None or size % mesh.shape[axis] == 0 for axis, size in zip(spec, shape, strict=True)
    )


def describe_split(shapes: Any, shardings: Any, mesh: Mesh) -> str:
    """Returns a line: bytes a device, of how many, and which parameters each device holds whole.

    Args:
      shapes: a train state, or its shapes.
      shardings: of each.
      mesh: the mesh.
    """
    leaves, whole = jax.tree_util.tree_leaves_with_path(shapes), list[tuple[int, str]]()
    total = mine = 0
    for (path, leaf), sharding in zip(leaves, jax.tree.leaves(shardings), strict=True):
        size, part = (
            int(np.prod(shape)) * leaf.dtype.itemsize for shape in (leaf.shape, sharding.shard_shape(leaf.shape))
        )
        total, mine = total + size, mine + part
        keys = [str(getattr(key, "key", "")) for key in path]
        if keys[0] == "params" and size == part and leaf.ndim:  # the moments of a parameter are split as it is
            whole.append((size, "/".join(keys[1:])))
    text = f"{mesh_text(mesh)}: {mine:,} bytes a device of {total:,}"
    if not splits_params(mesh):
        return text
    largest = sorted(whole, key=lambda item: -item[0])
    names = [name for _, name in largest[:_NAMED]] + [f"{len(largest) - _NAMED} more"] * (len(largest) > _NAMED)
    return f"{text}; whole on each: {', '.join(names)}" if names else f"{text}; all is split"


def place_batch(mesh: Mesh, batch: Mapping[str, np.ndarray]) -> dict[str, jax.Array]:
    """A batch that every process holds whole → global arrays whose rows are split over the mesh.

    Whole, because which rows a process needs depends on the mesh: a model spread over hosts shares its rows.
    """
    return {name: place(rows, rows_sharding(mesh, len(rows))) for name, rows in batch.items()}


def place_batches(mesh: Mesh | None, batches: Sequence[Mapping[str, np.ndarray]]) -> list[Any]:
    """Batches as `place_batch` places them; without a mesh whole, on the first device."""
    return jax.device_put(list(batches)) if mesh is None else [place_batch(mesh, batch) for batch in batches]


def rows_sharding(mesh: Mesh, rows: int) -> NamedSharding:
    """Sharding of an array by rows, split as far as they can be divided.

    Args:
      mesh: the mesh.
      rows: how many there are.
    """
    return NamedSharding(mesh, PartitionSpec(row_axes(mesh, rows)))


def splits_params(mesh: Mesh) -> bool:
    """Whether devices hold parts of parameters, and not all of them whole."""
    return mesh.size > mesh.shape["data"]


def to_host(params: Mapping[str, Any]) -> dict[str, Any]:
    """Parameters as NumPy arrays on every host, gathered where they are sharded across hosts, or read."""
    return map_with_path(lambda _, leaf: _gather(leaf), params)


def _gather(leaf: Any) -> np.ndarray:
    if not isinstance(leaf, jax.Array) or leaf.is_fully_addressable or leaf.is_fully_replicated:
        return np.asarray(leaf)
    return np.asarray(multihost_utils.process_allgather(leaf, tiled=True))


def check_batch(mesh: Mesh, batch_size: int, name: str) -> None:
    """A batch can be split over the axes `data` and `fsdp`.

    Raises:
      UserError: when it cannot.
    """
    count = int(np.prod([mesh.shape[axis] for axis in ROW_AXES]))
    if batch_size % count:
        raise UserError(f"{name} is {batch_size}", f"a multiple of the {count} data-parallel devices")
