"""From a masked dense model to a narrower one with the same function: fold, then slice. Host side."""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nash_jax.pruning.lagrangian import prunable_size, size_terms
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten

Table = Callable[[ModelSpec], dict[str, tuple[str, ...]]]


def kept_positions(spec: ModelSpec, masks: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Axis name → increasing positions whose mask is not 0.

    Args:
      spec: the masked model's spec.
      masks: values by axis name ([size]) or sub-layer name (scalar). A closed sub-layer keeps nothing.
    """
    keep = {axis: np.flatnonzero(np.asarray(masks[axis])) for axis in spec.axis_sizes() if axis in masks}
    for sublayer, (axis, _) in spec.sublayers().items():
        if sublayer in masks and float(np.asarray(masks[sublayer])) == 0:
            keep[axis] = np.zeros(0, int)
    return keep


def fold(
    params: Mapping[str, Any],
    masks: Mapping[str, Any],
    axes: Mapping[str, tuple[str, ...]],
    sites: Mapping[str, tuple[str, ...]],
) -> dict[str, np.ndarray]:
    """Flat parameters with the mask values multiplied into the places where the masks act.

    Args:
      params: parameters of the masked model.
      masks: mask values by name.
      axes: parameter path → axis names.
      sites: parameter path → masks that fold there.
    """
    flat = {path: np.asarray(leaf) for path, leaf in flatten(params).items()}
    for path, names in sites.items():
        for name in names:
            if name not in masks:
                continue
            value = np.asarray(masks[name], flat[path].dtype)
            if name in axes[path]:
                shape = [1] * flat[path].ndim
                shape[axes[path].index(name)] = -1
                value = value.reshape(shape)
            flat[path] = flat[path] * value
    return flat


def compact(
    spec: ModelSpec, params: Mapping[str, Any], masks: Mapping[str, Any], *, param_axes: Table, mask_sites: Table
) -> tuple[ModelSpec, dict[str, Any]]:
    """The dense model that equals `params` under `masks`.

    Args:
      spec: spec of the masked model.
      params: its parameters.
      masks: final masks, soft values included; what has no mask is kept as it is.
      param_axes: the family's table of axes.
      mask_sites: the family's table of places where masks fold.

    Returns:
      The narrower spec and its parameters, NumPy arrays of the same dtypes.
    """
    axes = param_axes(spec)
    keep = kept_positions(spec, masks)
    flat = fold(params, masks, axes, mask_sites(spec))
    narrow = spec.narrow({axis: positions.tolist() for axis, positions in keep.items()})
    new = {}
    for path in param_axes(narrow):
        leaf = flat[path]
        for dim, axis in enumerate(axes[path]):
            if axis in keep and len(keep[axis]) < leaf.shape[dim]:
                leaf = np.take(leaf, keep[axis], axis=dim)
        new[path] = np.ascontiguousarray(leaf)
    return narrow, unflatten(new)


def removed_share(dense: ModelSpec, pruned: ModelSpec, side: str, param_axes: Table) -> float:
    """Share of a side's attention and FFN parameters that `pruned` no longer has, counted.

    Args:
      dense: the model before.
      pruned: the model after.
      side: `encoder` or `decoder`.
      param_axes: the family's table of axes.
    """
    before, after = (
        prunable_size(size_terms(param_axes(spec), spec.axis_sizes(), side), spec.axis_sizes())
        for spec in (dense, pruned)
    )
    return 1 - after / before


def closed_share(spec: ModelSpec, masks: Mapping[str, Any], side: str, param_axes: Table) -> float:
    """`removed_share` of the model that `compact` would make of these masks.

    Args:
      spec: spec of the masked model.
      masks: final masks.
      side: `encoder` or `decoder`.
      param_axes: the family's table of axes.
    """
    kept = {axis: positions.tolist() for axis, positions in kept_positions(spec, masks).items()}
    return removed_share(spec, spec.narrow(kept), side, param_axes)
