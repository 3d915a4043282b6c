"""What training with gates adds to a loss: sampled masks and the Lagrangian of the sparsity constraints."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.pruning.final_masks import final_masks
from nash_jax.pruning.gates import HardConcreteGates
from nash_jax.pruning.lagrangian import Constraint, initial_multipliers, lagrangian, target_at

WHOLE = "model"  # name of the part that is both sides, where it needs one


class PruningObjective:
    """What the pruning phase adds to the loss: sampled masks and the Lagrangian.

    Args:
      gates: the gate module.
      constraints: part of the model (`encoder`, `decoder`, or empty for both) → the sparsity it is to reach, each
        with its own multipliers. (NASH-auto's code has one pair for both sides: its λ1 stops moving as soon as one
        side is as much too sparse as the other is too dense.)
      start_step: step at which pruning begins; before, all gates are open.
      warmup_steps: steps over which the targets rise from 0.
    """

    def __init__(
        self, gates: HardConcreteGates, constraints: Mapping[str, Constraint], start_step: int, warmup_steps: int
    ) -> None:
        self.gates, self.constraints = gates, constraints
        self.start_step, self.warmup_steps = start_step, warmup_steps

    def masks(self, params: Any, rng: jax.Array, step: jax.Array) -> dict[str, jax.Array]:
        """Masks of a step for the model's `masks` argument: samples once pruning has begun, ones before.

        Args:
          params: {"gates": …}, as `initial_params` makes them.
          rng: key of this step's sample.
          step: step number, int32 scalar.
        """
        sampled: Any = self.gates.apply({"params": params["gates"]}, method="sample", rngs={"gates": rng})
        return {name: jnp.where(step >= self.start_step, z, 1.0) for name, z in sampled.items()}

    def initial_params(self, rng: jax.Array, log_alpha: Mapping[str, np.ndarray] | None = None) -> dict[str, Any]:
        """What is trained beside the model: {"gates": {"log_alpha": [G]}, "multipliers": {part: λ1 = λ2 = 0}}.

        Args:
          rng: key of the random start.
          log_alpha: where each group of gates begins instead, from `initial_log_alpha`.
        """
        if log_alpha is None:
            variables: Any = self.gates.init(rng)
            gates = variables["params"]
        else:
            gates = {"log_alpha": jnp.concatenate([jnp.atleast_1d(log_alpha[g.name]) for g in self.gates.groups])}
        multipliers = {part or WHOLE: initial_multipliers() for part in self.constraints}
        return {"gates": gates, "multipliers": multipliers}

    def loss(self, params: Any, step: jax.Array) -> tuple[jax.Array, dict[str, jax.Array]]:
        """The Lagrangian of all constraints, float32 scalar, 0 before pruning begins; and its parts by name."""
        sparsities, metrics = self.sparsities(params["gates"]), dict[str, jax.Array]()
        value = jnp.zeros(())
        for part, constraint in self.constraints.items():
            target = target_at(step - self.start_step, self.warmup_steps, constraint.target)
            multipliers = params["multipliers"][part or WHOLE]
            value += lagrangian(sparsities[part], target, multipliers)
            metrics |= {metric_name(name, part): multiplier for name, multiplier in multipliers.items()}
            metrics |= {
                metric_name("expected_sparsity", part): sparsities[part],
                metric_name("target_sparsity", part): jnp.maximum(target, 0),
            }
        return jnp.where(step >= self.start_step, value, 0.0), metrics

    def sparsities(self, gate_params: Any) -> dict[str, jax.Array]:
        """Expected sparsity of each constrained part."""
        probs: Any = self.gates.apply({"params": gate_params}, method="probs")
        return {part: constraint.sparsity(probs) for part, constraint in self.constraints.items()}

    def final_masks(self, gate_params: Any) -> dict[str, np.ndarray]:
        """Final masks of the gates with these parameters, on the host."""
        rows: Any = self.gates.apply({"params": gate_params}, method="rows")
        return final_masks(jax.device_get(rows), list(self.constraints.values()))


def metric_name(name: str, part: str) -> str:
    """The name of a metric of a constrained part: plain for the encoder and for the whole model."""
    return f"{name}_{part}" if part == "decoder" else name
