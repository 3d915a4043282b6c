"""Greedy search and sampling: against transformers token for token, against a plain loop, in any batch and bucket."""

import dataclasses

import jax
import numpy as np
import pytest
from scipy import stats

from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import batch_bucket, length_bucket
from nash_jax.generation.options import GenerationOptions
from nash_jax.models.head import untie_head
from nash_jax.testing import lively_model, random_batch, random_params, random_sources, random_spec


def greedy(new: int, **options) -> GenerationOptions:
    return GenerationOptions(max_new_tokens=new, **options)


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


@pytest.fixture(scope="module")
def lively(quick_engine) -> Engine:
    return quick_engine(*lively_model(0))


@pytest.fixture(scope="module")
def any_lively(quick_engine) -> Engine:
    """Its parameters are changed by tests."""
    return quick_engine(*lively_model(0))


@pytest.mark.parametrize("seed", range(3))
def test_cached_loop_equals_teacher_forcing(quick_engine, seed: int) -> None:
    spec = random_spec(seed, ragged=seed % 2 == 0)
    engine = quick_engine(spec, random_params(spec, seed))
    ids = random_batch(spec, seed, rows=5)["input_ids"]
    found = engine.generate(ids, ids != spec.pad_id, greedy(9))
    np.testing.assert_array_equal(found, plain_greedy(engine, ids, 9))


def test_any_batch_and_any_padding_give_the_same_tokens(lively) -> None:
    ids, mask = random_sources(lively.spec, 3, rows=7, length=9)
    together = lively.generate(ids, mask, greedy(12))
    for row in range(len(ids)):
        own = ids[row : row + 1, : mask[row].sum()]
        alone = lively.generate(own, np.ones_like(own), greedy(12))[0]
        np.testing.assert_array_equal(together[row, : len(alone)], alone)
        assert (together[row, len(alone) :] == lively.spec.pad_id).all()


def test_other_lengths_limits_and_penalties_within_a_bucket_do_not_compile_again(quick_engine) -> None:
    engine = quick_engine(*lively_model(1))
    for rows, length, options in (
        (3, 9, greedy(9, min_new_tokens=2, repetition_penalty=1.2, eos_token_id=1)),
        (4, 12, greedy(12, min_new_tokens=3, repetition_penalty=1.4, eos_token_id=5)),
        (3, 10, GenerationOptions(max_length=12, min_length=3, repetition_penalty=0.8, pad_token_id=3)),
    ):
        engine.generate(*random_sources(engine.spec, 0, rows, length), options)
    assert engine._generate._cache_size() == 1


def test_limit_and_fixed_length(lively) -> None:
    ids, mask = random_sources(lively.spec, 2, rows=4)
    assert lively.generate(ids, mask, greedy(10)).shape[1] <= 11
    compiled = lively._generate._cache_size()
    free = lively.generate(ids, mask, greedy(10), stop_at_eos=False)
    assert free.shape == (4, 11)
    assert ((free == lively.spec.eos_id).sum(1) > 1).any()  # goes on after EOS
    assert lively._generate._cache_size() == compiled  # timed is the program that is used
    short = lively.generate(ids, mask, greedy(3))
    np.testing.assert_array_equal(short, plain_greedy(lively, ids, 3))


def test_buckets() -> None:
    assert [length_bucket(n) for n in (1, 8, 9, 13, 17, 33, 65, 256, 257)] == [8, 8, 12, 16, 24, 48, 96, 256, 384]
    assert [batch_bucket(n) for n in (1, 2, 3, 9)] == [1, 2, 4, 16]


def test_untied_head_is_the_same_function(logits) -> None:
    spec = random_spec(4, tied=True)
    params, batch = random_params(spec, 4), random_batch(spec, 4)
    own, own_params = untie_head(spec, params)
    assert not own.tied
    np.testing.assert_allclose(logits(own, own_params, batch), logits(spec, params, batch), rtol=1e-5, atol=1e-5)


def test_update_takes_parameters_of_a_tied_model(quick_engine) -> None:
    spec = random_spec(5, tied=True)
    engine = quick_engine(spec, random_params(spec, 5))
    other = random_params(spec, 6)
    engine.update_params(other)
    ids = random_batch(spec, 5)["input_ids"]
    expected = quick_engine(spec, other).generate(ids, ids != spec.pad_id, greedy(6))
    np.testing.assert_array_equal(engine.generate(ids, ids != spec.pad_id, greedy(6)), expected)


