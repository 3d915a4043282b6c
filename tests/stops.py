"""Stops a small run in many ways, goes on with the same command, and counts what was lost.

python tests/stops.py kills [TIMES]      SIGKILL at random instants, every third on a new checkpoint (100)
python tests/stops.py signals [TIMES]    Ctrl-C and SIGTERM in turn, every third on a new checkpoint (20)
python tests/stops.py full-disk [TIMES]  a file system that is full after 1/TIMES, 2/TIMES, … of what a run needs (12)

Each prints one line of counts, and what it has so far after each run on stderr; the exit status is 1 if one of them
that must be 0 is not.
"""

import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from small_run import PHASES, make_command, results, start

SOON = 5.0  # s, after which nothing may be alive
GOOD = ("stops", "runs", "full disks", "saved a step")  # counts that need not be 0
LIMIT = 1200.0  # s, after which a run counts as hanging


def run_whole(command: list[str], workdir: Path) -> float:
    """Seconds that a run takes from its first line to its end."""
    process = start(command, workdir)
    assert process.stderr is not None
    process.stderr.readline()
    begun = time.monotonic()
    _, err = process.communicate(timeout=LIMIT)
    if process.returncode:
        raise RuntimeError(f"status {process.returncode}: {err}")
    return time.monotonic() - begun


def checkpoints(workdir: Path) -> set[str]:
    """Checkpoints that are there or being written."""
    return {str(path) for phase in PHASES for path in (workdir / phase / "checkpoints").glob("*")}


def stop(process: subprocess.Popen[str], number: int, when: Callable[[], bool]) -> tuple[float, str] | None:
    """Sends a signal when a condition holds; seconds until the process ended and its stderr, or None if it was done."""
    assert process.stderr is not None
    first = process.stderr.readline()
    while not when():
        if process.poll() is not None:
            _, err = process.communicate()
            if process.returncode:
                raise RuntimeError(f"status {process.returncode}: {first}{err}")
            return None
        time.sleep(0.002)
    process.send_signal(number)
    begun = time.monotonic()
    _, err = process.communicate(timeout=LIMIT)
    taken = time.monotonic() - begun
    return None if process.returncode == 0 else (taken, first + err)


def is_alive(group: int) -> bool:
    """Whether a process of the group is left after a while."""
    end = time.monotonic() + SOON
    while time.monotonic() < end:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return False
        time.sleep(0.05)
    return True


def moments(workdir: Path, seconds: float, on_checkpoint: bool, rng: random.Random) -> Callable[[], bool]:
    """When to stop: at a random instant of a run's time, or as soon as a new checkpoint is begun."""
    end, before = time.monotonic() + rng.uniform(0, seconds), checkpoints(workdir)
    return (lambda: bool(checkpoints(workdir) - before)) if on_checkpoint else (lambda: time.monotonic() > end)


def interrupt(command: list[str], folder: Path, times: int, numbers: tuple[int, ...], seed: int = 0) -> Counter[str]:
    """Stops runs so often, each workdir until it is done, and compares each with a run that nothing stopped."""
    rng, found = random.Random(seed), Counter[str]()
    run_whole(command, folder / "compiling")
    seconds = run_whole(command, folder / "whole")
    expected = results(folder / "whole")
    while found["stops"] < times:
        workdir = folder / f"stopped{found['runs']}"
        found["runs"] += 1
        _interrupt_one(command, workdir, times, numbers, found, lambda w: moments(w, seconds, _third(found), rng))
        if not (workdir / "report.json").exists():
            run_whole(command, workdir)
        metrics, rows = results(workdir)
        found["runs with other metrics"] += metrics != expected[0]
        found["rows lost or different"] += sum(row not in rows for row in expected[1]) + (len(rows) != len(expected[1]))
        print(write_counts(found), file=sys.stderr, flush=True)
    return found


def write_counts(found: Counter[str]) -> str:
    """Counts in one line."""
    return ", ".join(f"{count} {name}" for name, count in found.items())


def _third(found: Counter[str]) -> bool:
    return found["stops"] % 3 == 2


def _interrupt_one(
    command: list[str], workdir: Path, times: int, numbers: tuple[int, ...], found: Counter[str],
    when: Callable[[Path], Callable[[], bool]],
) -> None:  # fmt: skip
    """Stops one run again and again, until it ends by itself."""
    while found["stops"] < times:
        number = numbers[found["stops"] % len(numbers)]
        process = start(command, workdir)
        stopped = stop(process, number, when(workdir))
        if stopped is None:
            return
        taken, err = stopped
        found["stops"] += 1
        found["alive after 5 s"] += taken > SOON or is_alive(process.pid)
        if number != signal.SIGKILL:
            last = err.strip().splitlines()[-1]
            found["saved a step"] += "is saved" in last
            wrong = process.returncode != 128 + number or not last.startswith("error: stopped by ")
            # Python ends itself by the signal's default when all is written, and the handlers are gone already
            wrong = wrong and not (workdir / "report.json").exists()
            found["another status or line"] += wrong or "Traceback" in err
            if wrong:
                print(process.returncode, err, file=sys.stderr)


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes, which only root can make."""
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", folder], check=True)
    try:
        yield folder
    finally:
        subprocess.run(["umount", folder], check=True)


def used(folder: Path) -> int:
    """Bytes in use on the file system of a folder."""
    found = os.statvfs(folder)
    return (found.f_blocks - found.f_bfree) * found.f_frsize


def fill_disks(command: list[str], folder: Path, times: int) -> Counter[str]:
    """Runs on file systems that are too small, then with room."""
    found = Counter[str]()
    with small_disk(folder / "large", 1 << 30) as disk:
        run_whole(command, disk / "run")
        expected, needed = results(disk / "run"), used(disk)
    for number in range(times):
        with small_disk(folder / f"small{number}", (needed * (2 * number + 1)) // (2 * times)) as disk:
            process = start(command, disk / "run")
            _, err = process.communicate(timeout=LIMIT)
            lines = [line for line in err.splitlines() if "error: " in line or "rror" in line or "Traceback" in line]
            found["full disks"] += 1
            wrong = process.returncode != 2 or len(lines) != 1 or "no space is left" not in lines[0]
            found["another status, or more than one line"] += wrong
            if wrong:
                print(process.returncode, err, file=sys.stderr)
            subprocess.run(["mount", "-o", "remount,size=1g", disk], check=True)
            run_whole(command, disk / "run")
            found["runs with other results"] += results(disk / "run") != expected
    return found


def main(kind: str, times: str = "") -> int:
    """Prints counts of one kind of stops."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        command = make_command(folder)
        if kind == "full-disk":
            found = fill_disks(command, folder, int(times or 12))
        elif kind == "kills":
            found = interrupt(command, folder, int(times or 100), (signal.SIGKILL,))
        else:
            found = interrupt(command, folder, int(times or 20), (signal.SIGINT, signal.SIGTERM))
    print(f"{kind}: {write_counts(found)}")
    return int(any(count for name, count in found.items() if name not in GOOD))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
