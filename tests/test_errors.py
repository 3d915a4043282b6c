"""Mistakes at the command line: one line on stderr, exit status 2, no traceback; docs/errors.md knows each."""

import errno
import fcntl
import gzip
import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from commands import LIMIT, call
from families import save_as_others

from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.main import main
from nash_jax.recipe.workdir import Workdir
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.training.writers import read_rows

ROOT = Path(__file__).resolve().parents[1]
WORDS = ["cat", "act", "tac", "bat", "tab", "cab"]  # of one length: one shape of batches
LETTERS = """
from nash_jax.config.schema import default_config

def get_config():
    config = default_config()
    config.task.update(name="letters", source="files", prefix="", metric="exact_match", tokenizer="tokenizer")
    config.task.update(train_file="data/train.jsonl", validation_file="data/test.jsonl", test_file="data/test.jsonl")
    config.task.update(max_source_length=8, max_target_length=8, max_new_tokens=4)
    config.model.update(d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=2)
    for phase in (config.finetune, config.prune, config.retrain):
        phase.update(epochs=2.0, batch_size=4)
    config.prune.prepruning_epochs, config.prune.sparsity_warmup_epochs, config.shorten.decoder_layers = 0.0, 1.0, 1
    return config
"""
STUDY = """import runpy
def get_config(variant="small"):
    makers = {"small": dict, "large": dict}
    if variant not in makers:
        raise ValueError(f"no variant {variant!r}; one of {', '.join(makers)}")
    config = runpy.run_path("letters.py")["get_config"]()
    config.cells = {"a": {"prune": {"sparsity": 0.5}}, "b": {"prune": {"sparsty": 0.5}}}
    return config
"""
ROW = json.dumps({"document": "cat", "summary": "C A T"})
DATA = {
    "empty": [ROW, ROW, json.dumps({"document": "", "summary": "C A T"})],
    "broken": [ROW, ROW, '{"document": "cat", "summary": '],
    "train": [json.dumps({"document": word, "summary": " ".join(word.upper())}) for word in WORDS],
    "test": [json.dumps({"document": word, "summary": " ".join(word.upper())}) for word in ("bca", "tca")],
    "leak": [ROW, ROW.replace("cat", "bca")],
}


