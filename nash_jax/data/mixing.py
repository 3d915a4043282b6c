"""Several tasks learnt together: their rows, and how often each is drawn.

Examples-proportional mixing with a cap, and temperature (Raffel et al., 2020, section 3.5.2): a task of e examples has
the rate min(e, K)^(1/T) / Σ.
"""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import Row
from nash_jax.data.tasks import TASKS
from nash_jax.errors import UserError, did_you_mean


def mixture_tasks(task: TaskConfig) -> list[TaskConfig]:
    """The settings of each task of a mixture.

    Raises:
      UserError: for unknown or repeated tasks, a mixture that has a task's name, or files that are the same for all.
    """
    names = [name.strip() for name in task.mixture.split(",")]
    for name in names:
        if name not in TASKS:
            raise UserError(f"config.task.mixture names {name!r}{did_you_mean(name, TASKS)}", f"of {', '.join(TASKS)}")
    if len(set(names)) < max(len(names), 2):
        raise UserError(f"config.task.mixture is {task.mixture!r}", "two tasks or more, each once")
    if task.name in TASKS:
        raise UserError(f"config.task.name is {task.name!r}, a single task", "a name of the mixture's own")
    if task.source == "pronunciation" or task.form != "auto":
        raise UserError("config.task.mixture with config.task.source or form of another kind", "hub or files, and auto")
    return [_part(task, name) for name in names]


def _part(task: TaskConfig, name: str) -> TaskConfig:
    fields: dict[str, Any] = {"name": name, "mixture": "", "prefix": TASKS[name].prefix if task.prompt == "t5" else ""}
    for field in ("train_file", "validation_file", "test_file") if task.source == "files" else ():
        path = getattr(task, field)
        if path and "{task}" not in path:
            raise UserError(f"config.task.{field} is {path!r}", "{task} in it, which stands for each task's name")
        fields[field] = path.replace("{task}", name)
    return dataclasses.replace(task, **fields)


def interleave(parts: Mapping[str, Mapping[str, list[Row]]], splits: Sequence[str]) -> dict[str, list[Row]]:
    """The rows of all tasks, each with its "task"; the first rows of a split are of all tasks in proportion.

    Args:
      parts: task → split → rows.
      splits: those to join.
    """
    joined = {}
    for split in splits:
        placed = [
            ((number + 0.5) / len(rows[split]), row | {"task": name})
            for name, rows in parts.items()
            for number, row in enumerate(rows[split])
        ]
        joined[split] = [row for _, row in sorted(placed, key=lambda pair: pair[0])]
    return joined


def training_targets(row: Row) -> list[str]:
    """What a row trains on: its targets where it has such, else its references."""
    return row["targets"] if "targets" in row else row["references"]


def mixing_rates(sizes: Sequence[int], cap: int, temperature: float) -> np.ndarray:
    """Shares of tasks of so many examples, which sum to 1."""
    rates = np.minimum(np.asarray(sizes, float), cap) ** (1 / temperature)
    return rates / rates.sum()


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Which pairs each epoch takes: of every task a fixed number.

    A task's pairs come in shuffled passes that go on from epoch to epoch, so that no pair is drawn twice before all
    are drawn once. An epoch's pairs are a function of (pairs, seed, epoch).

    Attributes:
      pairs: numbers of each task's pairs.
      quotas: how many of them an epoch takes.
      seed: of the shuffling.
    """

    pairs: tuple[np.ndarray, ...]
    quotas: tuple[int, ...]
    seed: int

    @property
    def size(self) -> int:
        """Pairs of an epoch."""
        return sum(self.quotas)

    def sample(self, epoch: int) -> np.ndarray:
        """Numbers of an epoch's pairs, task by task, int64 [size]."""
        return np.concatenate([self._sample_task(task, epoch) for task in range(len(self.pairs))])

    def _sample_task(self, task: int, epoch: int) -> np.ndarray:
        pairs, quota = self.pairs[task], self.quotas[task]
        start = epoch * quota
        first, last = start // len(pairs), (start + quota - 1) // len(pairs)
        passes = [
            np.random.default_rng((self.seed, task, number)).permutation(pairs) for number in range(first, last + 1)
        ]
        begin = start - first * len(pairs)
        return np.concatenate(passes)[begin : begin + quota]


def make_mixture(rows: Sequence[Row], task: TaskConfig, seed: int) -> Mixture:
    """The mixture of training rows; an epoch has as many pairs as the tasks have together, each counted up to the cap.

    Args:
      rows: as `interleave` joins them.
      task: cap and temperature.
      seed: of the shuffling.
    """
    names = np.repeat([row["task"] for row in rows], [len(training_targets(row)) for row in rows])
    pairs = tuple(np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist()))
    sizes = [len(own) for own in pairs]
    rates = mixing_rates(sizes, task.mixture_cap, task.mixture_temperature)
    total = np.minimum(sizes, task.mixture_cap).sum()
    return Mixture(pairs, tuple(max(1, round(share)) for share in rates * total), seed)
