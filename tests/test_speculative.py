"""Speculative decoding gives the large model's greedy tokens, whatever the draft is worth."""

import dataclasses

import numpy as np
import pytest
from families import usual_first

import nash_jax
from nash_jax.errors import UserError
from nash_jax.generation.speculative import BLOCK
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.testing import lively_model, random_params, random_sources, random_spec

FAMILIES = ("t5", "mt5", "umt5", "bart", "mbart", "marian", "pegasus", "m2m_100")


def both(large, small, ids, mask, **options):
    """Tokens of the large model alone, and with a draft."""
    own = {"max_new_tokens": 14} | options
    return large.generate_ids(ids, mask, **own), large.generate_ids(ids, mask, draft=small, **own)


def models(seed):
    """A model whose outputs vary and end at different lengths; its first layer alone; another model."""
    spec, params = lively_model(seed, layers=3)
    other = random_params(spec, seed + 1)
    return [nash_jax.Seq2Seq(spec, params), nash_jax.Seq2Seq(*select_layers(spec, params, decoder=[0])),
            nash_jax.Seq2Seq(spec, other)]  # fmt: skip


@pytest.mark.parametrize("seed", [0, pytest.param(1, marks=pytest.mark.full), pytest.param(2, marks=pytest.mark.full)])
def test_greedy_tokens(seed):
    """With a good, a bad and a perfect draft; rows accept apart from each other, and end at different lengths."""
    large, *drafts = models(seed)
    ids, mask = random_sources(large.spec, seed, 5, 9)
    for draft in (large, *drafts):
        alone, drafted = both(large, draft, ids, mask)
        np.testing.assert_array_equal(drafted, alone)
    assert len({tuple(row) for row in alone.tolist()}) > 1


@pytest.mark.slow
@pytest.mark.parametrize("family", usual_first(FAMILIES, ("t5", "bart")))
def test_every_family(family):
    """Ragged models, with prompts, rules and limits."""
    spec = random_spec(3, ragged=True, family=family)
    params = random_params(spec, 4)
    large = nash_jax.Seq2Seq(spec, params)
    small = nash_jax.Seq2Seq(*select_layers(spec, params, decoder=[0]))
    ids, mask = random_sources(spec, 0, 3, 7)
    prompts = np.random.default_rng(0).integers(3, spec.vocab_size, (3, 2))
    rules = {"min_new_tokens": 5, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3}
    alone, drafted = both(large, small, ids, mask, decoder_input_ids=prompts, max_new_tokens=7, **rules)
    np.testing.assert_array_equal(drafted, alone)


def test_tokens_of_a_pass():
    """The model as its own draft: every pass gives a whole block."""
    spec, params = lively_model(1, layers=2)
    model = nash_jax.Seq2Seq(spec, params)
    ids, mask = random_sources(spec, 0, 2, 6)
    model.generate_ids(ids, mask, draft=model, max_new_tokens=3 * BLOCK, eos_token_id=None, min_new_tokens=3 * BLOCK)
    assert model.speculative(model).tokens_of_pass == BLOCK


def test_texts(tmp_path):
    """`generate` takes a draft, of batches of any size."""
    from nash_jax.data.tokenizers import build_pronunciation_tokenizer

    tokenizer = build_pronunciation_tokenizer([{"source": "abcdef", "references": ["A B C D"]}])
    spec = dataclasses.replace(lively_model(0, layers=2)[0], vocab_size=len(tokenizer))
    params = random_params(spec, 5)
    large = nash_jax.Seq2Seq(spec, params, tokenizer)
    small = nash_jax.Seq2Seq(*select_layers(spec, params, decoder=[1]))
    texts = ["abc", "fed", "a", "bad", "cafe"]
    assert large.generate(texts, draft=small, batch_size=2, max_new_tokens=9) == large.generate(texts, max_new_tokens=9)


def test_what_a_draft_cannot_do():
    spec, params = lively_model(0)
    model = nash_jax.Seq2Seq(spec, params)
    larger = dataclasses.replace(spec, vocab_size=spec.vocab_size + 1)
    other = nash_jax.Seq2Seq(larger, random_params(larger))
    ids, mask = random_sources(spec, 0, 2, 4)
    for draft, options, message in (
        (other, {}, "the draft's vocab_size is 17; expected that of the model, 16"),
        ("model", {}, "draft is a str"),
        (model, {"num_beams": 2}, "greedy search, one output"),
        (model, {"do_sample": True}, "greedy search, one output"),
        (model, {"return_scores": True}, "return_scores with a draft"),
    ):
        with pytest.raises(UserError, match=message):
            model.generate_ids(ids, mask, draft=draft, **options)
