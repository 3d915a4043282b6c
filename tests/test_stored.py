"""Weights that stay in their files: each device's part is read, and is what reading the whole would give."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from commands import LIMIT, on_devices
from safetensors.numpy import load_file, save_file

import nash_jax
from nash_jax.axes import param_axes
from nash_jax.convert import orbax
from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.sharding import param_shardings, place, place_params
from nash_jax.runtime.stored import StoredArray
from nash_jax.spec import ModelSpec, dense_spec
from nash_jax.testing import random_params
from nash_jax.tree import flatten

ROOT = Path(__file__).resolve().parents[1]
MESHES = ("fsdp:4", "fsdp:2,model:2")
MESHES_OF_EIGHT = ("fsdp:8", "data:2,fsdp:2,model:2")
FORMS = ("hf", "bfloat16", "float16", "export")
SIZES = {
    "vocab_size": 48, "d_model": 16, "d_ff": 32, "num_heads": 4, "head_dim": 4, "encoder_layers": 1,
    "decoder_layers": 2,
}  # fmt: skip
SPECS = {
    "t5": dense_spec(**SIZES, output_scale=16**-0.5),
    "gated": dense_spec(**SIZES, gated=True, activation="gelu_tanh", tied=False),
    "umt5": dense_spec(**SIZES, family="umt5", gated=True, activation="gelu_tanh", tied=False, output_scale=16**-0.5),
    "bart": dense_spec(**SIZES, family="bart", max_positions=24),
    "marian": dense_spec(**SIZES, family="marian", max_positions=24, encoder_vocab_size=40, tied=False),
}


def write(folder: Path, kind: str, form: str) -> Path:
    """A model in a folder of this form."""
    model = nash_jax.Seq2Seq(SPECS[kind], random_params(SPECS[kind], scale=0.3))
    if form == "export":
        model.save(folder)
        return folder
    model.save_hf(folder)
    (folder / "nash_jax.json").unlink()
    if form != "hf":
        cut(folder, form)
    return folder


def cut(folder: Path, dtype: str) -> None:
    """Stores the weights in another type, in two files."""
    state = load_file(folder / "model.safetensors")
    names, stored = sorted(state), np.dtype(getattr(jnp, dtype))
    files = {"model-1.safetensors": names[::2], "model-2.safetensors": names[1::2]}
    for file, own in files.items():
        save_file({name: state[name].astype(stored) for name in own}, folder / file)
    found = {name: file for file, own in files.items() for name in own}
    (folder / "model.safetensors.index.json").write_text(json.dumps({"weight_map": found}))
    (folder / "model.safetensors").unlink()


def shardings_of(spec: ModelSpec, mesh: str) -> tuple[jax.sharding.Mesh, dict]:
    placed = make_mesh(mesh)
    return placed, param_shardings(placed, param_axes(spec), spec.axis_sizes())


def compare(kind: str, form: str, folder: Path, meshes: tuple[str, ...]) -> None:
    """What is placed on each mesh is what is loaded whole, and so is each array that is read."""
    write(folder, kind, form)
    whole, stored = nash_jax.load(folder), nash_jax.load(folder, lazy=True)
    assert stored.spec == whole.spec
    assert all(isinstance(leaf, StoredArray) for leaf in flatten(stored.params).values())
    for path, leaf in flatten(whole.params).items():
        np.testing.assert_array_equal(np.asarray(flatten(stored.params)[path]), leaf)
    for name in meshes:
        mesh, shardings = shardings_of(whole.spec, name)
        placed = flatten(place_params(mesh, stored.params, shardings))
        for path, leaf in flatten(whole.params).items():
            assert placed[path].sharding == shardings[path] and placed[path].dtype == leaf.dtype == np.float32
            np.testing.assert_array_equal(placed[path], leaf)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("kind", SPECS)
def test_what_is_placed_is_what_is_loaded_whole(kind: str, form: str, tmp_path: Path) -> None:
    compare(kind, form, tmp_path / "model", MESHES)


def test_the_same_on_eight_devices(tmp_path: Path) -> None:
    environment = os.environ | on_devices(8) | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": f"{ROOT}:{ROOT / 'tests'}"}
    command = [sys.executable, __file__, str(tmp_path)]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr


def test_no_device_reads_more_than_its_part() -> None:
    _, shardings = shardings_of(SPECS["gated"], "fsdp:2,model:2")
    whole, asked = random_params(SPECS["gated"])["encoder"]["layers_0"]["attention"]["qkv"], []

    def read(index):
        asked.append(whole[index].shape)
        return whole[index]

    sharding = shardings["encoder/layers_0/attention/qkv"]
    np.testing.assert_array_equal(place(StoredArray(whole.shape, read), sharding), whole)
    assert asked == [(8, 3, 2, 4)] * 4  # d_model over `fsdp`, heads over `model`


def test_an_export_is_stored_in_pieces(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Of a large array a device reads its pieces; the whole is the same."""
    monkeypatch.setattr(orbax, "_CHUNK", 64)
    values = np.arange(96, dtype=np.float32).reshape(12, 8)
    orbax.save_tree(tmp_path / "tree", {"a": {"b": values}})
    found = orbax.load_tree(tmp_path / "tree", {"a/b": (12, 8)}, lazy=True)["a"]["b"]
    np.testing.assert_array_equal(found[3:7, 2:5], values[3:7, 2:5])
    np.testing.assert_array_equal(found, values)
    np.testing.assert_array_equal(orbax.load_tree(tmp_path / "tree")["a"]["b"], values)


