"""Randomly initialized parameters."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nash_jax.models import build
from nash_jax.spec import ModelSpec


def init_params(spec: ModelSpec, seed: int) -> dict[str, Any]:
    """Returns the initial parameters for training, as NumPy arrays (float32) on the host."""
    return jax.device_get(jax.jit(_init(spec))(jax.random.key(seed)))


def param_shapes(spec: ModelSpec) -> dict[str, Any]:
    """Returns the shapes and dtypes of `init_params`, without computing it."""
    return jax.eval_shape(_init(spec), jax.random.key(0))


def _init(spec: ModelSpec) -> Callable[[jax.Array], Any]:
    ids = jnp.ones((1, 2), jnp.int32)
    return lambda rng: build(spec).init(rng, ids, ids, ids)["params"]
