"""How fast training is: tokens and operations a second, and the time for which a step waited for its batch."""

import contextlib
import time
from collections.abc import Callable, Iterator, Mapping

import numpy as np

from nash_jax.models.flops import forward_flops
from nash_jax.runtime.peaks import peak_flops
from nash_jax.spec import ModelSpec

Rows = Mapping[str, np.ndarray]
RATES = ("tokens_per_second", "gflops_per_second", "utilization", "input_wait")


class StepFlops:
    """Floating-point operations that a training step needs for the tokens of a batch, padding left out.

    Three forward passes of what is trained (one forward, two backward), one of what is frozen, one of a teacher; none
    for what is computed again, the optimizer and gates.

    Args:
      spec: the model that is trained.
      teacher: the dense model, where it teaches.
      frozen_encoder: nothing is computed backward in the encoder.
      shared_encoder: the teacher's encoder is the student's.
    """

    def __init__(
        self, spec: ModelSpec, teacher: ModelSpec | None = None, *, frozen_encoder: bool = False,
        shared_encoder: bool = False,
    ) -> None:  # fmt: skip
        self._spec, self._teacher = spec, teacher
        self._frozen, self._shared = frozen_encoder, shared_encoder

    def lengths(self, rows: Rows) -> tuple[np.ndarray, np.ndarray]:
        """Tokens of each source and of each target, int [rows].

        Args:
          rows: a batch: "input_ids" [rows, source], "labels" [rows, target].
        """
        sources, targets = (np.count_nonzero(rows[k] != self._spec.pad_id, axis=1) for k in ("input_ids", "labels"))
        return sources, targets

    def __call__(self, sources: np.ndarray, targets: np.ndarray) -> float:
        own = forward_flops(self._spec, sources, targets)
        flops = (1 if self._frozen else 3) * own.encoder + 3 * own.decoder
        if self._teacher is not None:
            taught = forward_flops(self._teacher, sources, targets)
            flops += taught.decoder + (0.0 if self._shared else taught.encoder)
        return flops


class Throughput:
    """Rates of the steps since they were last asked for, and of all; steps that were compiled are left out.

    Args:
      flops: of a step.
      peak: operations a second of all devices together; None: not known.
      clock: seconds, to be replaced in tests.
    """

    def __init__(self, flops: StepFlops, peak: float | None, clock: Callable[[], float] = time.monotonic) -> None:
        self._flops, self._peak, self._clock = flops, peak, clock
        self._begun, self._waited = clock(), 0.0
        self._recent, self._all = np.zeros(4), np.zeros(4)  # seconds, seconds waited, tokens, operations
        self._last = dict[str, float]()

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        """A step begins: around the wait for its batch."""
        self._begun = self._clock()
        yield
        self._waited = self._clock() - self._begun

    def end_step(self, rows: Rows, *, typical: bool) -> None:
        """The step of a batch has ended, as far as the host can see: the last before `rates` must have been computed.

        Args:
          rows: its batch, as the host has it.
          typical: it was not compiled.
        """
        if typical:
            sources, targets = self._flops.lengths(rows)
            tokens = float(sources.sum() + targets.sum())
            seconds = self._clock() - self._begun
            self._recent += (seconds, self._waited, tokens, self._flops(sources, targets))

    def rates(self) -> dict[str, float]:
        """Those since the last call, by the names of `RATES`; {} where all steps were compiled.

        `utilization` is the share of the peak in bfloat16, where it is known.
        """
        self._last = self._of(self._recent)
        self._all += self._recent
        self._recent = np.zeros(4)
        return self._last

    def overall(self) -> dict[str, float]:
        """Those of all steps up to the last call of `rates`."""
        return self._of(self._all)

    def describe(self) -> str:
        """The last rates, shortly: `51,234 tokens/s, 13 % waiting for input`; the wait only where it matters."""
        if not self._last:
            return ""
        shown = [f"{self._last['tokens_per_second']:,.0f} tokens/s"]
        if "utilization" in self._last:
            shown.append(f"{100 * self._last['utilization']:.0f} % of peak")
        if self._last["input_wait"] >= 0.05:
            shown.append(f"{100 * self._last['input_wait']:.0f} % waiting for input")
        return ", ".join(shown)

    def _of(self, sums: np.ndarray) -> dict[str, float]:
        seconds, waited, tokens, flops = map(float, sums)
        if seconds <= 0:
            return {}
        found = {"tokens_per_second": tokens / seconds, "gflops_per_second": flops / seconds / 1e9}
        share = {} if self._peak is None else {"utilization": flops / seconds / self._peak}
        return found | share | {"input_wait": waited / seconds}


def mesh_peak(devices: np.ndarray) -> float | None:
    """Operations a second in bfloat16 of some devices together; None where it is not known.

    Args:
      devices: of a mesh.
    """
    kinds = [peak_flops(device.device_kind) for device in devices.flat]
    return None if None in kinds else float(sum(peak or 0.0 for peak in kinds))
