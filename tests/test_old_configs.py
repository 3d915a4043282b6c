"""config.json and generation_config.json of all versions, read as transformers reads them; and ours, written."""

import json

import pytest
import transformers

import nash_jax
from nash_jax.convert.generation_config import GENERATION_FILE, load_generation_options
from nash_jax.convert.hf import spec_from_config
from nash_jax.convert.layout import special_ids
from nash_jax.errors import UserError
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

BART_LIKE = ("bart", "mbart", "marian", "pegasus", "m2m_100")
TRANSFORMERS_4 = {"architectures": ["…"], "transformers_version": "4.3.0", "torch_dtype": "float32", "use_cache": True}
T5_SMALL = {"d_model": 512, "d_kv": 64, "d_ff": 2048, "num_heads": 8, "num_layers": 6, "vocab_size": 32128}
ROTATED = {"d_model": 512, "d_kv": 64, "d_ff": 1024, "num_heads": 6, "num_layers": 8, "vocab_size": 250112}
WIDE = {
    "d_model": 1024, "encoder_layers": 12, "decoder_layers": 12, "encoder_attention_heads": 16,
    "decoder_attention_heads": 16, "encoder_ffn_dim": 4096, "decoder_ffn_dim": 4096,
}  # fmt: skip
FAIRSEQ = {"num_hidden_layers": 12, "normalize_embedding": True, "static_position_embeddings": False}
CONFIGS = {  # fields of public checkpoints' first versions that bear on the model
    "t5-small": {
        "model_type": "t5", **T5_SMALL, "initializer_factor": 1.0, "layer_norm_epsilon": 1e-06, "n_positions": 512,
        "relative_attention_num_buckets": 32, "output_past": True, "pad_token_id": 0, "eos_token_id": 1,
        "decoder_start_token_id": 0, "task_specific_params": {"summarization": {"num_beams": 4}},
    },
    "t5-v1_1-small": {
        "model_type": "t5", **ROTATED, "vocab_size": 32128, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False, "decoder_start_token_id": 0, "num_decoder_layers": 8,
    },
    "byt5-small": {
        "model_type": "t5", **ROTATED, "vocab_size": 384, "num_layers": 12, "num_decoder_layers": 4,
        "feed_forward_proj": "gated-gelu", "tie_word_embeddings": False, "tokenizer_class": "ByT5Tokenizer",
    },
    "mt5-small": {
        "model_type": "mt5", **ROTATED, "num_decoder_layers": 8, "feed_forward_proj": "gated-gelu",
        "tie_word_embeddings": False, "decoder_start_token_id": 0, "tokenizer_class": "T5Tokenizer",
    },
    "umt5-small": {
        "model_type": "umt5", **ROTATED, "vocab_size": 256384, "feed_forward_proj": "gated-gelu",
        "is_gated_act": True, "dense_act_fn": "gelu_new", "tie_word_embeddings": False, "scalable_attention": True,
        "relative_attention_max_distance": 128,
    },
    "bart-base": {
        "model_type": "bart", **WIDE, **FAIRSEQ, "d_model": 768, "encoder_layers": 6, "decoder_layers": 6,
        "encoder_attention_heads": 12, "decoder_attention_heads": 12, "encoder_ffn_dim": 3072,
        "decoder_ffn_dim": 3072, "num_hidden_layers": 6, "vocab_size": 50265, "activation_function": "gelu",
        "add_final_layer_norm": False, "normalize_before": False, "num_beams": 4, "early_stopping": True,
        "no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "forced_eos_token_id": 2, "decoder_start_token_id": 2,
    },
    "bart-large-cnn": {
        "model_type": "bart", **WIDE, "vocab_size": 50264, "_num_labels": 3, "min_length": 56, "max_length": 142,
        "length_penalty": 2.0, "num_beams": 4, "early_stopping": True, "no_repeat_ngram_size": 3,
        "force_bos_token_to_be_generated": True, "prefix": " ", "output_past": True,
    },
    "mbart-large-cc25": {
        "model_type": "mbart", **WIDE, **FAIRSEQ, "vocab_size": 250027, "scale_embedding": True,
        "add_final_layer_norm": True, "normalize_before": True, "add_bias_logits": False, "num_beams": 5,
        "max_length": 200, "dropout": 0.3,
    },
    "opus-mt-en-de": {
        "model_type": "marian", **WIDE, "d_model": 512, "encoder_layers": 6, "decoder_layers": 6,
        "encoder_attention_heads": 8, "decoder_attention_heads": 8, "encoder_ffn_dim": 2048, "decoder_ffn_dim": 2048,
        "vocab_size": 58101, "max_position_embeddings": 512, "activation_function": "swish", "scale_embedding": True,
        "static_position_embeddings": True, "normalize_embedding": False, "add_final_layer_norm": False,
        "eos_token_id": 0, "pad_token_id": 58100, "decoder_start_token_id": 58100, "bad_words_ids": [[58100]],
        "num_beams": 6, "max_length": 512, "num_hidden_layers": 6,
    },
    "pegasus-xsum": {
        "model_type": "pegasus", **WIDE, "encoder_layers": 16, "decoder_layers": 16, "vocab_size": 96103,
        "max_position_embeddings": 512, "activation_function": "relu", "scale_embedding": True,
        "normalize_before": True, "add_final_layer_norm": True, "static_position_embeddings": True,
        "extra_pos_embeddings": 1, "pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 0, "num_beams": 8,
        "max_length": 64, "length_penalty": 0.6, "dropout": 0.1, "attention_dropout": 0.1,
    },
    "m2m100_418M": {
        "model_type": "m2m_100", **WIDE, "vocab_size": 128112, "activation_function": "relu", "early_stopping": True,
        "max_length": 200, "num_beams": 5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
        "decoder_start_token_id": 2, "scale_embedding": True, "dropout": 0.1, "attention_dropout": 0.1,
    },
    "nllb-200-distilled-600M": {
        "model_type": "m2m_100", **WIDE, "vocab_size": 256206, "activation_function": "relu", "max_length": 200,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2, "decoder_start_token_id": 2, "scale_embedding": True,
        "tokenizer_class": "NllbTokenizer",
    },
}  # fmt: skip
SAME_IN_BOTH = {  # our field: theirs, of T5's and of BART's families
    "vocab_size": ("vocab_size", "vocab_size"),
    "d_model": ("d_model", "d_model"),
    "num_heads": ("num_heads", "encoder_attention_heads"),
    "dropout_rate": ("dropout_rate", "dropout"),
    "norm_eps": ("layer_norm_epsilon", None),
    "position_buckets": ("relative_attention_num_buckets", None),
    "position_max_distance": ("relative_attention_max_distance", None),
    "max_positions": (None, "max_position_embeddings"),
    "attention_dropout_rate": (None, "attention_dropout"),
    "pad_id": ("pad_token_id", "pad_token_id"),
    "eos_id": ("eos_token_id", "eos_token_id"),
}


