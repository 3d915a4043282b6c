"""Data sets of the hub that a config can name."""

import dataclasses

from nash_jax.errors import UserError
from nash_jax.tree import did_you_mean


@dataclasses.dataclass(frozen=True)
class HubTask:
    """Where a data set lies on the hub, as plain files, and which columns are used.

    Attributes:
      repository: hub name of the data set.
      revision: branch, tag or commit.
      source_column: input text.
      target_column: reference text.
      splits: hub names of train, validation and test.
      subset: which of a repository's data sets, where it has several.
    """

    repository: str
    revision: str
    source_column: str
    target_column: str
    splits: tuple[str, str, str] = ("train", "validation", "test")
    subset: str | None = None


HUB_TASKS = {
    "samsum": HubTask("knkarthick/samsum", "main", "dialogue", "summary"),
    "cnn_dailymail": HubTask(
        "abisee/cnn_dailymail", "96df5e686bee6baa90b8bee7c28b81fa3fa6223d", "article", "highlights", subset="3.0.0"
    ),
}


def hub_task(name: str) -> HubTask:
    """The entry of that name.

    Raises:
      UserError: for an unknown name.
    """
    if name not in HUB_TASKS:
        raise UserError(
            f"config.task.name is {name!r}{did_you_mean(name, HUB_TASKS)}",
            f"one of {', '.join(HUB_TASKS)}",
            "or config.task.source='files' with your own files",
        )
    return HUB_TASKS[name]
