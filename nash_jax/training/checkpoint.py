"""Orbax v1, wrapped in one place: step checkpoints of a phase, and single trees."""

import contextlib
import json
import os
import shutil
import sys
from collections.abc import Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import Any

from nash_jax.errors import UserError
from nash_jax.runtime.checksums import Checksum, changed_file, checksums, json_checksum, parse_checksums
from nash_jax.runtime.files import read_json, write_text
from nash_jax.runtime.multihost import barrier, broadcast_from_host0, is_host0
from nash_jax.runtime.quiet import import_orbax

_RANK = "rank"
_PARTS = ("state", "extra", "metrics")  # folders of a checkpoint
CHECKSUMS = "checksums.json"

Rank = tuple[float, ...]
"""What the best checkpoint has the greatest of, compared item by item."""


def check_checkpoints(folder: Path) -> None:
    """Compares the checkpoints in a folder with their checksums, SHA-256 too.

    Raises:
      UserError: naming a file that was changed or is missing.
    """
    for step, entries in _read_checksums(folder).items():
        if (folder / step).is_dir() and (wrong := changed_file(folder / step, entries, every_hash=True)):
            raise UserError(f"{folder / step / wrong} was changed or is missing", "the checkpoint as it was written")


class Checkpointer:
    """Checkpoints of one training phase: the newest, and the best by rank. They are written in the background.

    A checkpoint holds the state and a JSON dict (data position, seconds spent). Orbax writes beside and renames, so a
    killed write leaves no checkpoint; its temporary files are deleted here. FOLDER/checksums.json has the checksums of
    each checkpoint's files, from when it is complete, and one of its own. A checkpoint that was damaged since is
    deleted if there is another, with a note.

    Args:
      folder: of the checkpoints.
      keep_last: how many of the newest are kept.

    Raises:
      UserError: if the only checkpoint is damaged.
    """

    def __init__(self, folder: str | os.PathLike[str], keep_last: int = 1) -> None:
        ocp = import_orbax()
        training, policies = ocp.training, ocp.training.preservation_policies
        newest, best = policies.LatestN(keep_last), policies.BestN(get_metric_fn=_read_rank, n=1)
        saving = ocp.options.ArrayOptions.Saving(use_compression=False)  # trained weights and moments hardly shrink
        self._folder = Path(folder)
        if is_host0():
            self._drop_damaged()
        barrier("checkpoints read")
        self._orbax = training.Checkpointer(
            os.path.abspath(folder),
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([newest, best]),
            cleanup_tmp_directories=True,
            context=ocp.Context(array_options=ocp.options.ArrayOptions(saving=saving)),
        )
        self._writer, self._written = ThreadPoolExecutor(1, "checkpoint"), Future[None]()
        self._written.set_result(None)

    def save(self, step: int, state: Any, extra: dict[str, Any], rank: Rank | None) -> None:
        """Begins to write a checkpoint, after an earlier one is complete.

        It returns when the state is on the host, so that its buffers can be donated to the next step. (Of arrays on a
        CPU the host's are views; while there are such, jax takes no buffer.) An error while it is written is raised by
        the next call.

        Args:
          step: step number.
          state: the train state.
          extra: JSON values.
          rank: None where nothing was evaluated: never the best.
        """
        self.wait()
        if self._orbax.latest is not None and self._orbax.latest.step == step:
            return
        metrics = {_RANK: list(rank or ())}
        begun = self._orbax.save_checkpointables_async(step, {"state": state, "extra": extra}, metrics=metrics)
        self._written = self._writer.submit(self._complete, begun, str(step))

    def _complete(self, begun: Any, step: str) -> None:
        begun.result()
        if is_host0():
            self._write_checksums(step)

    def is_writing(self) -> bool:
        """Whether the last checkpoint is not complete yet on the main process; processes call this together."""
        return bool(broadcast_from_host0(not self._written.done()))

    def check(self) -> None:
        """Raises what the last write failed with, if it has."""
        if self._written.done():
            self._written.result()

    def wait(self) -> None:
        """Waits until the last checkpoint is complete.

        Raises:
          Exception: what its write failed with.
        """
        self._written.result()

    def _write_checksums(self, *steps: str) -> None:
        """Adds those of some checkpoints, and leaves out what is no longer there."""
        there = {name: entry for name, entry in self._checksums().items() if (self._folder / name).is_dir()}
        there |= {step: checksums(self._folder / step) for step in steps}
        write_text(self._folder / CHECKSUMS, json.dumps({"checksum": json_checksum(there), "checkpoints": there}))

    def _checksums(self) -> dict[str, dict[str, Checksum]]:
        """Step → checksums of its checkpoint; a checkpoint whose process was killed just then has none yet."""
        return _read_checksums(self._folder) if os.path.lexists(self._folder / CHECKSUMS) else {}

    def _drop_damaged(self) -> None:
        known = self._checksums()
        self._drop_remains(known)
        steps = sorted((path.name for path in self._folder.glob("*") if path.name.isdigit()), key=int)
        changed = {step: changed_file(self._folder / step, known[step]) for step in steps if step in known}
        damaged = {step: name for step, name in changed.items() if name is not None}
        if damaged and len(damaged) == len(steps):
            step, name = list(damaged.items())[-1]
            raise UserError(
                f"{self._folder / step / name} was changed or is missing",
                "the checkpoint as it was written",
                f"delete {self._folder} to begin the phase again",
            )
        for step, name in damaged.items():
            print(f"note: {self._folder / step} is damaged ({name}); another checkpoint is used", file=sys.stderr)
            shutil.rmtree(self._folder / step)
        if new := [step for step in steps if step not in known and step not in damaged]:
            self._write_checksums(*new)  # now, for a kill while Orbax deletes it may leave a part of it

    def _drop_remains(self, known: Mapping[str, Any]) -> None:
        """Deletes what a process left that was killed while Orbax deleted a checkpoint without checksums."""
        for path in list(self._folder.glob("*")):
            if path.name.isdigit() and path.name not in known and not all((path / part).is_dir() for part in _PARTS):
                shutil.rmtree(path)

    def restore(self, abstract: Any, *, best: bool = False) -> tuple[Any, dict[str, Any]] | None:
        """The newest (or the best) checkpoint's state and JSON dict, or None if there is none.

        Args:
          abstract: shapes, dtypes and shardings of the state.
          best: the checkpoint of the highest rank, the latest of equals.

        Raises:
          UserError: when it does not hold the arrays of `abstract`.
        """
        self.wait()
        found = self._orbax.checkpoints
        if not found:
            return None
        chosen = max(found, key=lambda c: (_read_rank(c.metrics), c.step)) if best else max(found, key=lambda c: c.step)
        try:
            loaded = self._orbax.load_checkpointables(chosen.step, {"state": abstract, "extra": None})
        except (KeyError, ValueError) as error:
            raise UserError(
                f"the checkpoint of step {chosen.step} in {self._folder} does not fit this phase",
                "one that this version of nash_jax wrote, whole",
                "delete that folder to begin the phase again",
            ) from error
        return loaded["state"], loaded["extra"]

    def close(self) -> None:
        """As `wait`; then there is nothing more to call."""
        self._writer.shutdown()
        try:
            self.wait()
        finally:
            with contextlib.suppress(Exception):  # that one again
                self._orbax.close()


def _read_checksums(folder: Path) -> dict[str, dict[str, Checksum]]:
    """Step → checksums.

    Raises:
      UserError: for a damaged file.
    """
    path = folder / CHECKSUMS
    try:
        content = read_json(path)
        if content["checksum"] != json_checksum(content["checkpoints"]):
            raise ValueError("not what was written")
        return {step: parse_checksums(found) for step, found in content["checkpoints"].items()}
    except (UserError, AttributeError, KeyError, ValueError) as error:
        raise UserError(
            f"{path} was changed or is damaged",
            "the file as it was written",
            f"delete it to use the checkpoints as they are, or {folder} to begin the phase again",
        ) from error


def _read_rank(metrics: Any) -> Any:
    return tuple(metrics.get(_RANK, ()))
