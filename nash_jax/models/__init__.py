"""Flax modules built from a `ModelSpec`."""

import jax.numpy as jnp

from nash_jax.models.layers import Dtype, Masks
from nash_jax.models.transformer import EncoderDecoder
from nash_jax.spec import ModelSpec

__all__ = ["Dtype", "Masks", "build"]


def build(spec: ModelSpec, *, dtype: Dtype = jnp.float32, remat: bool = False) -> EncoderDecoder:
    """Returns the Flax module for a spec.

    Args:
      spec: shape and flags of the model.
      dtype: compute dtype.
      remat: recompute activations of each layer in the backward pass.
    """
    return EncoderDecoder(spec, dtype, remat)
