"""A grid of runs: its cells, its locks, and the real command in several processes, killed and started again."""

import dataclasses
import itertools
import json
import os
import re
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from commands import LIMIT, finish, kill_when, on_devices

from nash_jax.config.command_line import cell_commands
from nash_jax.config.derived import teacher_settings
from nash_jax.config.schema import Config, default_config
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.evaluation.row_statistics import load_statistics
from nash_jax.recipe.workdir import Workdir
from nash_jax.runtime.files import write_text
from nash_jax.runtime.locks import LockedError
from nash_jax.study.grid import read_cells
from nash_jax.study.runner import Study, check_failures
from nash_jax.training.writers import read_rows

ROOT = Path(__file__).resolve().parents[1]


def study(cells, **settings):
    config = default_config()
    config.update(settings)
    config.cells = cells
    return config


# -- cells ----------------------------------------------------------------------------------------------------


def test_cells_change_settings_and_seeds_make_one_each():
    two = {"method": "drop", "shorten": {"decoder_layers": 2}}
    config = study({"a": two | {"seeds": (1, 2)}, "b": {}, "c": {"seed": 9}}, prune={"epochs": 14.5})
    cells = read_cells(config)
    assert [(c.name, c.group, c.config.seed) for c in cells] == [
        ("a-s1", "a", 1), ("a-s2", "a", 2), ("b", "b", 57), ("c", "c", 9)
    ]  # fmt: skip
    assert [c.config.shorten.decoder_layers for c in cells] == [2, 2, 3, 3]
    assert {c.config.prune.epochs for c in cells} == {14.5}  # as --config.prune.epochs sets it: for all of them
    assert read_cells(config) == cells  # which reading leaves as it is


BROKEN = {
    r"cell a: config\.prune\.sparsty is not a setting \(did you mean 'sparsity'\?\)": {
        "a": {"prune": {"sparsty": 0.5}}
    },
    r"cell a: config\.prune\.sparsity is 1\.5; expected a share": {"a": {"prune": {"sparsity": 1.5}}},
    r"cell a: .*batch_size.*; expected settings as nash_jax/config/schema\.py": {"a": {"prune": {"batch_size": "big"}}},
    r"cell a: .*; expected settings as nash_jax/config/schema\.py": {"a": {"prune": 0.5}},
    r"cell a: seeds is 57; expected whole numbers": {"a": {"seeds": 57}},
    r"cell a: .*; expected settings": {"a": {"seeds": (57, "b")}},
    r"cell a is 3; expected the settings that it changes": {"a": 3},
    r"cell 'a/b': not a name for a folder": {"a/b": {}},
    r"cell 'a b': not a name": {"a b": {}},
    r"cell '': not a name": {"": {}},
    r"cell a-s1: named twice": {"a": {"seeds": (1, 2)}, "a-s1": {}},
    r"cell a-s1: named twice; expected names and seeds that make a folder each": {"a": {"seeds": (1, 1)}},
    r"config\.cells is \{\}; expected cells by name": {},
    r"config\.cells is 'a'; expected cells by name": "a",
}


@pytest.mark.parametrize("message", BROKEN)
def test_a_mistake_in_a_cell_names_it(message):
    with pytest.raises(UserError, match=f"^{message}"):
        read_cells(study(BROKEN[message]))


def test_commands_are_the_command_line_with_a_cell():
    argv = ["main.py", "--config", "my configs/a.py:small one", "--list-cells", "--workdir=a b", "--config.seed=1"]
    kept = ["python", "-m", "nash_jax.main", *(arg for arg in argv[1:] if arg != "--list-cells")]
    commands = cell_commands(argv, ["x-1", "y+2"])
    assert [shlex.split(line) for line in commands] == [[*kept, "--cell=x-1"], [*kept, "--cell=y+2"]]
    for flag in ("-list-cells", "--list-cells=true", "--list-cells"):
        assert cell_commands(["main.py", flag, "--workdir=list-cells"], ["x"]) == [
            "python -m nash_jax.main --workdir=list-cells --cell=x"
        ]


def test_cells_are_listed_to_who_stops_reading():
    ends, stdout = os.pipe()
    os.close(ends)
    command = [sys.executable, "-m", "nash_jax.main", "--config=configs/study.py", "--list-cells"]
    done = subprocess.run(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True)
    os.close(stdout)
    assert (done.returncode, done.stderr) == (0, "")


