"""The train state: a plain dict {step, rng, params: {model, gates, multipliers, projection}, opt_state}."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp

if TYPE_CHECKING:
    import optax

State = dict[str, Any]


def make_state(params: Mapping[str, Any], tx: "optax.GradientTransformation", seed: int) -> State:
    """A fresh state at step 0.

    Args:
      params: {"model": …} and, when pruning, "gates", "multipliers" and "projection".
      tx: the optimizer.
      seed: root of all randomness of the phase.
    """
    return {
        "step": jnp.zeros((), jnp.int32),
        "rng": jax.random.key_data(jax.random.key(seed)),
        "params": dict(params),
        "opt_state": tx.init(params),
    }


def abstract_state(state: State) -> State:
    """Shapes, dtypes and shardings of a placed state: what a checkpoint is restored into."""
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=x.sharding), state)
