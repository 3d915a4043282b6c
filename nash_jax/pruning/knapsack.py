"""One size for each block, of least harm, so that all of them together cost no more than a budget.

This is the multiple-choice knapsack problem (Sinha and Zoltners 1979), solved by dynamic programming over the budget in
steps. Costs are rounded up to them: no sum is beyond the budget, and none that stays below it by a step for each block
is better. (SciPy's solver of integer programs, HiGHS, writes lines to stdout that cannot be switched off.)
"""

import math
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nash_jax.errors import UserError

STEPS = 1 << 14  # of a budget
_ROUNDING = 1e-6  # of a step


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
    """The sizes whose harms have the least sum, among those whose costs are within a budget, to a step a block.

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
    """As `choose_sizes`, where the budget is short: by dynamic programming over what is spent."""
    harm, choices = np.zeros(STEPS + 1), []  # the least harm of the blocks so far, by steps of the budget
    for options in blocks.values():
        tried = np.full((len(options), STEPS + 1), np.inf)
        for row, option in zip(tried, options, strict=True):
            steps = _steps(option, budget)
            if steps <= STEPS:
                row[steps:] = harm[: STEPS + 1 - steps] + option.harm
        choices.append(tried.argmin(axis=0))
        harm = tried.min(axis=0)
    if not np.isfinite(harm[-1]):  # what fits by less than a step a block
        return {name: min(options, key=lambda option: option.cost).size for name, options in blocks.items()}
    sizes, left = dict[str, int](), STEPS
    for (name, options), choice in reversed(list(zip(blocks.items(), choices, strict=True))):
        option = options[choice[left]]
        sizes[name] = option.size
        left -= _steps(option, budget)
    return {name: sizes[name] for name in blocks}


def _steps(option: Option, budget: float) -> int:
    """What an option costs, in steps of the budget, rounded up."""
    return math.ceil(option.cost / budget * STEPS - _ROUNDING) if budget > 0 else 0
