"""Beams that read keys and values where their ancestors left them: the logits of each beam's own tokens.

What accelerators run is run here, on a CPU, by taking their branches.
"""

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nash_jax.generation.cache import CachedDecoder, encode
from nash_jax.models import build
from nash_jax.models.layers import MASK_VALUE, beam_bias
from nash_jax.runtime.mesh import make_mesh, use_mesh
from nash_jax.runtime.sharding import place, rows_sharding
from nash_jax.spec import DecoderLayer
from nash_jax.testing import random_batch, random_params, random_spec

BEAMS, LENGTH, ROWS = 3, 6, 2
DECODER = (DecoderLayer((0, 2), (1,), 5), DecoderLayer((), (0,), 3), DecoderLayer((0, 1, 2), (), 0))
FAMILIES = ("t5", "umt5", "bart", "marian")  # one table of biases, one a layer, learnt positions, sinusoids


def decoder_of(family):
    """A ragged model, its parameters, sources, and a decoder of them."""
    spec = random_spec(5, family=family, num_heads=3, decoder=DECODER)
    params, batch = random_params(spec, scale=0.4), random_batch(spec, 1, rows=ROWS)
    model, ids = build(spec), batch["input_ids"]
    encoded = jax.jit(lambda *x: encode(model, *x, LENGTH))(params, ids, (ids != spec.pad_id).astype(np.int32))
    return spec, params, ids, CachedDecoder(model, params, encoded)


@pytest.fixture(params=["cpu", "cuda", "tpu"])
def platform(request, monkeypatch):
    """What is traced takes the branches of this platform."""

    def choose(*args, default, **branches):
        return branches.get(request.param, default)(*args)

    monkeypatch.setattr(jax.lax, "platform_dependent", choose)
    return request.param


@pytest.mark.parametrize("prompt_length", [1, 3])
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_are_those_of_each_beams_tokens(family, prompt_length, platform, logits):
    spec, params, ids, decoder = decoder_of(family)
    rng = np.random.default_rng(prompt_length)
    prompt = np.full((ROWS, LENGTH + 1), spec.pad_id, np.int32)
    prompt[:, :prompt_length] = rng.integers(2, spec.vocab_size, (ROWS, prompt_length))
    cache = jax.jit(decoder.start_beams, static_argnums=(2, 3))(prompt, prompt_length, BEAMS, prompt_length > 1)
    step, reorder = jax.jit(decoder.step), jax.jit(decoder.reorder)
    tokens = np.repeat(prompt[:, None], BEAMS, axis=1)  # [B, K, L]
    for position in range(prompt_length - 1, LENGTH):
        found, cache = step(tokens[:, :, position].reshape(-1), position, cache)
        forced = {"input_ids": np.repeat(ids, BEAMS, axis=0), "labels": tokens[:, :, :LENGTH].reshape(-1, LENGTH)}
        expected = logits(spec, params, forced)[:, position]
        np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-5 * np.abs(expected).max())
        parents = rng.integers(BEAMS, size=(ROWS, BEAMS)).astype(np.int32)
        cache, tokens = reorder(cache, parents), np.take_along_axis(tokens, parents[..., None], axis=1)
        tokens[:, :, position + 1] = rng.integers(2, spec.vocab_size, (ROWS, BEAMS))


@given(seed=st.integers(0, 2**32 - 1))
def test_each_beam_reads_one_value_of_each_position(seed):
    rng = np.random.default_rng(seed)
    bias = rng.normal(size=(1, 2, 1, LENGTH)).astype(np.float32)
    ancestors = rng.integers(BEAMS, size=(ROWS, BEAMS, LENGTH)).astype(np.int32)
    found = np.asarray(beam_bias(bias, ancestors)).reshape(ROWS, 2, BEAMS, BEAMS, LENGTH)
    for b, k, t in np.ndindex(ROWS, BEAMS, LENGTH):
        own = ancestors[b, k, t]
        np.testing.assert_array_equal(found[b, :, k, own, t], bias[0, :, 0, t])
        assert (np.delete(found[b, :, k, :, t], own, axis=1) == MASK_VALUE).all()


def test_nothing_is_copied_or_exchanged(platform):
    """Choosing other beams changes numbers of beams; on CPUs keys and values move, of each input by themselves."""
    _, _, _, decoder = decoder_of("t5")
    cache = decoder.start_beams(np.zeros((ROWS, LENGTH + 1), np.int32), 1, BEAMS, False)
    parents = np.zeros((ROWS, BEAMS), np.int32)
    mesh = make_mesh("data:2", jax.devices()[:2])
    placed, chosen = (place(np.asarray(x), rows_sharding(mesh, ROWS)) for x in (cache.ancestors, parents))
    layers = jax.tree.map(lambda x: place(np.asarray(x), rows_sharding(mesh, len(x))), cache.layers)
    given = cache._replace(layers=layers, ancestors=placed)
    with use_mesh(mesh):
        text = jax.jit(decoder.reorder).lower(given, chosen).compile().as_text()
    assert not any(word in text for word in ("all-gather", "all-reduce", "collective-permute", "all-to-all"))
    moved = decoder.reorder(cache, parents)
    assert (moved.ancestors is cache.ancestors) == (platform == "cpu")
    assert (moved.layers is cache.layers) == (platform != "cpu")
