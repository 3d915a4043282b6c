"""A model of random weights, of the size that the config says and for the vocabulary of the run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nash_jax.models import build
from nash_jax.spec import ModelSpec


def init_params(spec: ModelSpec, seed: int) -> dict[str, Any]:
    """Parameters as training starts from them, on the host."""
    return jax.device_get(jax.jit(_init(spec))(jax.random.key(seed)))


def param_shapes(spec: ModelSpec) -> dict[str, Any]:
    """What `init_params` would be, as shapes and dtypes."""
    return jax.eval_shape(_init(spec), jax.random.key(0))


def _init(spec: ModelSpec) -> Callable[[jax.Array], Any]:
    ids = jnp.ones((1, 2), jnp.int32)
    return lambda rng: build(spec).init(rng, ids, ids, ids)["params"]
