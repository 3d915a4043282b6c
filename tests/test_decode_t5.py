import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nash_jax.models import build
from nash_jax.models.layers import Attention, FeedForward, attention_bias
from nash_jax.spec import DecoderLayer, EncoderLayer, dense_spec
from nash_jax.testing import random_batch, random_params, random_spec
from nash_jax.tree import flatten

SMALL = {"num_heads": 3, "d_model": 8, "head_dim": 4, "position_buckets": 8, "position_max_distance": 20}
ENCODER = (EncoderLayer((0, 1, 2), 6),)
SPECS = {
    "dense tied scaled": random_spec(
        0, **SMALL, gated=False, activation="relu", tied=True, output_scale=8**-0.5,
        encoder=ENCODER, decoder=(DecoderLayer((0, 1, 2), (0, 1, 2), 6),) * 2,
    ),
    "dense gated untied": random_spec(
        0, **SMALL, gated=True, activation="gelu_tanh", tied=False,
        encoder=ENCODER, decoder=(DecoderLayer((0, 1, 2), (0, 1, 2), 6),),
    ),
    "ragged heads and units": random_spec(
        1, **SMALL, encoder=(EncoderLayer((1,), 3),),
        decoder=(DecoderLayer((0, 2), (1,), 5), DecoderLayer((1,), (0, 2), 2)),
    ),
    "sub-layers gone": random_spec(
        2, **SMALL, encoder=(EncoderLayer((), 0), EncoderLayer((), 4)),
        decoder=(DecoderLayer((), (), 0), DecoderLayer((2,), (), 4), DecoderLayer((), (1,), 0)),
    ),
    "no self-attention at all": random_spec(3, **SMALL, encoder=ENCODER, decoder=(DecoderLayer((), (1,), 4),)),
}  # fmt: skip
PARAMS_SCALE = 0.4
key = functools.partial(jax.random.key, impl="unsafe_rbg")  # compiles many times faster than the default's dropout


def attention_mask(batch):
    return (batch["input_ids"] != 0).astype(np.int32)


@functools.partial(jax.jit, static_argnums=0)
def forced_and_stepped(model, params, input_ids, mask, target_ids):
    """Teacher-forced logits, and those of one cached step after another, each [B, T, V]."""
    spec, (rows, length) = model.spec, target_ids.shape
    bound = model.bind({"params": params})
    encoded, _ = bound.encode(input_ids, mask)
    forced, _ = bound.decode(target_ids, encoded, mask)
    cross, bias = bound.cross_keys_values(encoded), bound.decode_bias(length)
    sizes = [(rows, len(layer.self_heads), length, spec.head_dim) for layer in spec.decoder]
    # full of 7, so that reading a position before it is written would show
    cache = [(jnp.full(s, 7.0), jnp.full(s, 7.0)) if s[1] else None for s in sizes]

    def step(cache, position):
        tokens = jax.lax.dynamic_index_in_dim(target_ids, position, 1, keepdims=False)
        args = (tokens, position, cache, bias, cross, attention_bias(mask))
        logits, cache = model.apply({"params": params}, *args, method="decode_step")
        return cache, logits

    _, stepped = jax.lax.scan(step, cache, jnp.arange(length))
    return forced, jnp.moveaxis(stepped, 0, 1)


@pytest.mark.parametrize("name", SPECS)
def test_cached_steps_equal_teacher_forcing(name):
    spec = SPECS[name]
    batch = random_batch(spec, 0, rows=3, source=9, target=12)  # past position_max_distance / 2: shared buckets too
    forced, stepped = forced_and_stepped(
        build(spec), random_params(spec, 1, PARAMS_SCALE), batch["input_ids"], attention_mask(batch), batch["labels"]
    )
    assert np.std(forced) > 0.1
    np.testing.assert_allclose(stepped, forced, rtol=1e-4, atol=1e-5)


