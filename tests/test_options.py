"""Options against `transformers.GenerationConfig`: files both ways, lengths, and what is refused in which words."""

import dataclasses
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import GenerationConfig

from nash_jax.errors import UserError
from nash_jax.generation import options as module
from nash_jax.generation.options import DEFAULT_NEW_TOKENS, GenerationOptions, options_from_files

T5 = {"model_type": "t5", "vocab_size": 40, "pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": 0}
BART_CNN = {  # the generation fields of a summarisation checkpoint, written before generation_config.json existed
    "model_type": "bart", "vocab_size": 50264, "bos_token_id": 0, "eos_token_id": 2, "pad_token_id": 1,
    "decoder_start_token_id": 2, "early_stopping": True, "forced_bos_token_id": 0, "forced_eos_token_id": 2,
    "length_penalty": 2.0, "max_length": 142, "min_length": 56, "no_repeat_ngram_size": 3, "num_beams": 4,
    "num_hidden_layers": 12, "seed": "of training", "output_past": True, "use_cache": True, "sequence_bias": None,
    "task_specific_params": {"summarization": {"num_beams": 6, "max_length": 128}},
}  # fmt: skip
FILES = [  # generation_config.json
    {},
    {"decoder_start_token_id": 0, "eos_token_id": 1, "pad_token_id": 0, "transformers_version": "4.30.0"},
    {"_from_model_config": True, "eos_token_id": [1, 4], "forced_eos_token_id": [1], "is_encoder_decoder": True},
    {"num_beams": 4, "length_penalty": 0.6, "early_stopping": "never", "max_new_tokens": 30, "use_cache": False},
    {"do_sample": True, "temperature": 0.5, "top_k": 0, "top_p": 0.25, "min_p": 0.125, "typical_p": 1.0},
    {"bad_words_ids": [[5], [6, 7]], "renormalize_logits": True, "max_length": 512, "num_beams": 6, "top_k": None},
    {"exponential_decay_length_penalty": [5, 1.25], "remove_invalid_values": True, "suppress_tokens": [3]},
    {"begin_suppress_tokens": [2], "repetition_penalty": 1.25, "encoder_repetition_penalty": 1.5, "min_length": None},
    {"num_beam_groups": 1, "diversity_penalty": 0.0, "guidance_scale": None, "epsilon_cutoff": 0.0, "mine": 3},
    {"bos_token_id": 3, "encoder_no_repeat_ngram_size": 2, "min_new_tokens": 4, "num_return_sequences": 1},
]

OWN = ("seed", "allowed_sequences")  # options that transformers does not have
NAMES = [field.name for field in dataclasses.fields(GenerationOptions) if field.name not in OWN]


def plain(value):
    """Nothing, lists and lone ids in one form: transformers keeps what it was given."""
    if isinstance(value, list | tuple):
        return tuple(plain(item) for item in value) or None
    return value


def assert_same(options: GenerationOptions, config) -> None:
    """Every field means the same in both; None in transformers is its global default."""
    defaults = config._get_default_generation_params()
    for name in NAMES:
        theirs = getattr(config, name) if getattr(config, name) is not None else defaults.get(name)
        ours = plain(getattr(options, name))
        if name in ("eos_token_id", "bos_token_id", "forced_eos_token_id") and isinstance(theirs, int):
            theirs = [theirs]
        if name == "max_length" and ours is None:
            assert theirs == defaults["max_length"]  # where we have a default of our own
        elif name == "decoder_start_token_id" and theirs is None:
            assert ours == (options.bos_token_id or [None])[0]
        else:
            assert (ours or None) == (plain(theirs) or None), name


@pytest.mark.parametrize("fields", FILES, ids=str)
def test_generation_config_json_is_read_as_transformers_reads_it(fields):
    options = options_from_files(fields, BART_CNN)  # config.json does not count beside it
    assert_same(options, GenerationConfig.from_dict(fields))


