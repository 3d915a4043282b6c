"""A run of several processes ends when one of them does not answer, with one line that names it.

Each process writes a number to the store of the run, which process 0 keeps, again and again. A process whose number
stands still has ended, hangs, or cannot be reached; what waits for it in a collective operation would wait for ever.
When process 0 ends, jax aborts the others at once, with a dump that says so; it has no option against that.
"""

import atexit
import contextlib
import os
import sys
import threading
import time
from typing import Any, NoReturn

from jax._src import distributed  # the client of the run's store, which jax does not show

from nash_jax.errors import UserError

TIMEOUT = "NASH_JAX_PEER_TIMEOUT"
_SECONDS = 60.0
_PREFIX = "nash_jax_alive/"
_ENDED = 1  # exit status


def peer_timeout() -> float:
    """Seconds without an answer after which a process counts as lost: NASH_JAX_PEER_TIMEOUT, or 60.

    Raises:
      UserError: for something that is no number of at least 5.
    """
    given = os.environ.get(TIMEOUT) or str(_SECONDS)
    with contextlib.suppress(ValueError):
        if 5 <= float(given) < 1e6:
            return float(given)
    raise UserError(f"{TIMEOUT} is {given!r}", "seconds, at least 5")


_watches: list["PeerWatch"] = []


def watch_peers(own: int, count: int, timeout: float) -> None:
    """Starts to watch the other processes of a run, until this one ends by itself.

    Args:
      own: number of this process.
      count: number of processes.
      timeout: seconds: `peer_timeout`.
    """
    if count > 1:
        _watches.append(PeerWatch(distributed.global_state.client, own, count, timeout))
        atexit.register(_watches[0].stop)  # before jax waits for all to end


def stop_watching() -> None:
    """The run ends well: a process that does not answer any more has ended too."""
    for watch in _watches:
        watch.stop()


def wait_for_watch(error: BaseException) -> None:
    """Lets the watch end this process, where an error may be that another process has ended; else returns."""
    if _watches and any(word in str(error) for word in ("Gloo", "UNAVAILABLE", "onnection", "DEADLINE", "NCCL")):
        time.sleep(1.5 * _watches[0].timeout)


class PeerWatch:
    """Two threads of one process: one writes and reads numbers, one looks how long ago each of them changed.

    Args:
      client: of `jax.distributed`.
      own: number of this process.
      count: number of processes.
      timeout: seconds without a change after which this process ends.
    """

    def __init__(self, client: Any, own: int, count: int, timeout: float) -> None:
        self._client, self._own, self.timeout = client, own, timeout
        now = time.monotonic()
        self._numbers = dict.fromkeys(range(count), "")
        self._changed = dict.fromkeys(range(count), now)
        self._answered, self._is_over = now, False
        for work in (self._beat, self._look):
            threading.Thread(target=work, name="peers", daemon=True).start()

    def stop(self) -> None:
        """Nothing is watched any more: the run ends well."""
        self._is_over = True

    def _beat(self) -> None:
        beat = 0
        while not self._is_over:
            beat += 1
            with contextlib.suppress(Exception):  # the store does not answer: `_look` sees how long
                self._client.key_value_set(f"{_PREFIX}{self._own}", str(beat), allow_overwrite=True)
                self._note(dict(self._client.key_value_dir_get(_PREFIX)))
            time.sleep(self.timeout / 20)

    def _note(self, found: dict[str, str]) -> None:
        now = time.monotonic()
        for key, number in found.items():
            index = int(key.removeprefix(_PREFIX))
            if self._numbers.get(index) != number:
                self._numbers[index], self._changed[index] = number, now
        self._answered = now

    def _look(self) -> None:
        """Process 0 is the store: while it does not answer, nothing is known of the others."""
        before = time.monotonic()
        while not self._is_over:
            time.sleep(self.timeout / 20)
            now = time.monotonic()
            if now - before > self.timeout / 2:  # this process itself was stopped: the others get their time again
                self._answered = now
                self._changed = dict.fromkeys(self._changed, now)
            before = now
            if now - self._answered > self.timeout:
                self._end(0)
            for index, changed in self._changed.items():
                if index != self._own and self._answered - changed > self.timeout:
                    self._end(index)

    def _end(self, index: int) -> NoReturn:
        newline = "\n" * sys.stderr.isatty()  # after a progress bar
        text = (
            f"{newline}error: process {index} of this run has not answered for {self.timeout:.0f} s: it has ended, "
            "hangs or cannot be reached; look at what it printed; the same command on all continues from here\n"
        )
        if not self._is_over:
            with contextlib.suppress(OSError):
                os.write(2, text.encode())
            os._exit(_ENDED)
        raise SystemExit
