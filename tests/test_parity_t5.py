"""Our T5 against the PyTorch one of `transformers`, and checkpoints to and fro."""

import dataclasses
import json

import numpy as np
import pytest
from families import TORCH_WARNINGS
from safetensors.numpy import load_file, save_file

from nash_jax import Seq2Seq
from nash_jax.convert.hf import hf_config, load_hf, spec_from_config, to_hf_state
from nash_jax.convert.uniform import pad_to_uniform
from nash_jax.errors import UserError
from nash_jax.models.positions import relative_position_bucket
from nash_jax.pruning.compact import compact
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.spec import DecoderLayer, EncoderLayer
from nash_jax.testing import random_masks, random_params, random_spec
from nash_jax.tree import flatten

pytestmark = TORCH_WARNINGS

BASE = {
    "vocab_size": 37,
    "d_model": 16,
    "d_kv": 4,
    "d_ff": 24,
    "num_heads": 4,
    "num_layers": 1,
    "num_decoder_layers": 1,
    "relative_attention_num_buckets": 32,
    "relative_attention_max_distance": 128,
    "pad_token_id": 0,
    "eos_token_id": 1,
    "decoder_start_token_id": 0,
    "dropout_rate": 0.1,
}
TWO = {"num_layers": 2, "num_decoder_layers": 2}
V1_0 = {"feed_forward_proj": "relu", "scale_decoder_outputs": True}
V1_1 = {"feed_forward_proj": "gated-gelu", "scale_decoder_outputs": False}
SHORT = {"relative_attention_num_buckets": 8, "relative_attention_max_distance": 20}
CONFIGS = {  # name → (fields of T5Config, head of its own)
    "v1.0": (V1_0 | TWO, False),
    "v1.0, wide heads": (V1_0 | {"d_kv": 7}, False),
    "v1.0, one deep decoder": (V1_0 | {"num_decoder_layers": 3}, False),
    "v1.0, short buckets": (V1_0 | SHORT, False),
    "v1.0, gelu": (V1_0 | {"feed_forward_proj": "gelu_new"}, False),
    "v1.0, untied yet scaled": (V1_0, True),
    "v1.1": (V1_1 | TWO, True),
    "v1.1, narrow heads": (V1_1 | {"d_kv": 3, "num_heads": 5}, True),
    "v1.1, deep encoder": (V1_1 | {"num_layers": 2}, True),
    "v1.1, deeper decoder": (V1_1 | {"num_decoder_layers": 2} | SHORT, True),
    "v1.1, gated relu": (V1_1 | {"feed_forward_proj": "gated-relu"}, True),
    "v1.1, tied yet unscaled": (V1_1, False),
    "v1.1, one head, other epsilon": (V1_1 | {"num_heads": 1, "layer_norm_epsilon": 1e-3}, True),
}


def random_t5(torch, fields, untied, seed):
    """A PyTorch T5 with NumPy-seeded weights whose logits are of the order of 1 to 10."""
    import transformers

    model = transformers.T5ForConditionalGeneration(transformers.T5Config(**BASE | fields)).eval()
    if untied:
        model.lm_head.weight = torch.nn.Parameter(torch.zeros(BASE["vocab_size"], BASE["d_model"]))
    rng = np.random.default_rng(seed)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            value = rng.normal(size=weight.shape)
            if "layer_norm" in name:
                value = 1 + 0.2 * value
            elif name.endswith((".q.weight", ".k.weight")):  # scores of the order of 1, without 1/sqrt(d) in T5
                value *= 1.4 * weight.shape[1] ** -0.5 * model.config.d_kv**-0.25
            elif "shared" not in name and "relative" not in name:
                value *= (5 if "lm_head" in name else 1.2) * weight.shape[1] ** -0.5
            weight.copy_(torch.from_numpy(value))
    return model


def padded_batch(seed, rows=4, source=45, target=9):
    """Source rows of 45 down to 1 tokens: far enough apart for the last bucket of short tables."""
    rng = np.random.default_rng(seed)
    input_ids = rng.integers(2, BASE["vocab_size"], (rows, source))
    lengths = [source, *rng.integers(2, source, rows - 2), 1]
    for row, length in zip(input_ids, lengths, strict=True):
        row[length:] = 0
    return {"input_ids": input_ids, "labels": rng.integers(0, BASE["vocab_size"], (rows, target))}


