"""From importances to gates under a budget: final masks at once, or where trained gates begin. Host side."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nash_jax.pruning import hard_concrete
from nash_jax.pruning.final_masks import gated_axes
from nash_jax.pruning.lagrangian import Constraint, SizeTerm, gate_costs, prunable_size

Importance = Mapping[str, Any]  # arrays, by the names of the gates: [n] of an axis, a scalar of a sub-layer
SPREAD = 2.0  # standard deviation of log_alpha where gates begin, before it is clipped
_LARGEST_SHIFT = 40.0


def close_least_important(importance: Importance, constraints: Sequence[Constraint]) -> dict[str, np.ndarray]:
    """Masks of zeros and ones that close the gates of least importance, so that each part loses its share.

    Closed gates add up to `target` times the parameters of the part, to half of the cheapest gate, counted as
    `masked_fraction` counts. As in Kwon et al. 2022 (algorithm 1) each number of heads is tried: the heads of least
    importance per parameter go, units of least importance make up the rest, and of these sets the least important one
    is taken. Where heads or units have gates, gates of their sub-layers and of d_model stay open. A part that has only
    gates of whole sub-layers loses those of least importance per parameter, as near to its target as they come.

    Args:
      importance: of each gate.
      constraints: on parts of the model that share no heads, units or sub-layers.

    Returns:
      float32 masks by the same names.

    Example:
      >>> terms = (SizeTerm(10, ("mlp.units",), "mlp"),)
      >>> constraint = Constraint(terms, {"mlp.units": 4}, target=0.5)
      >>> close_least_important({"mlp.units": [3.0, 1.0, 4.0, 2.0]}, [constraint])["mlp.units"].tolist()
      [1.0, 0.0, 1.0, 0.0]
    """
    masks = {name: np.ones(np.shape(value), np.float32) for name, value in importance.items()}
    for constraint in constraints:
        budget = constraint.target * prunable_size(constraint.terms, constraint.sizes)
        if axes := gated_axes(importance, constraint):
            costs = gate_costs(constraint.terms, constraint.sizes)
            gates = _Gates.of({axis: importance[axis] for axis in axes}, costs)
        else:
            costs = _sublayer_costs(constraint.terms, constraint.sizes)
            gates = _Gates.of({name: importance[name] for name in costs if name in importance}, costs)
        for name, position in gates.cheapest_set(budget):
            masks[name].reshape(-1)[position] = 0
    return masks


def initial_log_alpha(
    importance: Importance, constraints: Sequence[Constraint], spread: float = SPREAD
) -> dict[str, np.ndarray]:
    """log_alpha with which gates begin: in the order of importance per parameter, at the target from the first step.

    In each constrained part gates get normal values by their rank, with the standard deviation `spread`. One shift of
    all of them makes the expected sparsity equal to the target. Values are within the bounds of `hard_concrete.clamp`,
    so a target above 0.95 is not quite reached.

    Args:
      importance: of each gate; `embed` belongs to the first constraint.
      constraints: on parts of the model that share no heads, units or sub-layers.
      spread: the larger, the more gates begin decided.

    Returns:
      float32 arrays by the same names.
    """
    rows: dict[str, np.ndarray] = {}
    for number, constraint in enumerate(constraints):
        costs = _all_costs(constraint, with_embed=number == 0)
        gates = _Gates.of({name: importance[name] for name in costs if name in importance}, costs)
        rows |= _shifted_to_target(gates.split(spread * _normal_scores(gates.value / gates.cost)), constraint)
    return {name: rows[name].reshape(np.shape(importance[name])).astype(np.float32) for name in importance}


@dataclasses.dataclass(frozen=True)
class _Gates:
    """Gates of several groups in flat arrays [G].

    Attributes:
      names: of the groups.
      group: index of each gate's group.
      position: of each gate in its group.
      value: importance.
      cost: parameters.
    """

    names: tuple[str, ...]
    group: np.ndarray
    position: np.ndarray
    value: np.ndarray
    cost: np.ndarray

    @staticmethod
    def of(values: Importance, costs: Mapping[str, float]) -> "_Gates":
        names = tuple(sorted(values))
        rows = [np.atleast_1d(np.asarray(values[name], np.float64)) for name in names]
        sizes = [len(row) for row in rows]
        return _Gates(
            names,
            np.repeat(np.arange(len(names)), sizes),
            np.concatenate([np.arange(size) for size in sizes] or [np.zeros(0, int)]),
            np.concatenate(rows or [np.zeros(0)]),
            np.repeat([float(costs[name]) for name in names], sizes),
        )

    def split(self, flat: np.ndarray) -> dict[str, np.ndarray]:
        """[G] → by group, [n]."""
        return {name: flat[self.group == i] for i, name in enumerate(self.names)}

    def cheapest_set(self, budget: float) -> list[tuple[str, int]]:
        """(group, position) of the gates to close: `budget` parameters in all, of least importance."""
        order = np.argsort(self.value / self.cost, kind="stable")
        fine = self.cost < 2 * np.min(self.cost, initial=np.inf)
        coarse, cheap = (order[own[order]] for own in (~fine, fine))
        spent, lost = (_sums(x[coarse]) for x in (self.cost, self.value))
        counts = _nearest(_sums(self.cost[cheap]), budget - spent)
        gap = np.abs(spent + _sums(self.cost[cheap])[counts] - budget)
        near = gap <= max(np.min(gap), np.max(self.cost[cheap], initial=0) / 2)
        total = np.where(near, lost + _sums(self.value[cheap])[counts], np.inf)
        best = int(np.argmin(total))
        closed = [*coarse[:best], *cheap[: counts[best]]]
        return [(self.names[self.group[gate]], int(self.position[gate])) for gate in closed]


def _sums(values: np.ndarray) -> np.ndarray:
    """Sums of the first 0, 1, … values."""
    return np.concatenate([[0.0], np.cumsum(values)])


def _nearest(sums: np.ndarray, wanted: np.ndarray) -> np.ndarray:
    """Index of the increasing sum that is nearest to each wanted one; the smaller of two."""
    above = np.clip(np.searchsorted(sums, wanted), 1, len(sums) - 1) if len(sums) > 1 else np.zeros(len(wanted), int)
    below = np.maximum(above - 1, 0)
    return np.where(wanted - sums[below] <= sums[above] - wanted, below, above)


def _sublayer_costs(terms: Sequence[SizeTerm], sizes: Mapping[str, int]) -> dict[str, float]:
    """Sub-layer → its parameters."""
    costs: dict[str, float] = {}
    for term in terms:
        costs[term.sublayer] = costs.get(term.sublayer, 0) + prunable_size([term], sizes)
    return costs


def _all_costs(constraint: Constraint, with_embed: bool) -> dict[str, float]:
    """Axes, sub-layers and `embed` → parameters that one of their gates carries, everything else being open."""
    terms, sizes = constraint.terms, constraint.sizes
    wide = [term for term in terms if "embed" in term.axes]
    embed = {"embed": prunable_size(wide, sizes) / sizes["embed"]} if with_embed and wide else {}
    return gate_costs(terms, sizes) | _sublayer_costs(terms, sizes) | embed


def _normal_scores(values: np.ndarray) -> np.ndarray:
    """Values → quantiles of the standard normal distribution in the same order."""
    from scipy.special import ndtri  # here, for it takes half a second to import

    ranks = np.argsort(np.argsort(values, kind="stable"))
    return ndtri((ranks + 0.5) / len(values))


def _shifted_to_target(rows: Mapping[str, np.ndarray], constraint: Constraint) -> dict[str, np.ndarray]:
    """The same rows after one shift that makes the expected sparsity equal to the target."""
    from scipy.optimize import brentq

    low, high = hard_concrete.LOG_ALPHA_MIN, hard_concrete.LOG_ALPHA_MAX

    def at(shift: float) -> dict[str, np.ndarray]:
        return {name: np.clip(row + shift, low, high) for name, row in rows.items()}

    def gap(shift: float) -> float:
        probs = {name: hard_concrete.prob_nonzero(jnp.asarray(row, jnp.float32)) for name, row in at(shift).items()}
        lone = {name: p if name in constraint.sizes else p[0] for name, p in probs.items()}
        return float(constraint.sparsity(lone)) - constraint.target

    if not rows or gap(-_LARGEST_SHIFT) <= 0 or gap(_LARGEST_SHIFT) >= 0:
        return at(-_LARGEST_SHIFT if rows and gap(-_LARGEST_SHIFT) <= 0 else _LARGEST_SHIFT)
    return at(brentq(gap, -_LARGEST_SHIFT, _LARGEST_SHIFT, xtol=1e-4))
