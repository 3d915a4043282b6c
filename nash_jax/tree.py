"""Parameter trees addressed by path: `encoder/layers_3/ffn/wo`."""

import hashlib
import re
from collections.abc import Callable, Iterable, Mapping
from typing import Any

import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from nash_jax.errors import UserError, did_you_mean


def flatten(tree: Mapping[str, Any]) -> dict[str, Any]:
    """Converts nested dicts to {path: leaf}, sorted by path."""
    flat = flatten_dict(tree, sep="/")
    return {path: flat[path] for path in sorted(flat)}


def unflatten(flat: Mapping[str, Any]) -> dict[str, Any]:
    """Converts {path: leaf} to nested dicts."""
    return unflatten_dict(dict(flat), sep="/")


def map_with_path(fn: Callable[[str, Any], Any], tree: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the tree of `fn(path, leaf)`."""
    return unflatten({path: fn(path, leaf) for path, leaf in flatten(tree).items()})


def match_paths(paths: Iterable[str], patterns: Iterable[str]) -> list[str]:
    """Returns the paths that are fully matched by a regular expression.

    Raises:
      UserError: if a pattern matches no path; names the most similar path.
    """
    paths, found = list(paths), set()
    for pattern in patterns:
        hits = [p for p in paths if re.fullmatch(pattern, p)]
        if not hits:
            raise UserError(f"no parameter matches {pattern!r}{did_you_mean(pattern, paths)}")
        found.update(hits)
    return [p for p in paths if p in found]


def check_shapes(params: Mapping[str, Any], expected: Mapping[str, tuple[int, ...]], source: str) -> None:
    """Checks that exactly the expected parameters exist, with the expected shapes.

    Raises:
      UserError: naming the parameters that are missing, left over, or of another shape.
    """
    found = {path: tuple(np.shape(leaf)) for path, leaf in flatten(params).items()}
    problems = [f"missing {path} {shape}" for path, shape in expected.items() if path not in found]
    problems += [f"left over {p} {s}{did_you_mean(p, expected)}" for p, s in found.items() if p not in expected]
    problems += [
        f"{path} has shape {found[path]}, expected {shape}"
        for path, shape in expected.items()
        if path in found and found[path] != shape
    ]
    if problems:
        more = f" and {len(problems) - 4} more" if len(problems) > 4 else ""
        raise UserError(f"{source} does not fit the model: {'; '.join(problems[:4])}{more}")


def count_params(params: Mapping[str, Any]) -> int:
    """Returns the number of parameters."""
    return sum(int(np.prod(np.shape(leaf))) for leaf in flatten(params).values())


def params_digest(params: Mapping[str, Any]) -> str:
    """Returns a hash of the parameters' paths, shapes, dtypes and values, 16 hexadecimal digits."""
    found = hashlib.sha256()
    for path, leaf in flatten(params).items():
        found.update(f"{path} {leaf.shape} {leaf.dtype}\n".encode())
        found.update(np.ascontiguousarray(leaf).reshape(-1).view(np.uint8).data)
    return found.hexdigest()[:16]


def parameter_table(params: Mapping[str, Any]) -> str:
    """Returns a table with path, shape and dtype of each parameter, and the total number."""
    flat = flatten(params)
    width = max(map(len, flat), default=0)
    lines = [f"{path:{width}}  {tuple(leaf.shape)!s:24} {leaf.dtype}" for path, leaf in flat.items()]
    return "\n".join([*lines, f"{'total':{width}}  {count_params(params):,}"])