def test_runs_share_a_teacher_if_it_would_be_the_same():
    base = Config()

    def changed(group, **values):
        return dataclasses.replace(base, **{group: dataclasses.replace(getattr(base, group), **values)})

    alike = [dataclasses.replace(base, method="cofi", stages="prune"), changed("shorten", decoder_layers=1)]
    alike += [changed("prune", batch_size=4), changed("retrain", epochs=1.0), changed("benchmark", runs=2)]
    others = [dataclasses.replace(base, seed=1), changed("task", name="xsum"), changed("model", d_model=8)]
    others += [changed("finetune", epochs=1.0), changed("evaluate", num_beams=4)]
    assert {teacher_settings(config) for config in alike} == {teacher_settings(base)}
    assert len({teacher_settings(config) for config in [base, *others]}) == 1 + len(others)
    assert teacher_settings(base).finetune == base.finetune and teacher_settings(base).seed == base.seed


def test_failures_are_said():
    check_failures(Path("runs/x"), {"a": "done", "b": "waiting", "c": "running"})
    with pytest.raises(UserError, match=r"^2 of 3 cells failed: b, c; runs/x/cells/NAME/failed says why, and the same"):
        check_failures(Path("runs/x"), {"a": "done", "b": "failed: 1", "c": "failed: 2"})


# -- folders and locks ----------------------------------------------------------------------------------------

HOLD = """
import sys, time
from nash_jax.recipe.workdir import Workdir

with Workdir(sys.argv[1], {"seed": 1}).locked():
    print("held", flush=True)
    sys.stdin.readline()
"""


@pytest.fixture
def hold():
    """`hold(folder)` → another process that works in the folder until a line comes or it dies."""
    processes = []

    def start(folder: Path) -> subprocess.Popen[str]:
        command = [sys.executable, "-c", HOLD, str(folder)]
        process = subprocess.Popen(command, cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE)
        processes.append(process)
        assert process.stdout.readline() == "held\n"
        return process

    yield start
    for process in processes:
        process.kill()
        process.communicate()


def test_a_folder_is_one_process_s_until_it_dies(hold, tmp_path, capsys):
    workdir = Workdir(tmp_path, {"seed": 1})
    assert not workdir.is_locked()
    with workdir.locked():
        assert not (tmp_path / "data").exists()
    other = hold(tmp_path)
    assert workdir.is_locked()
    said = rf"{tmp_path} is locked by process {other.pid} on .+; expected one process at a time"
    with pytest.raises(LockedError, match=said), workdir.locked():
        pytest.fail("the folder is held")
    other.send_signal(signal.SIGKILL)
    other.wait()
    assert not workdir.is_locked()
    with workdir.locked():
        pass
    assert capsys.readouterr().err == ""


