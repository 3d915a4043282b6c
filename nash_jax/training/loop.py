"""The training loop of every phase."""

import contextlib
import dataclasses
import math
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NoReturn

import jax
import numpy as np
from jax.sharding import Mesh

from nash_jax.data.pipeline import Batches, make_iterator
from nash_jax.errors import UserError
from nash_jax.runtime.multihost import broadcast_from_host0
from nash_jax.runtime.progress import Progress
from nash_jax.runtime.sharding import place_batch
from nash_jax.runtime.stopping import end_saved, is_asked_to_stop, saving_on_signals
from nash_jax.training.averaging import Average, averaged
from nash_jax.training.checkpoint import Checkpointer, Rank
from nash_jax.training.state import State, abstract_state
from nash_jax.training.throughput import StepFlops, Throughput, mesh_peak
from nash_jax.training.writers import JsonlWriter, Writer

Evaluation = tuple[dict[str, float], Rank]
"""Validation metrics, and the rank of the checkpoint among those of its phase."""


@dataclasses.dataclass
class Phase:
    """One run of the loop.

    Attributes:
      name: `finetune`, `prune` or `retrain`.
      state: placed state at step 0.
      step: jitted (state, teacher_params, batch) → (state, metrics).
      teacher_params: placed parameters of the teacher, {} without one.
      batches: training batches by step.
      num_steps: when it ends.
      eval_steps: steps between evaluations.
      evaluate: state → validation metrics and rank.
      folder: where its checkpoints go.
      writers: where its numbers go.
      average: of the parameters; it is what is evaluated, and what the result holds.
      flops: of a step.
      keep_last: newest checkpoints that are kept.
    """

    name: str
    state: State
    step: Callable[[State, Any, Any], tuple[State, Any]]
    teacher_params: Any
    batches: Batches
    num_steps: int
    eval_steps: int
    evaluate: Callable[[State], Evaluation]
    folder: Path
    writers: Sequence[Writer]
    average: Average
    flops: StepFlops
    keep_last: int = 1


def train(phase: Phase, mesh: Mesh) -> tuple[State, dict[str, Any]]:
    """Trains from the newest checkpoint, or from the start, to the end.

    Evaluates every `eval_steps` steps and at the end. A checkpoint is written then, and with every fifth log: after
    each twentieth of a phase, of a short one every five steps, unless another is still being written; and when a
    command is asked to stop, which ends the process. Training goes on while files are written. Metrics are fetched when
    they are logged, so that logging does not hold the device up.

    Returns:
      The state of the best checkpoint, and {"steps", "seconds", "best_step", "rows_checksum"} with the rates of all
      steps since the process began, as of `Throughput`.

    Raises:
      UserError: at a loss that is not finite, naming the step; the last checkpoint stays.
    """
    with contextlib.closing(Checkpointer(phase.folder, phase.keep_last)) as checkpointer:
        return _train(phase, mesh, checkpointer)