@pytest.mark.parametrize("name", CONFIGS)
def test_configs_of_old_versions(name):
    """Read as the class of transformers reads it: fields left out have its defaults, those of its past mean nothing."""
    fields = TRANSFORMERS_4 | CONFIGS[name]
    theirs = transformers.CONFIG_MAPPING[fields["model_type"]](**fields)
    spec, bart_like = spec_from_config(fields), fields["model_type"] in BART_LIKE
    for own, pair in SAME_IN_BOTH.items():
        if pair[bart_like] is not None:
            assert getattr(spec, own) == getattr(theirs, pair[bart_like]), own
    layers = (
        (theirs.encoder_layers, theirs.decoder_layers) if bart_like else (theirs.num_layers, theirs.num_decoder_layers)
    )
    assert (len(spec.encoder), len(spec.decoder)) == layers
    assert {x.ffn for x in spec.encoder} == {theirs.encoder_ffn_dim if bart_like else theirs.d_ff}
    activation = theirs.activation_function if bart_like else theirs.dense_act_fn
    assert spec.activation == {"swish": "silu", "gelu_new": "gelu_tanh"}.get(activation, activation)
    assert spec.gated == (not bart_like and theirs.is_gated_act)
    assert spec.embedding_scale == (spec.d_model**0.5 if bart_like and theirs.scale_embedding else 1.0)
    scaled = getattr(theirs, "scale_decoder_outputs", False)  # of the checkpoints above only t5-small's
    assert spec.output_scale == (spec.d_model**-0.5 if scaled else 1.0)


