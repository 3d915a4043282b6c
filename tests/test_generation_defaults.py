"""Folders that leave generation fields out, and inputs without a mask: the tokens of transformers 5."""

import json

import numpy as np
import pytest
from families import FAMILIES, T5_LIKE, TORCH_WARNINGS, random_inputs, random_model, usual_first

import nash_jax
from nash_jax.convert.generation_config import GENERATION_FILE
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

pytestmark = [*TORCH_WARNINGS, pytest.mark.filterwarnings("ignore::UserWarning")]
LEFT_OUT = ("forced_eos_token_id", "decoder_start_token_id", "pad_token_id")
CASES = [  # T5's classes have no such defaults; the default padding of Marian's is no token of a small vocabulary
    (family, left_out, file)
    for family, file in [
        *((family, "config.json") for family in FAMILIES if family not in T5_LIKE),
        ("bart", GENERATION_FILE),
        ("m2m_100", GENERATION_FILE),
    ]
    for left_out in LEFT_OUT
    if (family, left_out) != ("marian", "pad_token_id")
]


def generated(folder, inputs, options=(), **theirs_only):
    """What transformers generates with a folder, and what nash_jax does."""
    import torch
    import transformers

    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder).eval()
    with torch.no_grad():
        tensors = {name: torch.from_numpy(value) for name, value in inputs.items()}
        theirs = model.generate(**tensors, max_new_tokens=8, **dict(options), **theirs_only).numpy()
    return theirs, nash_jax.load(folder).generate_ids(*inputs.values(), max_new_tokens=8, **dict(options))


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize(("family", "left_out", "file"), CASES)
def test_a_field_that_is_left_out(tmp_path, family, left_out, file):
    """The class's default would be another token; the config of the class is not read for generation."""
    model = random_model(family, 3)
    model.save_pretrained(tmp_path)
    (tmp_path / GENERATION_FILE).unlink()
    own = {"pad_token_id": 0, "eos_token_id": [5, 1], "bos_token_id": 2, "decoder_start_token_id": 4} | {
        "forced_eos_token_id": 3
    }
    config = json.loads((tmp_path / "config.json").read_text()) | own | {"eos_token_id": 1}
    if file == "config.json":
        config.pop(left_out)
    else:
        (tmp_path / file).write_text(json.dumps({name: value for name, value in own.items() if name != left_out}))
    (tmp_path / "config.json").write_text(json.dumps(config))
    inputs = random_inputs(model.config, 5, source=9)
    theirs, ours = generated(tmp_path, {name: inputs[name] for name in ("input_ids", "attention_mask")})
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("family", ["t5", "bart", "m2m_100"])
def test_no_mask_where_padding_has_the_id_of_eos(tmp_path, family):
    """Every token is read, as in transformers: one of them may be an EOS within the text."""
    model = random_model(family, 0)
    for config in (model.config, model.generation_config):
        config.pad_token_id = config.eos_token_id = 1
    model.save_pretrained(tmp_path)
    ids = np.random.default_rng(1).integers(2, model.config.vocab_size, (3, 7))
    ids[0, 3] = ids[1, 5:] = 1
    theirs, ours = generated(tmp_path, {"input_ids": ids})
    np.testing.assert_array_equal(ours, theirs)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_no_mask_hides_padding(family):
    sizes = {"vocab_size": 20, "d_model": 8, "d_ff": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    own = {"max_positions": 16} if family == "bart" else {}
    spec = dense_spec(family=family, **sizes, **own)
    model = nash_jax.Seq2Seq(spec, random_params(spec))
    ids = np.full((1, 6), spec.pad_id)
    ids[0, :3] = (5, 9, 7)
    labels = np.array([[4, 8]])
    hidden = model.logits(ids, ids != spec.pad_id, labels)
    assert not np.allclose(hidden, model.logits(ids, np.ones_like(ids), labels))
    np.testing.assert_array_equal(model.logits(ids, None, labels), hidden)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("family", usual_first(FAMILIES, ("t5", "bart", "m2m_100")))
@pytest.mark.parametrize("ids", ["padding", "tokens"])
def test_rows_of_nothing_but_padding(tmp_path, family, ids):
    """T5's families attend evenly to all of it, BART's to nothing; the padding of our buckets does not count."""
    model = random_model(family, 5)
    model.save_pretrained(tmp_path)
    inputs = random_inputs(model.config, 5, source=11)
    del inputs["decoder_input_ids"]
    inputs["attention_mask"][1:3] = 0
    if ids == "padding":
        inputs["input_ids"][1:3] = 0
    cached = family not in T5_LIKE or model.config.num_decoder_layers <= model.config.num_layers
    for num_beams in (1, 3):
        theirs, ours = generated(tmp_path, inputs, {"num_beams": num_beams}, use_cache=cached)
        np.testing.assert_array_equal(ours, theirs)


IDS_BEYOND = [
    {"eos_token_id": [1, 500]},
    {"suppress_tokens": [7, 500], "begin_suppress_tokens": [900]},
    {"pad_token_id": 500},
]


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("own", IDS_BEYOND, ids=str)
def test_ids_that_the_model_does_not_have(tmp_path, capsys, family, own):
    """They are left out, and the rest counts, as in transformers."""
    model = random_model(family, 3)
    model.save_pretrained(tmp_path)
    base = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 4, "num_beams": 2}
    (tmp_path / GENERATION_FILE).write_text(json.dumps(base | own))
    inputs = random_inputs(model.config, 1, source=9)
    theirs, ours = generated(tmp_path, {name: inputs[name][:1] for name in ("input_ids", "attention_mask")})
    np.testing.assert_array_equal(ours, theirs)
    said = capsys.readouterr().out
    assert all(
        f"{name} holds ids beyond the model's {model.config.vocab_size:,} tokens; ignored" in said for name in own
    )


@pytest.mark.parametrize(
    "own", [{"eos_token_id": 19}, {"forced_bos_token_id": 50}, {"bad_words_ids": [[4, 30]]}], ids=str
)
def test_an_option_of_which_no_id_is_left(tmp_path, own):
    """It is as if it were not set, where transformers fails or ends no output."""
    spec = dense_spec(vocab_size=19, d_model=8, d_ff=12, num_heads=2, encoder_layers=1, decoder_layers=1)
    nash_jax.Seq2Seq(spec, random_params(spec)).save_hf(tmp_path)
    (tmp_path / GENERATION_FILE).write_text(json.dumps({"num_beams": 2} | own))
    assert nash_jax.load(tmp_path).generation == GenerationOptions(num_beams=2)