def _train(phase: Phase, mesh: Mesh, checkpointer: Checkpointer) -> tuple[State, dict[str, Any]]:
    shapes = abstract_state(phase.state)
    restored = checkpointer.restore(shapes)
    state, extra = restored or (phase.state, {"position": None, "seconds": 0.0})
    step = int(state["step"])
    batches = make_iterator(phase.batches, extra["position"])
    for writer in phase.writers:
        if hasattr(writer, "rewind"):
            writer.rewind(phase.name, step)
    rows = _Rows(phase, extra)
    progress, window = Progress(phase.name, phase.num_steps, step), _Window(phase.name, step, extra.get("window", []))
    throughput = Throughput(phase.flops, mesh_peak(mesh.devices))
    log_steps = max(1, phase.num_steps // 100)
    begun = time.monotonic() - extra["seconds"]
    compiled = set[Any]()  # what has run once, and so is compiled
    with contextlib.ExitStack() as during:
        while step < phase.num_steps:
            with throughput.waiting():
                read = next(batches)
            batch = place_batch(mesh, read)
            ran: set[Any] = {tuple(rows.shape for rows in batch.values())}
            is_first = not ran <= compiled
            with progress.first_batch() if is_first else contextlib.nullcontext():
                state, metrics = phase.step(state, phase.teacher_params, batch)
                if is_first:
                    jax.block_until_ready(metrics)  # its time is told apart
            step += 1
            window.add(metrics)
            evaluates = step % phase.eval_steps == 0 or step == phase.num_steps
            is_logged = evaluates or step % log_steps == 0
            values, rank = dict[str, float](), None
            if is_logged:
                values = window.mean()  # every loss up to here is finite before a checkpoint is written
            throughput.end_step(read, typical=not is_first)
            if is_logged:
                values |= throughput.rates()
            if evaluates:
                ran.add("evaluate")
                state = phase.average.before_evaluation(state)
                found, rank = broadcast_from_host0(phase.evaluate(averaged(state)))
                values |= {f"validation/{name}": value for name, value in found.items()}
            if values:  # before the checkpoint: a resumed phase drops rows after it, and has all up to it
                values["seconds"] = time.monotonic() - begun
                for writer in phase.writers:
                    writer.write(phase.name, step, {k: round(v, 6) for k, v in values.items() if math.isfinite(v)})
            checkpointer.check()
            between = step % (5 * log_steps) == 0 and not checkpointer.is_writing()
            if rank is not None or between or is_asked_to_stop():
                position = {"position": batches.get_state(), "seconds": time.monotonic() - begun}
                checkpointer.save(step, state, position | {"window": window.pending()} | rows.checksum(), rank)
            if is_asked_to_stop():
                checkpointer.wait()
                _stop(phase, step)
            progress.update(step, lambda: _describe(window, throughput), typical=ran <= compiled)
            if not compiled:  # until the first step is compiled and done, there is nothing to save
                during.enter_context(saving_on_signals(alone=jax.process_count() == 1))
            compiled |= ran
    progress.close()
    best = checkpointer.restore(shapes, best=True)
    assert best is not None  # the last step always writes one
    done = {"steps": step, "seconds": time.monotonic() - begun, "best_step": int(best[0]["step"])}
    return averaged(best[0]), done | throughput.overall() | rows.checksum()


def _describe(window: "_Window", throughput: Throughput) -> str:
    return ", ".join(text for text in (window.describe(), throughput.describe()) if text)


def _stop(phase: Phase, step: int) -> NoReturn:
    """Ends the process after a checkpoint; some writers keep rows until they are closed."""
    for writer in phase.writers:
        writer.close()
    end_saved(f"step {step} of {phase.name} is saved")


class _Rows:
    """The rows of metrics.jsonl of a phase that is resumed, compared with the checksum in its checkpoint.

    Where they differ, all later checksums of the phase do too.
    """

    def __init__(self, phase: Phase, extra: Mapping[str, Any]) -> None:
        self.phase, saved = phase.name, extra.get("rows_checksum")
        self.writer = next((writer for writer in phase.writers if isinstance(writer, JsonlWriter)), None)
        self.is_whole = self.writer is None or saved in (None, self.writer.checksum(phase.name))
        if self.writer is not None and not self.is_whole:
            print(
                f"note: rows of {phase.name} in {self.writer.path} were changed since they were logged", file=sys.stderr
            )

    def checksum(self) -> dict[str, str]:
        """As a field of a checkpoint; only the process that writes rows has it."""
        if self.writer is None:
            return {}
        return {"rows_checksum": self.writer.checksum(self.phase) if self.is_whole else "changed"}


class _Window:
    """Metrics since the last log, left on the device until asked for.

    Args:
      phase: name of what is running.
      step: steps done before.
      pending: of another window at that step, to continue it.
    """

    def __init__(self, phase: str, step: int, pending: Sequence[Mapping[str, float]] = ()) -> None:
        self.rows: list[Mapping[str, Any]] = [{k: np.float32(v) for k, v in row.items()} for row in pending]
        self.phase, self.step = phase, step - len(self.rows)
        self.last: dict[str, float] = {}

    def add(self, metrics: Mapping[str, jax.Array]) -> None:
        self.rows.append(metrics)

    def pending(self) -> list[dict[str, float]]:
        """What `mean` would take, as JSON values; exact, for metrics are float32.

        Raises:
          UserError: as `mean`.
        """
        self.rows = self._finite_rows()
        return [{name: float(value) for name, value in row.items()} for row in self.rows]

    def _finite_rows(self) -> list[Mapping[str, Any]]:
        rows = jax.device_get(self.rows)
        for i, row in enumerate(rows, 1):
            if not np.isfinite(row["loss"]):
                raise UserError(
                    f"the loss is {float(row['loss'])} at step {self.step + i} of {self.phase}",
                    "a finite one",
                    "lower the learning rate or look at the data near that step; the last checkpoint is kept",
                )
        return rows

    def mean(self) -> dict[str, float]:
        """Means of the losses and last values of all else since the last call.

        Raises:
          UserError: for a loss that is not finite.
        """
        rows = self._finite_rows()
        self.step += len(rows)
        averaged = {k: float(np.mean([r[k] for r in rows])) for k in rows[0] if "loss" in k or "accuracy" in k}
        self.last = {k: float(v) for k, v in rows[-1].items()} | averaged
        self.rows = []
        return dict(self.last)

    def describe(self) -> str:
        """The last means, shortly."""
        shown = ("task_loss", "token_accuracy", "expected_sparsity", "target_sparsity")
        return ", ".join(f"{k} {self.last[k]:.3f}" for k in shown if k in self.last)
