"""Tokens one by one are the tokens of `generate`, in our engine and in CTranslate2."""

import numpy as np
import pytest
from families import random_pair

from nash_jax.engines.ct2 import CTranslate2Engine
from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import pad_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.testing import lively_model, random_sources

OPTIONS = [  # of few programs: lengths share a bucket
    {"max_new_tokens": 11}, {"max_length": 10},
    {"max_new_tokens": 9, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3, "forced_bos_token_id": 4}
    | {"min_new_tokens": 5},
    {"max_new_tokens": 9, "do_sample": True, "seed": 3, "top_k": 5},
]  # fmt: skip


def stream(engine, ids, mask, options, on_token=lambda token: None):
    return engine.stream_padded(pad_inputs(ids, mask, np.arange(1), engine.spec.pad_id), options, on_token)


def check(engine, ids, mask, options):
    """Streamed ids are those of `generate`, and each was told once; whether the output ended by EOS."""
    told = []
    found = stream(engine, ids, mask, options, told.append)
    np.testing.assert_array_equal(found, engine.generate(ids, mask, options))
    assert told == found[0, 1:].tolist()
    return told[-1] in (options.eos_token_id or (engine.spec.eos_id,))


def ours(seed):
    return Engine(*lively_model(seed))


def theirs(seed):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed: pip install 'nash_jax[ctranslate2]'")
    return CTranslate2Engine(*lively_model(seed))


@pytest.mark.parametrize("make", [ours, theirs])
def test_streamed_tokens_are_those_of_generate(make):
    engine, ended = make(0), []
    ids, mask = random_sources(engine.spec, 0)
    for given in OPTIONS if make is ours else [given for given in OPTIONS if "do_sample" not in given]:
        for row in range(3):
            one = slice(row, row + 1)
            ended.append(check(engine, ids[one], mask[one], GenerationOptions(**given)))
    assert {True, False} == set(ended)  # some outputs end by EOS, some by the limit


FULL = pytest.mark.full


@pytest.mark.parametrize("family", ["bart", *(pytest.param(name, marks=FULL) for name in ("t5", "m2m_100"))])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
def test_every_kind_of_family(family, torch, tmp_path):
    _, model, inputs = random_pair(family, tmp_path)
    for row in range(2):
        ids, mask = (inputs[name][row : row + 1] for name in ("input_ids", "attention_mask"))
        check(model.engine, ids, mask, GenerationOptions(max_new_tokens=8))


@pytest.mark.parametrize("make", [ours, theirs])
def test_it_ends_when_it_is_told_to(make):
    engine, told = make(0), []
    ids, mask = random_sources(engine.spec, 0)

    def on_token(token):
        told.append(token)
        return len(told) == 2

    found = stream(engine, ids[:1], mask[:1], GenerationOptions(max_new_tokens=11), on_token)
    assert len(told) == 2 and found.shape == (1, 3)


@pytest.mark.parametrize("wrong", [{"num_beams": 2}, {"num_return_sequences": 2, "do_sample": True}, {}])
def test_several_outputs_are_refused(wrong):
    engine = ours(0)
    ids, mask = random_sources(engine.spec, 0)
    rows = 1 if wrong else 2
    with pytest.raises(UserError, match="one of each, when tokens are given one by one"):
        stream(engine, ids[:rows], mask[:rows], GenerationOptions(max_new_tokens=3, **wrong))
