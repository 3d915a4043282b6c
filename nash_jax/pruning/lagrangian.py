"""Expected size of a gated model, and the Lagrangian that drives it to a target sparsity.

Sizes come from the table of logical axes: the expected number of parameters is a sum over parameters of
products over axes, exact and differentiable. Attention and FFN matrices count; norms, embeddings and the
LM head do not (CoFi: Xia et al. 2022, section 3.2; NASH: Ko et al. 2023, section 4).
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True)
class SizeTerm:
    """`coefficient · Π sizes of axes`: the parameters of one sub-layer that share the same axes, or its milliseconds.

    Without axes: what the sub-layer costs because it is there.
    """

    coefficient: float
    axes: tuple[str, ...]
    sublayer: str


def size_terms(axes: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int], side: str = "") -> tuple[SizeTerm, ...]:
    """Groups prunable parameters by the axes that gates may narrow.

    Args:
      axes: parameter path → axis names.
      sizes: axis name → size.
      side: `encoder`, `decoder`, or empty for both.
    """
    totals: dict[tuple[str, tuple[str, ...]], int] = {}
    for names in axes.values():
        place = next((n for n in names if "." in n), None)
        if place is None or not place.startswith(side):
            continue
        variable = tuple(sorted(n for n in names if "." in n or n == "embed"))
        fixed = math.prod(sizes[n] for n in names if n not in variable)
        key = (place.rpartition(".")[0], variable)
        totals[key] = totals.get(key, 0) + fixed
    return tuple(SizeTerm(c, variable, sub) for (sub, variable), c in totals.items())


def expected_size(
    terms: Sequence[SizeTerm], sizes: Mapping[str, int], probs: Mapping[str, jax.Array] | None = None
) -> jax.Array:
    """Expected number of prunable parameters, float32 scalar.

    Args:
      terms: from `size_terms`.
      sizes: axis name → size.
      probs: P(gate ≠ 0) by axis or sub-layer name; what has no gate is open.
    """
    probs = probs or {}
    total = jnp.zeros((), jnp.float32)
    for term in terms:
        size = jnp.asarray(term.coefficient, jnp.float32) * probs.get(term.sublayer, 1.0)
        for axis in term.axes:
            size = size * (jnp.sum(probs[axis]) if axis in probs else sizes[axis])
        total += size
    return total


def prunable_size(terms: Sequence[SizeTerm], sizes: Mapping[str, int]) -> float:
    """Number of prunable parameters, counted exactly; or milliseconds."""
    return sum(t.coefficient * math.prod(sizes[a] for a in t.axes) for t in terms)


def gate_costs(terms: Sequence[SizeTerm], sizes: Mapping[str, int]) -> dict[str, float]:
    """Prunable axis → parameters that one of its gates carries, everything else being open."""
    costs: dict[str, float] = {}
    for term in terms:
        if not term.axes:
            continue
        place = next(a for a in term.axes if "." in a)
        costs[place] = costs.get(place, 0) + term.coefficient * math.prod(sizes[a] for a in term.axes if a != place)
    return costs


@dataclasses.dataclass(frozen=True)
class Constraint:
    """Sparsity of some part of the model = target."""

    terms: tuple[SizeTerm, ...]
    sizes: Mapping[str, int] = dataclasses.field(hash=False)
    target: float

    def sparsity(self, probs: Mapping[str, jax.Array]) -> jax.Array:
        """ŝ = 1 - expected / prunable, float32 scalar."""
        whole = float(prunable_size(self.terms, self.sizes))  # more than an int32 holds, of T5-11B's encoder
        return 1 - expected_size(self.terms, self.sizes, probs) / whole

    def counted(self, kept: Mapping[str, int]) -> float:
        """1 - kept / prunable, when axes keep so many positions; those that are not named keep all of them.

        A sub-layer of which nothing is kept is gone.
        """
        sizes = {**self.sizes, **kept}
        gone = {term.sublayer for term in self.terms if not all(sizes[axis] for axis in term.axes)}
        left = [term for term in self.terms if term.sublayer not in gone]
        return 1 - prunable_size(left, sizes) / prunable_size(self.terms, self.sizes)


def target_at(step: jax.Array | int, warmup_steps: int, target: float) -> jax.Array:
    """Target sparsity: linear from 0 to `target` over `warmup_steps` steps of pruning; of 0, at once."""
    if warmup_steps == 0:
        return target * (jnp.asarray(step) >= 0).astype(jnp.float32)
    return target * jnp.minimum(jnp.asarray(step, jnp.float32) / warmup_steps, 1.0)


def initial_multipliers() -> dict[str, jax.Array]:
    """λ1 = λ2 = 0."""
    return {"lambda_1": jnp.zeros((), jnp.float32), "lambda_2": jnp.zeros((), jnp.float32)}


def lagrangian(sparsity: jax.Array, target: jax.Array, multipliers: Mapping[str, jax.Array]) -> jax.Array:
    """λ1(ŝ - t) + λ2(ŝ - t)²: minimised over gates, maximised over multipliers (CoFi, eq. 4)."""
    gap = sparsity - target
    return multipliers["lambda_1"] * gap + multipliers["lambda_2"] * jnp.square(gap)
