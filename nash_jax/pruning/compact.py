"""From a masked dense model to a narrower one with the same function: fold, then slice.

On the host, unless the arrays are split over devices: then each device works on its part.
"""

import functools
import operator
from collections.abc import Iterable, Mapping
from typing import Any

import jax
import numpy as np

from nash_jax.axes import check_params, leaf_shapes, mask_sites, param_axes
from nash_jax.errors import UserError, did_you_mean
from nash_jax.pruning.lagrangian import prunable_size, size_terms
from nash_jax.runtime.stored import change_array
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten


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


def check_masks(spec: ModelSpec, masks: Mapping[str, Any]) -> None:
    """Checks that masks are those of a model.

    Args:
      spec: spec of the masked model.
      masks: values by axis name ([size]) or sub-layer name (scalar).

    Raises:
      UserError: naming a mask that the model does not have, or one of another shape or with values that are not finite.
    """
    sublayers = spec.sublayers()
    shapes: dict[str, tuple[int, ...]] = {"embed": (spec.d_model,)} | dict.fromkeys(sublayers, ())
    shapes |= {axis: (size,) for axis, size in sublayers.values()}
    for name, value in masks.items():
        if name not in shapes:
            raise UserError(f"there is no mask {name!r}{did_you_mean(str(name), shapes)}", "an axis or a sub-layer")
        try:
            found = np.asarray(value)
        except Exception as error:  # NumPy raises many types, and so do array types of other libraries
            raise UserError(f"the mask {name} is no array: {error}", f"finite numbers {shapes[name]}") from error
        if found.dtype.kind not in "biuf" or found.shape != shapes[name] or not np.isfinite(found).all():
            raise UserError(
                f"the mask {name} has shape {found.shape} and type {found.dtype}", f"finite numbers {shapes[name]}"
            )


def fold(
    params: Mapping[str, Any],
    masks: Mapping[str, Any],
    axes: Mapping[str, tuple[str, ...]],
    sites: Mapping[str, tuple[str, ...]],
) -> dict[str, Any]:
    """Flat parameters with the mask values multiplied into the places where the masks act.

    Args:
      params: parameters of the masked model; what becomes of stored and split ones is as in `compact`.
      masks: mask values by name.
      axes: parameter path → axis names.
      sites: parameter path → masks that fold there.
    """

    def folded(path: str, leaf: Any) -> Any:
        own = functools.partial(_fold_leaf, axes=axes[path], masks=masks, sites=sites.get(path, ()))
        return change_array(leaf, leaf.shape, own)

    return {path: folded(path, leaf) for path, leaf in flatten(params).items()}


def _fold_leaf(leaf: Any, axes: tuple[str, ...], masks: Mapping[str, Any], sites: Iterable[str]) -> Any:
    """One parameter times the masks that fold there; the same array where these are ones."""
    for name in sites:
        value = np.asarray(masks.get(name, 1), leaf.dtype)
        if (value == 1).all():
            continue
        if name in axes:
            shape = [1] * leaf.ndim
            shape[axes.index(name)] = -1
            value = value.reshape(shape)
        leaf = leaf * value if isinstance(leaf, np.ndarray) else _multiply(leaf, value)
    return leaf


_multiply = jax.jit(operator.mul)  # of arrays that several processes hold together
_take = jax.jit(lambda leaf, positions, dim: leaf.take(positions, axis=dim), static_argnums=2)


