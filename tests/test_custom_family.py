"""A PyTorch encoder-decoder that no `transformers` class expresses, through the converter of docs/examples/annalog.

The reference is `torch.nn`'s own Transformer, post-norm, with what annalog's trained model has: an embedding table for
each side, scaled, learned positions, no norm of embeddings, a head of its own with a bias. The converter is given its
weights under annalog's names.
"""

import importlib.util
import pickle
import sys
from pathlib import Path

import numpy as np
import pytest

import nash_jax
from nash_jax.errors import UserError
from nash_jax.tree import count_params, flatten

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # torch's and transformers' own

EXAMPLE = Path(__file__).resolve().parents[1] / "docs" / "examples" / "annalog" / "convert.py"
TOKENS = ["<unk>", "<pad>", "<sos>", "<eos>", *"cC()1O=NnF", "[C@H]", "[nH]", "Cl", "Br", "%10"]
D_MODEL, FFN, POSITIONS, ENCODER_LAYERS, DECODER_LAYERS = 32, 24, 20, 2, 1
BLOCK = {  # annalog's name in a layer → torch.nn's
    "self_attn_layer_norm": "norm1",
    "self_attention": "self_attn",
    "enc_attn_layer_norm": "norm2",
    "encoder_attention": "multihead_attn",
    "positionwise_feedforward.fc_1": "linear1",
    "positionwise_feedforward.fc_2": "linear2",
}


@pytest.fixture(scope="module")
def example():
    found = importlib.util.spec_from_file_location("annalog_convert", EXAMPLE)
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def reference(torch, example):
    """A torch model with NumPy-seeded weights whose logits are of the order of 1 to 10."""
    nn, sizes = torch.nn, {"d_model": D_MODEL, "nhead": example.NUM_HEADS, "dim_feedforward": FFN, "batch_first": True}
    model = nn.ModuleDict(
        {
            "encoder": nn.TransformerEncoder(
                nn.TransformerEncoderLayer(**sizes), ENCODER_LAYERS, enable_nested_tensor=False
            ),
            "decoder": nn.TransformerDecoder(nn.TransformerDecoderLayer(**sizes), DECODER_LAYERS),
            "head": nn.Linear(D_MODEL, len(TOKENS)),
        }
        | {f"{side}_tokens": nn.Embedding(len(TOKENS), D_MODEL) for side in ("encoder", "decoder")}
        | {f"{side}_positions": nn.Embedding(POSITIONS, D_MODEL) for side in ("encoder", "decoder")}
    ).eval()
    rng = np.random.default_rng(0)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            value = rng.normal(size=weight.shape) * (0.3 if weight.ndim == 1 else D_MODEL**-0.5)
            weight.copy_(torch.tensor(value + ("norm" in name and name.endswith("weight"))))
    return model


def run(torch, model, source, target):
    """Teacher-forced logits of the reference, [B, T, V]."""
    source, target = torch.tensor(source), torch.tensor(target)
    padding = source == TOKENS.index("<pad>")

    def embed(side, ids):
        return model[f"{side}_tokens"](ids) * D_MODEL**0.5 + model[f"{side}_positions"](torch.arange(ids.shape[1]))

    with torch.no_grad():
        encoded = model["encoder"](embed("encoder", source), src_key_padding_mask=padding)
        causal = torch.ones(target.shape[1], target.shape[1], dtype=torch.bool).triu(1)
        decoded = model["decoder"](embed("decoder", target), encoded, tgt_mask=causal, memory_key_padding_mask=padding)
        return model["head"](decoded).numpy()


@pytest.fixture(scope="module")
def state(reference):
    """The reference's weights under annalog's names."""
    theirs = {name: tensor.numpy().copy() for name, tensor in reference.state_dict().items()}
    found = {"decoder.fc_out.weight": theirs["head.weight"], "decoder.fc_out.bias": theirs["head.bias"]}
    for side, layers in (("encoder", ENCODER_LAYERS), ("decoder", DECODER_LAYERS)):
        found[f"{side}.tok_embedding.weight"] = theirs[f"{side}_tokens.weight"]
        found[f"{side}.pos_embedding.weight"] = theirs[f"{side}_positions.weight"]
        block = BLOCK | {"ff_layer_norm": "norm2" if side == "encoder" else "norm3"}
        for i in range(layers):
            for name, torch_name in block.items():
                if side == "decoder" or not name.startswith("enc"):
                    put(found, f"{side}.layers.{i}.{name}", theirs, f"{side}.layers.{i}.{torch_name}")
    return found


def put(found, name, theirs, torch_name):
    """Copies one module's weights; `torch.nn` keeps query, key and value of an attention in one array."""
    if f"{torch_name}.in_proj_weight" not in theirs:
        found.update({f"{name}.{leaf}": theirs[f"{torch_name}.{leaf}"] for leaf in ("weight", "bias")})
        return
    for leaf in ("weight", "bias"):
        for part, array in zip("qkv", np.split(theirs[f"{torch_name}.in_proj_{leaf}"], 3), strict=True):
            found[f"{name}.fc_{part}.{leaf}"] = array
        found[f"{name}.fc_o.{leaf}"] = theirs[f"{torch_name}.out_proj.{leaf}"]


