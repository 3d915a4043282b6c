"""The phase in which model and gates are trained together: what it adds to plain training."""

from collections.abc import Collection, Mapping
from typing import Any

import jax
import numpy as np
from jax.sharding import Mesh

from nash_jax.axes import mask_sites, param_axes
from nash_jax.config.schema import Config
from nash_jax.evaluation.evaluator import Evaluator
from nash_jax.generation.engine import Engine
from nash_jax.pruning.compact import compact, fold, kept_positions
from nash_jax.pruning.final_masks import gated_axes
from nash_jax.pruning.lagrangian import Constraint, prunable_size
from nash_jax.pruning.methods import METHODS, make_constraints
from nash_jax.pruning.objective import metric_name
from nash_jax.runtime.multihost import broadcast_from_host0
from nash_jax.runtime.sharding import to_host
from nash_jax.spec import SIDES, ModelSpec
from nash_jax.training.loop import Evaluation
from nash_jax.training.phases import make_objective
from nash_jax.tree import unflatten

SPARSITY_TOLERANCE = 0.01  # expected sparsity this near the target counts as reached


class PrunePhase:
    """Gates of a method on a model, and how a state of their training is judged.

    Args:
      config: method and settings of the phase.
      spec: the model that is trained.
      params: its parameters.
      steps_per_epoch: batches of an epoch.
      validation: scores models.
      selection: the metric that the best checkpoint maximises.
      mesh: the devices that generate; None: the first.
      constraints: part of the model → its constraint; None: on parameters, as the settings say.
    """

    def __init__(
        self, config: Config, spec: ModelSpec, params: Any, steps_per_epoch: int, validation: Evaluator,
        selection: str, mesh: Mesh | None = None, constraints: Mapping[str, Constraint] | None = None,
    ) -> None:  # fmt: skip
        self.objective = make_objective(config, spec, steps_per_epoch, constraints)
        self.num_steps = max(1, round(config.prune.epochs * steps_per_epoch))
        self._spec, self._validation, self._selection, self._dtype = spec, validation, selection, config.model.dtype
        self._whole = "the sub-layers' milliseconds" if METHODS[config.method].prices_time else "the model"
        self._mesh, self._engine = mesh, Engine(spec, params, self._dtype, mesh=mesh)

    def evaluate(self, state: Any) -> Evaluation:
        """Validation metrics under the final masks, `target_gap` among them, and the checkpoint's rank.

        A checkpoint can be the best only once the targets are reached, by the expected sparsity and by the count of
        what the final masks close; if none does, the nearest is. Until then nothing is generated.
        """
        masks, step = self.objective.final_masks(to_host(state["params"]["gates"])), int(state["step"])
        found, gap = broadcast_from_host0(self._sparsities(state, masks))  # what follows, all processes do together
        warm, reached = step >= self.objective.start_step + self.objective.warmup_steps, gap <= SPARSITY_TOLERANCE
        found["target_gap"] = gap
        if step != self.num_steps and not (warm and reached):
            return found, (0.0, -gap - (not warm))
        metrics = self._validation.evaluate(self._masked(state, masks))
        return found | metrics, (1.0, metrics[self._selection]) if reached else (0.0, -gap)

    def missed(self, state: Any, masks: dict[str, np.ndarray]) -> str:
        """Which targets a state with these final masks has not reached, for a reader; empty if it has reached all."""
        found, gap = self._sparsities(state, masks)
        if gap <= SPARSITY_TOLERANCE:
            return ""
        gone = {part: found[metric_name("counted_sparsity", part)] for part in self.objective.constraints}
        asked = ", ".join(
            f"{gone[part]:.1%} of {part or self._whole} gone, {constraint.target:.1%} asked"
            for part, constraint in self.objective.constraints.items()
        )
        return f"{asked}: more prune.epochs, or a higher prune.gate_learning_rate (docs/pruning.md)"

    def result(self, state: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Final masks, and the expected sparsity of each side that has gates."""
        masks = self.objective.final_masks(to_host(state["params"]["gates"]))
        probs: Any = self.objective.gates.apply({"params": to_host(state["params"]["gates"])}, method="probs")
        expected = {}
        for side in SIDES:
            if "embed" in masks or any(name.startswith(side) for name in masks):
                whole = make_constraints(self._spec, {side: 0.0})[side]
                expected[f"expected_{side}_sparsity"] = float(whole.sparsity(probs))
        return masks, expected

    def _sparsities(self, state: Any, masks: dict[str, np.ndarray]) -> tuple[dict[str, float], float]:
        """Expected and counted sparsity of the constrained parts, and the largest distance from a target."""
        expected = jax.device_get(self.objective.sparsities(to_host(state["params"]["gates"])))
        kept = {axis: len(positions) for axis, positions in kept_positions(self._spec, masks).items()}
        found: dict[str, float] = {}
        gaps = []
        for part, constraint in self.objective.constraints.items():
            counted = constraint.counted(kept)
            found[metric_name("expected_sparsity", part)] = float(expected[part])
            found[metric_name("counted_sparsity", part)] = counted
            gaps.append(abs(float(expected[part]) - constraint.target) - rounding(constraint, masks))
            if gated_axes(masks, constraint):
                gaps.append(abs(counted - constraint.target))
        return found, max(gaps)

    def _masked(self, state: Any, masks: dict[str, np.ndarray]) -> Engine:
        """The model under the masks, ready to generate: folded, or cut where the norms depend on what is kept."""
        params = state["params"]["model"]
        if "embed" in masks:
            small = compact(self._spec, params, masks)
            return Engine(*small, self._dtype, mesh=self._mesh)
        self._engine.update_params(unflatten(fold(params, masks, param_axes(self._spec), mask_sites(self._spec))))
        return self._engine


def rounding(constraint: Constraint, names: Collection[str]) -> float:
    """By how much the final masks may miss the target: half a sub-layer where only whole ones can go, else nothing."""
    if gated_axes(names, constraint):
        return 0.0
    total = prunable_size(constraint.terms, constraint.sizes)
    shares = dict.fromkeys((term.sublayer for term in constraint.terms), 0.0)
    for term in constraint.terms:
        shares[term.sublayer] += prunable_size([term], constraint.sizes) / total
    return max(shares.values()) / 2
