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


def read_stored(params: Mapping[str, Any]) -> dict[str, Any]:
    """The tree with stored arrays read whole, and others as they are."""
    return map_with_path(lambda _, leaf: np.asarray(leaf) if isinstance(leaf, StoredArray) else leaf, params)