def test_who_waits_comes_next(hold, tmp_path, capfd):
    other = hold(tmp_path)
    waiting = subprocess.Popen(
        [sys.executable, "-c", HOLD.replace("locked()", "locked(wait=True)"), str(tmp_path)],
        cwd=ROOT, text=True, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    assert f"waiting for process {other.pid} on " in waiting.stderr.readline()
    assert waiting.poll() is None
    other.communicate("go\n")
    assert waiting.stdout.readline() == "held\n"
    with pytest.raises(LockedError, match=f"process {waiting.pid} "), Workdir(tmp_path, {"seed": 1}).locked():
        pytest.fail("the folder is held")
    waiting.communicate("go\n")


def test_looking_whether_it_is_held_keeps_nobody_out(tmp_path):
    """A look takes the lock for a moment, and one comes with every cell that ends elsewhere."""
    look = "import sys\nfrom nash_jax.recipe.workdir import Workdir\nwhile True: Workdir(sys.argv[1], {}).is_locked()"
    looking = subprocess.Popen([sys.executable, "-c", look, str(tmp_path)], cwd=ROOT)
    try:
        workdir = Workdir(tmp_path, {})
        while not (tmp_path / ".lock").exists():
            time.sleep(0.01)
        for _ in range(300):
            with workdir.locked():
                pass
    finally:
        looking.kill()
        looking.wait()


def test_settings_of_a_folder_are_those_of_who_works_in_it(hold, tmp_path):
    """One who comes with other settings before a stage is done is refused, and does not change them."""
    hold(tmp_path)
    late = Workdir(tmp_path, {"seed": 2})
    with pytest.raises(LockedError), late.locked():
        pytest.fail("the folder is held")
    assert json.loads((tmp_path / "config.json").read_text())["seed"] == 1


def test_settings_are_looked_at_again_once_it_is_free(tmp_path):
    first, late = Workdir(tmp_path, {"seed": 1}), Workdir(tmp_path, {"seed": 2})
    with first.locked():
        first.run("data", lambda folder: {})
    with pytest.raises(UserError, match=r"holds a run with config\.seed=1, not 2"), late.locked():
        pytest.fail("the folder is another run's")
    assert not first.is_locked()


def test_two_come_to_a_folder_again_and_again(tmp_path):
    come = "import sys\nfrom nash_jax.recipe.workdir import Workdir\nprint(flush=True)\nsys.stdin.readline()\n"
    come += "for i in range(1000): Workdir(sys.argv[1], {'seed': 1})"
    command = [sys.executable, "-c", come, str(tmp_path)]
    pair = [subprocess.Popen(command, cwd=ROOT, stdin=subprocess.PIPE, stdout=subprocess.PIPE) for _ in range(2)]
    for process in pair:
        process.stdout.readline()  # ready
    for process in pair:
        process.stdin.close()  # go
    assert [process.wait(LIMIT) for process in pair] == [0, 0]
    for process in pair:
        process.stdout.close()
    (file,) = tmp_path.iterdir()
    assert json.loads(file.read_text())["seed"] == 1


def test_shared_stages_lie_in_the_other_folder(tmp_path):
    teacher = Workdir(tmp_path / "teacher", {"seed": 1})
    teacher.run("data", lambda folder: {"rows": 3})
    own = Workdir(tmp_path / "own", {"seed": 1, "method": "drop"}, {"data": teacher})
    assert own.run("data", lambda folder: pytest.fail("it is done"))["rows"] == 3
    assert own.stage("data") == teacher.stage("data") and own.result("data")["rows"] == 3
    own.run("prune", lambda folder: {"steps": 1})
    assert [p.name for p in (tmp_path / "own").iterdir() if p.is_dir()] == ["prune"]
    assert own.results(("data", "prune", "export")).keys() == {"data", "prune"}
    for workdir in (teacher, own):
        write_text(workdir.folder / "metrics.jsonl", "")
    assert own.files("metrics.jsonl") == [tmp_path / "teacher" / "metrics.jsonl", tmp_path / "own" / "metrics.jsonl"]


def test_state_of_a_cell_and_other_settings(hold, tmp_path):
    cells = read_cells(study({"a": {"method": "drop"}, "b": {}}))
    grid = Study(cells, tmp_path)
    folder = tmp_path / "cells" / "a"
    assert grid.gather()["states"] == {"a": "waiting", "b": "waiting"}
    folder.mkdir(parents=True)
    (folder / "failed").write_text("Traceback\n  …\nValueError: no\n")
    assert grid.state(cells[0]) == "failed: ValueError: no"
    other = hold(folder)
    assert grid.state(cells[0]) == "running"
    other.kill()
    other.wait()
    Workdir(folder, {"seed": 1}).run("shorten", lambda folder: {})
    with pytest.raises(UserError, match="holds a run with"):
        Study(cells, tmp_path)


def test_who_gathers_last_has_seen_all(tmp_path):
    """A cell fails while another gathers: it is in the tables of the one that waited for them."""
    grid = Study(read_cells(study({"a": {}})), tmp_path)
    gather = (
        "import sys\nfrom test_study import *\nprint('begun', flush=True)\n"
        "print(Study(read_cells(study({'a': {}})), sys.argv[1]).gather()['states'])"
    )
    with grid.workdir.locked():
        process = subprocess.Popen(
            [sys.executable, "-c", gather, str(tmp_path)], cwd=ROOT / "tests", text=True,
            env=os.environ | {"PYTHONPATH": str(ROOT)}, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
        )  # fmt: skip
        while "waiting for" not in process.stderr.readline():
            assert process.poll() is None
        (tmp_path / "cells" / "a").mkdir(parents=True)
        write_text(tmp_path / "cells" / "a" / "failed", "no")
    output = finish(process)
    assert output.splitlines()[-1] == "{'a': 'failed: no'}"


# -- the command itself ---------------------------------------------------------------------------------------

WORDS = ("cat", "act", "tac", "bat", "tab", "cab")  # of one length: one shape of batches, one program to compile
STEPS = 81  # of the teacher, with 9 checkpoints
GRID = """
from pathlib import Path
from nash_jax.config.schema import default_config

def get_config():
    here = Path(__file__).parent
    config = default_config()
    config.method = "drop"
    config.task.update(name="letters", source="files", prefix="", metric="exact_match", tokenizer=f"{here}/tokenizer")
    config.task.update({f"{split}_file": f"{here}/words.jsonl" for split in ("train", "validation", "test")})
    config.task.update(max_source_length=8, max_target_length=8, max_new_tokens=4)
    config.model.update(d_model=8, d_ff=8, num_heads=2, encoder_layers=2, decoder_layers=2)
    config.finetune.update(epochs=27.0, eval_every=3.0, batch_size=2)
    config.prune.batch_size = 2
    config.retrain.update(epochs=4.0, eval_every=2.0, batch_size=2)
    config.shorten.decoder_layers = 1
    config.benchmark.update(source_length=4, new_tokens=(4,), batch_sizes=(1,))
    config.cells = {
        "encoder": {"shorten": {"encoder_layers": 1}},
        "nan": {"retrain": {"learning_rate": 1e30}},
        "none": {"method": "none", "retrain": {"epochs": 0.0}},
        "one": {},
    }
    return config
"""
CELLS = ("encoder", "nan", "none", "one")
NOT_FINITE = r"the loss is (nan|inf) at step \d+ of retrain; expected a finite one"


@pytest.fixture(scope="module")
def command(tmp_path_factory):
    """`command(workdir, *flags)` → arguments and environment of the main command on the grid."""
    place = tmp_path_factory.mktemp("grid")
    (place / "grid.py").write_text(GRID)
    rows = [{"document": word, "summary": " ".join(word.upper())} for word in WORDS]
    (place / "words.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    known = [{"source": row["document"], "references": [row["summary"]]} for row in rows]
    build_pronunciation_tokenizer(known).save_pretrained(place / "tokenizer")
    environment = os.environ | on_devices(1) | {"PYTHONPATH": str(ROOT), "PYTHON": sys.executable}

    def make(workdir: Path, *flags: str) -> dict:
        args = [f"--config={place / 'grid.py'}", f"--workdir={workdir}", "--config.benchmark.runs=2", *flags]
        return {"args": [sys.executable, "-m", "nash_jax.main", *args], "env": environment, "text": True}

    return make


def start(command: dict) -> subprocess.Popen[str]:
    return subprocess.Popen(**command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT)


def worker(processes: list[subprocess.Popen[str]], folder: Path) -> subprocess.Popen[str]:
    """Which of them works in the folder."""
    (found,) = [p for p in processes if f"process {p.pid} on " in (folder / ".holder").read_text()]
    return found


def kill_in(processes: list[subprocess.Popen[str]], folder: Path, condition) -> subprocess.Popen[str]:
    """SIGKILL to the one that works in the folder, once the condition holds; → the one that is left."""
    while not condition():
        assert all(p.poll() is None for p in processes)
        time.sleep(0.001)
    hit = worker(processes, folder)
    kill_when(hit, lambda: True)
    (left,) = [p for p in processes if p is not hit]
    return left


def markers(workdir: Path) -> dict[Path, int]:
    return {path: path.stat().st_mtime_ns for path in workdir.rglob("done")}


def check_grid(workdir: Path) -> None:
    """Three cells done, one failed; one teacher, trained once; the tables hold what is done."""
    found = json.loads((workdir / "study.json").read_text())
    assert [record["cell"] for record in found["records"]] == ["encoder", "none", "one"]
    assert {name: state.partition(":")[0] for name, state in found["states"].items()} == {
        "encoder": "done", "nan": "failed", "none": "done", "one": "done"
    }  # fmt: skip
    assert re.search(NOT_FINITE, (workdir / "cells" / "nan" / "failed").read_text())
    assert not (workdir / "cells" / "nan" / "retrain" / "done").exists()
    (teacher,) = (workdir / "teachers").iterdir()
    steps = [(row["phase"], row["step"]) for row in read_rows(teacher / "metrics.jsonl")]
    assert {phase for phase, _ in steps} == {"finetune"}
    assert all(a < b for (_, a), (_, b) in itertools.pairwise(steps)) and steps[-1][1] == STEPS
    for name in ("encoder", "none", "one"):
        stages = {path.parent.name for path in (workdir / "cells" / name).glob("*/done")}
        assert stages == {"shorten", "prune", "compact", "retrain", "evaluate", "benchmark", "export"}
    assert {row["runs"] for record in found["records"] for row in record["benchmark"]} == {2}  # the flag reaches all
    dense = {json.dumps(record["metrics"]["dense"], sort_keys=True) for record in found["records"]}
    assert len(dense) == 1  # one teacher
    rows = (workdir / "tables" / "quality.csv").read_text().splitlines()
    assert len(rows) == 1 + 4  # the dense model and three cells


@pytest.mark.full
def test_two_processes_killed_and_started_again(command, tmp_path):
    """One is killed while it trains the teacher, one in a cell; whoever is left goes on, and nothing is done twice."""
    workdir = tmp_path / "study"
    teachers, cells = workdir / "teachers", workdir / "cells"

    def training() -> bool:
        return any(r["step"] >= 9 for path in teachers.glob("*/metrics.jsonl") for r in read_rows(path))

    pair = [start(command(workdir)), start(command(workdir))]
    while not list(teachers.glob("*/.holder")):
        time.sleep(0.01)
    (teacher,) = teachers.iterdir()
    left = kill_in(pair, teacher, training)
    assert not (teacher / "finetune" / "done").exists()

    pair = [left, start(command(workdir))]
    left = kill_in(pair, cells / "one", (cells / "one" / "compact" / "done").exists)
    assert not (cells / "one" / "report.json").exists()
    taught = (teacher / "finetune" / "done").stat().st_mtime_ns
    output = finish(left, 2)
    assert re.search(rf"nan: failed: {NOT_FINITE}", output) and "Traceback" not in output
    before = markers(workdir)

    output = finish(start(command(workdir)), 2)
    assert [re.search(rf"cell {name} .*: (done|failed|waiting)", output)[1] for name in ("encoder", "nan", "none")] == [
        "done", "failed", "done"
    ]  # fmt: skip
    assert output.splitlines()[-1] == (
        f"error: 1 of 4 cells failed: nan; {workdir}/cells/NAME/failed says why, and the same command tries them again"
    )
    after = markers(workdir)
    assert before.items() <= after.items() and after[teacher / "finetune" / "done"] == taught
    check_grid(workdir)

    finish(start(command(workdir, "--cell=one")))  # done, whatever the others are
    assert markers(workdir) == after


@pytest.mark.slow
def test_gnu_parallel_runs_each_cell_once(command, tmp_path):
    """launch/study_parallel.sh, with the teachers made before, as where machines do not share locks."""
    if shutil.which("parallel") is None:
        pytest.skip("GNU parallel is not installed: apt-get install parallel")
    workdir = tmp_path / "study"
    finish(start(command(workdir, "--config.stages=data,finetune")))
    before = markers(workdir)
    assert {path.parent.name for path in before} == {"data", "finetune"}

    grid = command(workdir)
    launcher = ["bash", str(ROOT / "launch" / "study_parallel.sh"), *grid["args"][3:]]
    output = finish(start(grid | {"args": launcher, "env": grid["env"] | {"JOBS": "2"}}), 1)  # as many as failed
    assert before.items() <= markers(workdir).items()
    check_grid(workdir)
    for name in CELLS:
        begun = [line for line in output.splitlines() if re.match(rf"{name}\t.*\bretrain …", line)]
        assert len(begun) == 1, output
    assert re.search(rf"nan\terror: {NOT_FINITE}", output) and "worked on" not in output


TRIED = """
import json, runpy
from pathlib import Path

def get_config():
    here = Path(__file__).parent
    config = runpy.run_path(GRID)["get_config"]()
    config.finetune.update(epochs=3.0, eval_every=9.0)
    config.retrain.update(epochs=1.0, eval_every=9.0)
    config.trials = {"retrain": {"learning_rate": (1e30, 1e-3)}}
    config.cells = {"one": {"seeds": (1, 2)}}
    contrast = {"name": "kept", "a": "one", "b": "dense", "predicted": "within 5", "date": "2026-11-29"}
    (here / "contrasts.json").write_text(json.dumps([contrast]))
    config.contrasts = str(here / "contrasts.json")
    return config
"""


@pytest.mark.full
@pytest.mark.slow
def test_the_best_trial_is_run_to_its_end_and_for_the_other_seeds(command, tmp_path):
    """A trial diverges; the other is chosen and alone sees the test rows, of which statistics are kept."""
    own, workdir = command(tmp_path), tmp_path / "study"
    (tmp_path / "tried.py").write_text(TRIED.replace("GRID", repr(own["args"][3].removeprefix("--config="))))
    own["args"][3:5] = [f"--config={tmp_path / 'tried.py'}", f"--workdir={workdir}"]
    finish(start(own))
    found = json.loads((workdir / "study.json").read_text())
    assert {name: state.partition(":")[0] for name, state in found["states"].items()} == {
        "one-t1-s1": "diverged", "one-t2-s1": "done", "one-s2": "done"
    }  # fmt: skip
    assert found["trials"]["one"]["chosen"] == 2 and found["trials"]["one"]["scores"][0] is None
    assert [(r["cell"], r["seed"], r["trials"]) for r in found["records"]] == [("one-t2-s1", 1, 2), ("one-s2", 2, 2)]
    settings = json.loads((workdir / "cells" / "one-s2" / "config.json").read_text())
    assert settings["seed"] == 2 and settings["retrain"]["learning_rate"] == 1e-3
    assert [path.parts[-3] for path in sorted(workdir.glob("cells/*/evaluate/statistics.npz"))] == [
        "one-s2",
        "one-t2-s1",
    ]
    (kept,) = found["contrasts"]
    assert (kept["n"], kept["done_before"], kept["metric"]) == (2, 0, "exact_match")
    assert kept["notes"] == ["fewer than 3 seeds: no interval and no verdict"]
    rows = load_statistics(workdir / "cells" / "one-s2" / "evaluate" / "statistics.npz")
    reported = found["records"][1]["metrics"]
    assert all(rows.values(m)["exact_match"] == reported[m]["exact_match"] for m in ("dense", "pruned"))
    first = markers(workdir)
    finish(start(own))
    assert markers(workdir) == first


@pytest.mark.full
def test_a_shape_is_timed(command, tmp_path):
    """The smallest shape there is, cut in two ways, at tiny lengths."""
    path = tmp_path / "shapes.py"
    path.write_text(
        "from nash_jax.config.schema import default_config\n\n"
        "def get_config():\n"
        "    config = default_config()\n"
        "    config.stages, config.method, config.model.preset = 'benchmark', 'drop', 't5-small'\n"
        "    config.benchmark.update(source_length=4, new_tokens=(2, 3), batch_sizes=(1,), runs=2)\n"
        "    config.cells = {'6-1': {'shorten': {'decoder_layers': 1}}, '6-9': {'shorten': {'decoder_layers': 9}}}\n"
        "    return config\n"
    )
    workdir, own = tmp_path / "study", command(tmp_path)
    own["args"] = [*own["args"][:3], f"--config={path}", f"--workdir={workdir}"]
    output = finish(start(own), 2)
    assert "1 of 2 cells failed: 6-9" in output
    (record,) = json.loads((workdir / "study.json").read_text())["records"]
    assert record["cell"] == "6-1" and record["model"] == "t5-small" and record["metrics"] == {}
    assert record["layers"]["decoder"] == {"dense": 6, "kept": [0]}
    timed = {(row["model"], row["new_tokens"]) for row in record["benchmark"]}
    assert timed == {("dense", 2), ("dense", 3), ("pruned", 2), ("pruned", 3)}
    assert not (workdir / "teachers").exists()
    assert "6-1" in (workdir / "tables" / "latency.csv").read_text()
    first = markers(workdir)
    finish(start(own | {"args": [*own["args"], "--cell=6-1"]}), 0)
    assert markers(workdir) == first
