"""Flax modules over a `ModelSpec`, and the table of logical axes each family writes."""

from typing import Any

from nash_jax.models import t5
from nash_jax.models.layers import Dtype, Masks
from nash_jax.spec import ModelSpec

__all__ = ["Dtype", "Masks", "build", "mask_sites", "param_axes"]

_FAMILIES = {"t5": (t5.T5, t5)}


def build(spec: ModelSpec, **options: Any) -> t5.T5:
    """The Flax module for a spec. Options: `dtype` (compute dtype), `remat`."""
    return _FAMILIES[spec.family][0](spec, **options)


def param_axes(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Parameter path → names of its axes."""
    return _FAMILIES[spec.family][1].param_axes(spec)


def mask_sites(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Parameter path → names of the masks folded into it at compaction."""
    return _FAMILIES[spec.family][1].mask_sites(spec)
