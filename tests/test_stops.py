"""A training run is stopped by signals: what it has done is saved, nothing is lost, and all ends soon."""

import os
import signal
import subprocess
import sys
from collections import Counter

import pytest
import stops
from commands import LIMIT
from small_run import make_command

# A loop that saves its step when it is asked to; the argument says what else it does.
SAVING = """
import sys, time
from nash_jax.runtime import stopping
from nash_jax.runtime.command import run_command
stopping.GRACE_SECONDS = 1.0
def run(argv):
    with stopping.saving_on_signals(alone=argv[1] != "of several"):
        print("started", flush=True)
        while not stopping.is_asked_to_stop():
            time.sleep(0.01)
        if argv[1] == "hangs":
            while True:
                time.sleep(1)
        stopping.end_saved("step 3 of finetune is saved")
sys.exit(run_command(run, sys.argv, "", ""))
"""
SAVED, PLAIN = "; step 3 of finetune is saved", ""


@pytest.mark.parametrize(
    ("kind", "signals", "says"),
    [
        ("saves", (signal.SIGTERM,), SAVED),
        ("saves", (signal.SIGINT,), SAVED),
        ("hangs", (signal.SIGINT,), PLAIN),
        ("hangs", (signal.SIGTERM, signal.SIGTERM), PLAIN),
        ("of several", (signal.SIGTERM,), PLAIN),
    ],
)
def test_the_first_signal_saves_and_the_second_ends(kind, signals, says):
    code = f"import signal; signal.signal(signal.SIGINT, signal.default_int_handler)\n{SAVING}"
    process = subprocess.Popen(
        [sys.executable, "-c", code, kind], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout.readline() == "started\n"
    for number in signals:
        process.send_signal(number)
    _, err = process.communicate(timeout=LIMIT)
    name = "Ctrl-C" if signals[0] == signal.SIGINT else "SIGTERM"
    assert err == f"error: stopped by {name}{says}; the same command continues from here\n"
    assert process.returncode == 128 + signals[0]


def check(found: Counter[str]) -> None:
    """All that must be 0 is."""
    assert found["stops"] + found["full disks"]
    assert not {name: count for name, count in found.items() if count and name not in stops.GOOD}


@pytest.mark.full
def test_full_disks(tmp_path):
    if os.geteuid():
        pytest.skip("only root can mount a small file system")
    check(stops.fill_disks(make_command(tmp_path), tmp_path, 3))


@pytest.mark.full
@pytest.mark.parametrize("numbers", [(signal.SIGKILL,), (signal.SIGINT, signal.SIGTERM)])
def test_stopped_again_and_again(tmp_path, numbers):
    """A short form of `python tests/stops.py kills` and `signals`."""
    check(stops.interrupt(make_command(tmp_path), tmp_path, 3, numbers))
