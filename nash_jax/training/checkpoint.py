"""Orbax v1, wrapped in one place: step checkpoints of a phase, and single trees."""

import os
from pathlib import Path
from typing import Any

import jax
import numpy as np
from orbax.checkpoint import v1 as ocp

from nash_jax.errors import UserError

policies = ocp.training.preservation_policies
METRIC = "selection"


class Checkpointer:
    """Checkpoints of one training phase: the newest, and the best by `selection`.

    A checkpoint holds the state and a JSON dict (data position, seconds spent). Orbax writes beside and
    renames, so a killed write leaves no checkpoint; what it left is cleaned up here.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        newest, best = policies.LatestN(1), policies.BestN(get_metric_fn=lambda m: m.get(METRIC, -float("inf")), n=1)
        self._folder = folder
        self._orbax = ocp.training.Checkpointer(
            os.path.abspath(folder),
            save_decision_policy=ocp.training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([newest, best]),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any, extra: dict[str, Any], selection: float | None) -> None:
        """Writes a checkpoint, blocking: the state's buffers are donated to the next step.

        Args:
          step: step number.
          state: the train state.
          extra: JSON values.
          selection: larger is better; None: not known, and never the best.
        """
        if self._orbax.latest is not None and self._orbax.latest.step == step:
            return
        metrics = {METRIC: -float("inf") if selection is None else selection}
        self._orbax.save_checkpointables(step, {"state": state, "extra": extra}, metrics=metrics)

    def restore(self, abstract: Any, *, best: bool = False) -> tuple[Any, dict[str, Any]] | None:
        """The newest (or the best) checkpoint's state and JSON dict, or None if there is none.

        Args:
          abstract: shapes, dtypes and shardings of the state.
          best: the checkpoint of the highest `selection`, the latest of equals.

        Raises:
          UserError: when it does not hold the arrays of `abstract`.
        """
        found = self._orbax.checkpoints
        if not found:
            return None
        chosen = max(found, key=lambda c: (c.metrics[METRIC], c.step)) if best else max(found, key=lambda c: c.step)
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
        self._orbax.close()


def save_tree(folder: str | os.PathLike[str], tree: Any) -> None:
    """Writes one tree of arrays; the folder appears whole or not at all. Processes of one run all call it."""
    ocp.save(os.path.abspath(folder), jax.tree.map(np.asarray, tree), overwrite=True)


def load_tree(folder: str | os.PathLike[str]) -> Any:
    """Reads a tree written by `save_tree`, as NumPy arrays (saved shardings do not matter).

    Processes of one run all call it: Orbax counts its operations and waits for the same one elsewhere.

    Raises:
      UserError: when there is none, or it is broken.
    """
    path = Path(folder)
    if not path.is_dir():
        raise UserError(f"no checkpoint at {path}", "a folder that nash_jax wrote")
    try:
        metadata = ocp.metadata(os.path.abspath(path)).metadata
        abstract = jax.tree.map(lambda m: np.empty(m.shape, m.dtype), metadata)
        return ocp.load(os.path.abspath(path), abstract)
    except (ValueError, KeyError, OSError, ocp.errors.InvalidLayoutError) as error:
        raise UserError(f"the checkpoint at {path} cannot be read: {str(error).splitlines()[0][:200]}") from error