def test_a_decoder_deeper_than_its_encoder_and_one_without_heads(quick_engine) -> None:
    spec = random_spec(7, ragged=True)
    bare = dataclasses.replace(spec.decoder[0], self_heads=(), cross_heads=())
    spec = dataclasses.replace(spec, decoder=(bare,) * 3, encoder=spec.encoder[:1])
    engine = quick_engine(spec, random_params(spec, 7))
    ids = random_batch(spec, 7)["input_ids"]
    found = engine.generate(ids, ids != spec.pad_id, greedy(5))
    np.testing.assert_array_equal(found, plain_greedy(engine, ids, 5))


@pytest.mark.parametrize("seed", range(4))
def test_tokens_of_all_kinds_of_models_equal_transformers(torch_generate, quick_engine, seed: int) -> None:
    gated = seed % 2 == 1
    spec = random_spec(seed, gated=gated, activation="gelu_tanh" if gated else "relu")
    spec = dataclasses.replace(spec, output_scale=spec.d_model**-0.5 if spec.tied else 1.0)
    params = random_params(spec, seed, scale=0.7)
    ids = random_batch(spec, seed, rows=6, source=11)["input_ids"]
    mask = (ids != spec.pad_id).astype(np.int32)
    expected = torch_generate(spec, params, ids, mask, max_new_tokens=16)
    np.testing.assert_array_equal(quick_engine(spec, params).generate(ids, mask, greedy(16)), expected)


PROMPTS = {
    "start token": None,
    "prompts with it": np.array([[0, 7, 3], [0, 1, 2], [0, 0, 0], [0, 9, 9], [0, 3, 4]]),
    "prompts without it": np.array([[7, 3], [1, 2], [8, 0], [9, 9], [3, 4]]),
    "only one without it": np.array([[0, 7, 3], [0, 1, 2], [2, 0, 0], [0, 9, 9], [0, 3, 4]]),
}
RULES = {
    "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2, "bad_words_ids": [[4, 5]],
    "begin_suppress_tokens": [1], "forced_eos_token_id": 6,
}  # fmt: skip


@pytest.mark.parametrize("prompt", PROMPTS)
def test_prompts_and_several_eos_equal_transformers(as_transformers, any_lively, prompt: str) -> None:
    options = {"max_new_tokens": 9, "eos_token_id": [5, 1, 9]}
    lengths = np.concatenate([as_transformers(any_lively, s, PROMPTS[prompt], **options) for s in range(6)])
    assert len(set(lengths)) > 4  # ends at different times


@pytest.mark.parametrize("prompt", ["start token", "prompts with it"])
def test_rules_equal_transformers(as_transformers, any_lively, prompt: str) -> None:
    for more in ({"min_new_tokens": 4, "max_new_tokens": 10}, {"min_length": 5, "max_length": 12}):
        options = {**RULES, **more, "eos_token_id": [1, 2]}
        lengths = np.concatenate([as_transformers(any_lively, s, PROMPTS[prompt], **options) for s in range(5)])
        assert len(set(lengths)) > 2


def test_two_layers_equal_transformers(as_transformers, quick_engine) -> None:
    options = {"max_new_tokens": 9, "eos_token_id": [1]}
    engine = quick_engine(*lively_model(0, layers=2))
    for seed in range(4):
        as_transformers(engine, seed, PROMPTS["prompts without it"], **options)


def test_a_row_of_padding_alone_changes_no_other(lively) -> None:
    ids, mask = random_sources(lively.spec, 4)
    expected = lively.generate(ids, mask, greedy(9))
    mask[2] = 0
    found = lively.generate(ids, mask, greedy(9))
    others = [0, 1, 3, 4]
    width = min(found.shape[1], expected.shape[1])
    np.testing.assert_array_equal(found[others, :width], expected[others, :width])
    assert ((found >= 0) & (found < 16)).all()


def test_bfloat16_runs() -> None:
    spec = random_spec(8)
    engine = Engine(spec, random_params(spec, 8), "bfloat16")
    assert all(leaf.dtype == "bfloat16" for leaf in jax.tree.leaves(engine.params))
    ids = random_batch(spec, 8)["input_ids"]
    assert engine.generate(ids, ids != 0, greedy(4)).shape[0] == len(ids)


# -- sampling ----------------------------------------------------------------------------------------------

SAMPLED = greedy(9, do_sample=True, temperature=1.3, top_k=9, eos_token_id=[1, 5])


def test_draws_hang_on_seed_and_row_id_alone(lively) -> None:
    ids, mask = random_sources(lively.spec, 1, rows=4)
    together = lively.generate(ids, mask, SAMPLED)
    order = np.array([2, 0, 3, 1])
    shuffled = lively.generate(ids[order], mask[order], SAMPLED, row_ids=order)
    np.testing.assert_array_equal(shuffled, together[order])
    alone = lively.generate(ids[2:3], mask[2:3], SAMPLED, row_ids=np.array([2]))[0]
    np.testing.assert_array_equal(together[2, : len(alone)], alone)
    np.testing.assert_array_equal(lively.generate(ids, mask, SAMPLED), together)
    assert not np.array_equal(lively.generate(ids, mask, SAMPLED.replace(seed=1))[:, :4], together[:, :4])


