"""Checkpoints of a training phase: what is saved comes back, and what does not fit is said in one line."""

import errno
import json
import shutil
import threading
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nash_jax.errors import UserError
from nash_jax.runtime.checksums import json_checksum
from nash_jax.training import checkpoint
from nash_jax.training.checkpoint import Checkpointer, check_checkpoints
from nash_jax.training.state import abstract_state

STATE = {"params": {"w": jnp.arange(3.0)}, "opt_state": (jnp.ones(2),)}
OTHERS = {
    "another leaf": {**STATE, "opt_state": (jnp.ones(2), jnp.ones(1))},
    "a part less": {"params": STATE["params"]},
    "another structure": {**STATE, "opt_state": {"mu": jnp.ones(2)}},
}


def known_steps(folder):
    return json.loads((folder / "checksums.json").read_text())["checkpoints"]


def write_known_steps(folder, known):
    content = {"checksum": json_checksum(known), "checkpoints": known}
    (folder / "checksums.json").write_text(json.dumps(content))


@pytest.fixture
def checkpointer(tmp_path):
    made = Checkpointer(tmp_path / "checkpoints")
    made.save(7, STATE, {"position": 3}, rank=(0.5,))
    yield made
    made.close()


def test_what_was_saved(checkpointer):
    state, extra = checkpointer.restore(abstract_state(STATE))
    np.testing.assert_array_equal(state["params"]["w"], STATE["params"]["w"])
    np.testing.assert_array_equal(state["opt_state"][0], STATE["opt_state"][0])
    assert extra == {"position": 3}


@pytest.mark.parametrize("other", OTHERS)
def test_a_state_that_does_not_fit(other, checkpointer):
    with pytest.raises(UserError, match=r"checkpoint of step 7 in .* does not fit this phase; .*; delete that folder"):
        checkpointer.restore(abstract_state(OTHERS[other]))


def test_buffers_are_free_for_the_next_step(tmp_path):
    """Each checkpoint holds its own step, though the step after it takes the buffers while it is written."""
    step = jax.jit(lambda state: jax.tree.map(lambda x: x + 1, state), donate_argnums=0)
    state = {name: jnp.full((512, 512), float(i)) for i, name in enumerate("abcdefgh")}
    made = Checkpointer(tmp_path / "checkpoints", keep_last=4)
    for number in range(1, 5):
        made.save(number, state, {"position": 0}, rank=(0.5,))
        for _ in range(10):
            state = step(state)
    made.close()
    for number in range(1, 5):
        made = Checkpointer(tmp_path / "checkpoints", keep_last=4)
        found, _ = made.restore(abstract_state(state))
        made.close()
        for i, name in enumerate("abcdefgh"):
            np.testing.assert_array_equal(found[name], np.full((512, 512), i + 10 * (4 - number), np.float32))
        shutil.rmtree(tmp_path / "checkpoints" / f"{5 - number}")


def test_a_checkpoint_is_written_while_training_goes_on(tmp_path, monkeypatch):
    """It counts once it is complete; the next one waits for it."""
    folder, may_end = tmp_path / "checkpoints", threading.Event()
    own = checkpoint.checksums
    monkeypatch.setattr(checkpoint, "checksums", lambda path: may_end.wait() and own(path))
    made = Checkpointer(folder)
    made.save(1, STATE, {"position": 0}, rank=None)
    assert made.is_writing() and not (folder / "checksums.json").exists()
    made.check()
    may_end.set()
    made.wait()
    assert not made.is_writing() and known_steps(folder).keys() == {"1"}
    made.save(2, STATE, {"position": 0}, rank=None)
    made.save(3, STATE, {"position": 0}, rank=None)
    made.close()
    assert known_steps(folder).keys() == {"3"}


@pytest.mark.parametrize("call", ["check", "wait", "save", "restore", "close"])
def test_a_write_that_fails_is_raised_by_the_next_call(call, tmp_path, monkeypatch):
    def fail(path):
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(checkpoint, "checksums", fail)
    made = Checkpointer(tmp_path / "checkpoints")
    made.save(1, STATE, {"position": 0}, rank=None)
    while made.is_writing():
        time.sleep(0.01)
    arguments = {"save": (2, STATE, {"position": 0}, None), "restore": (abstract_state(STATE),)}
    with pytest.raises(OSError, match="No space left on device"):
        getattr(made, call)(*arguments.get(call, ()))
    with pytest.raises(OSError, match="No space left on device"):
        made.close()


