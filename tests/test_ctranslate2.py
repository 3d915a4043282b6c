"""CTranslate2 reads what `save_ct2` writes: log-probabilities, greedy tokens, options, tokenizer, quantization."""

import dataclasses
import json

import ctranslate2
import numpy as np
import pytest
from seeds import some

import nash_jax
from nash_jax.engines.ct2 import CTranslate2Engine
from nash_jax.errors import UserError
from nash_jax.export.check import compare
from nash_jax.export.ct2 import build_spec, write_ctranslate2
from nash_jax.export.vocabulary import token_names
from nash_jax.generate import main
from nash_jax.generation.options import GenerationOptions
from nash_jax.seq2seq import Seq2Seq
from nash_jax.spec import DecoderLayer, EncoderLayer
from nash_jax.testing import lively_model, random_params, random_spec

FAMILIES = ("t5", "mt5", "umt5", "bart", "mbart", "marian", "pegasus", "m2m_100", "custom")
CASES = [(family, seed) for seed in range(12) for family in FAMILIES]  # odd seeds: ragged


def names(ids):
    return [[f"<id_{i}>" for i in row] for row in ids.tolist()]


def our_log_probs(model, sources, targets):
    """Log-probabilities [B, T+1] of targets [B, T] and an EOS after them."""
    spec = model.spec
    begin, end = (np.full((len(targets), 1), number) for number in (spec.decoder_start_id, spec.eos_id))
    logits = model.logits(sources, np.ones_like(sources), np.concatenate([begin, targets], 1)).astype(np.float64)
    logits -= logits.max(-1, keepdims=True)
    log_probs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
    return np.take_along_axis(log_probs, np.concatenate([targets, end], 1)[..., None], -1)[..., 0]


def their_log_probs(folder, sources, targets):
    translator = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)
    return np.array([row.log_probs for row in translator.score_batch(names(sources), names(targets))])


@pytest.mark.parametrize("case", some(CASES, 2 * len(FAMILIES)), ids=str)
def test_log_probabilities_are_ours(case, tmp_path):
    family, seed = case
    spec = random_spec(seed, family=family, ragged=bool(seed % 2))
    if spec.positions == "sinusoidal_tokens":  # where padding has no position, and so cannot be the start token
        spec = dataclasses.replace(spec, decoder_start_id=spec.eos_id)
    model, rng = Seq2Seq(spec, random_params(spec, seed)), np.random.default_rng(seed)
    sources = rng.integers(3, spec.source_vocab_size, (2, 11))
    targets = rng.integers(3, spec.vocab_size, (2, 9))
    write_ctranslate2(tmp_path, spec, model.params, None)
    np.testing.assert_allclose(
        their_log_probs(tmp_path, sources, targets), our_log_probs(model, sources, targets), atol=1e-4
    )


def test_sublayers_that_are_gone_keep_their_bias_and_norm(tmp_path):
    """The emptiest layers there are, in a model with biases and norms after the sum."""
    spec = dataclasses.replace(
        random_spec(3, family="bart"), encoder=(EncoderLayer((), 0),), decoder=(DecoderLayer((), (), 0),) * 2
    )
    model = Seq2Seq(spec, random_params(spec, 3))
    ids = np.arange(3, 9)[None]
    write_ctranslate2(tmp_path, spec, model.params, None)
    np.testing.assert_allclose(their_log_probs(tmp_path, ids, ids), our_log_probs(model, ids, ids), atol=1e-4)


def test_widths_stay_ragged_and_heads_that_no_layer_keeps_have_no_slot(tmp_path):
    encoder = (EncoderLayer((1, 3), 5), EncoderLayer((3,), 11))
    spec = dataclasses.replace(random_spec(0, num_heads=4), encoder=encoder)
    write_ctranslate2(tmp_path, spec, random_params(spec), None)
    ids = np.arange(3, 9)[None]
    model = Seq2Seq(spec, random_params(spec))
    np.testing.assert_allclose(their_log_probs(tmp_path, ids, ids), our_log_probs(model, ids, ids), atol=1e-4)
    written = build_spec(spec, random_params(spec))
    assert int(written.encoder.num_heads) == 2
    assert [layer.ffn.linear_0.weight.shape[0] for layer in written.encoder.layer] == [5, 11]


@pytest.fixture(scope="module")
def model():
    return Seq2Seq(*lively_model(7, layers=2, vocab_size=40))


