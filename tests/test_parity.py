"""Every family against PyTorch: logits, checkpoints to and fro, pruned folders."""

import numpy as np
import pytest
from families import FAMILIES, TORCH_WARNINGS, random_inputs, random_model, torch_logits
from seeds import some

import nash_jax
from nash_jax.convert.hf import load_hf
from nash_jax.models import build
from nash_jax.models.positions import token_sinusoids
from nash_jax.tree import flatten

pytestmark = [*TORCH_WARNINGS, pytest.mark.usefixtures("torch")]
CONFIGS = 20


@pytest.mark.parametrize("seed", some(range(CONFIGS), few=1))
@pytest.mark.parametrize("family", FAMILIES)
def test_logits_and_bits(family, seed, tmp_path):
    model = random_model(family, seed)
    model.save_pretrained(tmp_path / "theirs")
    spec, params = load_hf(tmp_path / "theirs")
    inputs = random_inputs(model.config, seed)
    expected = torch_logits(model, inputs)
    assert 0.1 < expected.std() < 30
    found = build(spec).apply(
        {"params": params},
        *[np.asarray(inputs[n], np.int32) for n in ("input_ids", "attention_mask", "decoder_input_ids")],
    )
    assert np.abs(np.asarray(found) - expected).max() <= 1e-4

    nash_jax.Seq2Seq(spec, params).save_hf(tmp_path / "ours")
    import transformers

    again = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "ours").eval()
    theirs, ours = model.state_dict(), again.state_dict()
    # with two embedding tables nothing reads the third, which some classes store all the same
    unused = {"model.shared.weight"} if spec.encoder_vocab_size else set()
    assert theirs.keys() - unused == ours.keys() - unused
    for name in theirs.keys() - unused:
        np.testing.assert_array_equal(ours[name].numpy(), theirs[name].numpy(), err_msg=name)
    np.testing.assert_array_equal(torch_logits(again, inputs), expected)
    respec, reparams = load_hf(tmp_path / "ours")
    assert respec == spec
    for (path, leaf), other in zip(flatten(params).items(), flatten(reparams).values(), strict=True):
        np.testing.assert_array_equal(leaf, other, err_msg=path)


@pytest.mark.parametrize("family", ["m2m_100", "marian"])
@pytest.mark.parametrize("masked", [True, False])
def test_padding_within_a_row(family, masked, tmp_path):
    """M2M100 numbers tokens without counting padding, whatever the attention mask says."""
    model = random_model(family, 3)
    model.save_pretrained(tmp_path)
    inputs = random_inputs(model.config, 3, target=12)
    pad_id = model.config.pad_token_id
    inputs["input_ids"][:, [0, 5, 6, 20]] = inputs["decoder_input_ids"][:, [3, 7]] = pad_id
    if masked:
        inputs["attention_mask"][:, 5:] *= inputs["input_ids"][:, 5:] != pad_id
    found = nash_jax.load(tmp_path).logits(*inputs.values())
    assert np.abs(found - torch_logits(model, inputs)).max() <= 1e-4


@pytest.mark.parametrize(("width", "pad_id"), [(1024, 1), (64, 0), (7, 5)])
def test_position_table_of_nllb(width, pad_id):
    """At the size of the public models; angles of a thousand radians are rounded to float32 in both.

    The last digit of PyTorch's frequencies depends on the processor, so an angle may be the next number.
    """
    from transformers.models.m2m_100.modeling_m2m_100 import M2M100SinusoidalPositionalEmbedding

    theirs = M2M100SinusoidalPositionalEmbedding(1024, width, pad_id).weights.numpy()[pad_id + 1 :]
    found = token_sinusoids(len(theirs), width, pad_id + 1)
    assert found.dtype == np.float32
    assert np.abs(found - theirs).max() <= np.spacing(np.float32(len(theirs) + pad_id + 1))
