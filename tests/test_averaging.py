"""Averages of parameters against a loop in NumPy, and a shared pass through a frozen encoder against two."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from nash_jax.axes import encoder_params, frozen_params
from nash_jax.config.schema import DistillConfig, PruneConfig
from nash_jax.models import build
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.spec import dense_spec
from nash_jax.testing import random_batch, random_params
from nash_jax.training.averaging import averaged, make_average
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import make_step
from nash_jax.tree import flatten

STEPS = 12


class _Slope:
    """A loss whose gradient is the same in each step, in place of a model's."""

    class model:
        class spec:
            pad_id = 0

    def __call__(self, params, teacher_params, batch, rngs, totals, share, step):
        loss = jnp.sum(params["model"]["w"] * jnp.arange(1.0, 4.0))
        return loss, {"loss": loss}


def run(average):
    """State and parameters after each step of plain descent."""
    step = make_step(_Slope(), optax.sgd(0.1), average=average)
    state = average.start(make_state({"model": {"w": jnp.ones(3)}}, optax.sgd(0.1), 0))
    batch = {"input_ids": jnp.ones((1, 1), int), "labels": jnp.ones((1, 1), int)}
    for _ in range(STEPS):
        state, _ = step(state, {}, batch)
        yield state


def test_exponential_average():
    expected = np.ones(3)
    for number, state in enumerate(run(make_average(0.6, 0, STEPS, 5)), 1):
        parameters = 1 - 0.1 * number * np.arange(1.0, 4.0)
        decay = min(0.6, (1 + number) / (10 + number))
        expected = decay * expected + (1 - decay) * parameters
        np.testing.assert_allclose(state["params"]["model"]["w"], parameters, rtol=1e-5, atol=1e-6)
        np.testing.assert_allclose(averaged(state)["params"]["model"]["w"], expected, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("eval_steps, last, count", [(5, 2, 2), (3, 3, 3), (1, 4, 4), (12, 3, 1), (5, 9, 3)])
def test_mean_of_the_last_evaluated_steps(eval_steps, last, count):
    """Evaluated are every `eval_steps` steps and the last one."""
    average, seen = make_average(0.0, last, STEPS, eval_steps), []
    for number, state in enumerate(run(average), 1):
        if number % eval_steps == 0 or number == STEPS:
            seen.append(np.array(state["params"]["model"]["w"]))  # a copy: the state is donated
            state.update(average.before_evaluation(state))  # the loop goes on with it
            found = np.array(averaged(state)["params"]["model"]["w"])
            total = -(-STEPS // eval_steps)
            inside = max(1, len(seen) - (total - min(last, total)))
            np.testing.assert_allclose(found, np.mean(seen[-inside:], axis=0), rtol=1e-5, atol=1e-6)
    assert len(seen[-last:]) == count


def test_without_an_average_the_parameters_are_what_counts():
    average = make_average(0.0, 0, STEPS, 5)
    for state in run(average):
        assert averaged(average.before_evaluation(state)) is state


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_one_pass_through_a_shared_encoder_is_two(family):
    """Loss and gradients of a student with the teacher's frozen encoder, with and without the second pass."""
    own = {"max_positions": 16} if family == "bart" else {}
    spec = dense_spec(
        vocab_size=23, d_model=8, d_ff=12, num_heads=2, encoder_layers=1, decoder_layers=2, dropout_rate=0.0,
        family=family, **own,
    )  # fmt: skip
    teacher = jax.tree.map(jnp.asarray, random_params(spec, 1))
    student_spec, student = select_layers(spec, teacher, decoder=[1])
    batch, weights = jax.tree.map(jnp.asarray, random_batch(spec, rows=4)), DistillConfig(logits=0.8, hidden=0.1)
    rngs = {"gates": jax.random.key(0), "dropout": jax.random.key(1)}
    totals = {"source": jnp.float32(20), "target": jnp.float32(20)}
    params = {"model": student, "projection": jnp.eye(8)}
    found = {}
    for shared in (True, False):
        loss = StudentLoss(build(student_spec), weights, build(spec), frozen_encoder=True, shared_encoder=shared)
        value = jax.value_and_grad(lambda p, loss=loss: loss(p, teacher, batch, rngs, totals, 1.0, jnp.int32(0))[0])
        found[shared] = jax.device_get(jax.jit(value)(params))
    np.testing.assert_allclose(found[True][0], found[False][0], rtol=1e-6)
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, atol=1e-5), found[True][1], found[False][1])
    gradients = flatten(found[True][1]["model"])
    frozen = encoder_params(student_spec)
    assert all(not np.any(gradients[path]) for path in frozen if not path.startswith("shared/"))
    assert any(np.any(gradients[path]) for path in gradients.keys() - frozen)
    tx = make_optimizer(PruneConfig(), 5, frozen=frozen_params(student_spec, embeddings=False, encoder=True))
    own = {"model": found[True][1]["model"]}, {"model": student}
    updates, _ = jax.jit(lambda grads, params: tx.update(grads, tx.init(params), params))(*own)
    assert all(not np.any(leaf) for path, leaf in flatten(updates["model"]).items() if path in frozen)
