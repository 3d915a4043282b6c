"""Dropout: how often, how independent, scaled, and the same on every device."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from nash_jax.models.dropout import Dropout, keep_mask
from nash_jax.runtime.mesh import make_mesh

SHAPE = (64, 64, 64)


def key(seed):
    return jax.random.fold_in(jax.random.key(57), seed)


@pytest.mark.parametrize("probability", [0.9, 0.5, 0.999])
def test_how_often(probability):
    kept = np.array([keep_mask(key(seed), probability, SHAPE) for seed in range(8)])
    sd = np.sqrt(probability * (1 - probability))
    assert abs(kept.mean() - probability) < 4 * sd / np.sqrt(kept.size)
    blocks = kept.reshape(-1, 256).mean(1)  # neither fuller nor emptier in places than by chance
    assert blocks.std() == pytest.approx(sd / 16, rel=0.05)


@pytest.mark.parametrize("axis", [0, 1, 2])
def test_neighbours_are_independent(axis):
    kept = np.asarray(keep_mask(key(1), 0.9, SHAPE), np.float64) - 0.9
    for shift in (1, 2, 3, 8, 32):
        product = np.mean(kept * np.roll(kept, shift, axis)) / 0.09
        assert abs(product) < 4 / np.sqrt(kept.size)


def test_keys_and_bits_are_independent():
    masks = np.array([keep_mask(key(seed), 0.9, SHAPE) for seed in range(20)]).reshape(20, -1)
    near = np.array(
        [keep_mask(jax.random.wrap_key_data(jnp.array([5, word], jnp.uint32)), 0.9, SHAPE) for word in (0, 1)]
    )
    for found in (masks, near.reshape(2, -1)):
        correlations = np.corrcoef(found)[np.triu_indices(len(found), 1)]
        assert np.abs(correlations).max() < 5 / np.sqrt(found.shape[1])


def test_the_same_on_every_device():
    mesh = make_mesh("data:2,model:2")
    split = NamedSharding(mesh, PartitionSpec("data", None, "model"))
    found = jax.jit(lambda k: keep_mask(k, 0.9, SHAPE), out_shardings=split)(key(3))
    np.testing.assert_array_equal(found, keep_mask(key(3), 0.9, SHAPE))


def test_values_and_gradients():
    layer, ones = Dropout(0.25), jnp.ones(SHAPE)

    def apply(x, deterministic=False):
        return layer.apply({}, x, deterministic, rngs={"dropout": key(4)})

    values = np.asarray(apply(ones))
    assert set(np.unique(values)) == {np.float32(0), np.float32(1 / 0.75)}
    np.testing.assert_array_equal(jax.grad(lambda x: apply(x).sum())(ones), values)
    np.testing.assert_array_equal(apply(ones, deterministic=True), ones)
    assert apply(ones.astype(jnp.bfloat16)).dtype == jnp.bfloat16
    np.testing.assert_array_equal(Dropout(0.0).apply({}, ones, False), ones)  # takes no key
