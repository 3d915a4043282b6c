"""Files that are no longer what was written: never used without a word."""

import errno
import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
from commands import LIMIT, call

import nash_jax
from nash_jax import verify
from nash_jax.config.schema import TaskConfig
from nash_jax.data.pipeline import tokenize
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.recipe.workdir import Workdir
from nash_jax.report.result import read_report
from nash_jax.runtime.checksums import json_checksum
from nash_jax.runtime.command import storage_problem
from nash_jax.runtime.files import read_json, write_text
from nash_jax.runtime.output_folder import MANIFEST
from nash_jax.spec import ModelSpec, dense_spec
from nash_jax.testing import random_params
from nash_jax.training.checkpoint import Checkpointer
from nash_jax.training.writers import JsonlWriter, logged_rows
from nash_jax.tree import flatten, unflatten

ROWS = [{"source": "cat", "references": ["K AE T"]}, {"source": "tact", "references": ["T AE K T"]}]
TOKENIZER = build_pronunciation_tokenizer(ROWS)
SIZES = {"d_model": 8, "d_ff": 12, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
SPEC = dense_spec(vocab_size=len(TOKENIZER), **SIZES)


def flip(path, part=0.5):
    content = bytearray(path.read_bytes())
    content[int(len(content) * part)] ^= 1
    path.write_bytes(bytes(content))


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """An export, and within it the same model for transformers."""
    folder = tmp_path_factory.mktemp("saved") / "export"
    model = nash_jax.Seq2Seq(SPEC, random_params(SPEC), TOKENIZER)
    model.save(folder)
    model.save_hf(folder / "hf")
    return folder


@pytest.mark.parametrize("below", ["", "hf"])
def test_one_bit_of_any_file(saved, below, tmp_path, capsys):
    """Loading is refused with the name of the file; settings in text may be edited, which is said."""
    files = [p.relative_to(saved / below) for p in sorted((saved / below).rglob("*")) if p.is_file()]
    files = [file for file in files if file.parts[0] != "hf"]
    assert len(files) > 5
    for number, file in enumerate(files):
        folder = tmp_path / str(number)
        shutil.copytree(saved / below, folder)
        if not (folder / file).stat().st_size:
            continue
        flip(folder / file)
        capsys.readouterr()
        try:
            nash_jax.load(folder)
        except UserError as error:
            assert file.name in str(error) or file.name == "nash_jax.json", error
        else:
            assert f"note: {folder / file} was edited since it was saved" in capsys.readouterr().err


def test_a_file_is_gone_or_the_manifest_is_damaged(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "gone")
    shutil.rmtree(tmp_path / "gone" / "params" / "state" / "d")
    with pytest.raises(UserError, match=r"params/state/d/\w+ was changed since it was saved, or is missing"):
        nash_jax.load(tmp_path / "gone")
    shutil.copytree(saved / "hf", tmp_path / "hf")
    (tmp_path / "hf" / "nash_jax.json").write_text("{")
    with pytest.raises(UserError, match=r"nash_jax\.json is no manifest; expected the file as it was saved; copy the"):
        nash_jax.load(tmp_path / "hf")
    (tmp_path / "hf" / "nash_jax.json").unlink()  # as another program writes such folders
    assert nash_jax.load(tmp_path / "hf").spec == SPEC


@pytest.mark.parametrize("below", ["", "hf"])
def test_both_hashes(saved, below, tmp_path, capsys):
    """`load` compares XXH3, and SHA-256 where a manifest of version 1 has no other; `verify` compares both."""
    folder = shutil.copytree(saved / below, tmp_path / "copy", ignore=shutil.ignore_patterns("hf"))
    manifest = json.loads((folder / MANIFEST).read_text())
    name = max(manifest["files"], key=lambda name: manifest["files"][name]["size"])
    manifest["files"][name]["sha256"] = "0" * 64
    (folder / MANIFEST).write_text(json.dumps(manifest | {"checksum": json_checksum(manifest["files"])}))
    nash_jax.load(folder)
    assert verify.main(["verify", str(folder)]) == 2 and name in capsys.readouterr().out
    for entry in manifest["files"].values():
        del entry["xxh3_128"]
    (folder / MANIFEST).write_text(json.dumps(manifest | {"manifest_version": 1}))
    with pytest.raises(UserError, match=f"{name} was changed since it was saved"):
        nash_jax.load(folder)


def test_verifying_can_be_left_out(saved, tmp_path):
    shutil.copytree(saved, tmp_path / "export")
    flip(tmp_path / "export" / "nash_jax.json", 0.3)
    with pytest.raises(UserError, match=r"was changed since it was saved|is no manifest"):
        nash_jax.load(tmp_path / "export")
    assert nash_jax.load(tmp_path / "export", verify=False).spec == SPEC


def test_weights_that_are_no_numbers(tmp_path):
    flat = flatten(random_params(SPEC))
    flat["decoder/final_norm/scale"] = flat["decoder/final_norm/scale"] * np.float32(np.nan)
    nash_jax.Seq2Seq(SPEC, unflatten(flat)).save(tmp_path)
    with pytest.raises(UserError, match=r"decoder/final_norm/scale holds values that are inf or NaN; expected finite"):
        nash_jax.load(tmp_path)


@pytest.mark.parametrize("name", ["done", "masks.safetensors"])
def test_a_stage_that_was_changed(tmp_path, name):
    def work(folder):
        (folder / "masks.safetensors").write_bytes(b"0123456789")
        return {"expected_encoder_sparsity": 0.3125}

    Workdir(tmp_path, {"seed": 1}).run("prune", work)
    assert Workdir(tmp_path, {"seed": 1}).result("prune")["expected_encoder_sparsity"] == 0.3125
    path = tmp_path / "prune" / name
    path.write_bytes(path.read_bytes().replace(b"3125", b"3126").replace(b"789", b"780"))
    with pytest.raises(UserError, match=rf"prune/{name} was changed or is damaged; expected .*; delete .*prune to do"):
        Workdir(tmp_path, {"seed": 1}).result("prune")


@pytest.mark.parametrize("content", ["", "{", "[]", "null", "3", '"x"', "{}", '{"checksums": 3}', "[" * 10**5, "\0"])
def test_a_marker_that_is_none(tmp_path, content):
    Workdir(tmp_path, {"seed": 1}).run("data", lambda folder: {"rows": 3})
    (tmp_path / "data" / "done").write_text(content)
    with pytest.raises(UserError, match=r"data/done was changed or is damaged"):
        Workdir(tmp_path, {"seed": 1}).result("data")


def log_phases(folder):
    """A run of two phases that log rows; what their stages returned."""
    writer, workdir = JsonlWriter(folder / "metrics.jsonl"), Workdir(folder, {"seed": 1})
    for phase in ("finetune", "prune"):
        for step in (1, 2):
            writer.write(phase, step, {"loss": 0.25})
        workdir.run(phase, lambda folder, phase=phase: {"rows_checksum": writer.checksum(phase)})
    return workdir.results(("finetune", "prune"))


@pytest.mark.parametrize(
    ("change", "lost"),
    [
        (lambda text: text.replace('"finetune", "step": 1, "loss": 0.25', '"finetune", "step": 1, "loss": 0.26'), 1),
        (lambda text: text[: len(text) // 4], 2),
        (lambda text: text.replace("finetune", "prune"), 2),
        (lambda text: "", 2),
        (lambda text: text, 0),
    ],
)
def test_logged_rows_that_were_changed(tmp_path, capsys, change, lost):
    """They are in no report, which is said; rows of other phases are."""
    stages, path = log_phases(tmp_path), tmp_path / "metrics.jsonl"
    path.write_text(change(path.read_text()))
    rows = logged_rows([path], stages)
    assert len(rows) == 2 * (2 - lost)
    said = capsys.readouterr().err
    assert ("metrics.jsonl: rows of finetune" in said) == bool(lost)
    done = call(verify.main, str(tmp_path))
    assert done.returncode == (2 if lost else 0)
    assert ("metrics.jsonl was changed or is damaged: rows of finetune" in done.stdout) == bool(lost)


def test_a_line_that_is_no_row(tmp_path):
    """The last one may be of a run that was killed, not of one that is done."""
    log_phases(tmp_path)
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"phase": "pru')
    assert call(verify.main, str(tmp_path)).returncode == 0
    write_text(tmp_path / "report.json", "{}")
    done = call(verify.main, str(tmp_path))
    assert done.returncode == 2 and "metrics.jsonl was changed or is damaged: rows of no phase" in done.stdout


def test_edited_settings_are_said(saved, tmp_path):
    """They may be edited; what is no JSON any more is damaged."""
    shutil.copytree(saved / "hf", tmp_path / "hf")
    config = tmp_path / "hf" / "config.json"
    config.write_text(config.read_text().replace("0.1", "0.2"))
    done = call(verify.main, str(tmp_path))
    assert done.returncode == 0 and f"edited   {config} since it was saved, which is allowed\n" in done.stdout
    config.write_text("{")
    done = call(verify.main, str(tmp_path))
    assert done.returncode == 2 and f"damaged  {config} is not JSON" in done.stdout


def test_a_report_that_was_changed(tmp_path):
    report = {"metrics": {"dense": {"rouge2": 0.125}}}
    write_text(tmp_path / "report.json", json.dumps(report | {"checksum": json_checksum(report)}))
    assert read_report(tmp_path) == report
    write_text(tmp_path / "report.json", (tmp_path / "report.json").read_text().replace("0.125", "0.126"))
    with pytest.raises(
        UserError, match=r"report\.json was changed or is damaged; expected .*; delete .* writes it anew"
    ):
        read_report(tmp_path)
    assert call(verify.main, str(tmp_path)).returncode == 2


def test_damaged_tokenized_texts_are_made_again(tmp_path, capsys):
    task = TaskConfig(max_source_length=8, max_target_length=8)
    first = tokenize(ROWS, TOKENIZER, task, tmp_path)
    (folder,) = tmp_path.iterdir()
    for arrow in folder.glob("*.arrow"):
        flip(arrow)
    again = tokenize(ROWS, TOKENIZER, task, tmp_path)
    assert "is damaged; the texts are tokenized again" in capsys.readouterr().err
    for old, new in zip(first, again, strict=True):
        np.testing.assert_array_equal(old.ids, new.ids)


def test_command(saved, tmp_path):
    """What is damaged is listed, whatever its kind; nothing is changed."""
    run = tmp_path / "run"
    shutil.copytree(saved, run / "export")
    Workdir(run / "w", {"seed": 1}).run("data", lambda folder: {"rows": 3})
    checkpoints = Checkpointer(run / "w" / "finetune" / "checkpoints")
    checkpoints.save(1, {"w": np.zeros(3)}, {"seconds": 1.0}, (0.5,))
    checkpoints.close()
    done = call(verify.main, str(run))
    assert done.returncode == 0 and done.stdout.count("ok  ") == done.stdout.count("\n") == 4, done
    damaged = [
        run / "export" / "hf" / "model.safetensors", run / "w" / "data" / "done",
        run / "w" / "finetune" / "checkpoints" / "1" / "state" / "_METADATA",
    ]  # fmt: skip
    for path in damaged:
        flip(path)
    done = call(verify.main, str(run))
    assert done.returncode == 2 and done.stderr == "error: 3 of 4 are damaged; expected files as they were written\n"
    assert all(f"damaged  {path} was changed" in done.stdout for path in damaged)
    for names, says in (
        ([str(tmp_path / "none")], "holds nothing with checksums; expected the folder of an export, a run or a study"),
        ([], "command line: nothing is named; expected python -m nash_jax.verify FOLDER …"),
        (["--fast", str(run)], "command line: Unknown command line flag 'fast'"),
    ):
        done = call(verify.main, *names)
        assert done.returncode == 2 and says in done.stderr


def caused(text, cause):
    try:
        raise ValueError(text) from cause
    except ValueError as error:
        return error


@pytest.mark.parametrize(
    ("error", "says"),
    [
        (OSError(errno.ENOSPC, "No space left on device", "/w/a"), "/w/a: no space is left"),
        (OSError(errno.EDQUOT, "Disk quota exceeded"), "a file: the quota is used up"),
        (PermissionError(errno.EACCES, "Permission denied", "/w/b"), "/w/b: permission is denied"),
        (caused("half written", OSError(errno.EROFS, "Read-only file system", "/w/c")), "/w/c: it is read-only"),
        (
            ValueError('RESOURCE_EXHAUSTED: Error writing "/w/d": No space left on device [os_error_code="28"]'),
            "/w/d: no space is left",
        ),
        (ValueError("RESOURCE_EXHAUSTED: Out of memory allocating 123 bytes"), None),
        (MemoryError(), None),
        (KeyError("a"), None),
    ],
)
def test_what_a_file_system_refused(error, says):
    assert storage_problem(error) == says


@pytest.mark.parametrize(("number", "name"), [(signal.SIGINT, "Ctrl-C"), (signal.SIGTERM, "SIGTERM")])
def test_a_signal_ends_a_command_at_once(number, name):
    """Whatever a library makes of exceptions, and without waiting for its threads: they may write a checkpoint."""
    code = """
import signal, sys, threading
from nash_jax.runtime.command import run_command
signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell is started without
def run(argv):
    threading.Thread(target=threading.Event().wait).start()
    print("started", flush=True)
    while True:
        try:
            threading.Event().wait()
        except BaseException:
            raise RuntimeError("Event loop is closed") from None
sys.exit(run_command(run, sys.argv, "", ""))
"""
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "started\n"
    process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    assert process.returncode == 128 + number
    assert err == f"error: stopped by {name}; the same command continues from here\n"


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"encoder": 10**6}, "spec.encoder is 1,000,000 layers; expected no more than 1,024"),
        ({"vocab_size": 2**40}, "spec.vocab_size is 1,099,511,627,776; expected no more than 16,777,216"),
        ({"d_model": 10**9, "head_dim": 4}, "spec.d_model is 1,000,000,000; expected no more than 131,072"),
        ({"d_ff": 2**31}, "spec has a layer of 2,147,483,648 FFN units; expected no more than 1,048,576"),
    ],
)
def test_sizes_that_no_model_has(change, says):
    """Refused before anything of that size is made."""
    begun = time.monotonic()
    sizes = SIZES | {"vocab_size": 9} | change
    if "encoder" in change:
        sizes = SIZES | {"vocab_size": 9, "encoder_layers": change["encoder"]}
    with pytest.raises(UserError, match=says):
        dense_spec(**sizes)
    assert time.monotonic() - begun < LIMIT


def test_files_that_are_no_files(tmp_path):
    os.mkfifo(tmp_path / "config.json")
    with pytest.raises(
        UserError, match=r"config\.json is no file of settings; expected a regular file of up to 64 MiB"
    ):
        read_json(tmp_path / "config.json")
    with pytest.raises(UserError, match="not a model spec: RecursionError"):
        ModelSpec.from_json("[" * 10**5)
    (tmp_path / "deep.json").write_text('{"a":' * 10**5)
    with pytest.raises(UserError, match=r"deep\.json is not JSON: "):
        read_json(tmp_path / "deep.json")
    assert json.loads(SPEC.to_json())["d_model"] == 8