@pytest.mark.parametrize("name", MESHES)
def test_a_tree_is_saved_from_its_devices(name: str, tmp_path: Path) -> None:
    spec = SPECS["gated"]
    params, (mesh, shardings) = random_params(spec), shardings_of(spec, name)
    nash_jax.Seq2Seq(spec, place_params(mesh, params, shardings)).save(tmp_path / "model")
    for lazy in (False, True):
        for path, leaf in flatten(nash_jax.load(tmp_path / "model", lazy=lazy).params).items():
            np.testing.assert_array_equal(np.asarray(leaf), flatten(params)[path])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("kind", ["t5", "gated"])
def test_an_engine_takes_them(kind: str, dtype: str, tmp_path: Path) -> None:
    """On a mesh and on one device: the weights and the tokens of the whole model."""
    folder = write(tmp_path / "model", kind, "hf")
    whole, stored, mesh = nash_jax.load(folder), nash_jax.load(folder, lazy=True), make_mesh("fsdp:4")
    ids = np.random.default_rng(0).integers(2, 48, (4, 6))
    expected = Engine(whole.spec, whole.params, dtype, mesh=mesh)
    for engine in (Engine(stored.spec, stored.params, dtype, mesh=mesh), Engine(stored.spec, stored.params, dtype)):
        for path, leaf in flatten(expected.params).items():
            np.testing.assert_array_equal(flatten(engine.params)[path], leaf)
    options = GenerationOptions(max_new_tokens=5)
    one, other = (Engine(model.spec, model.params, dtype, mesh=mesh) for model in (whole, stored))
    np.testing.assert_array_equal(*(e.generate(ids, np.ones_like(ids), options) for e in (one, other)))


def test_what_does_not_fit_is_said_before_values_are_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "gated", "hf")
    state = load_file(folder / "model.safetensors")
    state["encoder.block.0.layer.1.DenseReluDense.wo.weight"] += np.inf
    save_file({k: v for k, v in state.items() if "final_layer_norm" not in k}, folder / "model.safetensors")
    with pytest.raises(UserError, match=r"does not fit its config.json: missing \['encoder.final_layer_norm.weight'"):
        nash_jax.load(folder, lazy=True)
    save_file(state, folder / "model.safetensors")
    model = nash_jax.load(folder, lazy=True)
    mesh, shardings = shardings_of(model.spec, "fsdp:4")
    with pytest.raises(UserError, match=r"DenseReluDense.wo.weight holds [\d,]+ values that are inf or NaN"):
        place_params(mesh, model.params, shardings)


def test_a_damaged_export_is_said_when_it_is_read(tmp_path: Path) -> None:
    folder = write(tmp_path / "model", "t5", "export")
    model = nash_jax.load(folder, lazy=True)
    for file in (folder / "params").glob("*/ocdbt.process_0/d/*"):
        file.unlink()
    with pytest.raises(UserError, match=r"the checkpoint at .*params cannot be read: "):
        np.asarray(model.params["shared"]["embedding"])


if __name__ == "__main__":  # a program of its own, which sees eight devices
    for own_kind in SPECS:
        for own_form in ("bfloat16", "export"):
            compare(own_kind, own_form, Path(sys.argv[1]) / own_kind / own_form, MESHES_OF_EIGHT)
