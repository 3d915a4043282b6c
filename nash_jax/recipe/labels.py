"""The targets that the dense model wrote for the students: how a run keeps them and learns from them."""

import functools
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nash_jax.data.mixing import training_targets
from nash_jax.data.target_choice import TargetChoice
from nash_jax.errors import UserError
from nash_jax.runtime.files import write_text

FILE = "labels.jsonl"
Row = Mapping[str, Any]


class Label(NamedTuple):
    """What the dense model wrote for an input.

    Attributes:
      source: the input.
      text: the output; None: it is not used.
      agreement: its score against the reference, in the value that selects checkpoints, per cent; None: not measured.
    """

    source: str
    text: str | None
    agreement: float | None = None


class RunLabels:
    """The outputs of the dense model for the training rows, in their order, and for further inputs after them.

    Args:
      folder: of the stage that wrote them.
    """

    def __init__(self, folder: Path) -> None:
        self._path = folder / FILE

    @functools.cached_property
    def all(self) -> list[Label]:
        """All of them.

        Raises:
          UserError: for a file that is not as it was written.
        """
        try:
            lines = self._path.read_text(encoding="utf-8").split("\n")[:-1]
            return [Label(**json.loads(line)) for line in lines]
        except (OSError, ValueError, TypeError) as error:
            do = f"delete {self._path.parent} to write them again"
            raise UserError(f"{self._path} cannot be read: {error}", "the file as it was written", do) from error

    def texts(self) -> list[str]:
        """Inputs without a reference, and all outputs that are used."""
        return [text for label in self.all if label.text is not None for text in (label.source, label.text)]

    def further_rows(self, num_rows: int) -> list[dict[str, Any]]:
        """Rows of the inputs that have no reference; their output stands in its place.

        Args:
          num_rows: number of training rows.
        """
        return [_row(label) for label in self.all[num_rows:] if label.text is not None]

    def label_rows(self, num_rows: int) -> tuple[list[dict[str, Any]], list[int]]:
        """Rows of the training rows' outputs, and the index of the training row of each.

        Args:
          num_rows: number of training rows.
        """
        used = [i for i, label in enumerate(self.all[:num_rows]) if label.text is not None]
        return [_row(self.all[i]) for i in used], used


def _row(label: Label) -> dict[str, Any]:
    return {"source": label.source, "references": [label.text]}


def write_labels(folder: Path, labels: Sequence[Label]) -> None:
    """Writes the file that `RunLabels` reads.

    Args:
      folder: of the stage.
      labels: of the training rows in their order, and of further inputs after them.
    """
    write_text(folder / FILE, "".join(f"{json.dumps(label._asdict())}\n" for label in labels))


def choose_targets(
    rows: Sequence[Row], labelled: Sequence[int], num_further: int, share: float, seed: int
) -> TargetChoice:
    """The choice among these targets: of all pairs of the rows, then of labelled rows, then of further inputs.

    Args:
      rows: training rows; each has as many pairs as targets.
      labelled: index of the row of each label, increasing.
      num_further: inputs without a reference; each is one more pair.
      share: as `TargetChoice`.
      seed: as `TargetChoice`.
    """
    row_of_pair = np.repeat(np.arange(len(rows)), [len(training_targets(dict(row))) for row in rows])
    num_pairs, num_labels = len(row_of_pair), len(labelled)
    by_row = np.full(len(rows), -1)
    by_row[np.asarray(labelled, int)] = num_pairs + np.arange(num_labels)
    further = num_pairs + num_labels + np.arange(num_further)
    references = np.concatenate([np.arange(num_pairs), np.full(num_further, -1)])
    return TargetChoice(references, np.concatenate([by_row[row_of_pair], further]), share, seed)
