"""Output projections fitted to what cutting leaves."""

import numpy as np
import pytest
from families import FAMILIES
from hypothesis import given
from hypothesis import strategies as st
from seeds import some
from test_compact import assert_same_function

from nash_jax.config.schema import ModelConfig
from nash_jax.pruning.least_squares import gram_matrix, reconstruction_error, refit, refit_outputs
from nash_jax.recipe.calibration import Calibration
from nash_jax.spec import DecoderLayer, EncoderLayer
from nash_jax.testing import random_batch, random_masks, random_params, random_spec
from nash_jax.tree import flatten

seeds = st.integers(0, 2**32 - 1)


def draw(seed, tokens=40, inputs=7, outputs=5):
    """Correlated inputs, weights, and which inputs are kept."""
    rng = np.random.default_rng(seed)
    x = rng.normal(1, 1, (tokens, inputs)) @ rng.normal(size=(inputs, inputs))
    return x, rng.normal(size=(inputs, outputs)), rng.random(inputs) < 0.6


def ones_beside(x):
    return np.concatenate([x, np.ones((len(x), 1))], axis=1)


@pytest.mark.parametrize("bias", [False, True])
@given(seed=seeds)
def test_without_damping_it_is_least_squares(bias, seed):
    x, weight, kept = draw(seed)
    found, shift = refit(weight, kept, ones_beside(x).T @ ones_beside(x), bias=bias, damping=1e-12)
    left = ones_beside(x[:, kept]) if bias else x[:, kept]
    expected = np.linalg.lstsq(left, x @ weight, rcond=None)[0] if left.size else np.zeros((0, 5))
    np.testing.assert_allclose(found[kept], expected[: kept.sum()], atol=1e-5)
    np.testing.assert_allclose(shift, expected[-1] if bias else 0, atol=1e-5)
    assert not found[~kept].any()


@pytest.mark.parametrize("bias", [False, True])
@given(seed=seeds, damping=st.floats(0, 100), tokens=st.integers(1, 20))
def test_the_error_on_the_rows_never_rises(bias, seed, damping, tokens):
    """Also with fewer tokens than inputs, and without damping."""
    x, weight, kept = draw(seed, tokens)
    own = ones_beside(x).T @ ones_beside(x)
    new, shift = refit(weight, kept, own, bias=bias, damping=damping)
    cut = weight * kept[:, None]
    before, after = reconstruction_error(weight, cut, np.zeros(5), own), reconstruction_error(weight, new, shift, own)
    assert after <= before * (1 + 1e-6) + 1e-8
    np.testing.assert_allclose(after, np.sum((x @ weight - x @ new - shift) ** 2), rtol=1e-6, atol=1e-6)
    if kept.all():
        np.testing.assert_allclose(new, weight, atol=1e-6)


def test_gram_matrices_count_tokens():
    rng = np.random.default_rng(0)
    context, counted = rng.normal(size=(2, 3, 4, 5)).astype(np.float32), np.array([[1, 1, 0], [1, 0, 0]])
    left = ones_beside(context.reshape(6, 20)[counted.reshape(-1) == 1])
    np.testing.assert_allclose(gram_matrix(context, counted), left.T @ left, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("family", some(["t5", "bart", *sorted({*FAMILIES} - {"t5", "bart"})], few=2))
def test_outputs_come_nearer_and_masks_still_fold(logits, family):
    """Every site loses error on its rows; the fitted model under its masks equals its compaction."""
    layers = {"encoder": (EncoderLayer((0, 2), 9),), "decoder": (DecoderLayer((1,), (0, 1, 2), 6),)}
    spec = random_spec(11, family=family, num_heads=3, d_model=8, **layers)
    params, batch = random_params(spec), random_batch(spec, rows=8, source=10, target=8)
    masks = random_masks(spec, 2, "heads units", soft=False)
    grams = Calibration(spec, params, [batch], ModelConfig()).grams(masks)
    fitted = refit_outputs(spec, params, masks, grams)
    before, after = flatten(params), flatten(fitted)
    changed = {path for path in before if not np.array_equal(before[path], after[path])}
    assert changed and {path.rpartition("/")[2] for path in changed} <= {"out", "wo", "out_bias", "wo_bias"}
    for name, mask in masks.items():
        place, _, kind = name.rpartition(".")
        path = place.replace("coder.", "coder/layers_").replace(".", "/") + ("/out" if kind == "heads" else "/wo")
        old, new = (flat[path].reshape(-1, spec.d_model).astype(np.float64) for flat in (before, after))
        cut = old * np.repeat(mask, len(old) // len(mask))[:, None]
        shift = after[f"{path}_bias"] - before[f"{path}_bias"] if spec.bias else np.zeros(spec.d_model)
        left = reconstruction_error(old, cut, np.zeros(spec.d_model), grams[name])
        assert reconstruction_error(old, new, shift, grams[name]) <= left * (1 - 1e-3 * (not mask.all())) + 1e-6
    assert_same_function(logits, spec, fitted, masks)