def torch_logits(torch, model, batch):
    with torch.no_grad():
        ids = torch.from_numpy(batch["input_ids"])
        return model(
            input_ids=ids,
            attention_mask=(ids != 0).long(),
            decoder_input_ids=torch.from_numpy(batch["labels"]),
        ).logits.numpy()


def save_hf(folder, spec, params):
    Seq2Seq(spec, params).save_hf(folder)


def load_torch(folder):
    import transformers

    return transformers.T5ForConditionalGeneration.from_pretrained(folder).eval()


def torch_state(model):
    """The state dict without the copies of `shared.weight`."""
    copies = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")
    return {name: weight.numpy() for name, weight in model.state_dict().items() if name not in copies}


def assert_same_bits(found, expected):
    assert found.keys() == expected.keys()
    for name, weight in expected.items():
        assert found[name].dtype == weight.dtype, name
        np.testing.assert_array_equal(found[name], weight, err_msg=name)


@pytest.mark.parametrize("name", CONFIGS)
def test_logits_and_round_trip(torch, logits, tmp_path, name):
    fields, untied = CONFIGS[name]
    seed = list(CONFIGS).index(name)
    model = random_t5(torch, fields, untied, seed)
    model.save_pretrained(tmp_path)
    spec, params = load_hf(tmp_path)
    assert spec.tied != untied
    assert (spec.output_scale != 1) == fields["scale_decoder_outputs"]
    assert {leaf.dtype for leaf in flatten(params).values()} == {np.dtype("float32")}

    batch = padded_batch(seed)
    expected = torch_logits(torch, model, batch)
    assert 0.3 < expected.std() < 10
    assert np.abs(logits(spec, params, batch) - expected).max() <= 1e-4

    state = torch_state(model)
    if not untied:
        np.testing.assert_array_equal(state.pop("lm_head.weight"), state["shared.weight"])
    assert_same_bits(to_hf_state(spec, params), state)

    save_hf(tmp_path / "ours", spec, params)
    again = load_torch(tmp_path / "ours")
    assert_same_bits(torch_state(again), torch_state(model))
    np.testing.assert_array_equal(torch_logits(torch, again, batch), expected)
    reloaded = load_hf(tmp_path / "ours")
    assert reloaded[0] == spec
    assert_same_bits(flatten(reloaded[1]), flatten(params))


def test_sharded_checkpoint_is_the_single_one(torch, tmp_path):
    model = random_t5(torch, V1_1, True, 0)
    model.save_pretrained(tmp_path / "single")
    model.save_pretrained(tmp_path / "sharded", max_shard_size="8KB")
    assert not (tmp_path / "sharded" / "model.safetensors").exists()
    assert len(list((tmp_path / "sharded").glob("*.safetensors"))) > 2
    single, sharded = load_hf(tmp_path / "single"), load_hf(tmp_path / "sharded")
    assert sharded[0] == single[0]
    assert_same_bits(flatten(sharded[1]), flatten(single[1]))


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_half_precision_checkpoints_are_upcast_exactly(torch, tmp_path, dtype):
    model = random_t5(torch, V1_0, False, 0).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    spec, params = load_hf(tmp_path)
    state = {name: weight for name, weight in torch_state(model.float()).items() if name != "lm_head.weight"}
    assert_same_bits(to_hf_state(spec, params), state)


