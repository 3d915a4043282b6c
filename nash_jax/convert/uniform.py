"""Conversion of ragged models to uniform layer sizes, for formats that store only one size for all layers."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from nash_jax.axes import param_axes
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten


def pad_to_uniform(spec: ModelSpec, params: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """Pads a ragged model with zeros to all heads and equal units in every layer; its function does not change.

    Kept heads return to their original positions, so that T5's shared position bias is correct. Query, key, value and
    output of a padded head are zero, the output row of a padded unit is zero, and the norm scale of a padded sub-layer
    is one. Units are padded to the widest layer of the encoder or the decoder; in T5's families, which have only one
    width, to the widest layer of both.

    Args:
      spec: the ragged spec.
      params: its parameters.

    Returns:
      The uniform spec and its parameters, float32.
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
    """Prunable axis → target positions of the kept entries: original head ids; the first positions for units."""
    ids: dict[str, list[int]] = {}
    for i, e in enumerate(spec.encoder):
        ids[f"encoder.{i}.attention.heads"] = list(e.heads)
        ids[f"encoder.{i}.ffn.units"] = list(range(e.ffn))
    for i, d in enumerate(spec.decoder):
        ids[f"decoder.{i}.self_attention.heads"] = list(d.self_heads)
        ids[f"decoder.{i}.cross_attention.heads"] = list(d.cross_heads)
        ids[f"decoder.{i}.ffn.units"] = list(range(d.ffn))
    return ids
