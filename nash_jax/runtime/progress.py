"""How far a long stage is."""

import sys
import time
from collections.abc import Callable
from typing import TextIO

from tqdm import tqdm


class Progress:
    """A bar with ETA on a terminal, a plain line now and then elsewhere.

    Args:
      phase: what goes on.
      total: steps in all.
      start: steps done before.
      stream: where to say it; stderr when left out.
      unit: what a step is.
    """

    def __init__(self, phase: str, total: int, start: int, stream: TextIO | None = None, unit: str = "step") -> None:
        self.phase, self.total, self.stream, self.unit = phase, total, stream or sys.stderr, unit
        self.begun, self.start, self.said = time.monotonic(), start, time.monotonic()
        terminal = self.stream.isatty()
        self.bar = tqdm(total=total, initial=start, desc=phase, unit=unit, file=self.stream) if terminal else None

    def update(self, step: int, describe: Callable[[], str] = str) -> None:
        """Step `step` is done; `describe` is called when something is shown."""
        if self.bar is not None:
            self.bar.update(step - self.bar.n)
            self.bar.set_postfix_str(describe(), refresh=False)
            return
        now = time.monotonic()
        if now - self.said > 10 or step == self.total:
            rate = (now - self.begun) / max(step - self.start, 1)
            left = f"{rate * (self.total - step):.0f} s left"
            parts = [f"{self.phase}: {self.unit} {step}/{self.total}", left, describe()]
            print(", ".join(part for part in parts if part), file=self.stream, flush=True)
            self.said = now

    def close(self) -> None:
        if self.bar is not None:
            self.bar.close()