@pytest.mark.parametrize("name", CONFIGS)
def test_generation_fields_of_old_configs(tmp_path, name):
    fields = TRANSFORMERS_4 | CONFIGS[name]
    (tmp_path / "config.json").write_text(json.dumps(fields))
    written = {n: v for n, v in fields.items() if n in transformers.GenerationConfig().to_dict()}
    expected = transformers.GenerationConfig.from_model_config(dict(fields)).to_dict()
    if expected["pad_token_id"] is None and expected["eos_token_id"] is not None:  # as its generate does
        expected["pad_token_id"] = expected["eos_token_id"]
    if expected["decoder_start_token_id"] is None:  # as its generate does
        expected["decoder_start_token_id"] = expected["bos_token_id"]
    if fields.get("force_bos_token_to_be_generated"):  # the name of BART's first versions
        expected["forced_bos_token_id"] = 0
    ours = load_generation_options(tmp_path).to_dict()
    assert ours == {n: expected[n] for n in ours}
    assert written.keys() - ours.keys() == {"use_cache", "transformers_version"}


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ({"pad_token_id": 3, "eos_token_id": [4, 5], "decoder_start_token_id": 6, "bos_token_id": 7}, (3, 4, 6)),
        ({"pad_token_id": 3, "eos_token_id": 4, "bos_token_id": 7}, (3, 4, 7)),
        ({"pad_token_id": 3, "eos_token_id": 4, "decoder_start_token_id": None, "bos_token_id": None}, (3, 4, 3)),
        ({"eos_token_id": [], "pad_token_id": None}, (0, 1, 0)),
    ],
)
def test_special_ids(fields, expected):
    assert tuple(special_ids(fields).values()) == expected


SIZES = {"vocab_size": 9, "d_model": 4, "d_ff": 4, "num_heads": 1, "encoder_layers": 1, "decoder_layers": 1}
SPEC = dense_spec(**SIZES)
BART = dense_spec(**SIZES, family="bart", max_positions=9, pad_id=1, eos_id=2, decoder_start_id=2)
CHOSEN = {
    "max_new_tokens": 7, "min_length": 2, "num_beams": 4, "length_penalty": 2.0, "early_stopping": True,
    "no_repeat_ngram_size": 3, "bad_words_ids": [[5], [6, 7]], "forced_bos_token_id": 3, "forced_eos_token_id": 2,
    "eos_token_id": [2, 8], "suppress_tokens": [4], "exponential_decay_length_penalty": [3, 1.5],
}  # fmt: skip
SAMPLED = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 0.9, "max_length": 20, "seed": 3}


@pytest.fixture(params=[SPEC, BART], ids=["t5", "bart"])
def folder(request, tmp_path):
    """A model in the hub's layout that says nothing of generation but its special ids."""
    nash_jax.Seq2Seq(request.param, random_params(request.param)).save_hf(tmp_path / "model")
    return tmp_path / "model"


def set_generation(folder, **fields):
    file = folder / GENERATION_FILE
    file.write_text(json.dumps({**json.loads(file.read_text()), **fields}))


