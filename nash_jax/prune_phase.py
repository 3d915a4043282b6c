"""The phase in which model and gates are trained together: what it adds to plain training."""

from collections.abc import Callable, Collection
from typing import Any

import jax
import numpy as np

from nash_jax.config import Config
from nash_jax.evaluation.evaluator import Evaluator
from nash_jax.generation.engine import Engine
from nash_jax.models import mask_sites, param_axes
from nash_jax.pruning.compact import closed_share, compact, fold
from nash_jax.pruning.final_masks import gated_axes
from nash_jax.pruning.lagrangian import Constraint, prunable_size, size_terms
from nash_jax.pruning.methods import make_gates, targets
from nash_jax.sharding import to_host
from nash_jax.spec import SIDES, ModelSpec
from nash_jax.training.steps import Pruner, metric
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
      selected: metrics → metrics with `selection`, what the best checkpoint maximises.
    """

    def __init__(
        self, config: Config, spec: ModelSpec, params: Any, steps_per_epoch: int, validation: Evaluator,
        selected: Callable[[dict[str, float]], dict[str, float]],
    ) -> None:  # fmt: skip
        own, axes, sizes = config.prune, param_axes(spec), spec.axis_sizes()
        kept = config.shorten.decoder_layers or len(spec.decoder)
        wanted = targets(config.method, own.sparsity, kept / len(spec.decoder))
        gates, constraints = make_gates(config.method, wanted, axes, sizes, own.units_droprate)
        start, warmup = (round(e * steps_per_epoch) for e in (own.prepruning_epochs, own.sparsity_warmup_epochs))
        self.pruner = Pruner(gates, constraints, start, warmup)
        self.num_steps = max(1, round(own.epochs * steps_per_epoch))
        self._spec, self._validation, self._selected, self._dtype = spec, validation, selected, config.model.dtype
        self._engine = Engine(spec, params, self._dtype)

    def evaluate(self, state: Any) -> dict[str, float]:
        """Validation metrics under the final masks.

        A checkpoint can be the best only once the targets are reached, by the expected sparsity and by the count of
        what the final masks close; if none does, the nearest is. Until then nothing is generated.
        """
        masks, step = self.pruner.final_masks(to_host(state["params"]["gates"])), int(state["step"])
        found, gap = self._sparsities(state, masks)
        warm = step >= self.pruner.start_step + self.pruner.warmup_steps
        if step != self.num_steps and (not warm or gap > SPARSITY_TOLERANCE):
            return found | {"selection": -1000.0 - gap - (not warm)}
        metrics = self._selected(self._validation.evaluate(self._masked(state, masks)))
        if gap > SPARSITY_TOLERANCE:
            metrics["selection"] = -1000.0 - gap
        return found | metrics

    def missed(self, state: Any, masks: dict[str, np.ndarray]) -> str:
        """Which targets a state with these final masks has not reached, for a reader; empty if it has reached all."""
        found, gap = self._sparsities(state, masks)
        if gap <= SPARSITY_TOLERANCE:
            return ""
        gone = {part: found[metric("counted_sparsity", part)] for part in self.pruner.constraints}
        asked = ", ".join(
            f"{gone[part]:.1%} of {part or 'the model'} gone, {constraint.target:.1%} asked"
            for part, constraint in self.pruner.constraints.items()
        )
        return f"{asked}: more prune.epochs, or a higher prune.gate_learning_rate (docs/pruning.md)"

    def result(self, state: Any) -> tuple[dict[str, np.ndarray], dict[str, float]]:
        """Final masks, and the expected sparsity of each side that has gates."""
        masks = self.pruner.final_masks(to_host(state["params"]["gates"]))
        probs: Any = self.pruner.gates.apply({"params": to_host(state["params"]["gates"])}, method="probs")
        axes, sizes, expected = param_axes(self._spec), self._spec.axis_sizes(), {}
        for side in SIDES:
            if "embed" in masks or any(name.startswith(side) for name in masks):
                whole = Constraint(size_terms(axes, sizes, side), sizes, 0.0)
                expected[f"expected_{side}_sparsity"] = float(whole.sparsity(probs))
        return masks, expected

    def _sparsities(self, state: Any, masks: dict[str, np.ndarray]) -> tuple[dict[str, float], float]:
        """Expected and counted sparsity of the constrained parts, and the largest distance from a target."""
        expected = jax.device_get(self.pruner.sparsities(to_host(state["params"]["gates"])))
        found: dict[str, float] = {}
        gaps = []
        for part, constraint in self.pruner.constraints.items():
            counted = closed_share(self._spec, masks, part, param_axes)
            found |= {
                metric("expected_sparsity", part): float(expected[part]), metric("counted_sparsity", part): counted
            }  # fmt: skip
            gaps.append(abs(float(expected[part]) - constraint.target) - rounding(constraint, masks))
            if gated_axes(masks, constraint):
                gaps.append(abs(counted - constraint.target))
        return found, max(gaps)

    def _masked(self, state: Any, masks: dict[str, np.ndarray]) -> Engine:
        """The model under the masks, ready to generate: folded, or cut where the norms depend on what is kept."""
        params = to_host(state["params"]["model"])
        if "embed" in masks:
            small = compact(self._spec, params, masks, param_axes=param_axes, mask_sites=mask_sites)
            return Engine(*small, self._dtype)
        self._engine.update(unflatten(fold(params, masks, param_axes(self._spec), mask_sites(self._spec))))
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
