"""Checkpoints as met on the hub: ways to store weights, old configs, PyTorch's files, defaults of generation."""

import functools
import json
import os
import pickle

import ml_dtypes
import numpy as np
import pytest
from families import FAMILIES, TORCH_WARNINGS, random_model
from safetensors.numpy import save_file

import nash_jax
from nash_jax.convert.hf import hf_config, load_hf, to_hf_state
from nash_jax.convert.weights import check_torch_version
from nash_jax.errors import UserError
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.tree import flatten, unflatten

pytestmark = TORCH_WARNINGS
BART_LIKE = ("bart", "mbart", "marian", "pegasus", "m2m_100")
SINUSOIDAL = ("marian", "pegasus")


@functools.cache
def made(family):
    """A tiny model with tied weights: its spec, parameters, state as transformers names it, and config.json."""
    own = {"output_scale": 8**-0.5} if family in ("t5", "umt5") else {}
    if family in BART_LIKE:
        own = {"max_positions": 12, "attention_dropout_rate": 0.1, "activation_dropout_rate": 0.0}
    sizes = {"vocab_size": 23, "d_model": 8, "d_ff": 12, "num_heads": 2, "encoder_layers": 2, "decoder_layers": 1}
    spec = dense_spec(family=family, **sizes, tied=True, **own)
    params = random_params(spec)
    return spec, params, to_hf_state(spec, params), hf_config(spec)


def write(folder, config, **files):
    """A folder in the hub's layout, written with NumPy alone: config.json and safetensors files."""
    folder.mkdir(exist_ok=True)
    (folder / "config.json").write_text(json.dumps(config))
    for name, state in files.items():
        save_file({k: np.ascontiguousarray(v) for k, v in state.items()}, folder / f"{name}.safetensors")
    return folder


