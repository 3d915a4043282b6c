"""metrics.jsonl through kills and resumes, progress without a terminal and on one, files that appear whole."""

import io
import json
import os
import socket
import time
from types import SimpleNamespace

import pytest
from commands import LIMIT

from nash_jax.benchmark import latency
from nash_jax.config.schema import BenchmarkConfig
from nash_jax.generation import batching
from nash_jax.runtime.files import write_text
from nash_jax.runtime.progress import ENOUGH, FIRST_BATCH, Progress
from nash_jax.training.writers import JsonlWriter, optional_writers, read_rows


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def row(phase, step, **values):
    return {"phase": phase, "step": step, **values}


# -- metrics.jsonl -----------------------------------------------------------------------------------------


def test_one_object_a_line_as_soon_as_written(path):
    writer = JsonlWriter(path)
    for step in (1, 2):
        writer.write("finetune", step, {"loss": 0.5 * step})
        assert [json.loads(line) for line in path.read_text().splitlines()][-1] == row(
            "finetune", step, loss=0.5 * step
        )
    writer.close()
    assert read_rows(path) == [row("finetune", 1, loss=0.5), row("finetune", 2, loss=1.0)]


def test_another_writer_appends(path):
    JsonlWriter(path).write("finetune", 1, {"loss": 1.0})
    JsonlWriter(path).write("prune", 1, {"loss": 2.0})
    assert read_rows(path) == [row("finetune", 1, loss=1.0), row("prune", 1, loss=2.0)]


def test_rewind_drops_later_rows_of_its_phase_alone(path):
    writer = JsonlWriter(path)
    for phase in ("finetune", "prune"):
        for step in (5, 10, 15):
            writer.write(phase, step, {"loss": float(step)})
    writer.rewind("prune", 10)
    kept = [row("finetune", s, loss=float(s)) for s in (5, 10, 15)] + [row("prune", s, loss=float(s)) for s in (5, 10)]
    assert read_rows(path) == kept
    writer.write("prune", 15, {"loss": 1.0})
    assert read_rows(path) == [*kept, row("prune", 15, loss=1.0)]
    writer.rewind("prune", 0)
    assert read_rows(path) == kept[:3]


def test_rewind_of_a_new_run(path):
    writer = JsonlWriter(path)
    writer.rewind("finetune", 0)
    assert path.read_text() == ""
    assert read_rows(path.with_name("none.jsonl")) == []


@pytest.mark.parametrize("cut", [1, 9, 30])
def test_last_line_cut_short_by_a_kill(path, cut):
    """It is left out when read, and gone after the rewind of the run that goes on."""
    writer = JsonlWriter(path)
    for step in (1, 2, 3):
        writer.write("finetune", step, {"loss": 0.25})
    whole = path.read_text()
    path.write_text(whole[:-cut])
    kept = [row("finetune", s, loss=0.25) for s in ((1, 2, 3) if cut == 1 else (1, 2))]
    assert read_rows(path) == kept
    writer.rewind("finetune", 2)
    writer.write("finetune", 3, {"loss": 0.25})
    assert path.read_text() == whole


def test_tensorboard_and_wandb_are_left_out_when_not_there(tmp_path, monkeypatch):
    monkeypatch.delenv("WANDB_PROJECT", raising=False)
    names = [type(writer).__name__ for writer in optional_writers(tmp_path)]
    assert names in ([], ["TensorBoardWriter"])
    assert (tmp_path / "tensorboard").exists() == bool(names)


# -- files that appear whole -------------------------------------------------------------------------------


def test_write_text_writes_beside_and_renames(tmp_path):
    path = tmp_path / "report.json"
    path.write_text("old")
    reader = path.open()  # opened before, it goes on reading the old file: the new one is another
    before = os.stat(path).st_ino
    write_text(path, "new")
    assert reader.read() == "old" and path.read_text() == "new"
    assert os.stat(path).st_ino != before
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]
    reader.close()


def test_a_failed_write_leaves_the_old_file(tmp_path):
    path = tmp_path / "done"
    write_text(path, "old")
    (tmp_path / f".done.{socket.gethostname()}.nash_jax").mkdir()
    with pytest.raises(IsADirectoryError):
        write_text(path, "new")
    assert path.read_text() == "old"


def test_half_a_surrogate_pair_is_written_as_its_escape(tmp_path):
    """JSON reads it back."""
    write_text(tmp_path / "done", json.dumps({"text": "a\ud800"}, ensure_ascii=False))
    assert json.loads((tmp_path / "done").read_text()) == {"text": "a\ud800"}


def test_what_a_killed_write_left_is_written_over(tmp_path):
    (tmp_path / f".done.{socket.gethostname()}.nash_jax").write_text("a long text that a killed run left")
    write_text(tmp_path / "done", "{}")
    assert (tmp_path / "done").read_text() == "{}"
    assert [p.name for p in tmp_path.iterdir()] == ["done"]


