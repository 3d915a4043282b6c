"""What is left of a dense model, by its own numbering: of layers dropped, sub-layers closed, masks folded alike."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.spec import SIDES, ModelSpec


def dense_masks(dense: ModelSpec, kept: Mapping[str, Sequence[int]], masks: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Mask values of all heads and units of a dense model, and of d_model where that has gates.

    Args:
      dense: the model before anything was removed.
      kept: side → ids of its layers that the gated model has.
      masks: final masks of axes ([size]) and sub-layers (scalars), whose names count the *gated* model's layers.

    Returns:
      Axis name → values [size]: 0 where removed, 1 where nothing masks, else what is folded into the weights.
    """
    found = {"embed": np.asarray(masks["embed"])} if "embed" in masks else {}
    for sublayer, (axis, size) in dense.sublayers().items():
        side, layer, part = sublayer.split(".")
        if int(layer) not in kept[side]:
            found[axis] = np.zeros(size)
            continue
        own = f"{side}.{kept[side].index(int(layer))}.{part}"
        inner = masks.get(f"{own}.{axis.rpartition('.')[2]}", 1.0)
        found[axis] = np.ones(size) * np.asarray(inner) * np.asarray(masks.get(own, 1.0))
    return found


def count_layers(dense: ModelSpec, values: Mapping[str, np.ndarray]) -> dict[str, Any]:
    """Which layers and sub-layers have anything left, as report.json says it.

    Args:
      dense: the model before anything was removed.
      values: from `dense_masks`.

    Returns:
      Of each side: `kept_<side>_layers`, ids of those with anything left, `dense_<side>_layers`, how many there were;
      `removed_<side>_sublayers`, their names, and `dense_<side>_sublayers`.
    """
    found: dict[str, Any] = {}
    for side in SIDES:
        there = {name: axis for name, (axis, size) in dense.sublayers().items() if size and name.startswith(side)}
        removed = [name for name, axis in there.items() if not np.any(values[axis])]
        found |= {
            f"kept_{side}_layers": sorted({int(name.split(".")[1]) for name in there if name not in removed}),
            f"dense_{side}_layers": len(getattr(dense, side)),
            f"removed_{side}_sublayers": removed,
            f"dense_{side}_sublayers": len(there),
        }
    return found
