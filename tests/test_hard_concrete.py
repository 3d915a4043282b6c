import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st

from nash_jax.pruning import hard_concrete as hc

GOLDEN_CASES = ["t5_nash", "t5_cofi", "t5_nash_auto", "bart_nash"]
LONE = ("mlp", "layer")  # ends of the golden names whose every gate is a row of its own

seeds = st.integers(0, 2**32 - 1)


def sigmoid(x):
    return 1 / (1 + np.exp(-np.asarray(x, np.float64)))


def log_alphas(seed, size):
    """Over the whole clamped range, both ends included."""
    rng = np.random.default_rng(seed)
    return np.clip(rng.normal(0, 3, size), hc.LOG_ALPHA_MIN, hc.LOG_ALPHA_MAX).astype(np.float32)


def numpy_sample(log_alpha, u):
    """Louizos et al. 2018, equations 10-11, in float64."""
    log_alpha, u = np.float64(log_alpha), np.float64(u)
    s = sigmoid((np.log(u) - np.log(1 - u) + log_alpha) / (2 / 3))
    return np.clip(s * 1.2 - 0.1, 0, 1)


def numpy_prob_nonzero(log_alpha):
    """1 - P(stretched s ≤ 0): z is 0 when logit(u) ≤ β·logit(1/12) - log_alpha, and u is uniform."""
    return 1 - np.clip(sigmoid(2 / 3 * np.log((1 / 12) / (11 / 12)) - np.float64(log_alpha)), 1e-6, 1 - 1e-6)


def numpy_final(row):
    """A loop: close the gates one at a time, lowest score first."""
    scores = sigmoid(0.8 * np.float64(row) / (2 / 3))
    zeros = round(float(len(row) - numpy_prob_nonzero(row).sum()))  # Python rounds half to even
    mask = scores.copy()
    for _ in range(zeros):
        alive = np.flatnonzero(mask)
        mask[alive[np.argmin(mask[alive])]] = 0
    return mask


@given(seed=seeds)
def test_sample(seed):
    log_alpha = log_alphas(seed, 32)
    u = np.random.default_rng(seed).uniform(1e-6, 1 - 1e-6, 32).astype(np.float32)
    np.testing.assert_allclose(hc.sample(log_alpha, u), numpy_sample(log_alpha, u), rtol=1e-5, atol=1e-6)


def test_sample_saturates_exactly():
    z = np.asarray(hc.sample(jnp.array([-4.0, 4.0, 0.0]), jnp.array([0.05, 0.95, 0.5])))
    assert z[0] == 0
    assert z[1] == 1
    assert abs(z[2] - 0.5) < 1e-6


def test_sample_is_differentiable_where_it_is_not_saturated():
    log_alpha, u = jnp.array([-4.0, 0.3, 4.0]), jnp.array([0.05, 0.4, 0.95])
    gradient = np.asarray(jax.grad(lambda a: hc.sample(a, u).sum())(log_alpha))
    s = sigmoid((np.log(0.4) - np.log(0.6) + 0.3) * 1.5)
    np.testing.assert_allclose(gradient, [0, 1.2 * 1.5 * s * (1 - s), 0], rtol=1e-5)


@given(seed=seeds)
def test_prob_nonzero(seed):
    log_alpha = log_alphas(seed, 32)
    np.testing.assert_allclose(hc.prob_nonzero(log_alpha), numpy_prob_nonzero(log_alpha), rtol=1e-6, atol=1e-7)


def test_prob_nonzero_is_clipped():
    np.testing.assert_allclose(hc.prob_nonzero(jnp.array([-40.0, 40.0])), [1e-6, 1 - 1e-6], rtol=0.05)


def test_noise_stays_within_epsilon():
    u = np.asarray(hc.sample_noise(jax.random.key(0), (200_000,)))
    assert u.dtype == np.float32
    assert u.min() >= hc.EPSILON
    assert u.max() <= 1 - hc.EPSILON / 2  # float32 has no 1 - 1e-6
    assert np.isfinite(np.asarray(hc.sample(jnp.zeros(u.shape), u))).all()
    histogram, _ = np.histogram(u, 10, (0, 1))
    assert np.abs(histogram / 20_000 - 1).max() < 0.05  # 7 standard deviations


def test_prob_nonzero_is_how_often_samples_are_nonzero():
    """20,000 samples of each of 25 gates: the frequency is within 5 standard deviations of P(z ≠ 0)."""
    log_alpha = jnp.linspace(hc.LOG_ALPHA_MIN, hc.LOG_ALPHA_MAX, 25)
    z = np.asarray(hc.sample(log_alpha[None], hc.sample_noise(jax.random.key(1), (20_000, 25))))
    p = np.asarray(hc.prob_nonzero(log_alpha), np.float64)
    assert np.all(np.abs((z != 0).mean(0) - p) < 5 * np.sqrt(p * (1 - p) / 20_000))