@pytest.mark.parametrize(("keep_last", "left"), [(1, {"1", "5"}), (3, {"1", "3", "4", "5"})])
def test_the_best_and_the_newest_are_kept(keep_last, left, tmp_path):
    made = Checkpointer(tmp_path / "checkpoints", keep_last)
    for step in range(1, 6):
        made.save(step, STATE, {"position": 0}, rank=(1 / step,) if step < 3 else None)
    made.close()
    assert {path.name for path in (tmp_path / "checkpoints").iterdir() if path.is_dir()} == left


def flip(path):
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 4
    path.write_bytes(bytes(content))


DAMAGE = {
    "gone": lambda path: path.unlink(),
    "cut": lambda path: path.write_bytes(path.read_bytes()[:-1]),
    "a bit": flip,
    "longer": lambda path: path.write_bytes(path.read_bytes() + b"\n"),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    """A folder with the best checkpoint, of step 1, and the newest, of step 2."""
    folder = tmp_path_factory.mktemp("two") / "checkpoints"
    made = Checkpointer(folder)
    made.save(1, STATE, {"position": 1}, rank=(0.5,))
    made.save(2, STATE, {"position": 2}, rank=None)
    made.close()
    return folder


@pytest.mark.parametrize("how", DAMAGE)
def test_a_damaged_checkpoint_is_left_for_another(how, two, tmp_path, capsys):
    """Whichever file of the newest is damaged; the phase continues from the older one, and says so."""
    files = [path.relative_to(two) for path in sorted((two / "2").rglob("*")) if path.is_file()]
    for file in files if how == "a bit" else files[:: len(files) // 3]:
        folder = tmp_path / f"{file.as_posix().replace('/', ' ')}"
        shutil.copytree(two, folder)
        if (folder / file).stat().st_size or how != "a bit":
            DAMAGE[how](folder / file) if (folder / file).stat().st_size else (folder / file).unlink()
            made = Checkpointer(folder)
            state, extra = made.restore(abstract_state(STATE))
            assert extra == {"position": 1}, file
            np.testing.assert_array_equal(state["params"]["w"], STATE["params"]["w"])
            expected = f"note: {folder / '2'} is damaged ({file.relative_to('2')}); another checkpoint is used\n"
            assert capsys.readouterr().err == expected
            made.save(2, STATE, {"position": 3}, rank=None)  # the step is done again
            assert made.restore(abstract_state(STATE))[1] == {"position": 3}
            made.close()


def test_the_only_checkpoint_is_damaged(two, tmp_path):
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    shutil.rmtree(folder / "1")
    flip(folder / "2" / "metrics" / "metrics")
    with pytest.raises(UserError, match=r"metrics/metrics was changed or is missing; expected .*; delete"):
        Checkpointer(folder)
    assert (folder / "2").is_dir()


def test_any_bit_of_the_checksums(two, tmp_path):
    """Of a hash that only `verify` compares, of a step, of a name: it is not the file as it was written."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    check_checkpoints(folder)
    written = (folder / "checksums.json").read_bytes()
    for place in range(len(written)):
        changed = bytearray(written)
        changed[place] ^= 1 << place % 8
        (folder / "checksums.json").write_bytes(changed)
        with pytest.raises(UserError, match=r"checksums\.json was changed or is damaged"):
            check_checkpoints(folder)


def test_a_process_killed_before_the_checksums(two, tmp_path):
    """A checkpoint without them is taken: Orbax wrote it whole."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    known = known_steps(folder)
    write_known_steps(folder, {"1": known["1"]})
    made = Checkpointer(folder)
    assert made.restore(abstract_state(STATE))[1] == {"position": 2}
    assert known_steps(folder) == known
    made.close()


@pytest.mark.parametrize("gone", ["state", "extra", "metrics"])
def test_a_process_killed_while_a_checkpoint_is_deleted(gone, two, tmp_path):
    """Killed before the checksums of step 1, and again while it was deleted: what is left of it is no checkpoint."""
    folder = tmp_path / "checkpoints"
    shutil.copytree(two, folder)
    known = known_steps(folder)
    write_known_steps(folder, {"2": known["2"]})
    shutil.rmtree(folder / "1" / gone)
    made = Checkpointer(folder)
    assert made.restore(abstract_state(STATE), best=True)[1] == {"position": 2}
    made.close()
    assert not (folder / "1").exists()