@pytest.mark.parametrize("config", [T5, BART_CNN, {**BART_CNN, "force_bos_token_to_be_generated": True}], ids=len)
def test_an_old_checkpoint_is_read_from_config_json(config, tmp_path):
    (tmp_path / "config.json").write_text(json.dumps(config))
    reference = GenerationConfig.from_pretrained(tmp_path, config_file_name="config.json", _from_model_config=True)
    options = options_from_files(None, config)
    assert_same(options, reference)
    assert options.seed == 0


def test_task_specific_params_are_not_applied():
    options = options_from_files(None, BART_CNN)
    assert (options.num_beams, options.max_length, options.min_length) == (4, 142, 56)
    assert options.forced_eos_token_id == options.eos_token_id == (2,)


def test_bart_s_first_name_for_a_forced_bos():
    config = {"bos_token_id": 5, "force_bos_token_to_be_generated": True}
    assert options_from_files(None, config).forced_bos_token_id == 5


def test_the_decoder_starts_from_bos_when_no_start_is_named():
    assert options_from_files({"bos_token_id": 3}, T5).decoder_start_token_id == 3
    assert options_from_files({"bos_token_id": 3, "decoder_start_token_id": 4}, T5).decoder_start_token_id == 4
    assert options_from_files({}, T5).decoder_start_token_id is None


CHANGES = {
    "max_new_tokens": 9, "max_length": 50, "min_new_tokens": 2, "min_length": 3, "num_beams": 5,
    "num_return_sequences": 2, "length_penalty": 0.5, "early_stopping": "never", "do_sample": True, "temperature": 0.5,
    "top_k": 7, "top_p": 0.5, "min_p": 0.25, "repetition_penalty": 1.5, "encoder_repetition_penalty": 0.5,
    "no_repeat_ngram_size": 3, "encoder_no_repeat_ngram_size": 4, "bad_words_ids": [[3, 4], [5]],
    "forced_bos_token_id": 0, "forced_eos_token_id": [1, 2], "suppress_tokens": [8], "begin_suppress_tokens": [9, 4],
    "exponential_decay_length_penalty": [3, 1.5], "remove_invalid_values": True, "renormalize_logits": True,
    "decoder_start_token_id": 0, "bos_token_id": 3, "eos_token_id": [1, 7], "pad_token_id": 0, "seed": 4,
    "allowed_sequences": [[4, 1], [5, 5, 1]],
}  # fmt: skip


def test_every_field_goes_through_files_and_transformers(tmp_path):
    assert set(CHANGES) == {*NAMES, *OWN} == set(module._FIELD_TYPES)
    options = GenerationOptions().replace(**CHANGES)
    assert options.to_dict() == CHANGES
    assert options_from_files(json.loads(json.dumps(options.to_dict())), T5) == options
    config = GenerationConfig(**options.to_dict())
    assert_same(options, config)
    config.save_pretrained(tmp_path)
    saved = json.loads((tmp_path / "generation_config.json").read_text())
    assert options_from_files(saved, T5) == options
    assert hash(options) == hash(GenerationOptions(**CHANGES))


@given(names=st.sets(st.sampled_from(sorted(set(CHANGES) - {"num_return_sequences"}))))
def test_only_what_differs_is_written(names):
    changes = {name: CHANGES[name] for name in names}
    options = GenerationOptions().replace(**changes)
    assert options.to_dict() == changes
    assert options.replace(**{name: module._DEFAULTS[name] for name in names}) == GenerationOptions()


def test_defaults_are_those_of_transformers():
    assert_same(GenerationOptions(), GenerationConfig())
    assert GenerationOptions().to_dict() == {}


