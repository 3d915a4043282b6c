"""Arrays that stay in their files until a part of them is asked for, so that no process reads a model whole."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nash_jax.tree import map_with_path

Index = tuple[slice, ...]
"""A slice for each axis."""


class StoredArray:
    """An array whose shape and type are known, and whose values are read where they are asked for.

    `np.asarray` reads it whole.

    Args:
      shape: of the array.
      read: slices, one for each axis → a new array of this part.
      dtype: of the array.
    """

    def __init__(self, shape: tuple[int, ...], read: Callable[[Index], np.ndarray], dtype: Any = np.float32) -> None:
        self.shape, self.dtype, self._read = shape, np.dtype(dtype), read

    def __getitem__(self, index: Index) -> np.ndarray:
        return self._read(index)

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> np.ndarray:
        whole = self._read((slice(None),) * len(self.shape))
        return whole if dtype is None else whole.astype(dtype, copy=False)


def change_array(leaf: Any, shape: tuple[int, ...], change: Callable[[Any], Any]) -> Any:
    """What a function makes of an array; of a stored one, whenever a part of the result is asked for.

    Args:
      leaf: an array, which the function gets as NumPy has it; one that is split over devices stays there.
      shape: of the result, whose type is that of `leaf`.
      change: the function.
    """
    if isinstance(leaf, StoredArray):
        return StoredArray(shape, lambda index: change(np.asarray(leaf))[index], leaf.dtype)
    return change(leaf if _is_split(leaf) else np.asarray(leaf))


def _is_split(leaf: Any) -> bool:
    return len(leaf.sharding.device_set) > 1 if hasattr(leaf, "sharding") else False


def read_stored(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with stored arrays read whole, and others as they are."""
    return map_with_path(lambda _, leaf: np.asarray(leaf) if isinstance(leaf, StoredArray) else leaf, params)
