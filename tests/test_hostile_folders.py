"""Folders that look like models and are not: refused in one line, soon, in little memory; nothing else is touched."""

import subprocess
import sys
from pathlib import Path

import pytest
from commands import LIMIT

EXPECTED = "0 tracebacks, 0 over 10 s, 0 beyond 1 GiB, 0 opened a file outside, 0 changed something"


@pytest.mark.parametrize("every", [23, pytest.param(5, marks=pytest.mark.full)])
def test_each_is_refused_or_loaded(every):
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    program = [sys.executable, str(Path(__file__).with_name("hostile_folders.py")), str(every)]
    done = subprocess.run(program, capture_output=True, text=True, timeout=LIMIT)
    *wrong, counts = done.stdout.splitlines() or [""]
    assert done.returncode == 0, "\n".join([*wrong, done.stderr[-3000:]])
    assert EXPECTED in counts and int(counts.split()[0]) > 50
