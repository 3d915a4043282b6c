"""ONNX Runtime as a model's engine: tokens, scores and limits are those of ours, other searches are refused."""

import numpy as np
import pytest
from seeds import some

import nash_jax
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.engines.ort import OnnxRuntimeEngine
from nash_jax.errors import UserError
from nash_jax.generate import main
from nash_jax.seq2seq import Seq2Seq
from nash_jax.testing import lively_model, random_params, random_spec

FAMILIES = ("custom", "m2m_100", "t5", "umt5", "bart", "marian")
CASES = [(family, seed) for seed in range(4) for family in FAMILIES]
OPTIONS = (
    {}, {"min_new_tokens": 6}, {"max_length": 5}, {"eos_token_id": [3, 4, 5], "pad_token_id": 2}, {"min_length": 4},
    {"forced_bos_token_id": 7},
)  # fmt: skip


def both(spec, params):
    """A model with our engine, and with ONNX Runtime."""
    other = Seq2Seq(spec, params)
    other._generator = OnnxRuntimeEngine(spec, params)
    return Seq2Seq(spec, params), other


@pytest.mark.parametrize("case", some(CASES, few=2), ids=str)
def test_tokens_and_scores_are_ours(case):
    family, seed = case
    spec = random_spec(seed, family=family, ragged=bool(seed % 2))
    ours, other = both(spec, random_params(spec, seed))
    rng = np.random.default_rng(seed)
    ids = rng.integers(3, ours.spec.source_vocab_size, (5, 9))
    ids[1, 6:] = ours.spec.pad_id
    prompts = rng.integers(3, ours.spec.vocab_size, (5, 2))
    for options in OPTIONS if family == "t5" else OPTIONS[:1]:
        given = {"max_new_tokens": 12} | options if "max_length" not in options else options
        np.testing.assert_array_equal(other.generate_ids(ids, **given), ours.generate_ids(ids, **given), str(options))
    prompted = {"decoder_input_ids": prompts, "max_new_tokens": 6, "return_scores": True}
    chosen = [model.generate_ids(ids, **prompted) for model in (ours, other)]
    np.testing.assert_array_equal(chosen[0].ids, chosen[1].ids)
    np.testing.assert_allclose(chosen[0].token_log_probs, chosen[1].token_log_probs, atol=2e-4)
    np.testing.assert_allclose(chosen[0].log_probs, chosen[1].log_probs, atol=2e-4)


def test_a_stream_of_tokens():
    ours, other = both(*lively_model(1))
    ids, seen = np.array([[5, 7, 9, 4]]), list[int]()
    inputs = other.generator._pad(ids, ids > 0, None)
    options = other.generation.replace(max_new_tokens=8)
    found = other.generator.stream_padded(inputs, options, lambda token: seen.append(token))
    np.testing.assert_array_equal(found, ours.generate_ids(ids, max_new_tokens=8))
    assert found[0, 1:].tolist() == seen
    assert other.generator.stream_padded(inputs, options, lambda token: True).shape == (1, 2)


def test_what_it_does_not_have_is_refused():
    model = both(*lively_model(2))[1]
    ids = np.array([[5, 7, 9]])
    for options in ({"num_beams": 2}, {"do_sample": True}, {"repetition_penalty": 2.0}, {"decoder_start_token_id": 9}):
        with pytest.raises(UserError, match=f"ONNX Runtime has no {next(iter(options))}; expected greedy search"):
            model.generate_ids(ids, **options)
    with pytest.raises(UserError, match="dtype is 'int4'; expected one of float32, int8, with engine='onnxruntime'"):
        OnnxRuntimeEngine(model.spec, model.params, "int4")


def test_it_is_chosen_by_name(tmp_path):
    """By `load` in float32 and int8, and by the command for files."""
    rows = [{"source": "abcdefgh", "references": ["AA B K D EH"]}]
    tokenizer = build_pronunciation_tokenizer(rows)
    model = Seq2Seq(*lively_model(5, vocab_size=len(tokenizer) + 3), tokenizer)
    model.save(tmp_path / "model")
    texts = ["abc", "hgfe", "dad", "bead", "a"]
    expected = model.generate(texts, max_new_tokens=7)
    assert nash_jax.load(tmp_path / "model", engine="onnxruntime").generate(texts, max_new_tokens=7) == expected
    rounded = nash_jax.load(tmp_path / "model", engine="onnxruntime", dtype="int8")
    assert len(rounded.generate(texts, max_new_tokens=7)) == len(texts)
    (tmp_path / "in.txt").write_text("\n".join(texts))
    command = ["generate", f"--model={tmp_path / 'model'}", f"--input={tmp_path / 'in.txt'}", "--max_new_tokens=7"]
    assert main([*command, f"--output={tmp_path / 'out.txt'}", "--engine=onnxruntime"]) == 0
    assert (tmp_path / "out.txt").read_text().splitlines() == expected