def test_specs_are_what_their_names_say():
    gone = SPECS["sub-layers gone"].sublayers()
    assert {name.rpartition(".")[2] for name, (_, size) in gone.items() if size == 0} == {
        "attention",
        "self_attention",
        "cross_attention",
        "ffn",
    }
    without = SPECS["no self-attention at all"]
    model = build(without)
    assert model.apply({"params": random_params(without)}, 5, method="decode_bias").shape == (1, 9)  # causal alone


def test_decode_bias_rows_are_rows_of_the_causal_bias():
    spec = SPECS["dense tied scaled"]
    params = random_params(spec)
    bias = np.asarray(build(spec).apply({"params": params}, 6, method="decode_bias"))
    assert bias.shape == (3, 11)
    table = params["decoder"]["position_bias"]["embedding"]  # 8 buckets: 0-3 exact, then logarithmic to 20
    np.testing.assert_allclose(bias[:, 5], table[0], rtol=1e-6)
    np.testing.assert_allclose(bias[:, 3], table[2], rtol=1e-6)
    assert (bias[:, 6:] < -1e8).all()


def test_padding_of_the_source_does_not_matter(logits):
    spec = SPECS["dense gated untied"]
    params, batch = random_params(spec, 0, PARAMS_SCALE), random_batch(spec, 3, rows=3, source=9, target=12)
    garbage = np.where(batch["input_ids"] == 0, 5, batch["input_ids"])
    masked = logits(spec, params, batch | {"input_ids": garbage}, attention_mask=attention_mask(batch))
    np.testing.assert_allclose(masked, logits(spec, params, batch), rtol=1e-5, atol=1e-5)
    assert np.abs(logits(spec, params, batch | {"input_ids": garbage}) - masked).max() > 1e-2  # without a mask


DROPPING = dataclasses.replace(SPECS["ragged heads and units"], dropout_rate=0.4)


@functools.partial(jax.jit, static_argnums=(0, 1))
def run_with_dropout(spec, deterministic, params, batch, dropout_key):
    return build(spec).apply(
        {"params": params}, batch["input_ids"], batch["input_ids"] * 0 + 1, batch["labels"],
        deterministic=deterministic, rngs={"dropout": dropout_key},
    )  # fmt: skip


def test_dropout_is_random_by_its_key_alone():
    params, batch = random_params(DROPPING, 0, PARAMS_SCALE), random_batch(DROPPING, rows=2)
    batch = {name: np.repeat(ids[:1], 2, 0) for name, ids in batch.items()}
    first, second = (run_with_dropout(DROPPING, False, params, batch, key(k)) for k in (0, 1))
    np.testing.assert_array_equal(run_with_dropout(DROPPING, False, params, batch, key(0)), first)
    assert np.abs(first - second).max() > 1e-2
    assert np.abs(first[0] - first[1]).max() > 1e-2  # two equal rows draw for themselves


def test_deterministic_runs_drop_nothing():
    params, batch = random_params(DROPPING, 0, PARAMS_SCALE), random_batch(DROPPING, rows=2)
    plain = run_with_dropout(DROPPING, True, params, batch, key(0))
    np.testing.assert_array_equal(run_with_dropout(DROPPING, True, params, batch, key(1)), plain)
    without = dataclasses.replace(DROPPING, dropout_rate=0.0)
    rate_zero = run_with_dropout(without, False, params, batch, key(0))
    np.testing.assert_allclose(rate_zero, plain, rtol=1e-5, atol=1e-6)


