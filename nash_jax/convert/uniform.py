"""Ragged models as rectangles: what a format without sizes of each layer can hold."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nash_jax.axes import param_axes
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten


def pad_to_uniform(spec: ModelSpec, params: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """Pads a ragged model with zeros to all heads and equal units in every layer: the same function.

    Kept heads go back to their old places, so that T5's shared position bias stays right. A padded head's
    query, key, value and output are zero, a padded unit's output row is zero, a padded sub-layer's norm scale
    is one. Units go to the widest layer of a side; in T5's families, which know one width, of the model.

    Returns:
      The rectangular spec and its parameters.
    """
    encoder_units, decoder_units = max(1, spec.max_ffn_units("encoder")), max(1, spec.max_ffn_units("decoder"))
    if not spec.absolute_positions:
        encoder_units = decoder_units = max(encoder_units, decoder_units)
    full = spec.with_uniform_layers(encoder_units, decoder_units)
    ids = _kept_ids(spec)
    sizes, flat, new = full.axis_sizes(), flatten(params), {}
    for path, names in param_axes(full).items():
        target = np.zeros([sizes[a] for a in names], np.float32)
        if path in flat:
            target[np.ix_(*[ids.get(a, range(sizes[a])) for a in names])] = np.asarray(flat[path])
        elif path.endswith("scale"):
            target[:] = 1
        new[path] = target
    return full, unflatten(new)


def _kept_ids(spec: ModelSpec) -> dict[str, list[int]]:
    """Prunable axis → original positions of what it kept (units have lost theirs: the first ones)."""
    ids: dict[str, list[int]] = {}
    for i, e in enumerate(spec.encoder):
        ids[f"encoder.{i}.attention.heads"] = list(e.heads)
        ids[f"encoder.{i}.ffn.units"] = list(range(e.ffn))
    for i, d in enumerate(spec.decoder):
        ids[f"decoder.{i}.self_attention.heads"] = list(d.self_heads)
        ids[f"decoder.{i}.cross_attention.heads"] = list(d.cross_heads)
        ids[f"decoder.{i}.ffn.units"] = list(range(d.ffn))
    return ids
