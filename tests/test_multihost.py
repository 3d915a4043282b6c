"""Two processes on one machine: the whole command trains as one process with as many devices does."""

import json
import signal
import sys
from pathlib import Path

import jax
import numpy as np
import pytest
from commands import LIMIT
from processes import COMMAND, ROWS, SETTINGS, finish, losses, outcome, start
from safetensors.numpy import load_file
from small_run import make_flags

import nash_jax
from nash_jax.convert.orbax import load_tree
from nash_jax.errors import UserError
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.multihost import start_distributed
from nash_jax.runtime.peers import peer_timeout
from nash_jax.runtime.sharding import param_shardings
from nash_jax.training.checkpoint import Checkpointer


@pytest.fixture
def command(tmp_path: Path) -> list[str]:
    """The command but for its workdir: learn to spell a word in capitals."""
    return [*COMMAND, *make_flags(tmp_path, ROWS, SETTINGS)]


@pytest.mark.full
@pytest.mark.parametrize("mesh", ["fsdp:2", "data:2"])
def test_two_processes_train_as_one(mesh: str, command: list[str], tmp_path: Path) -> None:
    """Each with its rows; with `fsdp` each also reads, keeps and saves its half of every model alone."""
    alone, together = tmp_path / "alone", tmp_path / "together"
    started = start([*command, f"--config.mesh={mesh}", f"--workdir={alone}"], processes=1, devices=2)
    started += start([*command, f"--config.mesh={mesh}", f"--workdir={together}"], processes=2, devices=1)
    printed = finish(started)
    assert [text.count("report.html") for text in printed] == [1, 1, 0]  # the main process alone says it
    one, two = losses(alone), losses(together)
    assert list(two) == list(one)
    assert list(one) == [(phase, step) for phase in ("finetune", "prune", "retrain") for step in (1, 2, 3, 4)]
    assert two == pytest.approx(one, rel=1e-5)
    reports = [json.loads((folder / "report.json").read_text()) for folder in (alone, together)]
    expected = [report["params"].pop("expected_encoder_sparsity") for report in reports]
    assert expected[1] == pytest.approx(expected[0], rel=1e-5)
    assert reports[1]["params"] == reports[0]["params"]
    assert reports[1]["metrics"] == reports[0]["metrics"]
    assert reports[1].keys() == reports[0].keys()
    assert (together / "report.html").stat().st_size > 10_000
    first, second = (nash_jax.load(folder / "export") for folder in (alone, together))
    assert second.generate(["fade", "cab"]) == first.generate(["fade", "cab"])
    assert not [p for p in together.rglob("*") if ".partial" in p.name or ".nash_jax" in p.name]


@pytest.mark.full
@pytest.mark.parametrize(
    "settings",
    [
        {"method": "oneshot", "shorten.vocabulary": True, "prune.distill.logits": 0.0},
        {"method": "cofi", "prune.sparsity": 0.3, "prune.gate_learning_rate": 0.01},
    ],
    ids=["at once, with a smaller vocabulary", "gates of the width"],
)
def test_what_is_computed_on_parts_is_what_one_device_computes(
    settings: dict[str, object], command: list[str], tmp_path: Path
) -> None:
    """Layers chosen by losses, importances, outputs fitted; a model evaluated under its gates."""
    command = [*command, *(f"--config.{name}={value}" for name, value in settings.items())]
    alone, together = tmp_path / "alone", tmp_path / "together"
    started = start([*command, f"--workdir={alone}"], processes=1, devices=1)
    started += start([*command, "--config.mesh=fsdp:2", f"--workdir={together}"], processes=2, devices=1)
    finish(started)
    one, two = losses(alone), losses(together)
    assert two == pytest.approx(one, rel=1e-5) and ("retrain", 4) in one
    reports = [json.loads((folder / "report.json").read_text()) for folder in (alone, together)]
    for key, value in reports[0].get("cutting", {"losses": {}})["losses"].items():
        assert reports[1]["cutting"]["losses"][key] == pytest.approx(value, rel=1e-5)
    assert outcome(together) == outcome(alone)
    masks = load_file(alone / "prune" / "masks.safetensors")
    assert any((mask == 0).any() for mask in masks.values())
    assert ("embed" in masks) == (settings["method"] == "cofi")