def test_values_take_their_normal_form():
    options = GenerationOptions(
        eos_token_id=np.int64(3), bos_token_id=[4], forced_eos_token_id=5, temperature=2,
        bad_words_ids=[[1, np.int32(2)]], suppress_tokens=None, max_new_tokens=np.int32(4),
    )  # fmt: skip
    assert (options.eos_token_id, options.bos_token_id, options.forced_eos_token_id) == ((3,), (4,), (5,))
    assert (options.bad_words_ids, options.suppress_tokens) == (((1, 2),), ())
    assert type(options.temperature) is float
    assert type(options.max_new_tokens) is type(options.eos_token_id[0]) is int
    assert options.to_dict()["eos_token_id"] == 3


def test_limits():
    assert DEFAULT_NEW_TOKENS == 64
    assert GenerationOptions().length_limits(1) == (0, 65)
    assert GenerationOptions(max_length=9).length_limits(1) == (0, 9)
    assert GenerationOptions(max_length=9, max_new_tokens=3, min_length=2).length_limits(4) == (2, 7)
    assert GenerationOptions(min_length=8, min_new_tokens=2).length_limits(4) == (6, 68)
    assert GenerationOptions(min_length=8, min_new_tokens=0).length_limits(4) == (4, 68)


@given(
    lengths=st.fixed_dictionaries(
        {},
        optional={
            "max_new_tokens": st.integers(1, 9), "max_length": st.integers(6, 20),
            "min_new_tokens": st.integers(0, 9), "min_length": st.integers(0, 20),
        },
    ),
    prompt=st.integers(1, 5),
)  # fmt: skip
def test_limits_equal_transformers(lengths, prompt):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    from transformers import GenerationMixin

    config = GenerationConfig(**lengths)
    config.update(**{**config._get_default_generation_params(), "max_length": DEFAULT_NEW_TOKENS}, defaults_only=True)
    generator = type("Generator", (GenerationMixin,), {"config": None})()
    config = generator._prepare_generated_length(
        config, "max_length" not in lengths, "min_length" not in lengths, "input_ids", prompt, None
    )
    assert GenerationOptions(**lengths).length_limits(prompt) == (config.min_length, config.max_length)


def test_a_max_length_without_room_is_refused():
    with pytest.raises(UserError, match=r"max_length is 3 and the decoder starts from 3 tokens; .*set max_new_tokens"):
        GenerationOptions(max_length=3).length_limits(3)


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("num_beams", 0, "a whole number, 1 or more"),
        ("num_beams", 2.0, "a whole number, 1 or more"),
        ("num_beams", True, "a whole number, 1 or more"),
        ("num_beams", None, "a whole number, 1 or more"),
        ("max_new_tokens", 0, "a whole number from 1 to 1,048,576"),
        ("min_length", -1, "a whole number, 0 or more"),
        ("do_sample", 1, "True or False"),
        ("do_sample", None, "True or False"),
        ("early_stopping", "always", "True, False or 'never'"),
        ("temperature", 0, "a number above 0"),
        ("temperature", "hot", "a number above 0"),
        ("length_penalty", float("nan"), "a number"),
        ("length_penalty", True, "a number"),
        ("top_p", 1.5, "a number from 0 to 1"),
        ("repetition_penalty", -1.0, "a number above 0"),
        ("bad_words_ids", [3, 4], "a list of non-empty lists of token ids"),
        ("bad_words_ids", [[]], "a list of non-empty lists of token ids"),
        ("suppress_tokens", 4, "a list of token ids"),
        ("suppress_tokens", [-1], "a list of token ids"),
        ("eos_token_id", [], "a token id or a list of them"),
        ("eos_token_id", "</s>", "a token id or a list of them"),
        ("decoder_start_token_id", [3, 4], "one token id for all rows"),
        ("exponential_decay_length_penalty", [3], "[start, factor], a whole number and a number above 0"),
        ("seed", -1, "a whole number, 0 or more"),
    ],
)
def test_a_value_of_another_kind_is_refused(name, value, expected):
    with pytest.raises(UserError) as found:
        GenerationOptions().replace(**{name: value})
    assert str(found.value) == f"generation option {name} is {value!r}; expected {expected}"


