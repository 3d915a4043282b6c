"""Weights as people have them lying about: Flax's files, names that wrappers changed, adapters, inf and NaN."""

import importlib.util
import json
import pickle

import ml_dtypes
import numpy as np
import pytest
from families import FAMILIES, T5_LIKE, TORCH_WARNINGS, random_inputs, random_model, save_as_others, torch_logits
from flax.serialization import msgpack_serialize
from flax.traverse_util import unflatten_dict
from safetensors.numpy import load_file, save_file

import nash_jax
from nash_jax.convert.hf import load_hf
from nash_jax.errors import UserError
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.tree import flatten

pytestmark = TORCH_WARNINGS
WITH_FLAX = tuple(family for family in FAMILIES if family not in ("umt5", "m2m_100"))  # of transformers 4
SIZES = {"vocab_size": 19, "d_model": 8, "d_ff": 12, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 1}


def to_flax(state: dict[str, np.ndarray], family: str) -> dict[tuple[str, ...], np.ndarray]:
    """Renamed and transposed as transformers 4 did it when a Flax class read PyTorch's weights.

    Embeddings become `embedding`, the scales of LayerNorm `scale`, other matrices `kernel` [in, out]; T5's norms keep
    `weight`. Sinusoids were no parameters.
    """
    found = {}
    for name, value in state.items():
        *path, last = name.split(".")
        if path and path[-1] == "embed_positions" and family in ("marian", "pegasus"):
            continue
        if path and path[-1] in ("shared", "embed_tokens", "embed_positions", "relative_attention_bias"):
            last = "embedding"
        elif path and "norm" in path[-1] and last == "weight":
            last = "weight" if family in T5_LIKE else "scale"
        elif last == "weight":
            last, value = "kernel", value.T
        found[*path, last] = np.ascontiguousarray(value)
    return found


def make_folder(tmp_path, family: str, seed: int = 0):
    """A PyTorch model, and its folder with weights for Flax alone: config, and path → array."""
    model = random_model(family, seed)
    model.save_pretrained(tmp_path)
    state = load_file(tmp_path / "model.safetensors")
    (tmp_path / "model.safetensors").unlink()
    return model, to_flax(state, family)


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("family", WITH_FLAX)
def test_flax_weights_are_those_of_pytorch(tmp_path, family, seed):
    model, weights = make_folder(tmp_path, family, seed)
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize(unflatten_dict(weights)))
    inputs = random_inputs(model.config, seed)
    found = nash_jax.load(tmp_path).logits(*inputs.values())
    assert np.abs(found - torch_logits(model, inputs)).max() <= 1e-4


@pytest.mark.usefixtures("torch")
@pytest.mark.parametrize("family", ["t5", "bart"])
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_shards_and_chunks(tmp_path, monkeypatch, family, dtype):
    """Shards hold whole paths as keys; arrays above a size are stored in chunks, as Flax does above 1 GiB."""
    _, weights = make_folder(tmp_path, family)
    monkeypatch.setattr("flax.serialization.MAX_CHUNK_SIZE", 64)
    half = {"/".join(path): value.astype(dtype) for path, value in weights.items()}
    index = {}
    for i in range(2):
        file = f"flax_model-0000{i + 1}-of-00002.msgpack"
        names = sorted(half)[i::2]
        (tmp_path / file).write_bytes(msgpack_serialize({name: half[name] for name in names}))
        index |= dict.fromkeys(names, file)
    (tmp_path / "flax_model.msgpack.index.json").write_text(json.dumps({"metadata": {}, "weight_map": index}))
    _, sharded = load_hf(tmp_path)
    (tmp_path / "flax_model.msgpack.index.json").unlink()
    exact = unflatten_dict({tuple(name.split("/")): value.astype(np.float32) for name, value in half.items()})
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize({"params": exact}))
    _, whole = load_hf(tmp_path)
    for (path, leaf), other in zip(flatten(sharded).items(), flatten(whole).values(), strict=True):
        assert leaf.dtype == np.float32
        np.testing.assert_array_equal(leaf, other, err_msg=path)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b"version https://git-lfs.github.com/spec/v1\noid sha256:0\n",
            "flax_model.msgpack is a pointer of Git LFS; expected the file itself",
        ),
        (b"", "cannot be read: .*; expected parameters as Flax saves them; download it again"),
        (pickle.dumps({"shared": np.zeros(2)}), "cannot be read: .*; expected parameters as Flax"),
        (msgpack_serialize({"shared": {"embedding": "text"}}), "shared/embedding is a str; expected an array"),
        (msgpack_serialize({"shared": {"embedding": np.zeros((2, 2), np.float32)}})[:-3], "cannot be read"),
        (msgpack_serialize([np.zeros(2)]), "cannot be read"),
    ],
)
def test_files_that_flax_did_not_write(model, tmp_path, content, message):
    save_as_others(model, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    (tmp_path / "m" / "flax_model.msgpack").write_bytes(content)
    with pytest.raises(UserError, match=message):
        nash_jax.load(tmp_path / "m")


def test_without_pytorch_flax_is_read_first(tmp_path, monkeypatch):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    _, weights = make_folder(tmp_path, "t5")
    (tmp_path / "flax_model.msgpack").write_bytes(msgpack_serialize(unflatten_dict(weights)))
    (tmp_path / "pytorch_model.bin").write_text("never read")
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else find(name, *rest))
    load_hf(tmp_path)
    monkeypatch.undo()
    with pytest.raises(UserError, match=r"pytorch_model.bin cannot be read"):
        load_hf(tmp_path)


