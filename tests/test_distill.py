from types import SimpleNamespace

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from nash_jax.config.schema import DistillConfig
from nash_jax.models import build
from nash_jax.pruning.distill import hidden_loss, logits_loss, match_layers, teacher_layers
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.spec import dense_spec
from nash_jax.testing import random_batch, random_params
from nash_jax.training.losses import StudentLoss, alive_layers

seeds = st.integers(0, 2**32 - 1)


def draws(seed, batch=3, length=5, vocab=11):
    rng = np.random.default_rng(seed)
    student, teacher = rng.normal(0, 3, (2, batch, length, vocab)).astype(np.float32)
    return student, teacher, (rng.random((batch, length)) < 0.7).astype(np.float32)


def softmax(x):
    e = np.exp(np.float64(x) - x.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


@given(seed=seeds, temperature=st.sampled_from([1.0, 2.0, 4.0]))
def test_logits_loss(seed, temperature):
    student, teacher, weights = draws(seed)
    p, q = softmax(teacher / temperature), softmax(student / temperature)
    expected = 0.0
    for b, t in zip(*np.nonzero(weights), strict=True):
        expected += temperature**2 * np.sum(p[b, t] * np.log(p[b, t] / q[b, t])) / 7
    np.testing.assert_allclose(logits_loss(student, teacher, weights, 7.0, temperature), expected, rtol=1e-5)


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's own imports
def test_logits_loss_equals_torch():
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    student, teacher, weights = draws(0)
    divergence = torch.nn.functional.kl_div(
        torch.log_softmax(torch.tensor(student) / 2, -1), torch.softmax(torch.tensor(teacher) / 2, -1), reduction="none"
    )
    expected = 4 * (divergence.sum(-1) * torch.tensor(weights)).sum() / weights.sum()
    np.testing.assert_allclose(logits_loss(student, teacher, weights, weights.sum()), expected.numpy(), rtol=1e-5)


def test_logits_loss_is_zero_and_flat_at_the_teacher():
    _, teacher, weights = draws(1)
    loss, gradient = jax.value_and_grad(logits_loss)(jnp.asarray(teacher + 5), teacher, weights, weights.sum())
    assert abs(float(loss)) < 1e-5  # logits count up to a constant
    assert np.abs(gradient).max() < 1e-5


def test_logits_loss_at_large_logits_is_finite():
    student, teacher, weights = draws(2)
    loss, gradient = jax.value_and_grad(logits_loss)(jnp.asarray(student * 1e4), teacher * 1e4, weights, 1.0)
    assert np.isfinite(float(loss))
    assert np.isfinite(gradient).all()


def test_weights_of_zero_leave_positions_out():
    student, teacher, weights = draws(3)
    gradient = jax.grad(logits_loss)(jnp.asarray(student), teacher, weights, weights.sum())
    moved = np.abs(gradient).max(-1) > 0
    np.testing.assert_array_equal(moved, weights > 0)


@pytest.mark.parametrize(
    ("num_layers", "layers"),
    [
        (12, [2, 5, 8, 11]),
        (24, [5, 11, 17, 23]),
        (8, [1, 3, 5, 7]),
        (6, [0, 2, 3, 5]),
        (4, [0, 1, 2, 3]),
        (3, [0, 1, 2]),
        (1, [0]),
    ],
)
def test_teacher_layers(num_layers, layers):
    assert teacher_layers(num_layers) == layers


def match_by_loop(distances, alive):
    """CoFi's "v4" as it is told: from the last teacher layer back, what is left of the last one matched."""
    last, matched = distances.shape[1], []
    for row in reversed(distances):
        candidates = [j for j in range(last) if alive[j]]
        if candidates:
            last = min(candidates, key=lambda j: row[j])  # min keeps the earlier of equals
        matched.insert(0, last)
    return matched


@given(
    distances=hnp.arrays(np.float32, (4, 7), elements=st.floats(0, 8, width=32)),
    alive=hnp.arrays(np.bool_, 7),
)
def test_matching(distances, alive):
    found = np.asarray(match_layers(jnp.asarray(distances), jnp.asarray(alive)))
    assert found.dtype == np.int32
    assert found.tolist() == match_by_loop(distances, alive)
    assert (np.diff(found) >= 0).all()


def test_matching_by_hand():
    distances = jnp.array([[0.1, 0.2, 0.9, 0.9], [0.9, 0.0, 0.3, 0.9], [0.5, 0.5, 0.2, 0.1]])
    assert match_layers(distances, jnp.ones(4)).tolist() == [0, 1, 3]
    assert match_layers(distances, jnp.array([1, 0, 1, 0])).tolist() == [0, 0, 2]
    assert match_layers(distances, jnp.array([0, 0, 1, 0])).tolist() == [2, 2, 2]  # none left: that one again
    assert match_layers(distances, jnp.zeros(4)).tolist() == [4, 4, 4]  # nothing survives


def hidden_states(seed, layers, batch=2, length=4, dim=6):
    rng = np.random.default_rng(seed)
    return [rng.normal(0, 1, (batch, length, dim)).astype(np.float32) for _ in range(layers)]


@given(seed=seeds)
def test_hidden_loss(seed):
    rng = np.random.default_rng(seed)
    student, teacher = hidden_states(seed, 5), hidden_states(seed + 1, 8)
    projection = rng.normal(0, 0.5, (6, 6)).astype(np.float32)
    weights = (rng.random((2, 4)) < 0.7).astype(np.float32)
    weights[0, 0] = 1
    alive = (rng.random(5) < 0.7).astype(np.float32)
    counted = [(b, s) for b in range(2) for s in range(4) if weights[b, s]]

    def distance(h, t):
        return np.mean([(np.float64(h[i]) @ projection - t[i]) ** 2 for i in counted])

    distances = np.array([[distance(h, teacher[m]) for h in student] for m in (1, 3, 5, 7)])
    matched = match_by_loop(distances, alive)
    expected = sum(distances[m, j] for m, j in enumerate(matched) if j < 5)
    found = hidden_loss(student, teacher, projection, weights, weights.sum(), alive)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_hidden_loss_is_zero_for_equal_layers_and_reaches_student_and_projection():
    states, weights = hidden_states(0, 4), np.ones((2, 4), np.float32)
    eye = np.eye(6, dtype=np.float32)
    assert float(hidden_loss(states, states, eye, weights, 8.0)) == pytest.approx(0, abs=1e-10)
    other = hidden_states(1, 4)
    to_student, to_teacher, to_projection = jax.grad(hidden_loss, argnums=(0, 1, 2))(states, other, eye, weights, 8.0)
    assert np.abs(to_projection).max() > 0
    assert any(np.abs(g).max() > 0 for g in to_student)
    assert all(np.abs(g).max() == 0 for g in to_teacher)


def test_hidden_loss_of_bfloat16_states_is_float32():
    states = [jnp.asarray(h, jnp.bfloat16) for h in hidden_states(0, 4)]
    loss = hidden_loss(states, hidden_states(1, 4), jnp.eye(6), jnp.ones((2, 4)), 8.0)
    assert loss.dtype == jnp.float32


SPEC = dense_spec(vocab_size=23, d_model=8, d_ff=12, num_heads=2, encoder_layers=2, decoder_layers=3, dropout_rate=0.0)


def distilled(spec, params, teacher, masks=None):
    """The hidden loss of a student under masks."""
    batch, weights = random_batch(spec), DistillConfig(task=0.0, hidden=1.0)
    loss = StudentLoss(build(spec), weights, build(SPEC))
    if masks is not None:
        loss.objective = SimpleNamespace(masks=lambda *_: masks, loss=lambda *_: (jnp.zeros(()), {}))
    totals = {"source": jnp.sum(batch["input_ids"] != 0), "target": jnp.sum(batch["labels"] != 0)}
    params = {"model": params, "projection": jnp.eye(8)}
    return float(loss(params, teacher, batch, {"dropout": None, "gates": None}, totals, 1.0, 0)[1]["hidden_loss"])


def test_the_decoder_is_matched_where_depths_are_equal():
    teacher = random_params(SPEC, 1)
    assert distilled(SPEC, teacher, teacher) == pytest.approx(0, abs=1e-9)
    other = random_params(SPEC, 2)
    assert distilled(SPEC, teacher | {"decoder": other["decoder"]}, teacher) > 1e-3
    short, params = select_layers(SPEC, teacher | {"decoder": other["decoder"]}, decoder=[0, 2])
    assert distilled(short, params, teacher) == pytest.approx(0, abs=1e-9)


def test_closed_layers_are_not_matched():
    teacher = random_params(SPEC, 1)
    opened = {f"encoder.{i}.attention": jnp.ones(()) for i in range(2)}
    assert distilled(SPEC, teacher, teacher, opened) == pytest.approx(0, abs=1e-9)
    np.testing.assert_array_equal(alive_layers(SPEC, {"encoder.1.attention": 0.0}, "encoder")[:2], [1, 0])
    closed = {"decoder.0.self_attention": 0.0, "decoder.1.ffn": 0.0}
    np.testing.assert_array_equal(alive_layers(SPEC, closed, "decoder")[:2], [0, 1])
    cut = SPEC.pruned({"encoder.0.attention.heads": []})  # as compaction leaves it, for the phase after
    np.testing.assert_array_equal(alive_layers(cut, {}, "encoder")[:2], [0, 1])
    assert distilled(SPEC, teacher, teacher, {"encoder.1.attention": jnp.zeros(())}) > 1e-3