# A model spread over both processes: its batch, its gathering, its checkpoint, and what the main process says.
SPREAD = """
import sys
from pathlib import Path
import jax, numpy as np
from nash_jax.runtime.multihost import start_distributed
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.sharding import param_shardings, place, place_batch, place_params, to_host
from nash_jax.runtime.stored import StoredArray
from nash_jax.convert.orbax import load_tree, save_tree
from nash_jax.training.checkpoint import Checkpointer
from nash_jax.training.state import abstract_state
from nash_jax.runtime.output_folder import fill_folder
from nash_jax.runtime.multihost import barrier, broadcast_from_host0, end_together, is_host0
start_distributed()
folder, index = Path(sys.argv[1]), jax.process_index()
mesh = make_mesh("model:2")
assert dict(mesh.shape) == {"data": 1, "fsdp": 1, "model": 2} and jax.local_device_count() == 1
params = {"wi": np.arange(24, dtype=np.float32).reshape(4, 6)}
shardings = param_shardings(mesh, {"wi": ("embed", "encoder.0.units")}, {"embed": 4, "encoder.0.units": 6})
placed = place_params(mesh, params, shardings)
assert placed["wi"].addressable_data(0).shape == (4, 3)
batch = {"input_ids": np.arange(8, dtype=np.float32).reshape(2, 4)}
out = jax.jit(lambda p, b: b["input_ids"] @ p["wi"])(placed, place_batch(mesh, batch))
np.testing.assert_array_equal(to_host({"out": out})["out"], batch["input_ids"] @ params["wi"])
np.testing.assert_array_equal(to_host({"own": np.full(2, index)})["own"], [index, index])
checkpoints = Checkpointer(folder / "checkpoints")
checkpoints.save(1, placed, {"seconds": 1.5}, (0.5,))
checkpoints.save(2, placed, {"seconds": 2.5}, None)
assert checkpoints.restore(abstract_state(placed))[1] == {"seconds": 2.5}
restored, extra = checkpoints.restore(abstract_state(placed), best=True)
checkpoints.close()
assert extra == {"seconds": 1.5} and restored["wi"].sharding == placed["wi"].sharding
np.testing.assert_array_equal(to_host(restored)["wi"], params["wi"])
save_tree(folder / "tree", to_host(restored))
np.testing.assert_array_equal(load_tree(folder / "tree")["wi"], params["wi"])
save_tree(folder / "parts", restored)
asked = []
stored = load_tree(folder / "parts", lazy=True)["wi"]
counted = StoredArray(stored.shape, lambda index: asked.append(index) or stored[index])
part = place(counted, shardings["wi"]).addressable_data(0)
np.testing.assert_array_equal(part, params["wi"][:, 3 * index : 3 * index + 3])
assert [part.indices(6) for _, part in asked] == [(3 * index, 3 * index + 3, 1)]
assert broadcast_from_host0({"who": index, "exact": 0.1 + index}) == {"who": 0, "exact": 0.1}
assert broadcast_from_host0(None) is None
for text in ("old", "new"):
    with fill_folder(folder / "filled") as new:
        (new / f"{text}{index}").write_text(text)  # each process a file of its own
    assert sorted(p.name for p in (folder / "filled").iterdir()) == ["nash_jax.json", f"{text}0", f"{text}1"]
    barrier("seen")
end_together()
"""


@pytest.mark.slow
def test_a_model_spread_over_processes(tmp_path: Path) -> None:
    """What two processes wrote together, one process reads, on more devices."""
    finish(start([sys.executable, "-c", SPREAD, str(tmp_path)], processes=2, devices=1))
    expected = np.arange(24, dtype=np.float32).reshape(4, 6)
    for name in ("tree", "parts"):
        np.testing.assert_array_equal(load_tree(tmp_path / name)["wi"], expected)
    sharding = param_shardings(make_mesh("fsdp:4"), {"wi": ("embed", "units")}, {"embed": 4, "units": 6})["wi"]
    checkpoints = Checkpointer(tmp_path / "checkpoints")
    state, extra = checkpoints.restore({"wi": jax.ShapeDtypeStruct((4, 6), np.float32, sharding=sharding)})
    checkpoints.close()
    assert extra == {"seconds": 2.5} and state["wi"].sharding == sharding and len(state["wi"].sharding.device_set) == 4
    np.testing.assert_array_equal(state["wi"], expected)


WAITING = """
import sys, jax
from nash_jax.runtime.command import run_command
from nash_jax.runtime.multihost import broadcast_from_host0, start_distributed
def run(argv):
    start_distributed()
    for step in range(10**9):
        broadcast_from_host0(step)
        if step == 5:
            print("running", flush=True)
sys.exit(run_command(run, sys.argv, "", ""))
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("lost", "number"),
    [
        (1, signal.SIGKILL),
        pytest.param(0, signal.SIGSTOP, marks=pytest.mark.full),
        pytest.param(1, signal.SIGSTOP, marks=pytest.mark.full),
    ],
)
def test_a_lost_process_ends_the_others(lost: int, number: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """In one line that names it, and soon; a hanging one as one that has ended."""
    monkeypatch.setenv("NASH_JAX_PEER_TIMEOUT", "6")
    started = start([sys.executable, "-c", WAITING], processes=2, devices=1)
    try:
        for process in started:
            assert process.stdout is not None
            while "running" not in process.stdout.readline():
                assert process.poll() is None
        started[lost].send_signal(number)
        text, _ = started[1 - lost].communicate(timeout=LIMIT)
    finally:
        for process in started:
            process.kill()
            process.communicate()
    assert started[1 - lost].returncode == 1
    (line,) = text.splitlines()
    assert line.startswith(f"error: process {lost} of this run has not answered for 6 s: it has ended, hangs or cannot")


@pytest.mark.parametrize("given", ["soon", "4", "nan", "-1"])
def test_a_time_to_wait_that_is_none(given: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NASH_JAX_PEER_TIMEOUT", given)
    with pytest.raises(UserError, match=f"NASH_JAX_PEER_TIMEOUT is '{given}'; expected seconds, at least 5"):
        peer_timeout()


def test_a_run_of_one_process_joins_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "NASH_JAX_DISTRIBUTED"):
        monkeypatch.delenv(name, raising=False)
    start_distributed()


@pytest.mark.parametrize(
    ("environment", "found"),
    [
        ({"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1"}, "JAX_NUM_PROCESSES is not set"),
        ({"JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "0"}, "JAX_COORDINATOR_ADDRESS is not set"),
        (
            {"JAX_COORDINATOR_ADDRESS": "127.0.0.1:1", "JAX_NUM_PROCESSES": "two", "JAX_PROCESS_ID": "0"},
            "invalid literal for int.*'two'",
        ),
    ],
)
def test_half_an_environment_is_refused(
    monkeypatch: pytest.MonkeyPatch, environment: dict[str, str], found: str
) -> None:
    for name in ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID", "NASH_JAX_DISTRIBUTED"):
        monkeypatch.delenv(name, raising=False)
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=found):
        start_distributed()
