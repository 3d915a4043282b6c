"""Orbax storage of one tree of arrays: the parameters of exports and of finished stages."""

import math
import operator
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nash_jax.errors import UserError
from nash_jax.runtime.files import check_local, read_json
from nash_jax.runtime.quiet import import_orbax
from nash_jax.runtime.stored import Index, StoredArray
from nash_jax.tree import check_shapes, flatten, unflatten


def save_tree(folder: str | os.PathLike[str], tree: Any) -> None:
    """Writes one tree of arrays to a new folder, atomically. All processes of a run must call it.

    Of an array that is spread over devices each process writes its parts.
    """
    check_local(folder)
    ocp = import_orbax()
    saving = ocp.options.ArrayOptions.Saving(
        use_compression=False,  # trained weights hardly shrink, and load slower
        storage_options=ocp.options.ArrayOptions.Saving.StorageOptions(chunk_byte_size=_CHUNK),
    )
    with ocp.Context(
        array_options=ocp.options.ArrayOptions(saving=saving),
        memory_options=ocp.options.MemoryOptions(deepcopy_host_arrays=False),  # nothing changes them meanwhile
    ):
        ocp.save(os.path.abspath(folder), jax.tree.map(lambda x: x if _is_spread(x) else np.asarray(x), tree))


def _is_spread(leaf: Any) -> bool:
    return isinstance(leaf, jax.Array) and len(leaf.sharding.device_set) > 1


def load_tree(
    folder: str | os.PathLike[str], shapes: Mapping[str, tuple[int, ...]] | None = None, *, lazy: bool = False
) -> Any:
    """Reads a tree written by `save_tree` as NumPy arrays, independent of the saved shardings.

    All processes of a run must call it: Orbax counts its operations and waits for the same one in other processes.

    Args:
      folder: where it was saved.
      shapes: path → shape of the arrays that must be there; None: any.
      lazy: leave the values in the files; the arrays are `StoredArray`, which a process reads by itself.

    Raises:
      UserError: if there is no tree, it is broken, has other arrays, or claims much more than its files hold; before
        anything of a claimed size is made.
    """
    check_local(folder)
    ocp, path = import_orbax(), Path(folder)
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}", "a folder that nash_jax wrote")
    _check_files(path, None if shapes is None else sum(map(math.prod, shapes.values())))
    try:
        metadata = ocp.metadata(os.path.abspath(path)).metadata
        if shapes is not None:
            check_shapes(metadata, shapes, str(path.parent))
        _check_claims(path, jax.tree.leaves(metadata))
        if lazy:
            return unflatten(_stored(path, flatten(metadata)))
        found = dict[str, Any]()
        with ocp.Context(
            pytree_options=ocp.options.PyTreeOptions(loading=ocp.options.PyTreeOptions.Loading(partial_load=True))
        ):
            for part in _parts(flatten(metadata)):
                found |= flatten(ocp.load(os.path.abspath(path), unflatten(part)))
        return unflatten(found)
    except UserError:
        raise
    except Exception as error:  # the library raises many types for files that it did not write
        raise _unreadable(path, error) from error


def _unreadable(path: Path, error: Exception) -> UserError:
    reason = (str(error).splitlines() or [type(error).__name__])[0][:200]
    return UserError(f"the checkpoint at {path} cannot be read: {reason}")


def _stored(path: Path, leaves: Mapping[str, Any]) -> dict[str, StoredArray]:
    """Arrays that are read by TensorStore, on which Orbax is built and which waits for no other process."""
    import tensorstore as ts

    (store,) = (file.parent for file in path.glob("*/manifest.ocdbt"))
    driver = "zarr3" if read_json(store / "_METADATA").get("use_zarr3") else "zarr"
    # what is stored in one piece is kept while the parts of it are read that devices need
    largest = max((_bytes_of(leaf.storage_metadata.chunk_shape, leaf) for leaf in leaves.values()), default=0)
    context = ts.Context({"cache_pool": {"total_bytes_limit": max(largest, _CHUNK)}})

    def reader(name: str) -> Callable[[Index], np.ndarray]:
        base = {"driver": "ocdbt", "base": store.absolute().as_uri(), "path": name.replace("/", ".")}

        def read(index: Index) -> np.ndarray:
            try:
                opened = ts.open({"driver": driver, "kvstore": base}, open=True, context=context).result()
                return np.asarray(opened[index].read().result())
            except ValueError as error:  # of TensorStore, whatever is wrong
                raise _unreadable(path, error) from error

        return read

    return {name: StoredArray(tuple(leaf.shape), reader(name), leaf.dtype) for name, leaf in leaves.items()}


def _bytes_of(shape: Sequence[int], leaf: Any) -> int:
    return math.prod(shape) * leaf.dtype.itemsize


_CHUNK = 1 << 25  # bytes of an array that are stored, and so read, in one piece
_READ_AT_ONCE = 1 << 27  # bytes of arrays: Orbax reads all of a call at once, and holds each twice meanwhile


def _parts(leaves: Mapping[str, Any]) -> Iterator[dict[str, np.ndarray]]:
    """Path → array to fill, in parts of `_READ_AT_ONCE` bytes or of one larger array."""
    part, size = dict[str, np.ndarray](), 0
    for path, leaf in leaves.items():
        part[path] = np.empty(leaf.shape, leaf.dtype)  # memory that is not written yet takes none
        size += part[path].nbytes
        if size >= _READ_AT_ONCE:
            yield part
            part, size = {}, 0
    if part:
        yield part


_SMALL, _DENSEST = 256 << 20, 200  # bytes; how much a compressed byte may hold: of trained weights about 1.1


def _check_files(path: Path, num_values: int | None) -> None:
    """Refuses files that are too large for what they are: the library reads lists of contents whole."""
    sizes = {file: file.stat().st_size for file in path.rglob("*") if file.is_file()}
    for file, size in sizes.items():
        if size > _SMALL and file.parent.name != "d":
            raise UserError(f"{file} has {size:,} bytes", "a list of what the checkpoint holds")
    if num_values is not None and sum(sizes.values()) > _SMALL + 16 * num_values:
        raise UserError(f"{path} has {sum(sizes.values()):,} bytes", f"about {4 * num_values:,}, as its spec says")


def _check_claims(path: Path, leaves: Sequence[Any]) -> None:
    """Refuses arrays that are much larger than what is stored, or are stored in pieces larger than themselves."""
    for leaf in leaves:
        chunk = leaf.storage_metadata.chunk_shape if leaf.storage_metadata else leaf.shape
        if not jax.dtypes.issubdtype(leaf.dtype, np.floating) or any(
            map(operator.gt, chunk, np.maximum(leaf.shape, 1))
        ):
            raise UserError(f"{path} holds {leaf.dtype} values in pieces of {chunk}", "arrays as nash_jax writes them")
    claimed = sum(math.prod(leaf.shape) * leaf.dtype.itemsize for leaf in leaves)
    stored = sum(file.stat().st_size for file in path.rglob("*") if file.is_file())
    if claimed > max(_SMALL, _DENSEST * stored):
        raise UserError(f"{path} claims {claimed:,} bytes of weights, and its files have {stored:,}", "a whole export")
