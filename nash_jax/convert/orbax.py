"""Orbax storage of one tree of arrays: the parameters of exports and of finished stages."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nash_jax.errors import UserError
from nash_jax.runtime.quiet import import_orbax


def save_tree(folder: str | os.PathLike[str], tree: Any) -> None:
    """Writes one tree of arrays to a new folder, atomically. All processes of a run must call it."""
    ocp = import_orbax()
    ocp.save(os.path.abspath(folder), jax.tree.map(np.asarray, tree))


def load_tree(folder: str | os.PathLike[str]) -> Any:
    """Reads a tree written by `save_tree` as NumPy arrays, independent of the saved shardings.

    All processes of a run must call it: Orbax counts its operations and waits for the same one in other processes.

    Raises:
      UserError: if there is no tree, or it is broken.
    """
    ocp, path = import_orbax(), Path(folder)
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}", "a folder that nash_jax wrote")
    try:
        metadata = ocp.metadata(os.path.abspath(path)).metadata
        abstract = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), metadata)
        return ocp.load(os.path.abspath(path), abstract)
    except (ValueError, KeyError, OSError, ocp.errors.InvalidLayoutError) as error:
        raise UserError(f"the checkpoint at {path} cannot be read: {str(error).splitlines()[0][:200]}") from error
