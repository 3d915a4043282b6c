"""Multi-task mixtures: the rows of several tasks, and how often each task is sampled.

Examples-proportional mixing with a cap K and temperature T (Raffel et al. 2020, section 3.5.2): the rate of a task with
e examples is min(e, K)^(1/T) / Σ.
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
    """Returns the settings of each task of a mixture.

    Raises:
      UserError: for unknown or repeated tasks, a mixture named like a task, or a file path without `{task}`.
    """
    names = [name.strip() for name in task.mixture.split(",")]
    for name in names:
        if name not in TASKS:
            raise UserError(
                f"config.task.mixture names {name!r}{did_you_mean(name, TASKS)}", f"one of {', '.join(TASKS)}"
            )
    if len(set(names)) < max(len(names), 2):
        raise UserError(f"config.task.mixture is {task.mixture!r}", "two tasks or more, each once")
    if task.name in TASKS:
        raise UserError(f"config.task.name is {task.name!r}, a single task", "a name for the mixture")
    if task.source == "pronunciation" or task.form != "auto":
        raise UserError("config.task.mixture with another config.task.source or form", "'hub' or 'files', and 'auto'")
    return [_part(task, name) for name in names]


def _part(task: TaskConfig, name: str) -> TaskConfig:
    fields: dict[str, Any] = {"name": name, "mixture": "", "prefix": TASKS[name].prefix if task.prompt == "t5" else ""}
    for field in ("train_file", "validation_file", "test_file") if task.source == "files" else ():
        path = getattr(task, field)
        if path and "{task}" not in path:
            raise UserError(f"config.task.{field} is {path!r}", "a path with {task}, replaced by each task's name")
        fields[field] = path.replace("{task}", name)
    return dataclasses.replace(task, **fields)


def interleave(parts: Mapping[str, Mapping[str, list[Row]]], splits: Sequence[str]) -> dict[str, list[Row]]:
    """Interleaves the rows of all tasks; each row gets its "task".

    Every prefix of a split contains the tasks in proportion to their sizes.

    Args:
      parts: task → split → rows.
      splits: splits to join.

    Returns:
      Split → rows.
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
    """Returns the texts that a row trains on: its targets if it has them, else its references."""
    return row["targets"] if "targets" in row else row["references"]


def mixing_rates(sizes: Sequence[int], cap: int, temperature: float) -> np.ndarray:
    """Returns the sampling rates of tasks with these numbers of examples, float64 [tasks]; they sum to 1."""
    rates = np.minimum(np.asarray(sizes, float), cap) ** (1 / temperature)
    return rates / rates.sum()


@dataclasses.dataclass(frozen=True)
class Mixture:
    """Samples the (source, target) pairs of each epoch: a fixed number for every task.

    Each task is sampled in shuffled passes that continue over epochs, so a pair is not repeated before all pairs of the
    task were used. The pairs of an epoch are a function of (pairs, seed, epoch).

    Attributes:
      pairs: indices of each task's pairs.
      quotas: number of pairs that an epoch takes from each task.
      seed: of the shuffling.
    """

    pairs: tuple[np.ndarray, ...]
    quotas: tuple[int, ...]
    seed: int

    @property
    def size(self) -> int:
        """Number of pairs in an epoch."""
        return sum(self.quotas)

    def sample(self, epoch: int) -> np.ndarray:
        """Returns the indices of an epoch's pairs, ordered by task, int64 [size]."""
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
    """Builds the mixture of training rows.

    The number of pairs in an epoch is the sum over tasks of min(pairs, cap).

    Args:
      rows: from `interleave`.
      task: mixture cap and temperature.
      seed: of the shuffling.
    """
    names = np.repeat([row["task"] for row in rows], [len(training_targets(row)) for row in rows])
    pairs = tuple(np.flatnonzero(names == name) for name in dict.fromkeys(names.tolist()))
    sizes = [len(indices) for indices in pairs]
    rates = mixing_rates(sizes, task.mixture_cap, task.mixture_temperature)
    total = np.minimum(sizes, task.mixture_cap).sum()
    return Mixture(pairs, tuple(max(1, round(share)) for share in rates * total), seed)
