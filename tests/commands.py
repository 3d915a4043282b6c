"""Commands: called in the test's process, or started as a user starts them, waited for and killed."""

import contextlib
import io
import signal
import subprocess
import time
from collections.abc import Callable
from importlib import metadata

LIMIT = 1200  # s, after which a command counts as hanging: a busy machine takes several times as long as a quiet one

# Many tiny programs are compiled and run once: what makes them faster costs more than it saves. A beam search compiles
# in half the time without the emitters of fusions, and in a fifth less if its code is not split for threads.
# Newer jaxlibs have nothing but these emitters, and an unknown flag ends a process.
QUICK = "--xla_backend_optimization_level=0 --xla_cpu_parallel_codegen_split_count=1"
QUICK += " --xla_llvm_disable_expensive_passes=true"
if metadata.version("jaxlib").startswith("0.10."):
    QUICK += " --xla_cpu_use_fusion_emitters=false"


def on_devices(count: int) -> dict[str, str]:
    """Environment of a command that sees so many fake devices; its programs compile quickly, and run slowly."""
    return {"XLA_FLAGS": f"--xla_force_host_platform_device_count={count} {QUICK}"}


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
