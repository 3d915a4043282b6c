"""A run that is stopped and goes on in another number of processes comes to what it comes to in one go."""

import signal
import subprocess
from pathlib import Path

import pytest
from processes import COMMAND, PHASES, ROWS, SETTINGS, finish, losses, outcome, start, stop
from small_run import make_flags

EPOCHS = {f"{phase}.epochs": 2 for phase in PHASES}  # 8 steps each, a checkpoint every second one
STOPS = {"SIGKILL of one": (signal.SIGKILL, slice(-1, None)), "SIGTERM of all": (signal.SIGTERM, slice(None))}


class Run:
    """The command in a workdir of its own, with one cache of compiled programs for all of them."""

    def __init__(self, command: list[str], workdir: Path) -> None:
        self.command, self.workdir = command, workdir

    def start(self, processes: int) -> list[subprocess.Popen[str]]:
        cache = {
            "JAX_COMPILATION_CACHE_DIR": str(self.workdir.parent / "compiled"),
            "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        }
        return start([*self.command, f"--workdir={self.workdir}"], processes, 1, NASH_JAX_PEER_TIMEOUT="6", **cache)

    def stop(self, processes: int, phase: str, how: str) -> None:
        number, which = STOPS[how]
        started = self.start(processes)
        printed = stop(started, self.workdir / phase / "checkpoints", number, list(range(processes))[which])
        assert not (self.workdir / phase / "done").exists()
        assert all(process.returncode for process in started), printed


@pytest.fixture(scope="module")
def unbroken(tmp_path_factory: pytest.TempPathFactory) -> Run:
    place = tmp_path_factory.mktemp("numbers")
    run = Run([*COMMAND, *make_flags(place, ROWS, SETTINGS | EPOCHS)], place / "unbroken")
    finish(run.start(1))
    return run


def check(unbroken: Run, stops: dict[int, tuple[str, str]], last: int) -> None:
    """Stops a run in each number of processes in a phase, ends it in the last number, and compares it."""
    run = Run(unbroken.command, unbroken.workdir.with_name(" ".join(map(str, [*stops, last]))))
    for processes, (phase, how) in stops.items():
        run.stop(processes, phase, how)
    finish(run.start(last))
    found, expected = losses(run.workdir), losses(unbroken.workdir)
    assert list(found) == list(expected) == [(phase, step) for phase in PHASES for step in range(1, 9)]
    assert found == pytest.approx(expected, rel=1e-5)
    assert outcome(run.workdir) == outcome(unbroken.workdir)


@pytest.mark.full
def test_two_then_four_then_one(unbroken: Run) -> None:
    check(unbroken, {2: ("finetune", "SIGKILL of one"), 4: ("prune", "SIGTERM of all")}, last=1)


@pytest.mark.full
@pytest.mark.parametrize("numbers", [(4, 1, 2), (1, 2, 4)], ids=str)
def test_other_orders(unbroken: Run, numbers: tuple[int, int, int]) -> None:
    first, second, last = numbers
    check(unbroken, {first: ("prune", "SIGKILL of one"), second: ("retrain", "SIGTERM of all")}, last)