@pytest.fixture(scope="module")
def other(model):
    engine = Seq2Seq(model.spec, model.params)
    engine._generator = CTranslate2Engine(model.spec, model.params)
    return engine


def inputs(spec, rows=40, seed=0):
    rng = np.random.default_rng(seed)
    lengths = rng.integers(2, 12, rows)
    mask = (np.arange(12)[None] < lengths[:, None]).astype(int)
    return np.where(mask, rng.integers(3, spec.source_vocab_size, mask.shape), spec.pad_id), mask


OPTIONS = (
    {"max_new_tokens": 12},
    {"max_new_tokens": 12, "min_new_tokens": 6},
    {"max_length": 7},
    {"max_new_tokens": 8, "forced_bos_token_id": 5},
    {"max_new_tokens": 12, "suppress_tokens": [4, 6, 7], "bad_words_ids": [[9, 10], [11]]},
    {"max_new_tokens": 12, "eos_token_id": [4, 9]},
    {"max_new_tokens": 12, "no_repeat_ngram_size": 2, "repetition_penalty": 1.3},
    {"max_new_tokens": 12, "num_beams": 4, "early_stopping": True},
    {"max_new_tokens": 12, "num_beams": 3, "num_return_sequences": 2, "early_stopping": True, "length_penalty": 0.5},
)


@pytest.mark.parametrize("options", OPTIONS, ids=str)
def test_tokens_are_ours(model, other, options):
    ids, mask = inputs(model.spec)
    ours, theirs = (m.generate_ids(ids, mask, **options) for m in (model, other))
    assert np.unique(ours).size > 5  # the model says different things
    rows = [_until_eos(found, options.get("eos_token_id", [model.spec.eos_id])) for found in (ours, theirs)]
    assert rows[0] == rows[1]


def _until_eos(found, eos_ids):
    ends = [np.flatnonzero(np.isin(row[1:], eos_ids)) for row in found]
    return [row[: end[0] + 2 if len(end) else None].tolist() for row, end in zip(found, ends, strict=True)]


@pytest.mark.parametrize("options", [{}, {"num_beams": 3, "early_stopping": True}], ids=str)
def test_scores_are_ours(model, other, options):
    ids, mask = inputs(model.spec)
    ours, theirs = (m.generate_ids(ids, mask, max_new_tokens=9, return_scores=True, **options) for m in (model, other))
    np.testing.assert_allclose(ours.log_probs, theirs.log_probs, rtol=2e-5, atol=1e-4)
    np.testing.assert_allclose(ours.token_log_probs, theirs.token_log_probs, rtol=2e-5, atol=1e-4)
    if options:
        np.testing.assert_allclose(ours.sequences_scores, theirs.sequences_scores, rtol=2e-5, atol=1e-4)


def test_prompts_are_ours(model, other):
    ids, mask = inputs(model.spec)
    prompts = np.tile([[model.spec.decoder_start_id, 8, 9]], (len(ids), 1))
    found = [m.generate_ids(ids, mask, decoder_input_ids=prompts, max_new_tokens=6) for m in (model, other)]
    np.testing.assert_array_equal(*found)
    scored = other.generate_ids(ids, mask, decoder_input_ids=prompts, max_new_tokens=6, return_scores=True)
    assert scored.token_log_probs.shape == (len(ids), found[0].shape[1] - 3)


@pytest.mark.parametrize(
    ("options", "name"),
    [({"encoder_repetition_penalty": 2.0}, "encoder_repetition_penalty"), ({"min_p": 0.1}, "min_p")],
)
def test_options_that_it_does_not_have_are_named(other, options, name):
    with pytest.raises(UserError, match=f"CTranslate2 has no {name}"):
        other.generate_ids(*inputs(other.spec), **options)


def test_padding_on_the_left_is_refused_where_positions_count_it():
    spec = random_spec(1, family="bart")
    model = Seq2Seq(spec, random_params(spec))
    model._generator = CTranslate2Engine(spec, model.params)
    with pytest.raises(UserError, match="padded on the left"):
        model.generate_ids(np.array([[spec.pad_id, 5, 6]]), np.array([[0, 1, 1]]))