@pytest.mark.parametrize("fields", [CHOSEN, SAMPLED, {}], ids=["beams", "sampling", "nothing"])
def test_generation_defaults_go_through_all_folders(folder, tmp_path, fields):
    set_generation(folder, **fields)
    model = nash_jax.load(folder)
    said = {name: getattr(model.spec, f"{name}_id") for name in ("pad", "eos", "decoder_start")}
    special = {f"{name}_token_id": value for name, value in said.items()}
    assert model.generation == GenerationOptions(**special | fields)
    model.save(tmp_path / "export")
    assert nash_jax.load(tmp_path / "export").generation == model.generation
    model.save_hf(tmp_path / "again")
    assert nash_jax.load(tmp_path / "again").generation == model.generation
    theirs = transformers.GenerationConfig.from_pretrained(tmp_path / "again").to_dict()
    wanted = special | fields
    assert {name: theirs[name] for name in wanted} == wanted
    others = transformers.GenerationConfig().to_dict()
    others.pop("transformers_version")
    assert {name: theirs[name] for name in others.keys() - wanted.keys()} == {
        name: value for name, value in others.items() if name not in wanted
    }


def test_fresh_options_are_written(tmp_path):
    options = GenerationOptions(num_beams=3, max_new_tokens=5)
    nash_jax.Seq2Seq(SPEC, random_params(SPEC), generation=options).save(tmp_path / "export")
    assert nash_jax.load(tmp_path / "export").generation == options
    (tmp_path / "export" / GENERATION_FILE).unlink()  # exports of the first version have none
    assert nash_jax.load(tmp_path / "export").generation == GenerationOptions()


@pytest.mark.parametrize(
    ("fields", "left", "note"),
    [
        (
            {"num_beam_groups": 2, "num_beams": 4},
            {"num_beams": 4},
            "generation_config.json sets num_beam_groups to 2: not supported, ignored in generation",
        ),
        (
            {"temperature": 0.0, "num_beams": 4},
            {"num_beams": 4},
            "temperature is 0.0; expected a number above 0; temperature is ignored in generation",
        ),
        (
            {"num_return_sequences": 2, "max_length": 9},
            {"max_length": 9},
            "num_return_sequences is 2; expected 1 in greedy search",
        ),
        ({"forced_bos_token_id": 5, "suppress_tokens": [5]}, {"suppress_tokens": (5,)}, "is in suppress_tokens too"),
        ({"bad_words_ids": [[]], "min_length": 2}, {"min_length": 2}, "bad_words_ids is [[]]; expected a list of non"),
        ({"eos_token_id": "</s>", "num_beams": 2}, {"num_beams": 2, "eos_token_id": None}, "eos_token_id is '</s>'"),
        ({"num_return_sequences": 2, "do_sample": True}, {"num_return_sequences": 2, "do_sample": True}, None),
        ({"num_return_sequences": 3, "num_beams": 3}, {"num_return_sequences": 3, "num_beams": 3}, None),
        ({"forced_bos_token_id": [7]}, {"forced_bos_token_id": 7}, None),  # transformers forces it too
    ],
)
def test_a_default_that_cannot_be_followed_is_left_out(folder, capsys, fields, left, note):
    """The others stay."""
    usual = nash_jax.load(folder).generation
    set_generation(folder, **fields)
    capsys.readouterr()
    assert nash_jax.load(folder).generation == usual.replace(**left)
    printed = capsys.readouterr().out
    assert (note or "") in printed and printed.count("\n") == printed.count("note: ") == (note is not None)


def test_old_config_with_an_unsupported_field(folder, capsys):
    (folder / GENERATION_FILE).unlink()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_beams": 4, "diversity_penalty": 0.5}))
    assert nash_jax.load(folder).generation.num_beams == 4
    assert "config.json sets diversity_penalty to 0.5: not supported" in capsys.readouterr().out


def test_a_broken_file_is_refused(folder):
    (folder / GENERATION_FILE).write_text("{")
    with pytest.raises(UserError, match=r"generation_config.json is not JSON"):
        nash_jax.load(folder)