@pytest.fixture(scope="module")
def model(example, state):
    spec = example.model_spec(state, TOKENS)
    return nash_jax.Seq2Seq(spec, example.convert(state), example.build_tokenizer(TOKENS))


@pytest.fixture(scope="module")
def source():
    """Three sources [3, 9] between <sos> and <eos>, of different lengths, padded."""
    rng, pad, start, end = np.random.default_rng(1), *(TOKENS.index(t) for t in ("<pad>", "<sos>", "<eos>"))
    ids = rng.integers(4, len(TOKENS), (3, 9))
    for row, length in zip(ids, (9, 6, 3), strict=True):
        row[0], row[length - 1], row[length:] = start, end, pad
    return ids


def test_every_flag_and_size_is_in_the_spec(model, state):
    spec = model.spec
    assert (spec.family, spec.norm, spec.pre_norm, spec.positions) == ("custom", "layer", False, "learned")
    assert (len(spec.encoder), len(spec.decoder)) == (ENCODER_LAYERS, DECODER_LAYERS)
    assert (spec.max_positions, spec.encoder[0].ffn, spec.pad_id) == (POSITIONS, FFN, 1)
    assert count_params(model.params) == sum(array.size for array in state.values())


def test_logits_are_those_of_torch(torch, reference, model, source):
    target = np.random.default_rng(2).integers(2, len(TOKENS), (3, 7))
    expected = run(torch, reference, source, target)
    assert 1 < np.abs(expected).max() < 100
    np.testing.assert_allclose(model.logits(source, None, target), expected, atol=1e-4)


def test_greedy_generation_is_that_of_torch(torch, reference, model, source):
    tokens = model.generate_ids(source, max_new_tokens=12)
    for row, ids in zip(tokens, source, strict=True):
        expected = [model.spec.decoder_start_id]
        while len(expected) < tokens.shape[1] and expected[-1] != model.spec.eos_id:
            expected.append(int(run(torch, reference, ids[None], [expected])[0, -1].argmax()))
        np.testing.assert_array_equal(row, expected + [model.spec.pad_id] * (len(row) - len(expected)))


def assert_same(found, expected):
    """Equal specs and parameters."""
    assert found.spec == expected.spec
    found, expected = flatten(found.params), flatten(expected.params)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def test_an_export_gives_the_same_model_back(model, tmp_path):
    model.save(tmp_path / "export")
    loaded = nash_jax.load(tmp_path / "export")
    assert_same(loaded, model)
    assert loaded.tokenizer("CCl")["input_ids"] == model.tokenizer("CCl")["input_ids"]


def test_smiles_are_split_as_annalog_does(model):
    smiles = "C[C@H](Cl)c1[nH]cBr%10?"
    ids = model.tokenizer(smiles)["input_ids"]
    tokens = ["<sos>", "C", "[C@H]", "(", "Cl", ")", "c", "1", "[nH]", "c", "Br", "%10", "<unk>", "<eos>"]
    assert [TOKENS[i] for i in ids] == tokens
    assert model.tokenizer.decode(ids, skip_special_tokens=True) == smiles.removesuffix("?")


def test_weights_of_another_model_are_refused(example, state):
    with pytest.raises(UserError, match=r"no 'decoder\.layers\.0\.ff_layer_norm\.bias'"):
        example.convert({k: v for k, v in state.items() if k != "decoder.layers.0.ff_layer_norm.bias"})
    with pytest.raises(UserError, match=r"hold 'extra\.weight' too"):
        example.convert(state | {"extra.weight": np.zeros(1)})


class Trap:
    """Unpickled, it would leave a file behind."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


def test_the_vocabulary_is_read_without_running_the_pickle(example, tmp_path):
    file, trace = tmp_path / "vocab.pkl", tmp_path / "trace"
    file.write_bytes(pickle.dumps({"itos": TOKENS, "stoi": Trap(trace)}))
    assert example.read_vocabulary(file) == TOKENS
    assert not trace.exists()
    pickle.loads(file.read_bytes())
    assert trace.exists()  # the trap works
    file.write_bytes(pickle.dumps({"itos": TOKENS[4:], "stoi": {}}))
    with pytest.raises(UserError, match="begins with the strings"):
        example.read_vocabulary(file)
    file.write_bytes(b"no pickle")
    with pytest.raises(UserError, match="is no pickle"):
        example.read_vocabulary(file)


def test_the_command_writes_an_export(torch, example, state, model, tmp_path, monkeypatch, capsys):
    torch.save({name: torch.tensor(array) for name, array in state.items()}, tmp_path / "weights.pt")
    (tmp_path / "vocab.pkl").write_bytes(pickle.dumps({"itos": TOKENS, "stoi": {}}))
    flags = {"weights": "weights.pt", "vocab": "vocab.pkl", "output": "export"}
    monkeypatch.setattr(sys, "argv", ["convert.py", *(f"--{flag}={tmp_path / file}" for flag, file in flags.items())])
    example.main()
    assert f"{count_params(model.params):,} parameters" in capsys.readouterr().out
    assert_same(nash_jax.load(tmp_path / "export"), model)