# -- progress ----------------------------------------------------------------------------------------------


class Terminal(io.StringIO):
    """A stream that says it is a terminal."""

    def isatty(self):
        return True


def test_plain_lines_elsewhere():
    stream = io.StringIO()
    progress = Progress("finetune", 4, 0, stream)
    for step in (1, 2, 3, 4):
        progress.update(step, lambda: "loss 0.500")
    progress.close()
    assert stream.getvalue() == "finetune: step 4/4, 0 s left, loss 0.500\n"  # the others came within ten seconds


class Clock:
    """Seconds that go by when told."""

    def __init__(self):
        self.now = 0.0

    def __call__(self):
        return self.now


def test_a_line_every_ten_seconds_with_the_time_left():
    stream, asked, clock = io.StringIO(), [], Clock()

    def describe():
        asked.append(1)
        return "loss 0.500"

    progress = Progress("prune", 100, 20, stream, clock=clock)  # resumed at step 20
    for step in range(28, 62, 8):
        clock.now += 2.4  # eight steps
        progress.update(step, describe)
    assert stream.getvalue() == "prune: step 60/100, 12 s left, loss 0.500\n"
    assert len(asked) == 1  # what is not shown is not made
    assert "\r" not in stream.getvalue() and "\x1b" not in stream.getvalue()


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_no_time_is_told_from_what_compiles(kind):
    stream, clock = kind(), Clock()
    progress = Progress("finetune", 1000, 0, stream, clock=clock)
    for step in range(1, 5):
        clock.now += 11
        progress.update(step, typical=False)
    assert "left" not in stream.getvalue()
    for step in range(5, 5 + ENOUGH):
        clock.now += 11 if step == 7 else 1  # a slow one among those that count
        progress.update(step)
    progress.update(100, typical=False)  # a new shape
    clock.now += 11
    progress.update(101)
    progress.close()
    assert stream.getvalue().count("left") >= 1
    assert f"{899 * 26 / 6:.0f} s left" in stream.getvalue()  # six steps counted, in 15 + 11 seconds


def test_a_bar_on_a_terminal():
    stream = Terminal()
    progress = Progress("retrain", 8, 2, stream)
    progress.update(8, lambda: "loss 0.250")
    progress.close()
    last = stream.getvalue().split("\r")[-1]
    assert "retrain" in last and "8/8" in last and "100%" in last
    assert "2/8" in stream.getvalue()


def test_nothing_left_to_do():
    stream = io.StringIO()
    Progress("prune", 8, 8, stream).close()
    assert stream.getvalue() == ""


def test_a_first_batch_that_compiles_for_long_says_so(monkeypatch):
    monkeypatch.setattr("nash_jax.runtime.progress._EVERY", 0.01)
    for stream in (io.StringIO(), Terminal()):
        progress = Progress("prune", 8, 0, stream)
        deadline = time.monotonic() + LIMIT
        with progress.first_batch():
            while "so far" not in stream.getvalue() and time.monotonic() < deadline:
                time.sleep(0.01)
        progress.close()
        assert "prune: " in stream.getvalue()
        assert f"{FIRST_BATCH}, 0 s so far" in stream.getvalue()


def test_a_quick_first_batch_says_nothing():
    stream = io.StringIO()
    with Progress("prune", 8, 0, stream).first_batch():
        pass
    assert stream.getvalue() == ""


@pytest.mark.parametrize(("shown", "expected"), [(None, True), (True, True), (False, False)])
def test_generation_says_so_unless_it_is_to_say_nothing(monkeypatch, capsys, shown, expected):
    monkeypatch.setattr("nash_jax.runtime.progress._EVERY", 0.01)
    bar = batching._DelayedProgress(8, shown)
    with bar.first_batch():
        time.sleep(0.2)
    bar.close()
    assert (f"generating: {FIRST_BATCH}" in capsys.readouterr().err) == expected


def test_a_long_benchmark_says_what_it_does(monkeypatch, capsys):
    monkeypatch.setattr("nash_jax.runtime.progress._EVERY", 0.01)
    for name in ("encoding_call", "generation_call"):
        monkeypatch.setattr(latency, name, lambda *_: lambda: time.sleep(0.2))
    engines = {"dense": SimpleNamespace(spec=SimpleNamespace(source_vocab_size=9))}
    config = BenchmarkConfig(batch_sizes=(2,), source_length=4, new_tokens=(3,), runs=1)
    assert [row["batch_size"] for row in latency.measure_latency(engines, config)] == [2]
    said = capsys.readouterr().err
    assert "benchmark: compiling, 0 s so far" in said and "benchmark: timing " in said