# Names, adapters, values --------------------------------------------------------------------------------------


@pytest.fixture(params=["t5", "bart"])
def model(request):
    own = {"max_positions": 12} if request.param == "bart" else {}
    spec = dense_spec(family=request.param, **SIZES, **own)
    return nash_jax.Seq2Seq(spec, random_params(spec))


def rewrite(folder, change):
    """Changes the weights of a folder: name, value → name, value."""
    state = load_file(folder / "model.safetensors")
    save_file(dict(change(name, value) for name, value in state.items()), folder / "model.safetensors")


@pytest.mark.parametrize(
    ("rename", "said"),
    [
        (lambda name: f"_orig_mod.{name}", "_orig_mod."),
        (lambda name: f"module.{name}", "module."),
        (lambda name: f"module._orig_mod.{name}", "_orig_mod. and module."),
        (lambda name: name.replace("encoder.", "encoder._orig_mod.", 1), "_orig_mod."),
        (lambda name: name.replace(".0.", ".0._checkpoint_wrapped_module."), "_checkpoint_wrapped_module."),
        (lambda name: f"_forward_module.{name}", "_forward_module."),
        (lambda name: f"model.{name}", "model."),  # an attribute of a LightningModule
        (lambda name: f"base_model.model.{name}", "base_model.model."),  # PEFT, merged but not unloaded
        (lambda name: f"module.pretrained_model.{name}", "pretrained_model."),
    ],
)
def test_names_that_wrappers_changed(model, tmp_path, capsys, rename, said):
    save_as_others(model, tmp_path / "m")
    rewrite(tmp_path / "m", lambda name, value: (rename(name), value))
    found = nash_jax.load(tmp_path / "m")
    assert f"the names of the weights are read without {said}\n" in capsys.readouterr().out
    for (path, leaf), other in zip(flatten(found.params).items(), flatten(model.params).values(), strict=True):
        np.testing.assert_array_equal(leaf, other, err_msg=path)


def test_two_models_in_one_file(model, tmp_path):
    """Nobody can tell which is meant."""
    save_as_others(model, tmp_path / "m")
    state = load_file(tmp_path / "m" / "model.safetensors")
    both = {f"{who}.{name}": x for who in ("teacher", "student") for name, x in state.items()}
    save_file(both, tmp_path / "m" / "model.safetensors")
    with pytest.raises(UserError, match=r"does not fit its config.json: missing .*, left over \['(model.)?student"):
        nash_jax.load(tmp_path / "m")


@pytest.mark.parametrize("part", ["ia3_l.default", "base_layer.weight", "modules_to_save.default.weight"])
def test_weights_of_other_adapters(model, tmp_path, part):
    save_as_others(model, tmp_path / "m")
    rewrite(tmp_path / "m", lambda name, value: (name.replace("wo.weight", f"wo.{part}").replace(
        "fc2.weight", f"fc2.{part}"), value))  # fmt: skip
    with pytest.raises(UserError, match=rf"has weights of an adapter \(PEFT\), \S*{part.split('.')[0]}"):
        nash_jax.load(tmp_path / "m")


@pytest.mark.parametrize("dtype", [np.int8, np.uint8, "float8"])
def test_quantized_weights(model, tmp_path, dtype):
    save_as_others(model, tmp_path / "m")
    path = tmp_path / "m" / "model.safetensors"
    state = load_file(path)
    name = next(n for n in state if n.endswith(("wo.weight", "fc2.weight")))
    if dtype == "float8":
        torch, theirs = pytest.importorskip("torch"), pytest.importorskip("safetensors.torch")
        tensors = {n: torch.from_numpy(x) for n, x in state.items()}
        theirs.save_file(tensors | {name: tensors[name].to(torch.float8_e4m3fn)}, path)
    else:
        save_file(state | {name: state[name].astype(dtype)}, path)
    with pytest.raises(
        UserError, match=r"model.safetensors holds quantized weights: .*; expected float32, bfloat16 or"
    ):
        nash_jax.load(tmp_path / "m")


