"""Both ways to the context of a few queries, against NumPy in float64; and which of them a device takes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nash_jax.models.attention import attend_by_sums, attend_few, by_head

LETTERS = [(1, 1, 1, 4, 3), (3, 1, 5, 8, 9), (2, 4, 3, 16, 7)]  # B, T, N, H, S


def random_inputs(shape, dtype=np.float32):
    rows, queries, heads, width, length = shape
    rng = np.random.default_rng(0)
    query = rng.normal(size=(rows, queries, heads, width))
    key, value = rng.normal(size=(2, rows, length, heads, width))
    return jnp.asarray(query, dtype), by_head(jnp.asarray(key, dtype)), by_head(jnp.asarray(value, dtype))


@pytest.mark.parametrize("attend", [attend_few, attend_by_sums])
@pytest.mark.parametrize("shape", LETTERS)
def test_context_is_that_of_numpy(attend, shape):
    given = random_inputs(shape)
    found = jax.jit(lambda *x: attend(*x, jax.nn.softmax))(*given)
    query, key, value = (np.asarray(x, np.float64) for x in given)
    scores = np.exp(np.einsum("BTNH,BNSH->BNTS", query, key))
    expected = np.einsum("BNTS,BNSH->BTNH", scores / scores.sum(-1, keepdims=True), value)
    np.testing.assert_allclose(found, expected, rtol=1e-5, atol=1e-6)


def test_half_precision_is_summed_in_full():
    given = random_inputs((2, 1, 3, 64, 200), jnp.bfloat16)
    found = attend_by_sums(*given, jax.nn.softmax)
    whole = attend_by_sums(*(x.astype(jnp.float32) for x in given), jax.nn.softmax)
    assert found.dtype == jnp.bfloat16
    np.testing.assert_array_equal(found, whole.astype(jnp.bfloat16))


@pytest.mark.parametrize(("platform", "products"), [("cuda", 0), ("cpu", 2), ("tpu", 2)])
def test_a_gpu_takes_sums_and_others_products(platform, products):
    lowered = jax.jit(lambda *x: attend_few(*x, jax.nn.softmax)).trace(*random_inputs(LETTERS[-1]))
    text = lowered.lower(lowering_platforms=(platform,)).as_text()
    assert text.count("stablehlo.dot_general") == products
