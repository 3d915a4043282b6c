"""Progress of a long stage."""

import contextlib
import sys
import threading
import time
from collections.abc import Callable, Iterator
from typing import Any, TextIO

from tqdm import tqdm

ENOUGH = 5  # updates, at least, before a remaining time is shown
FIRST_BATCH = "the first batch of a new length takes longer"  # where jax runs it: it compiles
_EVERY = 10.0  # seconds between plain lines


class Progress:
    """A bar on a terminal, a plain line now and then elsewhere, with the remaining time once it can be estimated.

    Args:
      phase: name of what is running.
      total: steps in all.
      start: steps done before.
      stream: where to write; stderr when left out.
      unit: what a step is.
      clock: seconds, to be replaced in tests.
    """

    def __init__(
        self, phase: str, total: int, start: int, stream: TextIO | None = None, unit: str = "step",
        clock: Callable[[], float] = time.monotonic,
    ) -> None:  # fmt: skip
        self.phase, self.total, self.stream, self.unit = phase, total, stream or sys.stderr, unit
        self._clock, self._said, self._pace = clock, clock(), _Pace(start, clock())
        self.bar = self._make_bar(start) if self.stream.isatty() else None

    def _make_bar(self, start: int) -> Any:
        """A bar without tqdm's own remaining time, which counts what was compiled."""
        shown = "{desc}: {percentage:3.0f}%|{bar}| {n_fmt}/{total_fmt} [{elapsed}{postfix}]"
        return tqdm(
            total=self.total, initial=start, desc=self.phase, unit=self.unit, file=self.stream, bar_format=shown
        )

    def update(self, step: int, describe: Callable[[], str] = str, *, typical: bool = True) -> None:
        """Step `step` is done; `describe` is called when something is shown.

        An update that is not `typical` took long because it compiled: it is left out of the remaining time.
        """
        now = self._clock()
        self._pace.add(step, now, typical)
        if self.bar is not None:
            self.bar.set_postfix_str(self._text(step, describe), refresh=False)
            self.bar.update(step - self.bar.n)
        elif now - self._said > _EVERY or step == self.total:
            text = self._text(step, describe)
            line = f"{self.phase}: {self.unit} {step}/{self.total}" + (f", {text}" if text else "")
            print(line, file=self.stream, flush=True)
            self._said = now

    def _text(self, step: int, describe: Callable[[], str]) -> str:
        """The remaining time, if it can be estimated, and what `describe` returns."""
        seconds = self._pace.left(self.total - step)
        left = "" if seconds is None else f"{seconds:.0f} s left"
        return ", ".join(part for part in (left, describe()) if part)

    def first_batch(self) -> contextlib.AbstractContextManager[None]:
        """Around a batch of a new length, which may compile for minutes: says so after 10 seconds, then more rarely."""
        return say_while(self.say_first_batch)

    def say_first_batch(self, seconds: float) -> None:
        """A batch of a new length takes so many seconds by now."""
        if self.bar is not None:
            self.bar.set_postfix_str(f"{FIRST_BATCH}, {seconds:.0f} s so far")
        else:
            print(f"{self.phase}: {FIRST_BATCH}, {seconds:.0f} s so far", file=self.stream, flush=True)
            self._said = self._clock()

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()


@contextlib.contextmanager
def say_while(say: Callable[[float], None]) -> Iterator[None]:
    """Calls `say` with the seconds so far, after 10, 30, 70, 150 … seconds, until the block ends."""
    ended, begun = threading.Event(), time.monotonic()

    def speak() -> None:
        wait = _EVERY
        while not ended.wait(wait):
            say(time.monotonic() - begun)
            wait *= 2

    thread = threading.Thread(target=speak, daemon=True)
    thread.start()
    try:
        yield
    finally:
        ended.set()
        thread.join()


class _Pace:
    """Seconds a step, over the typical steps."""

    def __init__(self, step: int, now: float) -> None:
        self._step, self._now = step, now
        self._updates, self._steps, self._seconds = 0, 0, 0.0

    def add(self, step: int, now: float, typical: bool) -> None:
        """Step `step` was done at `now`."""
        if typical and step > self._step:
            self._updates += 1
            self._steps += step - self._step
            self._seconds += now - self._now
        self._step, self._now = step, now

    def left(self, steps: int) -> float | None:
        """Estimated seconds for this many more steps; None before enough steps were seen."""
        if steps == 0:
            return 0.0
        return steps * self._seconds / self._steps if self._updates >= ENOUGH else None
