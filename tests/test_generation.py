"""Greedy generation: against transformers token for token, against a plain loop, in any batch and bucket."""

import dataclasses

import jax
import numpy as np
import pytest

from nash_jax import Seq2Seq, models
from nash_jax.generation.engine import Engine, batch_bucket, bucket, untie
from nash_jax.testing import random_batch, random_params, random_spec


def plain_greedy(engine: Engine, ids: np.ndarray, max_new_tokens: int) -> np.ndarray:
    """One teacher-forced pass for each token, without a cache."""
    spec = engine.spec
    tokens = np.full((len(ids), max_new_tokens + 1), spec.pad_id)
    tokens[:, 0] = spec.decoder_start_id
    done = np.zeros(len(ids), bool)
    for step in range(max_new_tokens):
        logits = engine.logits(ids, ids != spec.pad_id, tokens)[:, step]  # causal: what comes later is not seen
        tokens[:, step + 1] = np.where(done, spec.pad_id, logits.argmax(-1))
        done |= tokens[:, step + 1] == spec.eos_id
        if done.all():
            return tokens[:, : step + 2]
    return tokens


@pytest.mark.parametrize("seed", range(4))
def test_cached_loop_equals_teacher_forcing(seed: int) -> None:
    spec = random_spec(seed, ragged=seed % 2 == 0)
    engine = Engine(spec, random_params(spec, seed))
    ids = random_batch(spec, seed, rows=5)["input_ids"]
    found = engine.generate(ids, ids != spec.pad_id, 9)
    np.testing.assert_array_equal(found, plain_greedy(engine, ids, 9))


def test_any_batch_and_any_padding_give_the_same_tokens() -> None:
    spec = random_spec(3)
    engine = Engine(spec, random_params(spec, 3))
    ids = random_batch(spec, 3, rows=7, source=9)["input_ids"]
    together = engine.generate(ids, ids != spec.pad_id, 12)
    for row in range(len(ids)):
        own = ids[row : row + 1, : (ids[row] != spec.pad_id).sum()]
        alone = engine.generate(own, np.ones_like(own), 12)[0]
        np.testing.assert_array_equal(together[row, : len(alone)], alone)
        assert (together[row, len(alone) :] == spec.pad_id).all()


def test_another_length_within_a_bucket_does_not_compile_again() -> None:
    spec = random_spec(1)
    engine = Engine(spec, random_params(spec, 1))
    for rows, length, new in ((3, 9, 9), (4, 12, 12), (3, 10, 11)):
        ids = random_batch(spec, 0, rows=rows, source=length)["input_ids"]
        engine.generate(ids, ids != spec.pad_id, new)
    assert engine._generate._cache_size() == 1


def test_limit_and_fixed_length() -> None:
    spec = random_spec(2)
    engine = Engine(spec, random_params(spec, 2))
    ids = random_batch(spec, 2, rows=4)["input_ids"]
    free = engine.generate(ids, ids != spec.pad_id, 10, stop_at_eos=False)
    assert free.shape == (4, 11)
    short = engine.generate(ids, ids != spec.pad_id, 3)
    np.testing.assert_array_equal(short, plain_greedy(engine, ids, 3))


def test_buckets() -> None:
    assert [bucket(n) for n in (1, 8, 9, 13, 17, 33, 65, 256, 257)] == [8, 8, 12, 16, 24, 48, 96, 256, 384]
    assert [batch_bucket(n) for n in (1, 2, 3, 9)] == [1, 2, 4, 16]


def test_untied_head_is_the_same_function() -> None:
    spec = random_spec(4, tied=True)
    params, batch = random_params(spec, 4), random_batch(spec, 4)
    inputs = (batch["input_ids"], batch["input_ids"] != 0, batch["labels"])
    own, own_params = untie(spec, params)
    assert not own.tied
    tied = models.build(spec).apply({"params": params}, *inputs)
    np.testing.assert_allclose(models.build(own).apply({"params": own_params}, *inputs), tied, rtol=1e-5, atol=1e-5)


def test_update_takes_parameters_of_a_tied_model() -> None:
    spec = random_spec(5, tied=True)
    engine = Engine(spec, random_params(spec, 5))
    other = random_params(spec, 6)
    engine.update(other)
    ids = random_batch(spec, 5)["input_ids"]
    expected = Engine(spec, other).generate(ids, ids != spec.pad_id, 6)
    np.testing.assert_array_equal(engine.generate(ids, ids != spec.pad_id, 6), expected)


def test_a_decoder_deeper_than_its_encoder_and_one_without_heads() -> None:
    spec = random_spec(7, ragged=True)
    bare = dataclasses.replace(spec.decoder[0], self_heads=(), cross_heads=())
    spec = dataclasses.replace(spec, decoder=(bare,) * 3, encoder=spec.encoder[:1])
    engine = Engine(spec, random_params(spec, 7))
    ids = random_batch(spec, 7)["input_ids"]
    found = engine.generate(ids, ids != spec.pad_id, 5)
    np.testing.assert_array_equal(found, plain_greedy(engine, ids, 5))


@pytest.mark.parametrize("seed", range(12))
def test_tokens_equal_transformers(seed: int, tmp_path) -> None:
    """Random models of both versions, ragged-padded batches: `generate` of PyTorch gives the same ids."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    from transformers import T5ForConditionalGeneration

    gated = seed % 2 == 1
    spec = random_spec(seed, gated=gated, activation="gelu_tanh" if gated else "relu")
    spec = dataclasses.replace(spec, output_scale=spec.d_model**-0.5 if spec.tied else 1.0)
    params = random_params(spec, seed, scale=0.7)
    Seq2Seq(spec, params).save_hf(tmp_path / "model")
    reference = T5ForConditionalGeneration.from_pretrained(tmp_path / "model").eval()
    engine = Engine(spec, params)
    ids = random_batch(spec, seed, rows=6, source=11)["input_ids"]
    mask = (ids != spec.pad_id).astype(np.int32)
    with torch.no_grad():
        expected = reference.generate(
            input_ids=torch.tensor(ids).long(), attention_mask=torch.tensor(mask).long(), max_new_tokens=16,
            do_sample=False, num_beams=1, use_cache=len(spec.decoder) <= len(spec.encoder),
        ).numpy()  # fmt: skip
    np.testing.assert_array_equal(engine.generate(ids, mask, 16), expected)


def test_bfloat16_runs() -> None:
    spec = random_spec(8)
    engine = Engine(spec, random_params(spec, 8), "bfloat16")
    assert all(leaf.dtype == "bfloat16" for leaf in jax.tree.leaves(engine.params))
    ids = random_batch(spec, 8)["input_ids"]
    assert engine.generate(ids, ids != 0, 4).shape[0] == len(ids)
