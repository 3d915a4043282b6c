"""Reads `flax_model.msgpack`, the weights of the Flax classes of transformers 4.

They have the names of PyTorch's, but for the last part: `kernel` ([in, out]), `embedding`, and `scale` in layer norms
(`weight` in T5's RMS norms). The format holds arrays and numbers only; reading it runs no code.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.errors import UserError
from nash_jax.tree import flatten

_LEAVES = {"kernel": "weight", "embedding": "weight", "scale": "weight"}


def read_flax(file: Path) -> Iterator[tuple[str, np.ndarray]]:
    """Yields the weights of a file with their names and shapes in PyTorch, in the type that they are stored in.

    Args:
      file: a whole checkpoint, or a shard.

    Raises:
      UserError: for a file that is broken, or contains anything but arrays.
    """
    for path, leaf in _restore(file).items():
        *parts, last = path.removeprefix("params/").split("/")
        if not isinstance(leaf, np.ndarray):
            raise UserError(f"{file}: {path} is a {type(leaf).__name__}", "an array, as Flax saves parameters")
        yield ".".join([*parts, _LEAVES.get(last, last)]), np.ascontiguousarray(leaf.T if last == "kernel" else leaf)


def _restore(file: Path) -> dict[str, Any]:
    """Returns path → content; the keys of a shard are whole paths, `a/b/kernel`."""
    from flax.serialization import msgpack_restore

    try:
        return flatten(msgpack_restore(file.read_bytes()))
    except Exception as error:  # of msgpack, Flax and NumPy: many types
        raise UserError(
            f"{file} cannot be read: {error}", "parameters as Flax saves them", "download it again"
        ) from error