def test_what_is_not_there_is_named(model, tmp_path):
    with pytest.raises(UserError, match="quantization is 'int4'"):
        model.save_ct2(tmp_path / "new", quantization="int4")
    assert not (tmp_path / "new").exists()
    with pytest.raises(UserError, match="engine is 'tensorrt'"):
        nash_jax.load(tmp_path, engine="tensorrt")
    with pytest.raises(UserError, match="dtype is 'int4'"):
        CTranslate2Engine(model.spec, model.params, "int4")


def test_a_missing_package_is_named(model, tmp_path, monkeypatch):
    monkeypatch.setattr("nash_jax.errors.importlib.util.find_spec", lambda name: None)
    with pytest.raises(UserError, match=r"not installed: ctranslate2.*pip install 'nash_jax\[ctranslate2\]'"):
        model.save_ct2(tmp_path / "new")


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """A model with a tokenizer of words: its export, and its folder for CTranslate2."""
    from nash_jax.data.tokenizers import build_pronunciation_tokenizer

    rows = [{"source": "abcdefgh", "references": ["AA B K D EH"]}]
    tokenizer, folder = build_pronunciation_tokenizer(rows), tmp_path_factory.mktemp("written")
    spec, params = lively_model(5, vocab_size=len(tokenizer) + 3)
    model = Seq2Seq(spec, params, tokenizer, generation=GenerationOptions(max_new_tokens=7))
    model.save(folder / "export")
    model.save_ct2(folder / "ct2", quantization="int8")
    return folder


TEXTS = ["abc", "hgfe", "dad", "bead", "a"]


def test_a_folder_is_served_without_us(written):
    """What the docs show: tokenizer and translator, nothing of nash_jax; the int8 tokens are those of our engine."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(written / "ct2")
    translator = ctranslate2.Translator(str(written / "ct2"))
    tokens = [tokenizer.convert_ids_to_tokens(tokenizer(text)["input_ids"]) for text in TEXTS]
    found = translator.translate_batch(tokens, beam_size=1, max_decoding_length=7)
    texts = [
        tokenizer.decode(tokenizer.convert_tokens_to_ids(row.hypotheses[0]), skip_special_tokens=True) for row in found
    ]
    assert texts == nash_jax.load(written / "export", engine="ctranslate2", dtype="int8").generate(TEXTS)
    assert json.loads((written / "ct2" / "generation_config.json").read_text())["max_new_tokens"] == 7


def test_int8_is_a_quarter_and_saving_leaves_the_model_as_it_was(tmp_path):
    spec, params = lively_model(2)
    model, before = Seq2Seq(spec, params), {"x": np.array(params["shared"]["embedding"])}
    for quantization in ("float32", "int8"):
        model.save_ct2(tmp_path / quantization, quantization=quantization)
    np.testing.assert_array_equal(before["x"], params["shared"]["embedding"])
    sizes = [(tmp_path / q / "model.bin").stat().st_size for q in ("int8", "float32")]
    assert sizes[0] < 0.6 * sizes[1]


def test_the_command_generates_with_it(written, tmp_path, capsys):
    (tmp_path / "in.txt").write_text("\n".join(TEXTS))
    found = []
    for engine in ("jax", "ctranslate2"):
        output = tmp_path / f"{engine}.txt"
        command = ["generate", f"--model={written / 'export'}", f"--input={tmp_path / 'in.txt'}"]
        assert main([*command, f"--output={output}", f"--engine={engine}"]) == 0
        found.append(output.read_text())
    assert found[0] == found[1]
    assert main([*command, f"--output={output}", "--engine=ctranslate2", "--dtype=int8"]) == 2
    assert "dtype" in capsys.readouterr().err
    assert main([*command, f"--output={tmp_path / 'x.txt'}", "--engine=ctranslate2", "--min_p=0.5"]) == 2
    assert "CTranslate2 has no min_p" in capsys.readouterr().err


@pytest.mark.parametrize("family", ["t5", "m2m_100"])
def test_a_row_of_the_table(family):
    for shape in ("ragged", "trimmed"):
        row = compare(family, shape, "ctranslate2", inputs=12, new_tokens=6)
        assert row.difference is not None and row.difference < 1e-4
        assert (row.same, row.same_beams, row.inputs) == (12, 12, 12) and row.size > 10_000


def test_tokens_have_different_names():
    class Tokenizer:
        def get_vocab(self):
            return {"<pad>": 0, "<id_3>": 2, "beyond": 9}

    assert token_names(Tokenizer(), 4) == ["<pad>", "<id__1>", "<id_3>", "<id__3>"]
