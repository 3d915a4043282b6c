"""From trained gates to masks that close as many parameters as the gates are expected to close. Host side.

CoFi rounds each row of gates by itself. The error is up to half a gate a row, and half a head, or half a sub-layer,
may be whole points of sparsity. Here the remainder of each rounding is passed to cheaper gates.
"""

import math
from collections.abc import Collection, Mapping, Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np

from nash_jax.pruning import hard_concrete
from nash_jax.pruning.lagrangian import Constraint, SizeTerm, expected_size, gate_costs, prunable_size

Rows = Mapping[str, Any]  # arrays, NumPy's
_LARGEST_SHIFT = 20.0  # of log-odds


def final_masks(log_alpha: Rows, constraints: Sequence[Constraint]) -> dict[str, np.ndarray]:
    """Deterministic masks: 0 where closed, soft scores elsewhere.

    d_model is decided first, then whole sub-layers, then heads and units from the dearest to the cheapest, so that the
    part of the model under each constraint loses the expected number of parameters: the remainder of the first two is
    spread over all heads and units. A part that has only gates of whole sub-layers (NASH-auto's decoder) loses the
    number of sub-layers that comes nearest to its target.

    Args:
      log_alpha: of each gate group: [n] of an axis, a scalar of a sub-layer.
      constraints: on parts of the model that share no heads, units or sub-layers.

    Returns:
      float32 masks of the same shapes.
    """
    probs = {name: np.asarray(hard_concrete.prob_nonzero(jnp.asarray(row))) for name, row in log_alpha.items()}
    zeros: dict[str, int] = {}
    for constraint in constraints:
        zeros |= _zeros(probs, constraint)
    masks = {n: hard_concrete.final_mask(jnp.atleast_1d(row), zeros.get(n)) for n, row in log_alpha.items()}
    return {name: np.asarray(mask).reshape(np.shape(log_alpha[name])) for name, mask in masks.items()}


def gated_axes(names: Collection[str], constraint: Constraint) -> set[str]:
    """Heads and units under a constraint that have gates, those of `names`."""
    return {axis for term in constraint.terms for axis in term.axes if "." in axis and axis in names}


def shifted(probs: Rows, costs: Mapping[str, float], left: float) -> Rows:
    """The same rows after one shift of all log-odds, so that the gates are expected to close `left` more parameters.

    Gates that are undecided move, wherever they are; those that are nearly open or closed hardly do.

    Args:
      probs: P(gate ≠ 0) of each row, [n].
      costs: parameters one gate of the row carries; of rows that count.
      left: parameters, may be negative; a number beyond the model's closes, or opens, nearly all.
    """
    from scipy.optimize import brentq  # here, for it takes half a second to import
    from scipy.special import expit, logit

    odds = {name: logit(np.asarray(probs[name], np.float64)) for name in costs}

    def kept(shift: float) -> float:
        return math.fsum(costs[name] * np.sum(expit(row + shift)) for name, row in odds.items())

    if left == 0 or not costs:
        return probs
    low, high = -_LARGEST_SHIFT, _LARGEST_SHIFT
    wanted = float(np.clip(kept(0.0) - left, kept(low), kept(high)))
    shift = brentq(lambda s: kept(s) - wanted, low, high)
    return {name: expit(row + shift) for name, row in odds.items()}


def allocate_zeros(probs: Rows, costs: Mapping[str, float]) -> dict[str, int]:
    """How many gates of each row to close, so that the closed parameters add up to the expected number.

    Each row's remainder, in parameters, is passed to the next cheaper row; the sum is off by at most half of the
    cheapest gate.

    Args:
      probs: P(gate ≠ 0) of each row, [n].
      costs: parameters one gate of the row carries; of rows that count.
    """
    zeros, left = {}, 0.0
    for name in sorted(costs, key=lambda n: (-costs[n], n)):
        wanted = float(np.sum(1 - probs[name].astype(np.float64))) + left / costs[name]
        zeros[name] = int(np.clip(np.round(wanted), 0, len(probs[name])))
        left = (wanted - zeros[name]) * costs[name]
    return zeros


def _zeros(probs: Rows, constraint: Constraint) -> dict[str, int]:
    """Closed gates of every group that the constraint's sizes depend on."""
    terms, sizes = constraint.terms, constraint.sizes
    rows = gated_axes(probs, constraint)
    target = (1 - constraint.target) * prunable_size(terms, sizes)
    wanted = float(expected_size(terms, sizes, probs)) if rows else target
    zeros = {"embed": int(np.round(np.sum(1 - probs["embed"])))} if "embed" in probs else {}
    narrow = {**sizes, "embed": sizes["embed"] - zeros.get("embed", 0)}
    inner = {name: p for name, p in probs.items() if name in rows}
    zeros |= _sublayers(probs, terms, narrow, wanted, bool(rows))
    closed = {term.sublayer for term in terms if zeros.get(term.sublayer)}
    still = [term for term in terms if term.sublayer not in closed]
    left = float(expected_size(still, narrow, inner)) - wanted
    costs = {axis: cost for axis, cost in gate_costs(still, narrow).items() if axis in rows}
    return zeros | allocate_zeros(shifted(inner, costs, left), costs)


def _sublayers(
    probs: Rows, terms: Sequence[SizeTerm], sizes: Mapping[str, int], wanted: float, correctable: bool
) -> dict[str, int]:
    """1 for each sub-layer to close: those with P(gate ≠ 0) < 0.5.

    Where no heads or units can correct the rounding: those of least P, until the size is nearest to `wanted`.
    """
    names = sorted({term.sublayer for term in terms if term.sublayer in probs}, key=lambda n: (float(probs[n]), n))
    if correctable:
        return {name: int(probs[name] < 0.5) for name in names}
    remaining = [[t for t in terms if t.sublayer not in names[:count]] for count in range(len(names) + 1)]
    gaps = [abs(float(expected_size(own, sizes)) - wanted) for own in remaining]
    return {name: int(i < int(np.argmin(gaps))) for i, name in enumerate(names)}
