"""Saving to folders: all files or none, and nothing that nash_jax did not write is changed."""

import hashlib
import json
import os
import subprocess
import sys

import numpy as np
import pytest
import xxhash
from commands import LIMIT

import nash_jax
from nash_jax.batch_generate.resumable import ResumableFile
from nash_jax.errors import UserError
from nash_jax.recipe.workdir import Workdir
from nash_jax.runtime.locks import LockedError
from nash_jax.runtime.output_folder import MANIFEST, complete_save, fill_folder, read_manifest, resolve_folder
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

SPEC = dense_spec(vocab_size=19, d_model=8, d_ff=12, num_heads=2, encoder_layers=1, decoder_layers=1)
MODEL = nash_jax.Seq2Seq(SPEC, random_params(SPEC))
SAVES = ("save", "save_hf")


def contents(folder):
    """Every file and folder below a folder, links not followed → its bytes."""
    return {
        str(path.relative_to(folder)): path.read_bytes() if path.is_file() and not path.is_symlink() else None
        for path in folder.rglob("*")
    }


def fill(folder, **files):
    """Saves files by name."""
    with fill_folder(folder) as new:
        for name, text in files.items():
            path = new / name.replace("__", "/")
            path.parent.mkdir(exist_ok=True)
            path.write_text(text)


@pytest.mark.parametrize("save", SAVES)
def test_files_of_others_stay(save, tmp_path):
    (tmp_path / "older_model").mkdir()
    (tmp_path / "thesis.tex").write_text("years of work")
    (tmp_path / "x.partial").mkdir()
    before = contents(tmp_path)
    for _ in range(2):
        getattr(MODEL, save)(tmp_path)
    assert before.items() <= contents(tmp_path).items() and not (tmp_path / ".nash_jax").exists()
    np.testing.assert_array_equal(
        nash_jax.load(tmp_path).params["shared"]["embedding"], MODEL.params["shared"]["embedding"]
    )
    for name, entry in read_manifest(tmp_path).items():
        written = (tmp_path / name).read_bytes()
        hashes = {"sha256": hashlib.sha256(written).hexdigest(), "xxh3_128": xxhash.xxh3_128_hexdigest(written)}
        assert entry == {"size": len(written)} | hashes


def test_an_earlier_save_is_replaced(tmp_path):
    """What only the earlier one had is removed, unless someone changed it since."""
    fill(tmp_path, a="old", b="old", c="old", d__x="old", e__x="old")
    (tmp_path / "c").write_text("changed")
    (tmp_path / "d" / "note").write_text("mine")
    fill(tmp_path, a="new", f="new")
    found = {name: text for name, text in contents(tmp_path).items() if name != MANIFEST}
    assert found == {"a": b"new", "c": b"changed", "d": None, "d/note": b"mine", "f": b"new"}


def foreign(name):
    return lambda folder: (folder / name).write_text("mine")


@pytest.mark.parametrize(
    ("save", "make", "named"),
    [
        ("save", foreign("spec.json"), "spec.json"),
        ("save", foreign("params"), "params"),
        ("save", lambda folder: (folder / "params").symlink_to(folder.parent), "params"),
        ("save", lambda folder: (folder / "generation_config.json").mkdir(), "generation_config.json"),
        ("save_hf", foreign("config.json"), "config.json"),
        ("save_hf", foreign("model.safetensors"), "model.safetensors"),
        ("save_hf", foreign(MANIFEST), MANIFEST),
        ("save_hf", lambda folder: (folder / "config.json").symlink_to("nowhere"), "config.json"),
    ],
)
def test_a_file_of_another_origin_is_in_the_way(save, make, named, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    make(folder)
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"{named} was not written by nash_jax; expected a new folder"):
        getattr(MODEL, save)(folder)
    assert contents(tmp_path) == before


@pytest.mark.parametrize(("save", "name"), [("save_hf", "model.safetensors"), ("save", "generation_config.json")])
def test_a_file_that_another_program_has_written_since(save, name, tmp_path):
    """As when a model that was saved here has been trained further elsewhere, and saved to the same folder."""
    getattr(MODEL, save)(tmp_path)
    (tmp_path / name).write_text("days of training")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"{name} was changed since nash_jax wrote it; expected a new folder, or that"):
        getattr(MODEL, save)(tmp_path)
    assert contents(tmp_path) == before
    (tmp_path / name).rename(tmp_path / "moved_away")
    getattr(MODEL, save)(tmp_path)
    assert (tmp_path / "moved_away").read_text() == "days of training"


def test_the_name_of_the_staging_folder_is_taken(tmp_path):
    (tmp_path / ".nash_jax").mkdir()
    foreign(".nash_jax/mine")(tmp_path)
    with pytest.raises(UserError, match=r"\.nash_jax was not written by nash_jax; expected no such name"):
        MODEL.save(tmp_path)
    assert contents(tmp_path) == {".nash_jax": None, ".nash_jax/mine": b"mine"}


def test_folders_by_other_names(tmp_path, monkeypatch):
    """`.`, `..`, `~`, links to a folder that is there and to one that is not, and a folder that has to be made."""
    (tmp_path / "a" / "b").mkdir(parents=True)
    (tmp_path / "link").symlink_to("a")
    (tmp_path / "later").symlink_to("made")
    monkeypatch.chdir(tmp_path / "a" / "b")
    monkeypatch.setenv("HOME", str(tmp_path))
    for number, name in enumerate([".", "..", "~/x", "../../link", "../../later", "new/er", tmp_path / "p"]):
        fill(name, **{f"file{number}": "1"})
    found = {path for path, text in contents(tmp_path).items() if text == b"1"}
    assert found == {"a/b/file0", "a/file3", "x/file2", "made/file4", "a/b/new/er/file5", "p/file6"}
    assert (tmp_path / "link").is_symlink() and (tmp_path / "later").is_symlink()


