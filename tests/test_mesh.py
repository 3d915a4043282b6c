"""Meshes by name: what they are, what they split, and that no result depends on them."""

import json
import os
import subprocess
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import LIMIT, on_devices
from jax.sharding import PartitionSpec

from nash_jax.axes import leaf_shapes, param_axes
from nash_jax.config.parsing import expected
from nash_jax.errors import UserError
from nash_jax.runtime.mesh import make_mesh, mesh_shape, mesh_text, parse_mesh, row_axes
from nash_jax.runtime.sharding import describe_split, param_shardings
from nash_jax.spec import dense_spec

ROOT = Path(__file__).resolve().parents[1]
MESHES = ("data:8", "fsdp:8", "data:2,fsdp:2,model:2")


@pytest.mark.parametrize(
    ("text", "shape"),
    [
        ("", (8, 1, 1)),
        ("data:8", (8, 1, 1)),
        ("model:2", (4, 1, 2)),
        ("fsdp", (1, 8, 1)),
        ("fsdp:-1, model:2", (1, 4, 2)),
        ("fsdp:4", (2, 4, 1)),
        ("model:2,data:2,fsdp:2", (2, 2, 2)),
        ("data,fsdp:2", (4, 2, 1)),
    ],
)
def test_shapes(text: str, shape: tuple[int, ...]) -> None:
    assert tuple(mesh_shape(text, 8).values()) == shape


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("fdsp:8", r"config.mesh names 'fdsp' \(did you mean 'fsdp'\?\); expected sizes by axis, as in data:4"),
        ("data:2,data:4", "config.mesh names data twice"),
        ("data:0", "config.mesh has 'data:0'"),
        ("data:two", "config.mesh has 'data:two'"),
        ("data,fsdp", "'data,fsdp': two axes take the devices that are left"),
        (
            "data:2,fsdp:2",
            "config.mesh is 'data:2,fsdp:2', 4 devices; expected sizes whose product is the 8 that there",
        ),
        ("fsdp:3", "config.mesh is 'fsdp:3', 3 devices"),
    ],
)
def test_meshes_that_cannot_be(text: str, message: str) -> None:
    with pytest.raises(UserError, match=message):
        mesh_shape(text, 8)


def test_the_setting_of_earlier_versions_is_named() -> None:
    with pytest.raises(UserError, match=r"model_parallel is no longer a setting; expected config.mesh, as in --config"):
        expected("model.model_parallel")
    assert expected("mesh") == "a text"


def test_a_mesh_is_named_as_it_is_given() -> None:
    assert mesh_text(make_mesh("model:2")) == "data:2,model:2"
    assert mesh_text(make_mesh("", jax.devices()[:1])) == "data:1"
    assert parse_mesh("fsdp:-1") == {"data": 1, "fsdp": -1, "model": 1}


def test_rows_are_split_as_far_as_they_can_be_divided() -> None:
    mesh = make_mesh("data:2,fsdp:2")
    assert [row_axes(mesh, rows) for rows in (8, 6, 5)] == [("data", "fsdp"), ("data",), ()]


def test_every_parameter_is_split_by_its_axes() -> None:
    """Heads, units and vocabulary over `model`, the largest other axis over `fsdp`; what cannot be divided is named."""
    spec = dense_spec(vocab_size=10, d_model=12, d_ff=14, num_heads=3, encoder_layers=1, decoder_layers=1)
    mesh, axes = make_mesh("fsdp:2,model:2"), param_axes(spec)
    found = {path: s.spec for path, s in param_shardings(mesh, axes, spec.axis_sizes()).items()}
    assert found["shared/embedding"] == PartitionSpec("model", "fsdp")
    assert found["encoder/layers_0/ffn/wi"] == PartitionSpec("fsdp", "model")
    assert found["encoder/layers_0/attention/qkv"] == PartitionSpec("fsdp", None, None, None)  # three heads
    assert found["encoder/position_bias/embedding"] == PartitionSpec("fsdp", None)
    assert found["encoder/final_norm/scale"] == PartitionSpec("fsdp")
    shardings = param_shardings(make_mesh("fsdp:4"), {"a": ("x", "y"), "b": ("y",)}, {"x": 8, "y": 3})
    shapes = {"params": {"a": jax.ShapeDtypeStruct((8, 3), np.float32), "b": jax.ShapeDtypeStruct((3,), np.float32)}}
    line = describe_split(shapes, {"params": shardings}, make_mesh("fsdp:4"))
    assert line == "fsdp:4: 36 bytes a device of 108; whole on each: b"
    assert leaf_shapes(spec).keys() == axes.keys()


def train(folder: Path, *args: str) -> dict:
    """What tests/mesh_runs.py finds on eight fake devices."""
    environment = os.environ | on_devices(8) | {"JAX_PLATFORMS": "cpu", "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "tests/mesh_runs.py", str(folder), *args]
    done = subprocess.run(
        command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )
    assert done.returncode == 0, done.stderr
    return json.loads((folder / "results.json").read_text())


@pytest.fixture(scope="module")
def pruned(tmp_path_factory: pytest.TempPathFactory) -> dict:
    return train(tmp_path_factory.mktemp("mesh"))


@pytest.mark.slow
@pytest.mark.parametrize("mesh", MESHES)
def test_pruning_gives_the_same_on_every_mesh(pruned: dict, mesh: str) -> None:
    """Losses of twenty steps with gates and a teacher, gates, masks, compact model, tokens."""
    one, found = pruned["one"], pruned[mesh]
    assert len(one["losses"]) == 20 and one["losses"][-1] < one["losses"][0]
    assert found["losses"] == pytest.approx(one["losses"], rel=1e-5)
    np.testing.assert_allclose(found["gates"], one["gates"], rtol=1e-4, atol=1e-4)
    for name, mask in one["masks"].items():
        np.testing.assert_allclose(found["masks"][name], mask, rtol=1e-4, atol=1e-5)
        np.testing.assert_array_equal(np.array(found["masks"][name]) == 0, np.array(mask) == 0)
    assert 0 < np.mean(np.array(one["masks"]["encoder.0.ffn.units"]) == 0) < 1
    assert found["spec"] == one["spec"]
    assert found["tokens"] == one["tokens"]


@pytest.mark.slow
def test_bytes_a_device_shrink_as_the_parts_grow(pruned: dict) -> None:
    whole = pruned["one"]["bytes"]
    assert pruned["data:8"]["bytes"] == whole
    for mesh, parts in (("fsdp:8", 8), ("data:2,fsdp:2,model:2", 4)):
        for kind, size in whole.items():
            undivided = size * 0.03  # gates of an odd number, multipliers, counts of steps, norms
            assert size / parts <= pruned[mesh]["bytes"][kind] <= size / parts + undivided
    assert "whole on each: gates/log_alpha" in pruned["fsdp:8"]["says"]


@pytest.mark.slow
def test_a_checkpoint_goes_on_on_another_mesh(pruned: dict) -> None:
    """Ten steps on `fsdp:8`, ten on another mesh: the losses of one device."""
    assert pruned[MESHES[-1]]["resumed"] == pytest.approx(pruned["one"]["losses"][10:], rel=1e-5)


@pytest.mark.full
def test_other_optimizers_and_searches(tmp_path: Path) -> None:
    """Adafactor with accumulation and averages, Muon; beams, sampling and a single row."""
    found = train(tmp_path, "others")
    one, other = found["one"], found[MESHES[-1]]
    for phase in ("finetune", "retrain"):
        assert other[phase]["losses"] == pytest.approx(one[phase]["losses"], rel=1e-5)
    assert other["tokens"] == one["tokens"]