def assert_same(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert found[path].dtype == leaf.dtype, path
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


# The same weights, stored in other ways ----------------------------------------------------------------------


def prefix(family):
    return "model." if family in BART_LIKE else ""


def stored_again(state, family):
    """Tied tables as PyTorch's state dict has them: each under its every name."""
    table = state[f"{prefix(family)}shared.weight"]
    copies = {f"{prefix(family)}{side}.embed_tokens.weight": table for side in ("encoder", "decoder")}
    return state | copies | {"lm_head.weight": table}


def only_under(name):
    """Tied tables stored once, and not under the name of the shared one."""

    def change(state, family):
        rest = dict(state)
        return rest | {f"{prefix(family)}{name}.embed_tokens.weight": rest.pop(f"{prefix(family)}shared.weight")}

    return change


def with_buffers(state, family):
    """What old versions stored beside the weights."""
    extra = {f"{side}.version": np.full(1, 3, np.float32) for side in ("encoder", "decoder")}
    extra |= {f"{side}.embed_positions.position_ids": np.arange(12)[None] for side in ("encoder", "decoder")}
    if family == "m2m_100":
        extra |= {f"{side}.embed_positions.weights": np.ones((14, 8), np.float32) for side in ("encoder", "decoder")}
    bias = {"decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight": np.ones((32, 2), np.float32)}
    return state | ({f"model.{k}": v for k, v in extra.items()} if family in BART_LIKE else bias)


def bare(state, family):
    """As facebook/bart-base: saved from the model without its head."""
    return {name.removeprefix("model."): value for name, value in state.items() if name != "final_logits_bias"}


def bare_with_buffers(state, family):
    return bare(with_buffers(state, family), family)


def without_sinusoids(state, family):
    return {name: value for name, value in state.items() if "embed_positions" not in name}


WAYS = {
    "stored again": (FAMILIES, stored_again),
    "only the encoder's": (FAMILIES, only_under("encoder")),
    "only the decoder's": (FAMILIES, only_under("decoder")),
    "with buffers": (FAMILIES, with_buffers),
    "bare": (BART_LIKE, bare),
    "bare with buffers": (BART_LIKE, bare_with_buffers),
    "without sinusoids": (SINUSOIDAL, without_sinusoids),
}


@pytest.mark.parametrize(
    ("family", "way"), [(family, way) for way, (families, _) in WAYS.items() for family in families]
)
def test_ways_to_store_the_same_weights(tmp_path, family, way):
    spec, params, state, config = made(family)
    changed = WAYS[way][1](state, family)
    assert changed.keys() != state.keys()
    found_spec, found = load_hf(write(tmp_path, config, model=changed))
    assert found_spec == spec
    if "final_logits_bias" in state and "final_logits_bias" not in changed:
        params = params | {"logits_bias": np.zeros_like(params["logits_bias"])}
    assert_same(found, params)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("dtype", [np.float16, ml_dtypes.bfloat16])
def test_half_precision_is_read_exactly(tmp_path, family, dtype):
    _, params, state, config = made(family)
    rounded = {path: leaf.astype(dtype).astype(np.float32) for path, leaf in flatten(params).items()}
    if family == "m2m_100":  # its sinusoids are not stored
        rounded |= {path: leaf for path, leaf in flatten(params).items() if path.endswith("positions")}
    folder = write(tmp_path, config, model={name: value.astype(dtype) for name, value in state.items()})
    assert_same(load_hf(folder)[1], unflatten(rounded))


@pytest.mark.parametrize("family", FAMILIES)
def test_shards(tmp_path, family):
    spec, params, state, config = made(family)
    names = sorted(state)
    shards = {f"model-0000{i + 1}-of-00003": {n: state[n] for n in names[i::3]} for i in range(3)}
    folder = write(tmp_path, config, **shards)
    index = {"weight_map": {n: f"{file}.safetensors" for file, part in shards.items() for n in part}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    found_spec, found = load_hf(folder)
    assert found_spec == spec
    assert_same(found, params)


@pytest.mark.parametrize("family", FAMILIES)
def test_a_head_and_tables_of_their_own(tmp_path, family):
    """What the weights say goes before `tie_word_embeddings`."""
    _, params, state, config = made(family)
    head = np.full((23, 8), 0.5, np.float32)
    spec, found = load_hf(write(tmp_path / "head", config, model=state | {"lm_head.weight": head}))
    assert not spec.tied
    assert_same(found, params | {"lm_head": head.T})
    own = state | {f"{prefix(family)}encoder.embed_tokens.weight": head}
    spec, found = load_hf(write(tmp_path / "tables", config, model=own))
    assert (spec.tied, spec.encoder_vocab_size) == (True, 23)
    np.testing.assert_array_equal(found["encoder"]["embedding"], head)
    np.testing.assert_array_equal(found["decoder"]["embedding"], params["shared"]["embedding"])


NEXT = "model.encoder.layers.0"
DAMAGES = {
    "transposed": (
        lambda s: s | {f"{NEXT}.fc1.weight": s[f"{NEXT}.fc1.weight"].T},
        r"layers.0.fc1.weight has shape \(8, 12\), which does not fit config.json",
    ),
    "transposed table": (
        lambda s: s | {"model.shared.weight": s["model.shared.weight"].T},
        r"model.shared.weight has shape \(8, 23\), which does not fit config.json",
    ),
    "one part of a fused kernel": (
        lambda s: s | {f"{NEXT}.self_attn.k_proj.weight": np.zeros((4, 8), np.float32)},
        r"q_proj.weight has shape \(8, 8\), \S*k_proj.weight has shape \(4, 8\), \S*v_proj.* does not fit config.json",
    ),
    "a scalar": (
        lambda s: s | {f"{NEXT}.fc1.bias": np.float32(1)},
        r"fc1.bias has shape \(1,\), which does not fit config.json",
    ),
    "another class's head": (
        lambda s: s | {"classification_head.dense.weight": np.zeros((8, 8), np.float32)},
        r"does not fit its config.json: missing \[\], left over \['classification_head.dense.weight'\]",
    ),
    "an encoder alone": (
        lambda s: {n: v for n, v in s.items() if ".decoder." not in n},
        r"missing \['model.decoder.positions|missing \['model.decoder",
    ),
    "no table": (
        lambda s: {n: v for n, v in s.items() if "shared" not in n},
        r"missing \['model.shared.weight'\], left over \[\]",
    ),
}


@pytest.mark.parametrize("damage", DAMAGES)
def test_weights_that_do_not_fit(tmp_path, damage):
    _, _, state, config = made("bart")
    change, message = DAMAGES[damage]
    with pytest.raises(UserError, match=message):
        load_hf(write(tmp_path, config, model=change(state)))


@pytest.mark.parametrize("stem", ["model.safetensors", "pytorch_model.bin"])
@pytest.mark.parametrize(
    ("index", "message"),
    [
        ({"weight_map": {"a": "../other/model.safetensors"}}, r"names the shards \['../other/model.safetensors'\]"),
        (
            {"weight_map": {"a": "/etc/passwd"}},
            r"names the shards \['/etc/passwd'\]; expected files in the same folder",
        ),
        ({"weight_map": {}}, r"names the shards \[\]; expected files in the same folder; download it again"),
        ({"weight_map": {"a": 3}}, "is not an index of shards: TypeError"),
        ({}, "is not an index of shards: KeyError"),
        ([], "holds a list; expected the settings of a model"),
    ],
)
def test_an_index_names_files_beside_it(tmp_path, stem, index, message):
    folder = write(tmp_path, made("bart")[3])
    (folder / f"{stem}.index.json").write_text(json.dumps(index))
    with pytest.raises(UserError, match=message):
        load_hf(folder)


# PyTorch's own files ------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def theirs(torch, tmp_path_factory):
    """`theirs(family)` → a PyTorch model and the folder that transformers writes of it."""

    @functools.cache
    def make(family):
        model, folder = random_model(family, 0), tmp_path_factory.mktemp(family)
        model.save_pretrained(folder)
        return model, folder

    return make


@pytest.fixture
def old(torch, tmp_path):
    """`old(state)` → a folder with it as pytorch_model.bin; `old({file: state, …})` → as shards with their index."""

    def make(config, shards, **how):
        (tmp_path / "config.json").write_text(json.dumps(config))
        if isinstance(shards, dict):
            torch.save(shards, tmp_path / "pytorch_model.bin", **how)
            return tmp_path
        names = [f"pytorch_model-0000{i + 1}-of-0000{len(shards)}.bin" for i in range(len(shards))]
        for name, state in zip(names, shards, strict=True):
            torch.save(state, tmp_path / name, **how)
        index = {"weight_map": {key: name for name, state in zip(names, shards, strict=True) for key in state}}
        (tmp_path / "pytorch_model.bin.index.json").write_text(json.dumps(index))
        return tmp_path

    return make


@pytest.mark.parametrize("new_format", [True, False])
@pytest.mark.parametrize("family", FAMILIES)
def test_pytorch_files(theirs, old, family, new_format):
    """A state dict with every table under its every name is what transformers' safetensors say."""
    model, folder = theirs(family)
    spec, params = load_hf(folder)
    config = json.loads((folder / "config.json").read_text())
    found_spec, found = load_hf(old(config, model.state_dict(), _use_new_zipfile_serialization=new_format))
    assert found_spec == spec
    assert_same(found, params)


def test_pytorch_shards_parameters_and_halves(torch, theirs, old):
    model, folder = theirs("t5")
    items = [(n, torch.nn.Parameter(w.to(torch.bfloat16))) for n, w in model.state_dict().items()]
    config = json.loads((folder / "config.json").read_text())
    spec, found = load_hf(old(config, [dict(items[::2]), dict(items[1::2])]))
    expected_spec, params = load_hf(folder)
    assert spec == expected_spec
    rounded = {p: leaf.astype(ml_dtypes.bfloat16).astype(np.float32) for p, leaf in flatten(params).items()}
    assert_same(found, unflatten(rounded))


class Payload:
    """Pickled, it makes a folder where it is read."""

    def __init__(self, place):
        self.place = str(place)

    def __reduce__(self):
        return os.mkdir, (self.place,)


def pickled(torch, payload, file, how):
    state = {"shared.weight": torch.zeros(3), "more": payload}
    if how == "pickle":
        file.write_bytes(pickle.dumps(state))
    else:
        torch.save(state, file, _use_new_zipfile_serialization=how == "zip")


@pytest.mark.parametrize("how", ["zip", "legacy", "pickle"])
def test_a_malicious_file_is_refused_and_not_run(torch, tmp_path, how):
    ran = tmp_path / "ran"
    pickle.loads(pickle.dumps(Payload(ran)))  # it does what it is made for
    ran.rmdir()
    folder = write(tmp_path / "model", made("t5")[3])
    pickled(torch, Payload(ran), folder / "pytorch_model.bin", how)
    with pytest.raises(UserError, match="cannot be read by the weights-only reader: it ") as caught:
        nash_jax.load(folder)
    assert not ran.exists()
    message = str(caught.value)
    assert "\n" not in message and "weights_only" not in message  # torch's message tells how to run it
    assert "code in such a file is never run" in message
    assert how == "pickle" or "it asks for posix.mkdir" in message


def test_a_pytorch_file_beside_safetensors_is_not_opened(torch, tmp_path):
    _, params, state, config = made("t5")
    folder = write(tmp_path / "model", config, model=state)
    pickled(torch, Payload(tmp_path / "ran"), folder / "pytorch_model.bin", "zip")
    assert_same(load_hf(folder)[1], params)
    assert not (tmp_path / "ran").exists()


def cut_short(torch, file):
    torch.save({"a": torch.ones(1)}, file)
    file.write_bytes(file.read_bytes()[:99])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (lambda torch, f: f.write_bytes(b"version 1 of something else"), "it is not a PyTorch file"),
        (lambda torch, f: torch.save(torch.nn.Linear(1, 1), f), r"it asks for torch.nn.modules.linear.Linear"),
        (lambda torch, f: torch.save({"state_dict": {"a": torch.ones(1)}}, f), "holds a dict, not only tensors"),
        (lambda torch, f: torch.save([torch.ones(1)], f), "holds a list, not only tensors; expected a state dict"),
        (
            lambda torch, f: torch.save({"a": torch.ones(1)}, f) or f.write_bytes(f.read_bytes()[:99]),
            "by the weights-only reader",
        ),
    ],
)
def test_broken_pytorch_files(torch, tmp_path, content, message):
    folder = write(tmp_path, made("t5")[3])
    content(torch, folder / "pytorch_model.bin")
    with pytest.raises(UserError, match=message) as caught:
        load_hf(folder)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("version", ["2.6.0", "2.13.0+cpu", "3.0.0a0+git1"])
def test_pytorch_whose_reader_is_safe(version, tmp_path):
    check_torch_version(version, tmp_path)


@pytest.mark.parametrize("version", ["2.5.1", "1.13.1+cu117", "2.0"])
def test_pytorch_whose_reader_is_not(version, tmp_path):
    with pytest.raises(UserError, match=r"cannot read .* safely; expected 2.6 or newer; pip install -U torch"):
        check_torch_version(version, tmp_path)


@pytest.mark.parametrize("name", ["model.safetensors", "config.json", "generation_config.json", "pytorch_model.bin"])
def test_a_pointer_of_git_lfs(tmp_path, name):
    """What `git clone` leaves of a large file where Git LFS is not installed."""
    _, _, state, config = made("t5")
    folder = write(tmp_path / "model", config, **({} if name == "pytorch_model.bin" else {"model": state}))
    (folder / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 791656\n")
    with pytest.raises(UserError, match=rf"{name} is a pointer of Git LFS; expected the file itself; git lfs pull in "):
        nash_jax.load(folder)
