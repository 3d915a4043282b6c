"""Pruned models of every family as transformers reads them: padded to a rectangle, the same function."""

import dataclasses

import numpy as np
import pytest
from families import FAMILIES, T5_LIKE, TORCH_WARNINGS, torch_logits, usual_first
from seeds import some

from nash_jax import Seq2Seq
from nash_jax.pruning.compact import compact
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.spec import ModelSpec
from nash_jax.testing import random_batch, random_masks, random_params, random_spec

pytestmark = [*TORCH_WARNINGS, pytest.mark.usefixtures("torch")]
SEEDS = 5


def dense(family: str, seed: int) -> ModelSpec:
    """A random dense spec of a family, with flags among those that its class leaves open."""
    rng = np.random.default_rng(seed)

    def draw(*values):
        return values[int(rng.integers(len(values)))]

    spec = random_spec(seed, family=family)
    heads, layers = draw(2, 3, 4), draw(2, 3)
    encoder = dataclasses.replace(spec.encoder[0], heads=tuple(range(heads)))
    decoder = dataclasses.replace(spec.decoder[0], self_heads=encoder.heads, cross_heads=encoder.heads)
    own = {"num_heads": heads, "encoder": (encoder,) * layers, "decoder": (decoder,) * draw(2, 3)}
    if family in T5_LIKE:
        activation, gated = draw(("relu", False), ("gelu_tanh", True), ("silu", True), ("relu", True))
        return dataclasses.replace(spec, **own, activation=activation, gated=gated, norm_eps=draw(1e-6, 1e-5))
    own |= {"head_dim": draw(2, 4, 6), "activation": draw("gelu", "relu", "silu", "gelu_tanh")}
    d_model = heads * own["head_dim"]
    own |= {"d_model": d_model, "embedding_scale": draw(1.0, d_model**0.5), "max_positions": 32}
    return dataclasses.replace(spec, **own, encoder_vocab_size=draw(None, spec.vocab_size))


def pruned(family: str, seed: int):
    """Uneven heads and units, an emptied sub-layer on each side, a layer gone: a ragged model."""
    spec = dense(family, seed)
    # d_model too where it is no multiple of the heads' width
    masks = random_masks(spec, seed, "heads units sublayers" + " embed" * (family in T5_LIKE))
    emptied = list(spec.sublayers())[seed::SEEDS] + [f"decoder.{len(spec.decoder) - 1}.cross_attention"]
    masks |= dict.fromkeys(emptied, np.float32(0))
    spec, params = compact(spec, random_params(spec, seed, 0.4), masks)
    kept = {side: range(seed % 2, len(getattr(spec, side))) for side in ("encoder", "decoder")}
    return select_layers(spec, params, **kept)


@pytest.mark.parametrize("seed", some(range(SEEDS), few=2))
@pytest.mark.parametrize("family", usual_first(FAMILIES, ("t5", "bart", "m2m_100")))
def test_logits_of_a_padded_folder(logits, tmp_path, capsys, family, seed):
    import transformers

    spec, params = pruned(family, seed)
    Seq2Seq(spec, params).save_hf(tmp_path / "model")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    assert model.config.model_type == family
    assert "padded with zeros for transformers" in capsys.readouterr().out

    batch = random_batch(spec, seed, rows=3, source=24, target=7)
    mask = (batch["input_ids"] != spec.pad_id).astype(np.int64)
    inputs = {"input_ids": batch["input_ids"], "attention_mask": mask, "decoder_input_ids": batch["labels"]}
    expected = torch_logits(model, {name: np.asarray(value, np.int64) for name, value in inputs.items()})
    found = logits(spec, params, batch)
    assert found.std() > 0.1
    assert np.abs(found - expected).max() <= 1e-4


@pytest.mark.parametrize("family", usual_first(FAMILIES, ("t5", "bart", "m2m_100")))
@pytest.mark.parametrize("layers", [(1, 3), (2, 3), (3, 1)])
def test_transformers_generates_whichever_side_is_deeper(tmp_path, capsys, family, layers):
    """Its cache has as many layers as a T5's encoder; with a deeper decoder it is switched off."""
    import torch
    import transformers

    spec = dense(family, 1)
    spec = dataclasses.replace(spec, encoder=spec.encoder[:1] * layers[0], decoder=spec.decoder[:1] * layers[1])
    model = Seq2Seq(spec, random_params(spec, 1, 0.4))
    model.save_hf(tmp_path / "model")
    theirs = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "model").eval()
    ids = np.array([[5, 6, 9, 4], [8, 7, 3, 10]]) % spec.vocab_size
    mask = np.ones_like(ids)
    options = {"max_new_tokens": 6, "num_beams": 2}
    found = theirs.generate(torch.tensor(ids), attention_mask=torch.tensor(mask), **options).numpy()
    np.testing.assert_array_equal(model.generate_ids(ids, mask, **options), found)
    without_cache = family in T5_LIKE and layers[1] > layers[0]
    assert ("without cache, slowly" in capsys.readouterr().out) == without_cache
    assert theirs.generation_config.use_cache is (False if without_cache else None)
