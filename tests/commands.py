"""Commands: called in the test's process, or started as a user starts them, waited for and killed."""

import contextlib
import io
import signal
import subprocess
import time
from collections.abc import Callable

LIMIT = 1200  # s, after which a command counts as hanging: a busy machine takes several times as long as a quiet one


def on_devices(count: int) -> dict[str, str]:
    """Environment of a command that sees so many fake devices; its programs compile quickly, and run slowly."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count} --xla_backend_optimization_level=0"}


def call(main: Callable[[list[str]], int], *args: str) -> subprocess.CompletedProcess[str]:
    """Runs a command within this process; its status and what it printed."""
    with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(io.StringIO()) as err:
        status = main([main.__module__, *args])
    return subprocess.CompletedProcess(args, status, out.getvalue(), err.getvalue())


def finish(process: subprocess.Popen[str], status: int = 0) -> str:
    """What it printed on stdout; it must end with the status."""
    try:
        output, _ = process.communicate(timeout=LIMIT)
    finally:
        process.kill()  # one that hangs leaves nothing behind
    assert process.returncode == status, f"status {process.returncode}\n{output}"
    return output


def kill_when(process: subprocess.Popen[str], condition: Callable[[], bool]) -> None:
    """SIGKILL as soon as the condition holds; the process must not have ended before."""
    while not condition():
        assert process.poll() is None, process.stdout.read()
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    assert process.returncode == -signal.SIGKILL