@given(seed=seeds, size=st.sampled_from([1, 2, 7, 40]))
def test_final_mask(seed, size):
    row = log_alphas(seed, size)
    expected = numpy_final(row)
    assume(abs((size - numpy_prob_nonzero(row).sum()) % 1 - 0.5) > 1e-4)  # else float32 may round the other way
    found = np.asarray(hc.final_mask(row))
    assert found.dtype == np.float32
    np.testing.assert_allclose(found, expected, rtol=1e-6)


def row_with_expected_zeros(size, zeros):
    """Equal gates whose expected number of zeros is `zeros`."""
    closed = zeros / size
    return np.full(size, 2 / 3 * np.log(1 / 11) - np.log(closed / (1 - closed)))


@pytest.mark.parametrize(("expected_zeros", "closed"), [(1.49, 1), (1.51, 2), (2.49, 2), (2.51, 3)])
def test_final_mask_rounds(expected_zeros, closed):
    mask = np.asarray(hc.final_mask(jnp.asarray(row_with_expected_zeros(8, expected_zeros), jnp.float32)))
    assert (mask == 0).sum() == closed


@pytest.mark.parametrize(("size", "closed"), [(1, 0), (3, 2), (5, 2), (7, 4), (9, 4)])
def test_final_mask_rounds_half_to_even(size, closed):
    """log_alpha = -β·ln 11 gives P(z ≠ 0) = σ(0) = 0.5 exactly: n - Σp = n/2."""
    row = jnp.full(size, 2 / 3 * np.log(1 / 11), jnp.float32)
    assert float(hc.prob_nonzero(row).sum()) == size / 2
    assert (np.asarray(hc.final_mask(row)) == 0).sum() == closed


def test_final_mask_closes_the_earlier_of_equal_gates():
    mask = np.asarray(hc.final_mask(jnp.asarray(row_with_expected_zeros(6, 2), jnp.float32)))
    np.testing.assert_array_equal(mask == 0, [True, True, False, False, False, False])


@pytest.mark.parametrize(("log_alpha", "open_"), [(-1.7, False), (-1.5, True), (4.6, True), (-4.6, False)])
def test_final_mask_of_a_lone_gate(log_alpha, open_):
    """P(z ≠ 0) is 0.5 at log_alpha = -2/3·ln 11 = -1.599."""
    mask = np.asarray(hc.final_mask(jnp.array([log_alpha])))
    np.testing.assert_allclose(mask, [sigmoid(1.2 * log_alpha) if open_ else 0.0], rtol=1e-6)


@pytest.mark.parametrize("zeros", [0, 1, 3, 5])
def test_final_mask_closes_as_many_as_told(zeros):
    row = np.array([2, -1, 0.5, -1, 3], np.float32)
    expected = sigmoid(1.2 * row)
    expected[[1, 3, 2, 0, 4][:zeros]] = 0  # lowest first, the earlier of equals
    np.testing.assert_allclose(hc.final_mask(row, zeros), expected, rtol=1e-6)


@pytest.mark.parametrize(("droprate", "mean"), [(None, 10.0), (0.5, 0.0), (0.1, np.log(9)), (0.9, -np.log(9))])
def test_initial_log_alpha(droprate, mean):
    start = np.asarray(hc.initial_log_alpha(jax.random.key(2), 10_000, droprate))
    assert start.dtype == np.float32
    assert abs(start.mean() - mean) < 1e-3
    assert abs(start.std() - 0.01) < 1e-3


def test_clamp():
    clamped = np.asarray(hc.clamp(jnp.array([-9.0, -1.0, 0.0, 4.6, 10.0])))
    np.testing.assert_allclose(clamped, [np.log(1e-2), -1, 0, 4.6, np.log(1e2)], rtol=1e-6)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_samples(golden, case):
    _, arrays = golden(case)
    assert arrays["z_sampled"]
    for gate, z in arrays["z_sampled"].items():
        found = hc.sample(arrays["log_alpha"][gate], arrays["u"][gate])
        np.testing.assert_allclose(found, z, rtol=1e-5, atol=1e-6, err_msg=gate)
        assert ((np.asarray(found) == 0) == (z == 0)).all()


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_probabilities(golden, case):
    _, arrays = golden(case)
    assert arrays["prob_nonzero"]
    for gate, p in arrays["prob_nonzero"].items():
        np.testing.assert_allclose(hc.prob_nonzero(arrays["log_alpha"][gate]), p, rtol=1e-5, err_msg=gate)


@pytest.mark.parametrize("case", GOLDEN_CASES)
def test_golden_final_masks(golden, case):
    _, arrays = golden(case)
    assert arrays["z_final"]
    for gate, z in arrays["z_final"].items():
        rows = arrays["log_alpha"][gate]
        rows = rows[:, None] if gate.endswith(LONE) else np.atleast_2d(rows)
        found = np.stack([np.asarray(hc.final_mask(row)) for row in rows]).reshape(z.shape)
        np.testing.assert_array_equal(found == 0, z == 0, err_msg=gate)
        np.testing.assert_allclose(found, z, rtol=1e-5, err_msg=gate)
