"""Sizes under a budget, against all combinations."""

import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nash_jax.errors import UserError
from nash_jax.pruning.knapsack import STEPS, Option, choose_sizes


def make_blocks(seed):
    rng = np.random.default_rng(seed)
    return {
        f"block {number}": [Option(size, cost, harm) for size, (cost, harm) in enumerate(rng.uniform(size=(count, 2)))]
        for number, count in enumerate(rng.integers(1, 5, size=5))
    }


@given(st.integers(0, 10_000), st.floats(0.0, 1.0))
@settings(max_examples=60, deadline=None)
def test_no_other_combination_is_better(seed, share):
    blocks = make_blocks(seed)
    least, most = (sum(pick(o.cost for o in options) for options in blocks.values()) for pick in (min, max))
    budget = least + share * (most - least)
    found = choose_sizes(blocks, budget)
    own = [next(o for o in options if o.size == found[name]) for name, options in blocks.items()]
    assert sum(o.cost for o in own) <= budget * (1 + 1e-6)
    sure = budget * (1 - len(blocks) / STEPS)
    possible = [some for some in itertools.product(*blocks.values()) if sum(o.cost for o in some) <= sure]
    harms = [sum(o.harm for o in some) for some in possible]
    assert not harms or sum(o.harm for o in own) <= min(harms) + 1e-9


def test_a_budget_that_nothing_fits():
    with pytest.raises(UserError, match="the cheapest sizes cost 2"):
        choose_sizes({"a": [Option(0, 1.0, 0.0)], "b": [Option(0, 1.0, 0.0)]}, 1.9)