def test_dropout_acts_within_attention_and_feed_forward():
    """Rate 0.5 on weights over values of 1: a context is 2·(what is left of weights that sum to 1), not 1."""
    spec = dense_spec(
        vocab_size=8, d_model=4, head_dim=4, d_ff=200, num_heads=1, encoder_layers=1, decoder_layers=1, dropout_rate=0.5
    )
    attention = Attention(spec, "encoder.0.attention", jnp.float32)
    heads = np.zeros((1, 50, 1, 4), np.float32)  # equal scores
    params = {"out": np.eye(4, dtype=np.float32)[None], "qkv": np.zeros((4, 3, 1, 4), np.float32)}
    keys = np.zeros((1, 1, 50, 4), np.float32)
    run = functools.partial(attention.apply, {"params": params}, heads, keys, keys + 1, np.zeros((1, 1, 1, 1)), None)
    np.testing.assert_allclose(run(method="attend"), 1, rtol=1e-5)
    context = np.asarray(run(method="attend", deterministic=False, rngs={"dropout": key(0)}))
    assert context.std() > 0.05
    assert abs(context.mean() - 1) < 0.1

    feed_forward = FeedForward(
        dataclasses.replace(spec, dropout_rate=0.0, activation_dropout_rate=0.5), "encoder.0.ffn", jnp.float32
    )
    params = {
        "norm": {"scale": np.ones(4, np.float32)},
        "wi": np.ones((4, 200), np.float32),
        "wo": np.full((200, 4), 1 / 800, np.float32),
    }
    x = np.ones((30, 4), np.float32)
    run = functools.partial(feed_forward.apply, {"params": params}, x)
    np.testing.assert_allclose(run() - x, 1, rtol=1e-5)
    output = np.asarray(run(deterministic=False, rngs={"dropout": key(0)})) - x
    assert 0.03 < output.std() < 0.15  # 1/sqrt(200) = 0.07
    assert abs(output.mean() - 1) < 0.1


def test_bfloat16_is_close_to_float32(logits):
    spec = SPECS["dense gated untied"]
    params, batch = random_params(spec, 0, 0.3), random_batch(spec, 0, rows=3, source=9, target=12)
    exact = logits(spec, params, batch)
    half = jax.jit(build(spec, dtype=jnp.bfloat16).apply)(
        {"params": params}, batch["input_ids"], attention_mask(batch), batch["labels"]
    )
    assert half.dtype == jnp.float32
    error = np.abs(half - exact)
    assert 1e-5 < error.max() < 0.05 * np.abs(exact).max()


def test_remat_changes_neither_values_nor_gradients():
    few = {"encoder": (EncoderLayer((1,), 0),), "decoder": (DecoderLayer((), (0, 2), 3),)}  # to compile quickly
    spec = dataclasses.replace(DROPPING, **few)
    params, batch = random_params(spec, 0, PARAMS_SCALE), random_batch(spec)

    def loss(params, remat):
        logits = build(spec, remat=remat).apply(
            {"params": params}, batch["input_ids"], attention_mask(batch), batch["labels"],
            deterministic=False, rngs={"dropout": key(0)},
        )  # fmt: skip
        return jnp.mean(jnp.square(jax.nn.log_softmax(logits)))

    run = jax.jit(jax.value_and_grad(loss), static_argnums=1)
    plain, with_remat = (run(params, remat) for remat in (False, True))
    np.testing.assert_allclose(with_remat[0], plain[0], rtol=1e-6)
    for path, gradient in flatten(plain[1]).items():
        scale = np.abs(gradient).max()
        assert scale > 0, path
        np.testing.assert_allclose(flatten(with_remat[1])[path], gradient, atol=1e-5 * scale, rtol=1e-5, err_msg=path)


def test_hidden_states_are_one_a_layer_and_end_in_the_encoding():
    spec = SPECS["sub-layers gone"]
    params, batch = random_params(spec), random_batch(spec)

    @jax.jit
    def run(params):
        model = build(spec).bind({"params": params})
        encoded, hidden = model.encode(batch["input_ids"], attention_mask(batch))
        return encoded, hidden, model.decode(batch["labels"], encoded, attention_mask(batch))[1]

    encoded, hidden, decoder_hidden = run(params)
    assert len(hidden) == len(spec.encoder)
    last = np.asarray(hidden[-1], np.float64)
    scale = params["encoder"]["final_norm"]["scale"]
    expected = last / np.sqrt(np.mean(last**2, -1, keepdims=True) + spec.norm_eps) * scale
    np.testing.assert_allclose(encoded, expected, rtol=1e-4, atol=1e-5)
    assert [h.shape for h in decoder_hidden] == [(3, 5, spec.d_model)] * len(spec.decoder)