@pytest.mark.parametrize("key", ["state_dict", "model"])
def test_a_checkpoint_of_training_in_pytorch(torch, model, tmp_path, key):
    save_as_others(model, tmp_path / "m")
    (tmp_path / "m" / "model.safetensors").unlink()
    torch.save({key: {"a": torch.zeros(2)}, "epoch": 3}, tmp_path / "m" / "pytorch_model.bin")
    with pytest.raises(UserError, match=f"holds a dict, not only tensors; .*; save its '{key}' alone"):
        nash_jax.load(tmp_path / "m")


def test_two_weights_of_one_name(model, tmp_path):
    save_as_others(model, tmp_path / "m")
    state = load_file(tmp_path / "m" / "model.safetensors")
    save_file(state | {f"module.{name}": x + 1 for name, x in state.items()}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(UserError, match=r"has weights that differ only by \['module'\]; expected each weight once"):
        nash_jax.load(tmp_path / "m")


ADAPTER = {"peft_type": "LORA", "base_model_name_or_path": "google/flan-t5-base", "r": 8}


@pytest.mark.parametrize(("settings", "base"), [(ADAPTER, " of google/flan-t5-base"), ({"peft_type": "IA3"}, "")])
def test_a_folder_of_an_adapter(tmp_path, settings, base):
    (tmp_path / "adapter_config.json").write_text(json.dumps(settings))
    save_file(
        {"base_model.model.q.lora_A.weight": np.zeros((2, 2), np.float32)}, tmp_path / "adapter_model.safetensors"
    )
    with pytest.raises(
        UserError, match=rf"holds an adapter \(PEFT\){base}, not a model; .* merge_and_unload\(\), then"
    ):
        nash_jax.load(tmp_path)


def test_an_adapter_beside_a_whole_model_is_not_applied(model, tmp_path, capsys):
    save_as_others(model, tmp_path / "m")
    (tmp_path / "m" / "adapter_config.json").write_text(json.dumps(ADAPTER))
    found = flatten(nash_jax.load(tmp_path / "m").params)
    assert all(np.array_equal(found[path], leaf) for path, leaf in flatten(model.params).items())
    assert "adapter_config.json: the adapter is not applied; merge_and_unload()" in capsys.readouterr().out


def test_weights_with_an_adapter_that_was_not_merged(model, tmp_path):
    save_as_others(model, tmp_path / "m")
    state = load_file(tmp_path / "m" / "model.safetensors")
    name = next(n for n in state if n.endswith(("q.weight", "q_proj.weight"))).removesuffix(".weight")
    value = state.pop(f"{name}.weight")
    state |= {f"{name}.base_layer.weight": value, f"{name}.lora_A.default.weight": value[:2].copy()}
    save_file(state, tmp_path / "m" / "model.safetensors")
    with pytest.raises(
        UserError, match=r"has weights of an adapter \(PEFT\), \S*lora_A\S*; .* merge_and_unload\(\), then"
    ):
        nash_jax.load(tmp_path / "m")


@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16, np.float32])
@pytest.mark.parametrize("bad", [np.inf, -np.inf, np.nan])
def test_values_that_are_no_numbers(model, tmp_path, dtype, bad):
    save_as_others(model, tmp_path / "m")
    state = load_file(tmp_path / "m" / "model.safetensors")
    name = sorted(state)[3]
    state[name].flat[:2] = bad
    save_file({n: x.astype(dtype) for n, x in state.items()}, tmp_path / "m" / "model.safetensors")
    with pytest.raises(UserError, match=rf"{name} holds 2 values that are inf or NaN; expected finite weights"):
        nash_jax.load(tmp_path / "m")


def test_float16_that_overflowed_in_pytorch(torch, tmp_path):
    theirs = random_model("bart", 0)
    with torch.no_grad():
        theirs.model.encoder.layers[0].fc1.weight[0, 0] = 1e5
    theirs.half().save_pretrained(tmp_path)
    torch.save(theirs.state_dict(), tmp_path / "pytorch_model.bin")
    for _ in range(2):  # safetensors, and the old file
        with pytest.raises(UserError, match=r"encoder.layers.0.fc1.weight holds 1 values that are inf or NaN"):
            nash_jax.load(tmp_path)
        (tmp_path / "model.safetensors").unlink(missing_ok=True)


@pytest.mark.parametrize(
    ("file", "engine", "method"),
    [
        ("model.bin", "CTranslate2", "save_ct2"),
        ("onnx/encoder_model.onnx", "ONNX Runtime", "save_onnx"),
        ("onnx/encoder_model_quantized.onnx", "ONNX Runtime", "save_onnx"),
        ("stablehlo/programs.json", "jax alone", "save_stablehlo"),
    ],
)
def test_a_folder_for_another_engine_is_named(tmp_path, file, engine, method):
    (tmp_path / file).parent.mkdir(exist_ok=True)
    for name in (file, "config.json"):
        (tmp_path / name).write_text("{}")
    with pytest.raises(
        UserError, match="which nash_jax does not read; expected an export, or a folder in the"
    ) as error:
        nash_jax.load(tmp_path)
    assert f"is a folder for {engine} ({file})" in str(error.value) and method in str(error.value)
