"""A latency table, as JSON, and where tables that were measured lie: a file for each machine, model and setup."""

import dataclasses
import hashlib
import importlib.metadata
import json
import math
import os
import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from nash_jax.benchmark.latency_entries import FIXED, KINDS, Curve, curve_sizes
from nash_jax.benchmark.latency_timing import ENGINES, Setup
from nash_jax.errors import UserError
from nash_jax.runtime.files import read_json, write_text, writing
from nash_jax.runtime.sharding import device_name
from nash_jax.spec import ModelSpec

TABLE_VERSION = 1


class Check(NamedTuple):
    """Models that the table was not made from, timed after it was.

    Attributes:
      predicted_ms: of each model.
      measured_ms: of each model.
      dense_ms: measured with the models that the table was made from.
      dense_again_ms: measured with these: how the machine has changed.
    """

    predicted_ms: tuple[float, ...] = ()
    measured_ms: tuple[float, ...] = ()
    dense_ms: float = 0.0
    dense_again_ms: float = 0.0

    def errors(self, dense_ms: float | None = None) -> np.ndarray:
        """Predicted / measured - 1, of each model.

        Args:
          dense_ms: the dense model's prediction, for the errors of speedups; None: for those of milliseconds.
        """
        change = 1.0 if dense_ms is None else self.dense_again_ms / dense_ms
        return np.array(self.predicted_ms) * change / np.array(self.measured_ms) - 1


UNCHECKED = Check()


@dataclasses.dataclass(frozen=True)
class LatencyTable:
    """Milliseconds of a generation by kind of sub-layer and size.

    Attributes:
      dense: the model with the largest sizes.
      setup: engine, dtype, batch size and lengths.
      curves: kind → milliseconds a layer by size; for the LM head by tokens of the vocabulary.
      fixed: name → milliseconds, for what does not depend on a size.
      machine: device, versions, and what else times depend on.
      shapes: number of models that the table was made from.
      seconds: that measuring took.
      check: how well it predicts others.
    """

    dense: ModelSpec
    setup: Setup
    curves: Mapping[str, Curve]
    fixed: Mapping[str, float]
    machine: Mapping[str, Any]
    shapes: int
    seconds: float = 0.0
    check: Check = UNCHECKED

    def to_json(self) -> str:
        """Returns JSON text, which `read_table` reads from a file."""
        fields = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        named = {name: fields[name]._asdict() for name in ("setup", "check")}
        curves = {kind: curve._asdict() for kind, curve in self.curves.items()}
        whole = fields | named | {"curves": curves, "dense": json.loads(self.dense.to_json())}
        return json.dumps({"table_version": TABLE_VERSION, **whole}, indent=1)


def read_table(path: Path) -> LatencyTable:
    """Reads a table.

    Args:
      path: a file that `LatencyTable.to_json` was written to.

    Raises:
      UserError: for any other file, or one whose entries are not those of its model.
    """
    found = read_json(path)
    try:
        if found["table_version"] != TABLE_VERSION:
            raise UserError(f"{path} has table_version {found['table_version']}", f"{TABLE_VERSION}", _AGAIN)
        table = LatencyTable(
            ModelSpec.from_json(json.dumps(found["dense"])), Setup(**found["setup"]),
            {kind: Curve(tuple(curve["sizes"]), _times(curve["ms"])) for kind, curve in found["curves"].items()},
            dict(zip(found["fixed"], _times(found["fixed"].values()), strict=True)), found["machine"], found["shapes"],
            found["seconds"], _read_check(found["check"]),
        )  # fmt: skip
        _check_entries(table)
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{path} is damaged: {error!r}", "a latency table as it was saved", _AGAIN) from error
    return table


_AGAIN = "measure it again"


def _times(values: Any) -> tuple[float, ...]:
    """Checks that values are times.

    Raises:
      ValueError: for others.
    """
    found = tuple(values)
    for ms in found:
        if type(ms) not in (int, float) or not math.isfinite(ms) or ms < 0:
            raise ValueError(f"{ms!r} ms")
    return found


def _read_check(found: Mapping[str, Any]) -> Check:
    dense_ms, again_ms = _times((found["dense_ms"], found["dense_again_ms"]))
    return Check(_times(found["predicted_ms"]), _times(found["measured_ms"]), dense_ms, again_ms)


def _check_entries(table: LatencyTable) -> None:
    """Checks that curves and fixed entries are those of the dense model.

    Raises:
      ValueError: if they are not.
    """
    if set(table.curves) != set(KINDS) or set(table.fixed) != set(FIXED):
        raise ValueError(f"entries {sorted(table.curves)}, {sorted(table.fixed)}")
    for kind, sizes in curve_sizes(table.dense).items():
        curve = table.curves[kind]
        if curve.sizes != sizes or len(curve.ms) != len(sizes) or curve.ms[0] or list(curve.ms) != sorted(curve.ms):
            raise ValueError(f"{kind}: {curve}")


def describe_machine(engine: str) -> dict[str, Any]:
    """Returns what times depend on apart from the model: device, processor, cores, versions, settings of XLA.

    Args:
      engine: a name of `ENGINES`.
    """
    versions = {name: importlib.metadata.version(name) for name in ("nash_jax", "numpy", *ENGINES[engine][0])}
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return {
        "device": device_name(), "processor": _processor(), "cores": cores, "versions": versions,
        "xla_flags": os.environ.get("XLA_FLAGS", ""),
    }  # fmt: skip


def _processor() -> str:
    """The processor's name: jax calls every one `cpu`."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        lines = []
    names = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return next(names, platform.processor())


def cache_path(dense: ModelSpec, setup: Setup, machine: Mapping[str, Any], shapes: Sequence[int]) -> Path:
    """Returns where the table of a machine, a model and a setup lies in the user's cache folder.

    Args:
      dense: the model with the largest sizes.
      setup: what is timed.
      machine: from `describe_machine`.
      shapes: numbers of models to fit and to check, and of visits.
    """
    key = [TABLE_VERSION, json.loads(dense.to_json()), setup, machine, list(shapes)]
    digest = hashlib.sha256(json.dumps(key, sort_keys=True).encode()).hexdigest()
    root = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    return root / "nash_jax" / "latency" / f"{digest[:32]}.json"


def save_table(table: LatencyTable, path: Path) -> None:
    """Writes a table beside its place and renames it.

    Args:
      table: a table.
      path: of the file.

    Raises:
      UserError: if it cannot be written.
    """
    with writing(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        write_text(path, table.to_json())
