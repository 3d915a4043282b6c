"""Checkpoints of a training phase: what is saved comes back, and what does not fit is said in one line."""

import jax.numpy as jnp
import numpy as np
import pytest

from nash_jax.errors import UserError
from nash_jax.training.checkpoint import Checkpointer
from nash_jax.training.state import abstract_state

STATE = {"params": {"w": jnp.arange(3.0)}, "opt_state": (jnp.ones(2),)}
OTHERS = {
    "another leaf": {**STATE, "opt_state": (jnp.ones(2), jnp.ones(1))},
    "a part less": {"params": STATE["params"]},
    "another structure": {**STATE, "opt_state": {"mu": jnp.ones(2)}},
}


@pytest.fixture
def checkpointer(tmp_path):
    made = Checkpointer(tmp_path / "checkpoints")
    made.save(7, STATE, {"position": 3}, rank=(0.5,))
    yield made
    made.close()


def test_what_was_saved(checkpointer):
    state, extra = checkpointer.restore(abstract_state(STATE))
    np.testing.assert_array_equal(state["params"]["w"], STATE["params"]["w"])
    np.testing.assert_array_equal(state["opt_state"][0], STATE["opt_state"][0])
    assert extra == {"position": 3}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_that_does_not_fit(other, checkpointer):
    with pytest.raises(UserError, match=r"checkpoint of step 7 in .* does not fit this phase; .*; delete that folder"):
        checkpointer.restore(abstract_state(OTHERS[other]))