@pytest.mark.parametrize(
    ("seed", "flags"),
    [
        (0, {"gated": False, "activation": "relu", "tied": True}),
        (1, {"gated": True, "activation": "gelu_tanh", "tied": False}),
    ],
)
def test_compacted_models_load_in_transformers(torch, logits, tmp_path, capsys, seed, flags):
    """Ragged heads and units, sub-layers and a first block gone: padded to a rectangle, the same function."""
    spec = random_spec(
        seed,
        vocab_size=BASE["vocab_size"],
        num_heads=4,
        d_model=16,
        output_scale=16**-0.5 if flags["tied"] else 1.0,
        encoder=(EncoderLayer((0, 1, 2, 3), 9),) * 3,
        decoder=(DecoderLayer((0, 1, 2, 3), (0, 1, 2, 3), 9),) * 3,
        **flags,
    )
    params = random_params(spec, seed, 0.4)
    masks = random_masks(spec, seed, "heads units") | {
        "encoder.1.attention": np.float32(0),
        "decoder.2.cross_attention": np.float32(0),
        "decoder.1.ffn": np.float32(0),
        "decoder.2.self_attention": np.float32(0.5),
    }
    spec, params = compact(spec, params, masks)
    spec, params = select_layers(spec, params, decoder=[1, 2])
    save_hf(tmp_path / "export", spec, params)
    assert "padded with zeros for transformers, " in capsys.readouterr().out
    batch = padded_batch(seed)
    expected = torch_logits(torch, load_torch(tmp_path / "export"), batch)
    found = logits(spec, params, batch)
    assert found.std() > 0.3
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("bidirectional", [True, False])
@pytest.mark.parametrize(("buckets", "distance"), [(32, 128), (8, 20), (16, 64), (64, 256), (4, 10)])
def test_position_buckets(torch, bidirectional, buckets, distance):
    """Every distance: the logarithm rounds to the same side at the edges of buckets."""
    from transformers.models.t5.modeling_t5 import T5Attention

    relative = np.arange(-600, 601)
    found = relative_position_bucket(relative, bidirectional=bidirectional, num_buckets=buckets, max_distance=distance)
    expected = T5Attention._relative_position_bucket(torch.from_numpy(relative), bidirectional, buckets, distance)
    np.testing.assert_array_equal(found, expected.numpy())
    assert set(np.asarray(found)) == set(range(buckets)) - ({buckets // 2} if bidirectional else set())


# No PyTorch from here on ------------------------------------------------------------------------------------

DENSE = random_spec(0, num_heads=2, encoder=(EncoderLayer((0, 1), 6),), decoder=(DecoderLayer((0, 1), (0, 1), 6),))


@pytest.mark.parametrize("seed", range(6))
def test_save_and_load_without_torch(tmp_path, seed):
    spec = random_spec(seed)
    params = random_params(spec, seed)
    save_hf(tmp_path / "model", spec, params)
    loaded, read = load_hf(tmp_path / "model")
    assert loaded == spec
    assert_same_bits(flatten(read), flatten(params))
    save_hf(tmp_path / "model", spec, params)  # over the old one
    assert [path.name for path in tmp_path.iterdir()] == ["model"]


@pytest.mark.parametrize("seed", [0, 9])
def test_rectangle_is_the_same_function(logits, seed):
    spec = random_spec(seed, ragged=True)
    params, batch = random_params(spec, seed), padded_batch(seed, source=9)
    batch = {name: ids % spec.vocab_size for name, ids in batch.items()}
    full, padded = pad_to_uniform(spec, params)
    assert {layer.heads for layer in full.encoder} == {tuple(range(spec.num_heads))}
    assert all(np.all(leaf != 0) for path, leaf in flatten(padded).items() if path.endswith("scale"))
    expected = logits(spec, params, batch)
    np.testing.assert_allclose(logits(full, padded, batch), expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max())


def test_a_rectangle_stays_as_it_is():
    params = random_params(DENSE)
    full, padded = pad_to_uniform(DENSE, params)
    assert full == DENSE
    assert_same_bits(flatten(padded), flatten(params))


CONFIG = {"model_type": "t5", "vocab_size": 9, "d_model": 8, "d_kv": 4, "d_ff": 6, "num_heads": 2, "num_layers": 3}


@pytest.mark.parametrize(
    ("fields", "scaled"),
    [
        ({}, True),  # t5-small's config.json names neither
        ({"tie_word_embeddings": False}, False),  # v1.1 by transformers 4
        ({"tie_word_embeddings": True, "scale_decoder_outputs": False}, False),  # v1.1 by transformers 5
        ({"tie_word_embeddings": True, "scale_decoder_outputs": True}, True),
    ],
)
def test_configs_of_old_and_new_transformers(fields, scaled):
    spec = spec_from_config(CONFIG | fields)
    assert spec.output_scale == (8**-0.5 if scaled else 1.0)
    assert len(spec.encoder) == len(spec.decoder) == 3


def test_config_fields():
    fields = {
        "num_decoder_layers": 1,
        "feed_forward_proj": "gated-gelu",
        "relative_attention_num_buckets": 16,
        "relative_attention_max_distance": 64,
        "layer_norm_epsilon": 1e-5,
        "dropout_rate": 0.3,
        "pad_token_id": 2,
        "eos_token_id": [4, 5],
        "decoder_start_token_id": 3,
    }
    spec = spec_from_config(CONFIG | fields)
    assert (len(spec.encoder), len(spec.decoder)) == (3, 1)
    assert (spec.activation, spec.gated) == ("gelu_tanh", True)
    assert (spec.position_buckets, spec.position_max_distance) == (16, 64)
    assert (spec.norm_eps, spec.dropout_rate) == (1e-5, 0.3)
    assert (spec.pad_id, spec.eos_id, spec.decoder_start_id) == (2, 4, 3)
    assert spec_from_config(hf_config(spec)) == spec


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda c: c.update(model_type="bert"), "config.json has model_type 'bert'.*; expected one of t5"),
        (lambda c: c.pop("model_type"), "config.json has no 'model_type'"),
        (lambda c: c.update(feed_forward_proj="swish"), "feed_forward_proj is 'swish'; expected one of"),
        (lambda c: c.pop("d_model"), "config.json has no 'd_model'"),
        (lambda c: c.update(d_kv="four"), "config.json has a value of another type|spec.head_dim is 'four'"),
    ],
)
def test_config_errors(edit, message):
    config = dict(CONFIG)
    edit(config)
    with pytest.raises(UserError, match=message):
        spec_from_config(config)