@pytest.mark.parametrize(
    ("folder", "says"),
    [
        (None, "the folder is None; expected a path"),
        (3, "the folder is 3; expected a path"),
        ("", "the folder is ''; expected a path"),
        ("a\0b", "is no path: .*null.*; expected a folder to write to"),
        ("~nobody-of-this-name/x", "is no path: "),
        ("file", "file is not a folder; expected a folder to write to"),
        ("file/x", "cannot be written: Not a directory; expected a folder to write to and room in it"),
        ("loop", "loop"),
        ("/proc/none", "cannot be written: "),
        ("x" * 300, "File name too long"),
        ("a[1]", r"a\[1\] lies in a folder with \[ in its name; expected a name without \[, \* and \?"),
        ("a*/b", "lies in a folder with .* in its name"),
        ("a\\b", r"a\\b lies in a folder with a backslash in its name; expected a name without"),
        ("a\udcffb", r"lies in a folder whose name is not UTF-8; expected a name in UTF-8"),
        ("s3://bucket/x", "s3://bucket/x is a URL; expected a local or mounted file or folder"),
    ],
)
@pytest.mark.parametrize("save", SAVES)
def test_no_folder_to_write_to(save, folder, says, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "file").write_text("mine")
    (tmp_path / "loop").symlink_to("loop")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=says):
        getattr(MODEL, save)(folder)
    assert contents(tmp_path) == before


def test_a_failed_save_leaves_everything_as_it_was(tmp_path):
    folder = tmp_path / "new" / "er"
    for _ in range(2):
        before = contents(tmp_path)
        with pytest.raises(UserError, match="cannot be written: No space left"), fill_folder(folder) as new:
            (new / "a").write_text("half")
            raise OSError(28, "No space left on device")
        assert contents(tmp_path) == before
        fill(folder, a="old")


def test_one_process_at_a_time(tmp_path):
    with fill_folder(tmp_path) as new:
        (new / "a").write_text("first")
        with pytest.raises(LockedError, match="is being written by another process; wait, or stop it"):
            fill(tmp_path, a="second")
    assert (tmp_path / "a").read_text() == "first"


KILLED = """
import os, sys
from pathlib import Path
from nash_jax.runtime.output_folder import fill_folder, is_host0

def save(folder, text, names):
    with fill_folder(folder) as new:
        for name in names:
            (new / name).parent.mkdir(exist_ok=True)
            (new / name).write_text(text)

is_host0()  # starts jax, before processes are forked
for step in range(200):
    folder, seen = Path(sys.argv[1]) / str(step), 0
    save(folder, "old", ["a", "b", "p/x"])
    if os.fork() == 0:
        def die(event, args):
            global seen
            if event in ("open", "os.mkdir", "os.rename", "os.remove", "os.rmdir", "shutil.rmtree"):
                if str(folder) in str(args[0]):
                    seen += 1
                    if seen > step:
                        os._exit(9)
        sys.addaudithook(die)
        save(folder, "new", ["a", "c", "p/y"])
        os._exit(0)
    if os.waitstatus_to_exitcode(os.wait()[1]) == 0:
        print(step)
        break
"""


def test_killed_at_every_step(tmp_path):
    """A save that is killed at any call to the file system has happened, or has not."""
    done = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], capture_output=True, text=True, timeout=LIMIT)
    steps = int(done.stdout)
    old = {"a": b"old", "b": b"old", "p": None, "p/x": b"old"}
    new = {"a": b"new", "c": b"new", "p": None, "p/y": b"new"}
    seen = []
    for step in range(steps + 1):
        folder = tmp_path / str(step)
        complete_save(folder)
        found = {n: t for n, t in contents(folder).items() if n != MANIFEST and not n.startswith(".nash_jax")}
        assert found in (old, new), step
        seen.append(found == new)
        fill(folder, a="last")
        assert contents(folder).keys() == {"a", MANIFEST}, step
    assert seen == sorted(seen) and seen[-1] and not seen[0] and sum(seen) > 5


@pytest.mark.parametrize("name", ["data", "export", "metrics.jsonl", "config.json", "report.html", "cells"])
def test_a_workdir_in_a_folder_of_other_things(name, tmp_path):
    if "." in name:
        (tmp_path / name).write_text('{"mine": 1}')
    else:
        (tmp_path / name).mkdir()
        (tmp_path / name / "tokenizer").write_text("mine")
    (tmp_path / "other").write_text("mine")
    before = contents(tmp_path)
    with pytest.raises(UserError, match=rf"{name} was not written by this version of nash_jax; expected a new folder"):
        Workdir(tmp_path, {"seed": 1})
    assert contents(tmp_path) == before


def test_a_workdir_beside_other_things(tmp_path):
    (tmp_path / "notes.txt").write_text("mine")
    Workdir(tmp_path, {"seed": 1}).run("data", lambda folder: {})
    assert (tmp_path / "notes.txt").read_text() == "mine"


def test_settings_of_another_program_beside_an_output(tmp_path):
    (tmp_path / "out.txt.settings.json").write_text(json.dumps({"theme": "dark"}))
    file = ResumableFile(tmp_path / "out.txt", {"model": "ab"})
    with pytest.raises(UserError, match=r"out.txt.settings.json was not written by nash_jax; expected"), file.open(1):
        pytest.fail("it would be overwritten")
    assert contents(tmp_path) == {"out.txt.settings.json": b'{"theme": "dark"}'}


def test_resolved(tmp_path):
    assert resolve_folder(os.fspath(tmp_path / "a" / "..")) == tmp_path.resolve()
