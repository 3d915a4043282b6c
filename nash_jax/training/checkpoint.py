"""Orbax v1, wrapped in one place: step checkpoints of a phase, and single trees."""

import os
from typing import Any

from nash_jax.errors import UserError

_RANK = "rank"

Rank = tuple[float, ...]
"""What the best checkpoint has the greatest of, compared item by item."""


class Checkpointer:
    """Checkpoints of one training phase: the newest, and the best by rank.

    A checkpoint holds the state and a JSON dict (data position, seconds spent). Orbax writes beside and
    renames, so a killed write leaves no checkpoint; its temporary files are deleted here.
    """

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        from orbax.checkpoint import v1 as ocp  # here, for it takes half a second to import

        training, policies = ocp.training, ocp.training.preservation_policies
        newest, best = policies.LatestN(1), policies.BestN(get_metric_fn=_read_rank, n=1)
        self._folder = folder
        self._orbax = training.Checkpointer(
            os.path.abspath(folder),
            save_decision_policy=training.save_decision_policies.FixedIntervalPolicy(1),
            preservation_policy=policies.AnyPreservationPolicy([newest, best]),
            cleanup_tmp_directories=True,
        )

    def save(self, step: int, state: Any, extra: dict[str, Any], rank: Rank | None) -> None:
        """Writes a checkpoint, blocking: the state's buffers are donated to the next step.

        Args:
          step: step number.
          state: the train state.
          extra: JSON values.
          rank: None where nothing was evaluated: never the best.
        """
        if self._orbax.latest is not None and self._orbax.latest.step == step:
            return
        metrics = {_RANK: list(rank or ())}
        self._orbax.save_checkpointables(step, {"state": state, "extra": extra}, metrics=metrics)

    def restore(self, abstract: Any, *, best: bool = False) -> tuple[Any, dict[str, Any]] | None:
        """The newest (or the best) checkpoint's state and JSON dict, or None if there is none.

        Args:
          abstract: shapes, dtypes and shardings of the state.
          best: the checkpoint of the highest rank, the latest of equals.

        Raises:
          UserError: when it does not hold the arrays of `abstract`.
        """
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
        self._orbax.close()


def _read_rank(metrics: Any) -> Any:
    return tuple(metrics.get(_RANK, ()))
