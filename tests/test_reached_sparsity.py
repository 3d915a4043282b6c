"""Gates and multipliers of every method go to the sparsity that was asked for, and not far beyond on the way."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeds import some

from nash_jax.config.schema import Config, DistillConfig, PruneConfig, ShortenConfig
from nash_jax.models import build
from nash_jax.pruning.compact import compact, masked_fraction
from nash_jax.pruning.methods import make_constraints, make_gates, target_sparsities
from nash_jax.pruning.objective import PruningObjective
from nash_jax.recipe.prune_phase import PrunePhase, rounding
from nash_jax.spec import dense_spec
from nash_jax.testing import random_batch, random_params
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import make_step

STEPS, WARMUP = 250, 100  # at 0.2 a step, gates go from one end to the other in 46
SPEC = dense_spec(
    vocab_size=23, d_model=16, d_ff=32, num_heads=4, encoder_layers=3, decoder_layers=6, dropout_rate=0.0, tied=False
)  # fmt: skip


@pytest.fixture(scope="module")
def steps():
    """One jitted step a method, for all seeds."""
    return {}


def prune(method: str, seed: int, steps: dict):
    """Training on one batch of random tokens: parameters, gates' expected sparsities of every step, final masks."""
    if method not in steps:
        constraints = make_constraints(SPEC, target_sparsities(method, 0.4, decoder_share=2 / 6))
        pruner = PruningObjective(make_gates(SPEC, method), constraints, 0, WARMUP)
        tx = make_optimizer(PruneConfig(learning_rate=3e-3), STEPS, gate_learning_rate=0.2)
        steps[method] = pruner, tx, make_step(StudentLoss(build(SPEC), DistillConfig(), None, pruner), tx)
    pruner, tx, step = steps[method]
    trained = {"model": random_params(SPEC, seed, scale=0.2), **pruner.initial_params(jax.random.key(seed))}
    state = make_state(jax.tree.map(jnp.array, trained), tx, seed)
    batch = random_batch(SPEC, rows=16, source=8, target=6, seed=seed)
    expected = []
    for _ in range(STEPS):
        state, _ = step(state, {}, batch)
        expected.append(pruner.sparsities(state["params"]["gates"]))
    return state["params"]["model"], pruner, jax.device_get(expected), pruner.final_masks(state["params"]["gates"])


@pytest.mark.parametrize("method", ["nash", *some(["nash_auto", "cofi"], few=0)])
@pytest.mark.parametrize("seed", some([1, 2, 3], few=1))
def test_within_a_point_of_the_target(method, seed, steps, logits):
    params, pruner, expected, masks = prune(method, seed, steps)
    for part, constraint in pruner.constraints.items():
        coarse = rounding(constraint, masks)
        assert abs(expected[-1][part] - constraint.target) < 0.01 + coarse, part
        assert max(one[part] for one in expected) < constraint.target + 0.05 + coarse, part
        assert abs(masked_fraction(SPEC, masks, part) - constraint.target) < 0.01, part
    batch = random_batch(SPEC, rows=4, source=8, target=6, seed=seed)
    narrow, small = compact(SPEC, params, masks)
    masked = logits(SPEC, params, batch, masks)
    np.testing.assert_allclose(logits(narrow, small, batch), masked, atol=1e-5 * np.abs(masked).max())
    if method == "nash_auto":  # whole decoder sub-layers are gone, and no part of another
        sizes = [size for name, (_, size) in narrow.sublayers().items() if name.startswith("decoder")]
        assert sizes.count(0) == 12 and set(sizes) <= {0, 4, 32}


def test_a_target_that_was_missed_is_said():
    """Gates as they begin have closed next to nothing; gates at their ends, as many as asked, miss nothing."""
    settings = Config(method="nash", prune=PruneConfig(sparsity=0.5), shorten=ShortenConfig(decoder_layers=6))
    phase = PrunePhase(settings, SPEC, random_params(SPEC), 10, None, dict)
    gates = phase.objective.initial_params(jax.random.key(0))["gates"]
    assert "of encoder gone, 50.0% asked: more prune.epochs" in said(phase, gates)
    half = {"log_alpha": jnp.where(jnp.arange(gates["log_alpha"].size) % 2 == 0, -20.0, 20.0)}
    assert said(phase, half) == ""


def said(phase, gates):
    return phase.missed({"params": {"gates": gates}}, phase.objective.final_masks(gates))
