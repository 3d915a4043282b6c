"""The mesh of devices by its axes' names, and what is split over which of them.

`data` has copies of the model, each with rows of its own. `fsdp` splits the rows too, and with them what the model
keeps: parameters are gathered where they are used. `model` splits the model's heads, units and vocabulary.
"""

import contextlib
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any

import jax
import numpy as np
from jax.sharding import AxisType, Mesh, PartitionSpec

from nash_jax.errors import UserError, did_you_mean

AXES = ("data", "fsdp", "model")
ROW_AXES = ("data", "fsdp")  # a batch is split over both
_REST = -1
_EXPECTED = f"sizes by axis, as in data:4,fsdp:8,model:2, of {', '.join(AXES)}; data:-1 takes the devices that are left"


def parse_mesh(text: str) -> dict[str, int]:
    """Returns axis → size, all of `AXES`; -1 for the one that takes the devices that are left.

    An axis without a size, as in `fsdp`, takes them, and otherwise `data`, if it is not named. Other axes that are not
    named have size 1. So an empty text puts all devices on `data`.

    Args:
      text: `config.mesh`, as in `data:4,fsdp:8,model:2`.

    Raises:
      UserError: for other axes or sizes, an axis named twice, or two that take what is left.
    """
    sizes: dict[str, int] = {}
    for part in filter(None, (part.strip() for part in text.split(","))):
        name, colon, size = (field.strip() for field in part.partition(":"))
        if name not in AXES:
            raise UserError(f"config.mesh names {name!r}{did_you_mean(name, AXES)}", _EXPECTED)
        if name in sizes:
            raise UserError(f"config.mesh names {name} twice", _EXPECTED)
        sizes[name] = _read_size(size, part) if colon else _REST
    if _REST not in sizes.values():
        sizes.setdefault("data", _REST)
    if list(sizes.values()).count(_REST) > 1:
        raise UserError(f"config.mesh is {text!r}: two axes take the devices that are left", _EXPECTED)
    return {name: sizes.get(name, 1) for name in AXES}


def _read_size(text: str, part: str) -> int:
    if text == str(_REST):
        return _REST
    if not text.isdecimal() or int(text) == 0:
        raise UserError(f"config.mesh has {part!r}", _EXPECTED)
    return int(text)


def mesh_shape(text: str, count: int) -> dict[str, int]:
    """Returns axis → size on so many devices.

    Args:
      text: as of `parse_mesh`.
      count: of devices.

    Raises:
      UserError: as `parse_mesh`, and for sizes that do not use exactly these devices.
    """
    sizes = parse_mesh(text)
    named = int(np.prod([size for size in sizes.values() if size != _REST]))
    if count % named or (named != count and _REST not in sizes.values()):
        raise UserError(
            f"config.mesh is {text!r}, {named} devices",
            f"sizes whose product is the {count} that there are, or divides it where one takes what is left",
        )
    return {name: count // named if size == _REST else size for name, size in sizes.items()}


def make_mesh(text: str = "", devices: Sequence[jax.Device] | None = None) -> Mesh:
    """A mesh with all of `AXES`.

    Args:
      text: `config.mesh`.
      devices: of the mesh; None: all, of all hosts.

    Raises:
      UserError: as `mesh_shape`.
    """
    shape = mesh_shape(text, jax.device_count() if devices is None else len(devices))
    return jax.make_mesh(tuple(shape.values()), AXES, axis_types=(AxisType.Auto,) * len(AXES), devices=devices)


def local_mesh(mesh: Mesh) -> Mesh:
    """Returns a mesh over the devices of this process, for what processes do apart from each other.

    Args:
      mesh: of all processes. If it splits parameters, so does this one.
    """
    if jax.process_count() == 1:
        return mesh
    return make_mesh("data" if mesh.size == mesh.shape["data"] else "fsdp", jax.local_devices())


def mesh_text(mesh: Mesh) -> str:
    """Returns the mesh as `config.mesh` has it, without axes of size 1.

    Args:
      mesh: from `make_mesh`.
    """
    return ",".join(f"{name}:{size}" for name, size in mesh.shape.items() if size > 1) or "data:1"


def row_axes(mesh: Mesh | jax.sharding.AbstractMesh, rows: int) -> tuple[str, ...]:
    """Returns the axes that rows are split over: those of `ROW_AXES`, as far as their sizes divide the rows.

    Args:
      mesh: from `make_mesh`.
      rows: how many there are.
    """
    chosen: list[str] = []
    for name in ROW_AXES:
        if rows % int(np.prod([mesh.shape[axis] for axis in (*chosen, name)])):
            break
        chosen.append(name)
    return tuple(chosen)


def use_mesh(mesh: Mesh | None) -> AbstractContextManager[Any]:
    """What is traced within is for this mesh.

    Args:
      mesh: None: one device.
    """
    return contextlib.nullcontext() if mesh is None or mesh.size == 1 else jax.set_mesh(mesh)


def split_rows(x: jax.Array) -> jax.Array:
    """Keeps the rows of an activation [B, ..., D] split over devices, and its other axes whole.

    Without this the compiler may split activations as their parameters are, along D, and gather the rows instead. It
    changes no number, and does nothing outside of `use_mesh`.

    Args:
      x: the activation.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not _is_ours(mesh):
        return x
    return jax.lax.with_sharding_constraint(x, PartitionSpec(row_axes(mesh, x.shape[0])))


def split_heads(x: jax.Array) -> jax.Array:
    """As `split_rows`, for keys and values [B, N, T, H], whose heads are split as far as they can be divided.

    Args:
      x: keys or values.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not _is_ours(mesh):
        return x
    heads = "model" if x.shape[1] % mesh.shape["model"] == 0 else None
    return jax.lax.with_sharding_constraint(x, PartitionSpec(row_axes(mesh, x.shape[0]), heads))


def map_rows(function: Callable[[jax.Array], Any], x: jax.Array) -> Any:
    """Applies a function of rows to the rows of each device by themselves, where the compiler would gather them first.

    Args:
      function: arrays [B, ...] → arrays [B, ...], each row from that row alone.
      x: the rows.
    """
    mesh = jax.sharding.get_abstract_mesh()
    axes = row_axes(mesh, x.shape[0]) if _is_ours(mesh) else ()
    if not axes:
        return function(x)
    rows = PartitionSpec(axes)
    return jax.shard_map(function, in_specs=rows, out_specs=rows, axis_names=set(axes))(x)


def gather_table(table: jax.Array) -> jax.Array:
    """Makes each device's part of an embedding table [V, D] whole but for `model`, before rows are looked up in it.

    The rows that are looked up are split over `fsdp` by the batch, not by their place in the table.

    Args:
      table: the table.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if not _is_ours(mesh):
        return table
    vocab = "model" if table.shape[0] % mesh.shape["model"] == 0 else None
    return jax.lax.with_sharding_constraint(table, PartitionSpec(vocab, None))


def splits_model() -> bool:
    """Whether `jax.set_mesh` has a mesh that splits heads and units."""
    mesh = jax.sharding.get_abstract_mesh()
    return _is_ours(mesh) and mesh.shape["model"] > 1


def splits_parameters() -> bool:
    """Whether `jax.set_mesh` has a mesh that splits any parameters."""
    mesh = jax.sharding.get_abstract_mesh()
    return _is_ours(mesh) and mesh.size > mesh.shape["data"]


def _is_ours(mesh: jax.sharding.AbstractMesh) -> bool:
    return mesh is not None and mesh.axis_names == AXES and mesh.size > 1