def make_models(folder: Path, tokenizer) -> None:
    """A tiny model in the hub's layout and as an export, and broken copies."""
    sizes = {"d_model": 8, "d_ff": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    spec = dense_spec(vocab_size=len(tokenizer), tied=False, dropout_rate=0.0, **sizes)
    model = Seq2Seq(spec, random_params(spec), tokenizer)
    save_as_others(model, folder / "sound")
    model.save(folder / "export")
    (folder / "export" / "nash_jax.json").unlink()
    Seq2Seq(spec, model.params).save(folder / "bare")
    for name in ("no_weights", "other_shape", "cut"):
        shutil.copytree(folder / "sound", folder / name)
    (folder / "no_weights" / "model.safetensors").unlink()
    config = json.loads((folder / "sound" / "config.json").read_text())
    (folder / "other_shape" / "config.json").write_text(json.dumps(config | {"d_model": 16}))
    weights = (folder / "sound" / "model.safetensors").read_bytes()
    (folder / "cut" / "model.safetensors").write_bytes(weights[: len(weights) // 2])
    text = (folder / "export" / "spec.json").read_text()
    (folder / "export" / "spec.json").write_text(text[: len(text) // 2])


@pytest.fixture(scope="module")
def place(tmp_path_factory) -> Path:
    """A folder to work in: config, tokenizer, data and models, sound and broken."""
    place = tmp_path_factory.mktemp("place")
    for name in ("data", "models", "tokenizer"):
        (place / name).mkdir()
    (place / "letters.py").write_text(LETTERS)
    (place / "misspelt.py").write_text(LETTERS.replace("return", "config.prune.update(sparsty=0.5)\n    return"))
    (place / "study.py").write_text(STUDY)
    cells = 'config.cells, config.contrasts = {"none": {"method": "none"}, "drop-2": {"method": "drop"}}, ""'
    contrast = {"name": "n", "a": "drop-2", "b": "none", "predicted": "at least 0", "date": "2026-11-29"}
    (place / "many.json").write_text(json.dumps([contrast] * 5))
    (place / "other.json").write_text(json.dumps([contrast | {"a": "drop-3"}]))
    (place / "grid.py").write_text(LETTERS.replace("return", f"{cells}\n    return"))
    (place / "nothing.py").write_text("def get_config():\n    pass\n")
    (place / "reads.py").write_text("def get_config():\n    return open('sizes.json')\n")
    (place / "broken.py").write_text(LETTERS.replace("return config", "return confg"))
    for name, lines in DATA.items():
        (place / "data" / f"{name}.jsonl").write_text("".join(f"{line}\n" for line in lines))
    lines = (place / "data" / "train.jsonl").read_bytes().splitlines(keepends=True)
    parts = [gzip.compress(b"".join(part)) for part in (lines[:2], lines[2:])]  # parts may follow one another
    (place / "data" / "cut.jsonl.gz").write_bytes(parts[0] + parts[1][:12])
    tokenizer = build_pronunciation_tokenizer([{"source": w, "references": [" ".join(w.upper())]} for w in WORDS])
    tokenizer.save_pretrained(place / "tokenizer")
    make_models(place / "models", tokenizer)
    (place / "file").write_text("not a folder")
    return place


@pytest.fixture
def command(place, monkeypatch):
    """`command(*args)` → status and output of the main command, run in `place`."""
    monkeypatch.chdir(place)
    return lambda *args: call(main, *args)


def start(place: Path, *args: str) -> subprocess.CompletedProcess[str]:
    """A python of its own, run in `place` with a hub that does not answer."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("HF_")}
    environment["PYTHONPATH"] = str(ROOT)
    environment |= {
        "HF_HOME": "hub",  # an empty cache
        "HF_ENDPOINT": "http://127.0.0.1:9",  # nothing listens there: as without a network, also where there is one
    }
    return subprocess.run(
        [sys.executable, *args], cwd=place, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False
    )


def error_of(done: subprocess.CompletedProcess[str]) -> str:
    """The one line, after the checks that hold for every mistake."""
    assert done.returncode == 2, done.stderr
    assert "Traceback" not in done.stdout + done.stderr
    errors = [line for line in done.stderr.splitlines() if line.startswith("error: ")]
    assert len(errors) == 1 and done.stderr.endswith(f"{errors[0]}\n"), done.stderr
    assert "report:" not in done.stdout
    return errors[0]


SAYS = {  # mistake → what the line says; docs/make_errors.py reads it
    "no config": "error: no --config; expected --config=FILE; try --config=configs/quickstart.py",
    "config file missing": "error: --config: no file 'mine.py'; expected a config file such as configs/quickstart.py",
    "config file broken": "error: --config: broken.py:13: NameError: name 'confg' is not defined",
    "no variant": "error: --config: study.py:5: ValueError: no variant 'nope'; one of small, large",
    "no variants": "error: --config: letters.py: TypeError: get_config() takes 0 positional arguments but 1 was given",
    "no such argument": "error: --config=FILE:ARGUMENTS: 'modle' is no argument (did you mean 'model'?); expected mod",
    "config file returns nothing": "error: get_config() returned None; expected the ConfigDict that default_config() m",
    "config file reads what is not there": "earlier failure to load: [Errno 2] No such file or directory: 'sizes.json'",
    "misspelt setting in a cell": "error: cell b: config.prune.sparsty is not a setting (did you mean 'sparsity'?); e",
    "flag of a cell": "error: config.cells.drop-2.seeds: no flag changes this cell; change it in a config file (do",
    "too many contrasts": "error: many.json: 5 contrasts; expected 4 at most; keep those that matter: every furthe",
    "contrast of no cell": "error: other.json: contrast 'n': a is 'drop-3' (did you mean 'drop-2'?); expected dense,",
    "no such cell": "error: --cell=drop-3: no such cell (did you mean 'drop-2'?); expected one of drop-2, none",
    "no study": "error: --cell, --list-cells: letters.py is not a study; expected a config file that names cells",
    "misspelt setting": "error: config.prune.sparsty is not a setting (did you mean 'sparsity'?); expected one of a",
    "misspelt setting in the file": "config.prune.sparsty is not a setting (did you mean 'sparsity'?); expected one of",
    "misspelt flag": "error: command line: Unknown command line flag 'workdri'. Did you mean: workdir",
    "wrong type": "error: config.finetune.batch_size is 'big'; expected a whole number",
    "no flag": "error: command line: 'train' is not a flag; expected --config=FILE, --workdir=DIR, --config.field",
    "out of range": "error: config.prune.sparsity is 1.5; expected a share from 0 up to, not including, 1",
    "unknown choice": "error: config.task.metric is 'rogue' (did you mean 'rouge'?); expected one of rouge, transcri",
    "too many layers": "config.shorten.decoder_layers is 9; expected no more than config.model.decoder_layers, 2",
    "gates without time": "error: config.prune.epochs is 1, with prepruning_epochs 4 and sparsity_warmup_epochs 10; e",
    "gates of too many layers": "error: config.shorten.decoder_layers is 7; expected no more than the model's ",
    "misspelt stage": "config.stages names 'benchmrk' (did you mean 'benchmark'?); expected all, or some of data,fine",
    "stage before its input": "stage prune needs the result of shorten, which is not done in runs/letters; expected",
    "nothing to evaluate": "error: config.stages=evaluate without a model; expected config.model.init, a hub name or a",
    "no tokenizer beside the model": "the model 'models/bare' has no tokenizer; expected its files beside the weights,",
    "uneven batch": "error: config.finetune.batch_size is 6; expected a multiple of the 4 data-parallel devices",
    "workdir is a file": "error: workdir file/run cannot be written: Not a directory; expected a folder to write to",
    "workdir not writable": "error: workdir /proc cannot be written: ",
    "no locks": "error: runs/locked/.lock cannot be locked: Function not implemented; expected a file system with fil",
    "data file missing": "config.task.train_file: no file data/none.jsonl; expected an existing file",
    "empty row": "error: 2 of 3 train rows cannot be used: empty 1 (data/empty.jsonl:3: column 'document' holds ''), d",
    "broken row": "not_json 1 (data/broken.jsonl:3: not JSON: Expecting value at column 31)",
    "leaked row": "leaked 1 (data/leak.jsonl:2: 'bca' is the source of data/test.jsonl:1 too); expected no more than",
    "column missing": "data/test.jsonl:1 has columns ['document', 'summary'], not 'text'; expected the columns named",
    "rows without labels": "a row has no label words and the reference 'B C A'; expected the same `labels` in all rows",
    "gzip cut short": "error: data/cut.jsonl.gz:3: cannot be read: Compressed file ended before the end-of-stream",
    "no tokenizer": "error: no tokenizer; expected config.task.tokenizer, a config.model.init with a tokenizer",
    "tokenizer not on the hub": "error: tokenizer 'nowhere' is not a folder, and could not be downloaded from the hub",
    "hub unreachable": "error: model 'google-t5/t5-base' is not a folder, and could not be downloaded from the hub: ",
    "data set unreachable": "error: data set 'knkarthick/samsum' cannot be loaded: Couldn't reach",
    "no such model folder": "error: model: no folder './models/none'; expected a folder, or a name on the hub such as",
    "no weights": "error: models/no_weights has no model.safetensors (it has ['config.json', 'generation_config.js",
    "other shape": "models/other_shape: shared.weight has shape (11, 8), which does not fit config.json",
    "weights cut short": "error: models/cut/model.safetensors cannot be read: ",
    "damaged export": "error: models/export/spec.json: not a model spec: ",
    "batch larger than data": "config.finetune.batch_size is 64, with 6 training rows; expected no more than there are",
    "other settings": "error: runs/begun holds a run with config.seed=57, not 58; expected the settings it was started",
    "loss not finite": " of finetune; expected a finite one; lower the learning rate or look at the data near",
}
SAMSUM = f"--config={ROOT}/configs/samsum.py"
ARGS = {  # those that need nothing else but a command line
    "no config": [],
    "config file missing": ["--config=mine.py"],
    "config file broken": ["--config=broken.py"],
    "no variant": ["--config=study.py:nope"],
    "no variants": ["--config=letters.py:small"],
    "no such argument": [f"{SAMSUM}:modle=bart-base"],
    "config file returns nothing": ["--config=nothing.py"],
    "config file reads what is not there": ["--config=reads.py"],
    "misspelt setting in a cell": ["--config=study.py:large", "--list-cells"],
    "flag of a cell": ["--config=grid.py", "--config.cells.drop-2.seeds=(57,58)"],
    "too many contrasts": ["--config=grid.py", "--config.contrasts=many.json", "--list-cells"],
    "contrast of no cell": ["--config=grid.py", "--config.contrasts=other.json"],
    "no such cell": ["--config=grid.py", "--cell=drop-3"],
    "no study": ["--config=letters.py", "--list-cells"],
    "misspelt setting": ["--config=letters.py", "--config.prune.sparsty=0.3"],
    "misspelt setting in the file": ["--config=misspelt.py"],
    "misspelt flag": ["--config", "letters.py", "--workdri=here"],
    "wrong type": ["--config=letters.py", "--config.finetune.batch_size=big"],
    "no flag": ["--config=letters.py", "train"],
    "out of range": ["--config=letters.py", "--config.prune.sparsity=1.5"],
    "unknown choice": ["--config=letters.py", "--config.task.metric=rogue"],
    "too many layers": ["--config=letters.py", "--config.shorten.decoder_layers=9"],
    "gates without time": [
        "--config=letters.py",
        "--config.method=nash",
        "--config.prune.epochs=1",
        "--config.prune.prepruning_epochs=4",
        "--config.prune.sparsity_warmup_epochs=10",
    ],
    "gates of too many layers": [
        "--config=letters.py",
        "--config.method=nash_auto",
        "--config.shorten.decoder_layers=7",
        "--config.model.init=models/sound",
    ],
    "misspelt stage": ["--config=letters.py", "--config.stages=evaluate,benchmrk"],
    "stage before its input": ["--config=letters.py", "--config.stages=prune,compact"],
    "nothing to evaluate": ["--config=letters.py", "--config.stages=evaluate"],
    "no tokenizer beside the model": [
        "--config=letters.py",
        "--config.stages=evaluate",
        "--config.model.init=models/bare",
        "--config.task.tokenizer=",
    ],
    "workdir not writable": ["--config=letters.py", "--workdir=/proc"],
    "data file missing": ["--config=letters.py", "--config.task.train_file=data/none.jsonl"],
    "empty row": ["--config=letters.py", "--config.task.train_file=data/empty.jsonl"],
    "broken row": ["--config=letters.py", "--config.task.train_file=data/broken.jsonl"],
    "leaked row": ["--config=letters.py", "--config.task.train_file=data/leak.jsonl"],
    "column missing": ["--config=letters.py", "--config.task.source_column=text"],
    "rows without labels": ["--config=letters.py", "--config.task.metric=accuracy"],
    "gzip cut short": ["--config=letters.py", "--config.task.train_file=data/cut.jsonl.gz"],
    "no tokenizer": ["--config=letters.py", "--config.task.tokenizer="],
    "no weights": ["--config=letters.py", "--config.model.init=models/no_weights"],
    "other shape": ["--config=letters.py", "--config.model.init=models/other_shape"],
    "weights cut short": ["--config=letters.py", "--config.model.init=models/cut"],
    "damaged export": ["--config=letters.py", "--config.model.init=models/export"],
}
SOUND = ["--config=letters.py", "--config.model.init=models/sound"]  # nothing to compile for fresh parameters
HUB = {
    "tokenizer not on the hub": ["--config=letters.py", "--config.task.tokenizer=nowhere"],
    "hub unreachable": ["--config=letters.py", "--config.model.init=google-t5/t5-base"],
    "data set unreachable": [SAMSUM],
}


@pytest.mark.parametrize("mistake", ARGS)
def test_mistake(command, place, mistake):
    assert SAYS[mistake] in error_of(command(*ARGS[mistake]))
    assert not (place / "runs" / "letters" / "finetune").exists()  # it is found before anything is trained


ASK_HUB = """
import contextlib, io, json, sys, time
slept = []
time.sleep = slept.append
from nash_jax.main import main
for name, args in json.loads(sys.argv[1]).items():
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main(["main", *args])
    print(json.dumps([name, status, out.getvalue(), err.getvalue(), sum(slept)]))
"""


@pytest.fixture(scope="module")
def from_hub(place):
    """Mistake → what became of a command that needs the hub, and the seconds for which it would have waited."""
    done = start(place, "-c", ASK_HUB, json.dumps(HUB))
    assert done.returncode == 0, done.stderr
    rows = [json.loads(line) for line in done.stdout.splitlines()]
    return {name: (subprocess.CompletedProcess(HUB[name], *rest), slept) for name, *rest, slept in rows}


@pytest.mark.parametrize("mistake", HUB)
def test_hub_does_not_answer(from_hub, mistake):
    """It is hardly waited for; the line names the cache, files of one's own, and what needs no network."""
    done, slept = from_hub[mistake]
    assert slept < 10
    line = error_of(done)
    assert SAYS[mistake] in line
    for way_out in ("in the cache hub/", "configs/local.py", "configs/quickstart.py, which needs none"):
        assert way_out in line


def test_the_process_ends_with_the_status_and_one_line(place):
    """Of the real command; the other tests call it in this process."""
    done = start(place, "-m", "nash_jax.main", *ARGS["misspelt setting"])
    assert error_of(done).startswith(SAYS["misspelt setting"])
    assert done.stderr.count("\n") == 1


def test_a_command_leaves_nothing_to_the_next_one(command):
    """Flags of one call are not there in the next, nor is the config file that it read."""
    listed = command("--config=grid.py", "--list-cells", "--config.seed=3")
    assert listed.returncode == 0 and listed.stdout.count("--cell=") == 2
    assert command("--config=grid.py", "--list-cells").stdout.count("--config.seed") == 0
    assert SAYS["no config"] in error_of(command())


def test_batch_does_not_split_over_devices(command):
    assert SAYS["uneven batch"] in error_of(command("--config=letters.py", "--config.finetune.batch_size=6"))


def test_loss_is_not_finite_then_other_settings(command, place):
    flags = ("--workdir=runs/begun", "--config.finetune.learning_rate=1e30", "--config.finetune.eval_every=9")
    flags += ("--config.finetune.epochs=6",)
    line = error_of(command(*SOUND, *flags))
    assert SAYS["loss not finite"] in line
    step = int(re.search(r"the loss is (nan|inf) at step (\d)", line)[2])
    logged = [row["step"] for row in read_rows(place / "runs" / "begun" / "metrics.jsonl")]
    assert logged == list(range(1, step)) and step > 1
    assert SAYS["other settings"] in error_of(command(*SOUND, *flags, "--config.seed=58"))  # its data stage is done


def test_batch_larger_than_data(command, place):
    """Found before anything is trained, and put right in the same workdir."""
    large = [*SOUND, "--workdir=runs/large", "--config.finetune.batch_size=64"]
    assert SAYS["batch larger than data"] in error_of(command(*large))
    assert not (place / "runs" / "large" / "data" / "done").exists()


def test_help(command):
    done = command("--help")
    assert done.returncode == 0 and "--config=FILE" in done.stdout and not done.stderr


def test_a_folder_is_taken_once_a_stage_is_done(tmp_path):
    """A mistake that is found before may be put right in the same workdir."""
    Workdir(tmp_path, {"seed": 1, "task": {"name": "a"}})
    begun = Workdir(tmp_path, {"seed": 2, "task": {"name": "a"}})
    with begun.locked():
        begun.run("data", lambda folder: {"rows": 3})
    again = Workdir(tmp_path, {"seed": 2, "task": {"name": "a"}})
    assert again.run("data", lambda folder: {"rows": 4})["rows"] == 3
    with pytest.raises(UserError, match=r'holds a run with config.task.name="a", not "b"'):
        Workdir(tmp_path, {"seed": 2, "task": {"name": "b"}})
    (tmp_path / "config.json").write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not the settings of a run"):
        Workdir(tmp_path, {"seed": 2, "task": {"name": "a"}})


def test_workdir_in_a_file(place, monkeypatch):
    monkeypatch.chdir(place)
    with pytest.raises(UserError, match=re.escape(SAYS["workdir is a file"].removeprefix("error: "))):
        Workdir("file/run", {"seed": 1})


def test_a_file_system_without_locks(place, monkeypatch):
    """A marker file instead would outlive a killed run, which could then never go on."""

    def flock(*_):
        raise OSError(errno.ENOSYS, os.strerror(errno.ENOSYS))

    monkeypatch.chdir(place)
    monkeypatch.setattr(fcntl, "flock", flock)  # as Lustre answers where it is mounted without -o flock
    with pytest.raises(UserError, match=re.escape(SAYS["no locks"].removeprefix("error: "))):
        Workdir("runs/locked", {"seed": 1}).is_locked()


@pytest.mark.parametrize("name", ["no_weights", "other_shape", "cut", "export", "none"])
def test_load_says_the_same(place, monkeypatch, name):
    monkeypatch.chdir(place)
    says = {"none": "no such model folder", "cut": "weights cut short", "export": "damaged export"}
    found = SAYS[says.get(name, name.replace("_", " "))].removeprefix("error: ")
    with pytest.raises(UserError, match=re.escape(found)):
        load(f"./models/{name}" if name == "none" else f"models/{name}")


def test_every_mistake_is_tried():
    apart = {"uneven batch", "loss not finite", "batch larger than data", "other settings"}
    apart |= {"workdir is a file", "no locks", "no such model folder"}  # within this process
    assert set(ARGS) | set(HUB) | apart == set(SAYS)
