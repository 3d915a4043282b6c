"""Ctrl-C and SIGTERM: a command ends at once, or where it trains, once the current step is saved.

Python runs a signal's handler in the main thread only, and not while that is inside a compiler or a storage library. So
a thread waits for signals, and ends the process itself. No exception is raised: a library that writes a checkpoint just
then would catch it, or turn it into another, and at its end Python would wait for that library's threads.
"""

import contextlib
import os
import signal
import sys
import threading
from collections.abc import Iterator
from typing import NoReturn

GRACE_SECONDS = 10.0  # from the first signal until the process ends, whatever it does then
STOPPED = {signal.SIGINT: "stopped by Ctrl-C", signal.SIGTERM: "stopped by SIGTERM"}
CONTINUES = "the same command continues from here"


class _Signals:
    """What has come, by who noticed it: the waiting thread, or the handler in the main thread."""

    def __init__(self) -> None:
        self.lock, self.seen, self.acted = threading.RLock(), {"thread": 0, "handler": 0}, 0
        self.saving = False
        self.asked: int | None = None

    def note(self, number: int, by: str) -> None:
        """Acts on each signal once, whoever notices it first."""
        with self.lock:
            self.seen[by] += 1
            if self.seen[by] <= self.acted:
                return
            self.acted += 1
            if not self.saving or self.asked is not None:
                _end(self.asked or number)
            self.asked = number
            timer = threading.Timer(GRACE_SECONDS, _end, (number,))
            timer.daemon = True
            timer.start()


_SIGNALS = _Signals()


def end_on_signals() -> None:
    """From now on, Ctrl-C and SIGTERM end this process with one line on stderr and status 130 or 143.

    A signal that the process was started to ignore, as a shell does for jobs in the background, stays ignored.
    """
    reading, writing = os.pipe()
    os.set_blocking(writing, False)

    def wait() -> None:
        while number := os.read(reading, 1):
            if number[0] in STOPPED:
                _SIGNALS.note(number[0], "thread")

    for number in STOPPED:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, lambda found, frame: _SIGNALS.note(found, "handler"))
    signal.set_wakeup_fd(writing, warn_on_full_buffer=False)
    threading.Thread(target=wait, name="signals", daemon=True).start()


@contextlib.contextmanager
def saving_on_signals(alone: bool) -> Iterator[None]:
    """Within the block the first signal sets `is_asked_to_stop`; the second, or the end of a grace time, ends all.

    Where `end_on_signals` was not called, as in a notebook, nothing changes.

    Args:
      alone: whether this is the only process of its run; of several, which would have to save the same step together,
        each ends at once.
    """
    _SIGNALS.saving = alone
    try:
        yield
    finally:  # an error is still reported, within the grace time
        _SIGNALS.saving = False
    if _SIGNALS.asked is not None:
        _end(_SIGNALS.asked)


def is_asked_to_stop() -> bool:
    """Whether a signal has come in a block of `saving_on_signals`."""
    return _SIGNALS.asked is not None


def end_saved(what: str) -> NoReturn:
    """Ends the process; the line says what was saved."""
    assert _SIGNALS.asked is not None
    _end(_SIGNALS.asked, what)


def _end(number: int, saved: str = "") -> NoReturn:
    newline = "\n" * sys.stderr.isatty()  # after a progress bar
    parts = [STOPPED[signal.Signals(number)], *([saved] if saved else []), CONTINUES]
    with contextlib.suppress(OSError, ValueError):
        os.write(2, f"{newline}error: {'; '.join(parts)}\n".encode())
    os._exit(128 + number)
