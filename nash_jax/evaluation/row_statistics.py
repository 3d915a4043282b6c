"""Statistics of the test rows in a small file, so that rows and seeds can be resampled after a run."""

import dataclasses
import hashlib
import io
import json
import zipfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.errors import UserError
from nash_jax.evaluation.bootstrap import NUM_RESAMPLES, bootstrap_values
from nash_jax.evaluation.metrics import METRICS
from nash_jax.evaluation.statistics import Row
from nash_jax.runtime.files import write_bytes

FILE = "statistics.npz"


@dataclasses.dataclass(frozen=True)
class SubsetStatistics:
    """The statistics of rows that are scored together.

    Attributes:
      prefix: of the names of their values: empty for all rows, `task/` in a mixture.
      metric: key of `METRICS`, which reduces them.
      groups: index of each row's unit of resampling, int [n].
      models: model → statistics of the rows, float64 [n, k].
    """

    prefix: str
    metric: str
    groups: np.ndarray
    models: Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class RowStatistics:
    """What the metrics measured of each test row.

    Attributes:
      rows: SHA-256 of the rows in their order: only outputs for the same rows are paired.
      subsets: all rows, then the rows of each task of a mixture.
    """

    rows: str
    subsets: Sequence[SubsetStatistics]

    def subset(self, value: str) -> SubsetStatistics:
        """The rows that a value such as `rouge2` or `squad/f1` is computed from."""
        task, slash, _ = value.rpartition("/")
        return next(own for own in self.subsets if own.prefix == task + slash)

    def values(self, model: str) -> dict[str, float]:
        """Name → value, as the run reported them."""
        return {
            own.prefix + name: value
            for own in self.subsets
            for name, value in METRICS[own.metric].values(own.models[model]).items()
        }

    def draws(self, model: str, value: str, resamples: int = NUM_RESAMPLES) -> np.ndarray:
        """A value in bootstrap resamples of the rows: the same rows for all models and runs with as many.

        Args:
          model: `dense` or `pruned`.
          value: its name.
          resamples: number of resamples.

        Returns:
          float64 [resamples].
        """
        own = self.subset(value)
        found = bootstrap_values(METRICS[own.metric], own.models[model], own.groups, resamples)
        return found[value.removeprefix(own.prefix)]


def digest_rows(rows: Sequence[Row]) -> str:
    """SHA-256 of sources and references, in order."""
    found = hashlib.sha256()
    for row in rows:
        found.update(json.dumps([row["source"], row["references"]]).encode() + b"\n")
    return found.hexdigest()


def save_statistics(path: Path, found: RowStatistics) -> None:
    """Writes the file, whole or not at all."""
    arrays: dict[str, Any] = {"rows": np.array(found.rows)}
    for number, own in enumerate(found.subsets):
        arrays |= {f"{number}/prefix": np.array(own.prefix), f"{number}/metric": np.array(own.metric)}
        arrays |= {f"{number}/groups": own.groups}
        arrays |= {f"{number}/models/{model}": statistics for model, statistics in own.models.items()}
    whole = io.BytesIO()
    np.savez_compressed(whole, **arrays)
    write_bytes(path, whole.getvalue())


def load_statistics(path: Path) -> RowStatistics:
    """Reads what `save_statistics` wrote; nothing in it is executed.

    Raises:
      UserError: if it is missing, or something else.
    """
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as found:
            count = sum(name.endswith("/metric") for name in found)
            return RowStatistics(str(found["rows"]), tuple(_read_subset(found, f"{i}/") for i in range(count)))
    except FileNotFoundError as error:
        raise UserError(
            f"{path} is missing", "statistics of the test rows, which runs keep since this version"
        ) from error
    except (OSError, ValueError, TypeError, KeyError, EOFError, zipfile.BadZipFile) as error:
        raise UserError(f"{path} holds no statistics of rows: {error}", "the file as it was written") from error


def _read_subset(found: Any, place: str) -> SubsetStatistics:
    models = {name.rpartition("/")[2]: found[name] for name in found if name.startswith(f"{place}models/")}
    return SubsetStatistics(str(found[f"{place}prefix"]), str(found[f"{place}metric"]), found[f"{place}groups"], models)
