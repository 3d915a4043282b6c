"""What a family's class in transformers cannot express is refused by its name: every flag of every family."""

import dataclasses

import numpy as np
import pytest
from families import FAMILIES, T5_LIKE

from nash_jax.convert.hf import LAYOUTS, hf_config, spec_from_config, write_hf
from nash_jax.convert.layout import FAMILY_FLAGS
from nash_jax.convert.refused import REASONS
from nash_jax.errors import UserError
from nash_jax.pruning.compact import compact
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

SIZES = {"vocab_size": 23, "d_model": 8, "d_ff": 12, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 1}
OTHER = {  # flag → a value that no family has
    "norm_eps": 1e-3, "output_scale": 0.3, "embedding_scale": 3.0, "position_offset": 1, "max_positions": 40,
    "encoder_vocab_size": 99, "position_buckets": 16, "position_max_distance": 64, "decoder_head_dim": 3,
    "decoder_num_heads": 5, "attention_dropout_rate": 0.03, "activation_dropout_rate": 0.03,
}  # fmt: skip
SWITCHES = {  # flag → two values, of which a family has one
    "norm": ("rms", "layer"), "positions": ("sinusoidal", "relative"), "activation": ("relu", "silu"),
    **dict.fromkeys(
        ("pre_norm", "bias", "scaled_attention", "gated", "tied", "logits_bias", "embedding_norm"), (True, False)
    ),
}  # fmt: skip
POSITIONS = {"max_positions", "position_buckets", "position_max_distance"}  # free where a family does not read them
T5_FREE = {"norm_eps", "activation", "gated", "tied", *POSITIONS}
BART_FREE = {"activation", "tied", "logits_bias", "attention_dropout_rate", "activation_dropout_rate", *POSITIONS}
FREE = {family: T5_FREE if family in T5_LIKE else BART_FREE for family in FAMILIES}
FREE["m2m_100"] = BART_FREE - {"logits_bias"}
FREE["marian"] = BART_FREE | {"encoder_vocab_size"}
SAID_OTHERWISE = {  # flags of BART's relatives that are refused for what comes of them
    "encoder_vocab_size": "the encoder has 99 tokens, the decoder 23; expected one vocabulary",
    "decoder_head_dim": "decoder heads have a total width of 6, d_model is 8; expected equal widths",
    "decoder_num_heads": "decoder heads have a total width of 20, d_model is 8; expected equal widths",
}


def plain(family):
    """A spec that the family's class has."""
    own = {"output_scale": 8**-0.5} if family == "umt5" else {}
    return dense_spec(family=family, **SIZES, **own)


def changed(family, flag):
    """`plain` with another value of one flag, and that value."""
    spec = plain(family)
    value = OTHER[flag] if flag in OTHER else next(v for v in SWITCHES[flag] if v != getattr(spec, flag))
    own = {flag: value}
    if flag == "positions" and value == "sinusoidal":
        own["max_positions"] = 40
    return dataclasses.replace(spec, **own), value


def test_every_flag_is_looked_at():
    assert set(FAMILY_FLAGS) == OTHER.keys() | SWITCHES.keys()


@pytest.mark.parametrize("flag", FAMILY_FLAGS)
@pytest.mark.parametrize("family", FAMILIES)
def test_a_flag_is_free_or_refused(family, flag):
    assert hf_config(plain(family))["model_type"] == family
    spec, value = changed(family, flag)
    if flag in FREE[family]:
        assert hf_config(spec)["model_type"] == family
        return
    said = f"{flag} is {value!r}, which {family} in transformers cannot express; expected "
    if family not in T5_LIKE:
        said = SAID_OTHERWISE.get(flag, said)
    with pytest.raises(UserError) as caught:
        hf_config(spec)
    assert str(caught.value).startswith(said)
    assert str(caught.value).endswith("; save an export instead")


@pytest.mark.parametrize("family", T5_LIKE)
def test_gates_that_no_name_of_an_activation_says(family):
    spec = dataclasses.replace(plain(family), activation="gelu", gated=True)
    with pytest.raises(UserError, match=rf"the FFN is gated by 'gelu', which {family} in transformers cannot"):
        hf_config(spec)


def test_nothing_is_written_of_what_is_refused(tmp_path):
    spec = dense_spec(family="t5", **SIZES, logits_bias=True)
    with pytest.raises(UserError, match="logits_bias is True, which t5 in transformers cannot express"):
        write_hf(tmp_path, spec, random_params(spec))
    assert not list(tmp_path.iterdir())


BART = {"model_type": "bart", "vocab_size": 23, "d_model": 8, "encoder_layers": 1}


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"activation_function": "quick_gelu"}, "activation_function is 'quick_gelu'; expected one of"),
        ({"encoder_attention_heads": 3}, "encoder_attention_heads is 3; expected a divisor of 8"),
        ({"encoder_attention_heads": 2, "decoder_attention_heads": 5}, "decoder_attention_heads is 5; expected"),
        ({"model_type": "gpt2"}, r"config.json has model_type 'gpt2'; expected one of t5, mt5, .*, m2m_100$"),
        ({"model_type": "brat"}, r"model_type 'brat' \(did you mean 'bart'\?\); expected one of"),
        ({"model_type": None}, "config.json has no 'model_type'; expected one of"),
        ({"model_type": "led"}, "model_type 'led': sparse attention is not implemented; expected one of"),
        ({"model_type": "longt5"}, "model_type 'longt5': sparse attention is not implemented; expected one of"),
        ({"model_type": "nllb-moe"}, "model_type 'nllb-moe': layers of several experts are not implemented"),
        ({"model_type": "prophetnet"}, "model_type 'prophetnet': prediction of several tokens at a time is not"),
    ],
)
def test_configs_that_no_spec_expresses(fields, message):
    with pytest.raises(UserError, match=message):
        spec_from_config(BART | fields)


def test_no_type_is_both_read_and_refused():
    assert not REASONS.keys() & LAYOUTS.keys()


def test_a_position_table_that_transformers_would_compute_otherwise(tmp_path):
    """A soft d_model mask over M2M100 is multiplied into its sinusoids, which no file of transformers can hold."""
    spec = plain("m2m_100")
    mask = np.array([1, 0.5, 1, 1, 1, 1, 1, 1], np.float32)
    narrow, params = compact(spec, random_params(spec), {"embed": mask})
    assert narrow == spec
    with pytest.raises(UserError, match="position table is not the one that m2m_100 in transformers computes"):
        write_hf(tmp_path, narrow, params)
    assert not list(tmp_path.iterdir())