def compact(spec: ModelSpec, params: Mapping[str, Any], masks: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """The dense model that equals `params` under `masks`: mask values are folded into the weights, zeros are cut out.

    Args:
      spec: spec of the masked model.
      params: its parameters.
      masks: final masks by axis name ([size]) or sub-layer name (scalar), soft values included; what has no mask is
        kept as it is.

    Returns:
      The narrower spec and its parameters, NumPy arrays of the same dtypes. Of a `StoredArray` another one, which reads
      and narrows the whole array for each part that is asked for; of an array that is split over devices another that
      is.

    Raises:
      UserError: as `check_masks`.

    Example:
      >>> import numpy as np
      >>> from nash_jax.testing import random_params, random_spec
      >>> spec = random_spec(0)
      >>> mask = np.ones(len(spec.encoder[0].heads), np.float32)
      >>> mask[0] = 0
      >>> narrow, params = compact(spec, random_params(spec), {"encoder.0.attention.heads": mask})
      >>> len(spec.encoder[0].heads) - len(narrow.encoder[0].heads)
      1
    """
    check_params(spec, params)
    check_masks(spec, masks)
    keep, sites, axes = kept_positions(spec, masks), mask_sites(spec), param_axes(spec)
    left = {name: np.asarray(mask)[keep[name]] if np.ndim(mask) else mask for name, mask in masks.items()}
    flat, narrow = flatten(params), spec.pruned({axis: positions.tolist() for axis, positions in keep.items()})

    def smaller(path: str, shape: tuple[int, ...]) -> Any:
        def narrowed(leaf: Any) -> Any:
            return _fold_leaf(take_kept(leaf, axes[path], keep), axes[path], left, sites.get(path, ()))

        return change_array(flat[path], shape, narrowed)

    # one after the other: nothing but the result is held beside `params`
    return narrow, unflatten({path: smaller(path, shape) for path, shape in leaf_shapes(narrow).items()})


def cut(spec: ModelSpec, flat: Mapping[str, Any], keep: Mapping[str, np.ndarray]) -> tuple[ModelSpec, dict[str, Any]]:
    """The model that is left when only some positions of its axes are kept, also of `vocab` and `encoder_vocab`.

    Args:
      spec: the model.
      flat: its parameters by path.
      keep: axis name → increasing positions; axes that are not named stay whole.

    Returns:
      The narrower spec and its parameters, nested, as those of `compact`.

    Raises:
      UserError: as `ModelSpec.pruned`.
    """
    axes, narrow = param_axes(spec), spec.pruned({axis: positions.tolist() for axis, positions in keep.items()})

    def smaller(path: str, shape: tuple[int, ...]) -> Any:
        return change_array(flat[path], shape, functools.partial(take_kept, axes=axes[path], keep=keep))

    return narrow, unflatten({path: smaller(path, shape) for path, shape in leaf_shapes(narrow).items()})


def take_kept(leaf: Any, axes: tuple[str, ...], keep: Mapping[str, np.ndarray]) -> Any:
    """One parameter with only the kept positions of each of its named axes.

    Args:
      leaf: the parameter.
      axes: names of its axes.
      keep: axis name → increasing positions; axes that are not named stay whole.
    """
    for dim, axis in enumerate(axes):
        if axis in keep and len(keep[axis]) < leaf.shape[dim]:
            own = isinstance(leaf, np.ndarray)
            leaf = np.take(leaf, keep[axis], axis=dim) if own else _take(leaf, keep[axis], dim)
    return np.ascontiguousarray(leaf) if isinstance(leaf, np.ndarray) else leaf


def removed_fraction(dense: ModelSpec, pruned: ModelSpec, side: str = "") -> float:
    """Share of the attention and FFN parameters of `dense` that `pruned` no longer has, counted.

    Args:
      dense: the model before.
      pruned: the model after.
      side: `encoder`, `decoder`, or empty for both.
    """
    before, after = (
        prunable_size(size_terms(param_axes(spec), spec.axis_sizes(), side), spec.axis_sizes())
        for spec in (dense, pruned)
    )
    return 1 - after / before


def masked_fraction(spec: ModelSpec, masks: Mapping[str, Any], side: str = "") -> float:
    """`removed_fraction` of the model that `compact` would make of these masks.

    Args:
      spec: spec of the masked model.
      masks: final masks.
      side: `encoder`, `decoder`, or empty for both.
    """
    kept = {axis: positions.tolist() for axis, positions in kept_positions(spec, masks).items()}
    return removed_fraction(spec, spec.pruned(kept), side)
