"""Optimizers of a phase: learning rates by step, weight decay, gates and multipliers that begin later."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nash_jax.config.schema import TrainConfig
from nash_jax.pruning.optimizer import LAMBDA_2_FACTOR
from nash_jax.training.gradient_norm import clip_by_global_norm, global_norm
from nash_jax.training.optim import make_optimizer, make_schedule


def params(value=1.0):
    return {
        "model": {"decoder": {"wi": jnp.full((4, 4), value)}},
        "gates": {"encoder.0.attention.heads": jnp.zeros(4)},
        "multipliers": {"encoder": {"lambda_1": jnp.zeros(()), "lambda_2": jnp.zeros(())}},
    }


def updates_of(tx, grads, steps, held=None):
    """Updates of every step of a tree of parameters that stays as it is."""
    held = params() if held is None else held
    state, found, update = tx.init(held), [], jax.jit(tx.update)
    for step in range(steps):
        updates, state = update(grads(step), state, held)
        found.append(jax.device_get(updates))
    return found


@pytest.mark.parametrize(
    ("schedule", "rates"),
    [("linear", [0.0, 0.5, 1.0, 0.75, 0.5, 0.25]), ("constant", [0.0, 0.5, 1.0, 1.0, 1.0, 1.0])],
)
def test_learning_rates_by_hand(schedule, rates):
    found = make_schedule(TrainConfig(learning_rate=1.0, warmup_ratio=1 / 3, schedule=schedule), 6)
    np.testing.assert_allclose([found(step) for step in range(6)], rates, rtol=1e-6)


@pytest.mark.parametrize("optimizer", ["adamw", "adafactor", "muon"])
def test_weight_decay_shrinks_by_the_learning_rate(optimizer):
    """p ← p - η·wd·p, by the learning rate of the step, where nothing else moves p (Loshchilov & Hutter 2019)."""
    config = TrainConfig(optimizer=optimizer, learning_rate=0.1, schedule="linear", weight_decay=0.01, warmup_ratio=0.0)
    still = jax.tree.map(jnp.zeros_like, params())
    found = updates_of(make_optimizer(config, 4), lambda step: still, 4, params(3.0))
    for step, updates in enumerate(found):
        rate = 0.1 * (1 - step / 4)
        np.testing.assert_allclose(updates["model"]["decoder"]["wi"], -rate * 0.01 * 3.0, rtol=1e-4)


@pytest.mark.parametrize("starts", [0, 7])
def test_gates_and_multipliers_begin_with_an_adam_of_their_own(starts):
    """Their first step is as long as the learning rate, however many steps went before."""
    config = TrainConfig(learning_rate=0.5, schedule="constant", warmup_ratio=0.0)
    tx = make_optimizer(config, 20, gate_learning_rate=0.01, pruning_starts=starts)

    def grads(step):
        begun = float(step >= starts)
        return jax.tree.map(jnp.ones_like, params()) | {
            name: jax.tree.map(lambda x: begun * jnp.ones_like(x), params()[name]) for name in ("gates", "multipliers")
        }

    found = updates_of(tx, grads, starts + 3)
    alone = updates_of(optax.adam(0.01), lambda step: jnp.ones(4), 3, jnp.zeros(4))
    for step, updates in enumerate(found):
        own = alone[step - starts] if step >= starts else np.zeros(4)
        np.testing.assert_allclose(updates["gates"]["encoder.0.attention.heads"], own, rtol=1e-5)
        multipliers = updates["multipliers"]["encoder"]
        np.testing.assert_allclose(multipliers["lambda_1"], -own[0], rtol=1e-5)
        np.testing.assert_allclose(multipliers["lambda_2"], -LAMBDA_2_FACTOR * own[0], rtol=1e-5)
        assert np.all(updates["model"]["decoder"]["wi"] < 0)  # trained from the first step


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("length", [0, 1, 65_535, 65_536, 65_537, 200_001])
def test_norms_are_optax_s(length, dtype):
    """Of arrays that fill no block, blocks, and blocks and a rest."""
    values = np.random.default_rng(length).normal(size=length)
    tree = {"one": jnp.asarray(values, dtype), "other": jnp.full((3, 5), 2.0, dtype)}
    exact = np.sqrt(sum(np.sum(np.square(np.asarray(x, np.float64))) for x in tree.values()))
    np.testing.assert_allclose(jax.jit(global_norm)(tree), exact, rtol=1e-6)
    for largest in (0.5 * float(exact), 2 * float(exact)):
        found, expected = (
            make(largest).update(tree, optax.EmptyState())[0]
            for make in (clip_by_global_norm, optax.clip_by_global_norm)
        )
        for name in tree:
            assert found[name].dtype == dtype
            np.testing.assert_allclose(
                *(x[name].astype(jnp.float32) for x in (found, expected)), rtol=1e-2 if dtype == jnp.bfloat16 else 1e-5
            )


def test_no_gradient_is_not_divided_by():
    none = {"one": jnp.zeros(4)}
    assert not clip_by_global_norm(1.0).update(none, optax.EmptyState())[0]["one"].any()
