"""Results in any order: a killed run is continued, and results of other settings are not changed."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

import nash_jax
from nash_jax.batch_generate.resumable import ResumableFile
from nash_jax.errors import UserError

SETTINGS = {"model": "ab12", "num_beams": 4, "prefix": "sum: ", "eos_token_id": (1, 2)}
RESULTS = [["zero"], ["", "1b"], ["zwei \u2028 Ä"], [], ['{"half": "\ud800"}'], ["five"], ["six"]]
ORDER = [5, 1, 6, 0, 4, 2, 3]
WHOLE = "".join(f"{line}\n" for lines in RESULTS for line in lines).replace("\ud800", "\\ud800").encode()


def fill(path, settings=SETTINGS, stop=None) -> list[int]:
    """Adds what is missing, two at a time, or the first `stop` results of it; which ones were there."""
    with ResumableFile(path, settings).open(len(RESULTS)) as output:
        there = [number for number in ORDER if number in output]
        missing = [number for number in ORDER if number not in output][:stop]
        for start in range(0, len(missing), 2):
            output.add({number: RESULTS[number] for number in missing[start : start + 2]})
        assert len(output) == len(there) + len(missing)
        if stop is not None:
            raise KeyboardInterrupt
    return there


def stopped(path, count: int) -> bytes:
    """What is there after the given number of results."""
    with pytest.raises(KeyboardInterrupt):
        fill(path, stop=count)
    assert not path.exists()
    return path.with_name("out.txt.partial").read_bytes()


@pytest.fixture
def path(tmp_path):
    return tmp_path / "out.txt"


def test_lines_are_as_given_and_in_order(path):
    assert fill(path) == []
    assert sorted(p.name for p in path.parent.iterdir()) == ["out.txt", "out.txt.settings.json"]
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("count", range(8))
def test_goes_on_with_what_is_missing(path, count):
    stopped(path, count)
    assert fill(path) == ORDER[:count]
    assert path.read_bytes() == WHOLE


@pytest.mark.parametrize("cut", range(0, 119, 7))
def test_torn_anywhere(path, cut):
    """Truncated at any byte, or with zeros from there on, as after a power failure."""
    for rest in (b"", bytes(9), bytes(9) + b"\n"):
        size = len(stopped(path, 7)) - cut
        os.truncate(f"{path}.partial", size)
        with open(f"{path}.partial", "ab") as file:
            file.write(rest)
        lines = path.with_name("out.txt.partial").read_bytes()[:size].count(b"\n")
        assert fill(path) == ORDER[:lines] and 0 <= lines <= 7
        assert path.read_bytes() == WHOLE
        path.unlink()


def test_added_twice(path):
    stopped(path, 2)
    with ResumableFile(path, SETTINGS).open(len(RESULTS)) as output:
        output.add({5: ["another"], 1: RESULTS[1]})
        output.add(dict(enumerate(RESULTS)))
    assert path.read_bytes() == WHOLE


def test_killed_between_the_last_two_steps(path):
    """The finished file exists, and the partial file as well."""
    there = stopped(path, 7)
    fill(path)
    path.with_name("out.txt.partial").write_bytes(there)
    assert ResumableFile(path, SETTINGS).is_done()
    path.unlink()
    assert fill(path) == ORDER and path.read_bytes() == WHOLE


def test_what_differs_is_said_and_kept(path):
    there = stopped(path, 1)
    others = {"model": "cd34", "num_beams": 4, "prefix": "", "eos_token_id": [1, 2], "seed": 3}
    says = (
        'out.txt.partial holds results with model="ab12", not "cd34"; prefix="sum: ", not ""; seed=its default, not 3'
    )
    with pytest.raises(
        UserError, match=f"{says}; expected the settings they were made with, .*; name another --output"
    ):
        fill(path, others)
    assert (path.parent / "out.txt.partial").read_bytes() == there
    assert fill(path) == ORDER[:1]


def test_done(path):
    results = ResumableFile(path, SETTINGS)
    assert not results.is_done()
    fill(path)
    assert results.is_done()
    with pytest.raises(UserError, match=r"out.txt holds results with num_beams=4, not 1; expected the settings"):
        ResumableFile(path, SETTINGS | {"num_beams": 1}).is_done()
    path.unlink()  # made again with other settings
    assert fill(path, SETTINGS | {"num_beams": 1}) == [] and path.read_bytes() == WHOLE


@pytest.mark.parametrize("record", [None, "", "[1]", '{"model": '])
def test_a_file_of_another_origin_is_not_touched(path, record):
    for name in ("out.txt.partial", "out.txt"):
        (path.parent / name).write_text("a user's own\n")
        if record is not None:
            (path.parent / "out.txt.settings.json").write_text(record)
        with pytest.raises(UserError, match=f"{name} is there, but not its settings out.txt.settings.json; .* move"):
            ResumableFile(path, SETTINGS).is_done() or fill(path)
        assert (path.parent / name).read_text() == "a user's own\n"


def test_one_process_at_a_time(path):
    """The lock of a killed process is released."""
    stopped(path, 1)
    hold = "import fcntl, signal, sys; f = open(sys.argv[1], 'ab'); fcntl.flock(f, fcntl.LOCK_EX); print(flush=True); "
    other = subprocess.Popen([sys.executable, "-c", f"{hold}signal.pause()", f"{path}.partial"], stdout=subprocess.PIPE)
    assert other.stdout.readline()
    with (
        other,
        pytest.raises(UserError, match=r"out.txt.partial is being written by another process; wait"),
    ):
        try:
            fill(path)
        finally:
            other.kill()
    assert fill(path) == ORDER[:1]


def test_no_room(path):
    """A result that does not fit on the disk is removed by the next start."""
    stopped(path, 1)
    room = 2 * os.path.getsize(f"{path}.partial") + 10  # for the next result and a part of the one after it
    code = "import pathlib, resource, sys, test_resumable\n"
    code += f"resource.setrlimit(resource.RLIMIT_FSIZE, ({room}, {room}))\n"  # Python ignores the signal: writing fails
    code += "test_resumable.fill(pathlib.Path(sys.argv[1]))"
    search = os.pathsep.join(map(str, (Path(__file__).parent, Path(nash_jax.__file__).parents[1])))
    done = subprocess.run(
        [sys.executable, "-c", code, path],
        env=os.environ | {"PYTHONPATH": search}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    says = f"UserError: {path}.partial cannot be written: File too large; expected a folder to write to and room in it"
    assert says in done.stderr
    assert os.path.getsize(f"{path}.partial") == room and not path.exists()
    assert fill(path) == ORDER[:2] and path.read_bytes() == WHOLE


def test_no_folder(tmp_path):
    with pytest.raises(UserError, match=r"none/out.txt.partial cannot be written: No such file or directory; expected"):
        fill(tmp_path / "none" / "out.txt")
