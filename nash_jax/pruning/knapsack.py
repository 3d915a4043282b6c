"""One size for each block, of least harm, so that all of them together cost no more than a budget.

This is the multiple-choice knapsack problem (Sinha and Zoltners 1979); HiGHS solves it exactly through SciPy.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nash_jax.errors import UserError


class Option(NamedTuple):
    """A size that a block may have.

    Attributes:
      size: heads or units.
      cost: of the block at this size.
      harm: what is lost by it.
    """

    size: int
    cost: float
    harm: float


def choose_sizes(blocks: Mapping[str, list[Option]], budget: float) -> dict[str, int]:
    """The sizes whose harms have the least sum among those whose costs add up to no more than a budget.

    Args:
      blocks: name → its options.
      budget: in the unit of the costs.

    Returns:
      Name → size. Where each block can have its least harm, it has it.

    Raises:
      UserError: if even the cheapest sizes cost more.

    Example:
      >>> blocks = {"a": [Option(0, 0.0, 3.0), Option(4, 2.0, 0.0)], "b": [Option(0, 0.0, 1.0), Option(8, 2.0, 0.0)]}
      >>> choose_sizes(blocks, budget=3.0)
      {'a': 4, 'b': 0}
    """
    least = sum(min(option.cost for option in options) for options in blocks.values())
    if least > budget:
        raise UserError(f"the cheapest sizes cost {least:.4g}", f"no more than the budget, {budget:.4g}")
    best = {name: min(options, key=lambda option: (option.harm, option.cost)) for name, options in blocks.items()}
    if sum(option.cost for option in best.values()) <= budget:
        return {name: option.size for name, option in best.items()}
    return _solve(blocks, budget)


def _solve(blocks: Mapping[str, list[Option]], budget: float) -> dict[str, int]:
    """As `choose_sizes`, where the budget is short."""
    from scipy.optimize import LinearConstraint, milp  # here, for it takes half a second to import

    flat = [option for options in blocks.values() for option in options]
    owner = np.repeat(np.arange(len(blocks)), [len(options) for options in blocks.values()])
    one_each = (owner == np.arange(len(blocks))[:, None]).astype(float)
    costs, harms = (np.array([getattr(option, what) for option in flat]) for what in ("cost", "harm"))
    limits = [
        LinearConstraint(one_each, 1, 1),
        LinearConstraint(costs[None] / max(budget, 1e-12), -np.inf, 1 + 1e-9),
    ]
    scale = max(float(np.abs(harms).max()), 1e-12)  # the solver's tolerances are absolute
    found = milp(harms / scale, integrality=np.ones(len(flat)), bounds=(0, 1), constraints=limits)
    chosen = np.flatnonzero(np.round(found.x))
    return {name: flat[index].size for name, index in zip(blocks, chosen, strict=True)}
