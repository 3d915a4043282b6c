"""A single tree of arrays on disk, as exports and the stages' models keep their parameters."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np

from nash_jax.errors import UserError


def save_tree(folder: str | os.PathLike[str], tree: Any) -> None:
    """Writes one tree of arrays; the folder appears whole or not at all. Processes of one run all call it."""
    from orbax.checkpoint import v1 as ocp  # here and below, for it takes half a second to import

    ocp.save(os.path.abspath(folder), jax.tree.map(np.asarray, tree), overwrite=True)


def load_tree(folder: str | os.PathLike[str]) -> Any:
    """Reads a tree written by `save_tree`, as NumPy arrays (saved shardings do not matter).

    Processes of one run all call it: Orbax counts its operations and waits for the same one elsewhere.

    Raises:
      UserError: when there is none, or it is broken.
    """
    from orbax.checkpoint import v1 as ocp

    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}", "a folder that nash_jax wrote")
    try:
        metadata = ocp.metadata(os.path.abspath(path)).metadata
        abstract = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), metadata)
        return ocp.load(os.path.abspath(path), abstract)
    except (ValueError, KeyError, OSError, ocp.errors.InvalidLayoutError) as error:
        raise UserError(f"the checkpoint at {path} cannot be read: {str(error).splitlines()[0][:200]}") from error