def drop_weight(folder, name):
    state = load_file(folder / "model.safetensors")
    del state[name]
    save_file(state, folder / "model.safetensors")


def add_weight(folder):
    state = load_file(folder / "model.safetensors")
    save_file(state | {"colour": np.zeros(3, np.float32)}, folder / "model.safetensors")


def edit_config(folder, **fields):
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | fields))


def name_missing_shard(folder):
    (folder / "model.safetensors").unlink()
    index = {"weight_map": {"shared.weight": "model-00001-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda f: (f / "config.json").unlink(), "has no config.json; expected a folder in the hub's layout"),
        (lambda f: (f / "config.json").write_text("{"), "config.json is not JSON"),
        (
            lambda f: (f / "model.safetensors").unlink(),
            r"has no model.safetensors \(it has \['config.json', 'generation_config.json', 'nash_jax.json'\]\)",
        ),
        (
            lambda f: (f / "model.safetensors").write_bytes(b"x" * 40),
            "model.safetensors cannot be read: .*download it again",
        ),
        (lambda f: drop_weight(f, "encoder.final_layer_norm.weight"), r"missing \['encoder.final_layer_norm.weight'\]"),
        (add_weight, r"left over \['colour'\]"),
        (lambda f: edit_config(f, d_ff=7), r"DenseReluDense.*has shape \(.*\), which does not fit config.json"),
        (lambda f: edit_config(f, num_layers=2), r"does not fit its config.json: missing \['encoder.block.1"),
        (name_missing_shard, r"model-00001-of-00002.safetensors is missing; expected every shard that the index names"),
    ],
)
def test_damaged_folders(tmp_path, damage, message):
    save_hf(tmp_path / "model", DENSE, random_params(DENSE))
    damage(tmp_path / "model")
    with pytest.raises(UserError, match=message):
        load_hf(tmp_path / "model")


@pytest.mark.parametrize("tied", [True, False])
def test_a_scale_that_transformers_cannot_express_goes_into_a_head_of_its_own(logits, tmp_path, tied):
    """v1.0 with a pruned d_model keeps the scale of its original d_model."""
    spec = dataclasses.replace(DENSE, output_scale=0.123, tied=tied)
    params, batch = random_params(spec), padded_batch(0, source=9)
    batch = {name: ids % spec.vocab_size for name, ids in batch.items()}
    save_hf(tmp_path / "model", spec, params)
    written, loaded = load_hf(tmp_path / "model")
    assert (written.tied, written.output_scale) == (False, 1.0)
    np.testing.assert_allclose(logits(written, loaded, batch), logits(spec, params, batch), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("family", "flags", "message"),
    [
        ("custom", {}, "no class of transformers for family 'custom'"),
        ("t5", {"norm": "layer"}, "norm is 'layer', which t5 in transformers cannot express; expected 'rms'"),
        ("bart", {"embedding_scale": 3.0}, "embedding_scale is 3.0, which bart"),
        ("bart", {"pre_norm": True}, "pre_norm is True, which bart"),
        ("bart", {"head_dim": 5}, "encoder heads have a total width of "),
        ("mbart", {"encoder_vocab_size": 99}, "the encoder has 99 tokens"),
    ],
)
def test_what_transformers_cannot_express_is_refused_by_name(tmp_path, family, flags, message):
    spec = random_spec(
        0,
        family=family,
        num_heads=2,
        head_dim=4,
        d_model=8,
        encoder=(EncoderLayer((0,), 6),),
        decoder=(DecoderLayer((0, 1), (1,), 6),),
    )
    spec = dataclasses.replace(spec, **flags)
    with pytest.raises(UserError, match=message):
        save_hf(tmp_path / "model", spec, random_params(spec))
    assert not (tmp_path / "model").exists()