def test_unknown_names_are_refused():
    with pytest.raises(UserError, match=r"^there is no generation option 'num_beam' \(did you mean 'num_beams'\?\)$"):
        GenerationOptions().replace(num_beam=4)
    with pytest.raises(UserError, match=r"^generation option 'penalty_alpha' of transformers is not supported"):
        GenerationOptions().replace(penalty_alpha=0.6)


def test_contradictions_are_refused_as_in_transformers():
    for changes, words in [
        ({"num_return_sequences": 2}, "expected 1 in greedy search"),
        ({"num_return_sequences": 4, "num_beams": 3}, "no more than num_beams=3"),
        ({"forced_bos_token_id": 3, "suppress_tokens": [3]}, "forced_bos_token_id=3 is in suppress_tokens too"),
        ({"forced_eos_token_id": [3, 4], "suppress_tokens": [3, 4, 5]}, "is in suppress_tokens too"),
    ]:
        with pytest.raises(UserError, match=words):
            GenerationOptions().replace(**changes)
        with pytest.raises(ValueError, match=r"num_return_sequences|suppress_tokens"):
            GenerationConfig(**changes)
    assert GenerationOptions(num_return_sequences=2, do_sample=True).num_return_sequences == 2
    assert GenerationOptions(forced_eos_token_id=[3, 4], suppress_tokens=[3]).suppress_tokens == (3,)


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("penalty_alpha", 0.6), ("num_beam_groups", 2), ("diversity_penalty", 0.5), ("sequence_bias", [[[3], 2.0]]),
        ("guidance_scale", 1.5), ("typical_p", 0.9), ("eta_cutoff", 0.001), ("epsilon_cutoff", 0.001), ("top_h", 0.4),
        ("prompt_lookup_num_tokens", 3), ("stop_strings", ["."]), ("watermarking_config", {"bias": 2.0}),
        ("force_words_ids", [[4]]), ("dola_layers", "high"), ("max_time", 1.0), ("token_healing", True),
    ],
)  # fmt: skip
def test_fields_that_change_the_output_and_are_not_here_are_refused(name, value):
    assert hasattr(GenerationConfig(), name)
    for files, source in (({name: value}, T5), "generation_config.json"), ((None, {**T5, name: value}), "config.json"):
        with pytest.raises(UserError, match=f"^{source} sets {name} to .*; expected {name} unset or .*; remove it"):
            options_from_files(*files)
    neutral = module.UNSUPPORTED_FIELDS[name]
    assert options_from_files({name: neutral}, T5) == GenerationOptions()


def test_every_field_of_transformers_is_taken_refused_or_changes_nothing():
    """A new release with a new field fails here, so that somebody decides."""
    harmless = {
        "_from_model_config", "transformers_version", "is_assistant", "assistant_confidence_threshold",
        "assistant_ensemble_weight", "assistant_lookbehind", "target_lookbehind", "num_assistant_tokens",
        "num_assistant_tokens_schedule", "max_matching_ngram_size", "speculation_type", "use_cache", "cache_config",
        "cache_implementation", "max_cache_len", "compile_config", "disable_compile", "continuous_batching_config",
        "prefill_chunk_size", "low_memory", "output_attentions", "output_hidden_states", "output_scores",
        "output_logits", "return_dict_in_generate",
    }  # fmt: skip
    known = harmless | set(NAMES) | set(module.UNSUPPORTED_FIELDS)
    assert set(GenerationConfig().to_dict()) <= known


def test_a_wrong_value_in_a_file_names_the_file():
    with pytest.raises(UserError, match=r"^generation_config\.json: generation option num_beams is 'four'; expected"):
        options_from_files({"num_beams": "four"}, T5)
    with pytest.raises(UserError, match=r"^config\.json: generation option top_k is -1"):
        options_from_files(None, {**T5, "top_k": -1})