def test_several_samples_of_one_input_differ_and_the_source_is_its_own(lively) -> None:
    ids, mask = random_sources(lively.spec, 2, rows=3)
    options = SAMPLED.replace(num_return_sequences=5)
    found = lively.generate(ids, mask, options)
    assert found.shape[0] == 15
    assert len({tuple(row) for row in found[:5]}) > 1
    for row in range(3):
        own = lively.generate(ids[row : row + 1], mask[row : row + 1], options, row_ids=np.array([row]))
        np.testing.assert_array_equal(found[5 * row : 5 * row + 5, : own.shape[1]], own)


def test_frequencies_are_those_of_transformers_probabilities(lively) -> None:
    """4096 rows of one input: how often each pair of tokens comes, against softmax of transformers' warped scores."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    from transformers.generation import logits_process

    ids, mask = random_sources(lively.spec, 6, rows=1)
    rows = 4096
    options = greedy(2, do_sample=True, temperature=0.9, top_k=6, top_p=0.9)
    found = lively.generate(np.repeat(ids, rows, 0), np.repeat(mask, rows, 0), options)[:, 1:]

    def probabilities(prefix: list[int]) -> np.ndarray:
        scores = torch.tensor(lively.logits(ids, mask, np.array([prefix]))[:, -1])
        for warper in (
            logits_process.TemperatureLogitsWarper(0.9),
            logits_process.TopKLogitsWarper(6),
            logits_process.TopPLogitsWarper(0.9),
        ):
            scores = warper(None, scores)
        return torch.softmax(scores.double(), -1).numpy()[0]

    first = probabilities([0])
    expected = np.stack([first[a] * (probabilities([0, a]) if a != 1 else np.eye(16)[0]) for a in range(16)])
    counts = np.zeros((16, 16))
    np.add.at(counts, tuple(found.T), 1)
    assert counts[expected == 0].sum() == 0
    possible = expected > 0
    assert possible.sum() > 12
    assert stats.chisquare(counts[possible], rows * expected[possible]).pvalue > 1e-3


# -- what is refused ---------------------------------------------------------------------------------------

IDS = np.array([[3, 4, 5]])


@pytest.mark.parametrize(
    ("ids", "mask", "more", "message"),
    [
        (IDS[0], IDS[0], {}, r"input_ids has shape \(3,\) and type int64; expected integers \[batch, length\]"),
        (IDS.astype(float), IDS, {}, "type float64; expected integers"),
        (IDS[:, :0], IDS[:, :0], {}, r"input_ids has shape \(1, 0\); expected at least one row of at least one token"),
        (IDS[:0], IDS[:0], {}, r"input_ids has shape \(0, 3\); expected at least one row"),
        (IDS, IDS[:, 1:], {}, r"attention_mask has shape \(1, 2\); expected that of input_ids, \(1, 3\)"),
        (IDS + 12, IDS, {}, "input_ids hold 16; expected ids from 0 to 15"),
        (IDS - 4, IDS, {}, "input_ids hold -1; expected ids from 0 to 15"),
        (IDS, IDS, {"decoder_input_ids": IDS[0]}, r"has shape \(3,\) and type int64; expected integers \[1, length\]"),
        (IDS, IDS, {"decoder_input_ids": np.zeros((2, 3), int)}, "a row for each input"),
        (IDS, IDS, {"decoder_input_ids": np.zeros((1, 0), int)}, "at least one token"),
        (IDS, IDS, {"decoder_input_ids": IDS + 20}, "decoder_input_ids hold 23; expected ids from 0 to 15"),
        (IDS, IDS, {"options": {"max_length": 1}}, "max_length is 1 and the decoder starts from 1 tokens"),
        (IDS, IDS, {"options": {"max_length": 4}, "decoder_input_ids": IDS}, "the decoder starts from 4 tokens"),
        (IDS, IDS, {"options": {"pad_token_id": 16}}, "decoder_start_token_id and pad_token_id hold 16"),
        (IDS, IDS, {"options": {"eos_token_id": [1, 40]}}, "eos_token_id holds the id 40"),
        (IDS, IDS, {"options": {"num_beams": 16}}, "num_beams is 16; expected no more than the 15 tokens"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused(lively, ids, mask, more, message) -> None:
    options = GenerationOptions(**more.pop("options", {}))
    with pytest.raises(UserError, match=message):
        lively.generate(ids, mask, options, **more)
