"""Averages of the parameters over the steps of a phase, evaluated and saved in their place.

`ExponentialAverage`: a ← d·a + (1 - d)·θ after each step, d = min(decay, (1 + step) / (10 + step)) so that the first
parameters are forgotten. `LastAverage`: the mean of θ at the last evaluations of a phase, as of the last checkpoints
(Vaswani et al. 2017, section 6.1).
"""

import math
from typing import Any, Protocol

import jax
import jax.numpy as jnp

from nash_jax.training.state import State


class Average(Protocol):
    """What a phase averages. The average of the model's parameters is `state["average"]["model"]`."""

    def start(self, state: State) -> State:
        """Adds an average to a fresh state."""

    def after_step(self, state: State) -> State:
        """Takes the parameters of a step in; traced."""

    def before_evaluation(self, state: State) -> State:
        """Takes the parameters of an evaluated step in."""


class NoAverage:
    """The parameters themselves."""

    def start(self, state: State) -> State:
        """As `Average.start`."""
        return state

    def after_step(self, state: State) -> State:
        """As `Average.after_step`."""
        return state

    def before_evaluation(self, state: State) -> State:
        """As `Average.before_evaluation`."""
        return state


class ExponentialAverage(NoAverage):
    """The exponential moving average over all steps.

    Args:
      decay: d, below 1.
    """

    def __init__(self, decay: float) -> None:
        self.decay = decay

    def start(self, state: State) -> State:
        """As `Average.start`."""
        return state | {"average": {"model": jax.tree.map(jnp.copy, state["params"]["model"])}}

    def after_step(self, state: State) -> State:
        """As `Average.after_step`."""
        step = state["step"].astype(jnp.float32)
        decay = jnp.minimum(self.decay, (1 + step) / (10 + step))
        return _moved(state, 1 - decay)


class LastAverage(NoAverage):
    """The mean over the last evaluated steps of a phase.

    Args:
      count: of them.
      num_steps: length of the phase.
      eval_steps: steps between evaluations; the last step is evaluated too.
    """

    def __init__(self, count: int, num_steps: int, eval_steps: int) -> None:
        self.eval_steps = eval_steps
        self.first = max(1, math.ceil(num_steps / eval_steps) - count + 1)  # number of the first that counts
        self._add = jax.jit(_moved, donate_argnums=0)

    def start(self, state: State) -> State:
        """As `Average.start`."""
        return state | {"average": {"model": jax.tree.map(jnp.copy, state["params"]["model"])}}

    def before_evaluation(self, state: State) -> State:
        """As `Average.before_evaluation`; until the last evaluations the average is the parameters themselves."""
        number = math.ceil(int(state["step"]) / self.eval_steps)
        return self._add(state, jnp.float32(1 / max(1, number - self.first + 1)))


def _moved(state: State, share: jax.Array) -> State:
    """The state with its average moved towards the parameters by this share of the way."""

    def move(average: jax.Array, new: jax.Array) -> jax.Array:
        moved = average + share * (new - average)  # exact where they are equal, as in frozen parameters
        return jnp.where(share < 1, moved, new)

    return state | {"average": {"model": jax.tree.map(move, state["average"]["model"], state["params"]["model"])}}


def averaged(state: State) -> State:
    """The state with the average in the place of the model's parameters, where there is one."""
    if "average" not in state:
        return state
    return state | {"params": state["params"] | {"model": state["average"]["model"]}}


def make_average(decay: float, last: int, num_steps: int, eval_steps: int) -> Any:
    """The average that a phase's settings name.

    Args:
      decay: `config.PHASE.average_decay`.
      last: `config.PHASE.average_last`.
      num_steps: length of the phase.
      eval_steps: steps between evaluations.
    """
    if decay:
        return ExponentialAverage(decay)
    return LastAverage(last, num_steps, eval_steps) if last else NoAverage()
