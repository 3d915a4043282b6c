"""Records of a study's cells, and what several seeds of one cell say together.

A record is the JSON-able dict that the study's runner keeps of a cell. Any part of it may be missing: what is
computed from it is then None, never an error.
"""

import dataclasses
import math
import statistics
from collections.abc import Callable, Iterable, Mapping, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from nash_jax.report.benchmark import Rows, Setup, find_row, setups
from nash_jax.report.numbers import MINUS, direction, is_number, ratio, section
from nash_jax.study.paired import Interval, t_interval

Record = Mapping[str, Any]
TEACHER = "finetune"
_NOT_TRAINING = ("data", TEACHER, "evaluate", "benchmark", "export")  # any other stage is the cell's training


class MeanStd(NamedTuple):
    """Mean and sample standard deviation of n values; one value has no deviation."""

    mean: float
    std: float | None
    n: int

    @property
    def interval(self) -> Interval | None:
        """The 95 % t-interval of the mean; None for fewer than three values."""
        return t_interval(self.mean, self.std, self.n)

    def text(self, write: Callable[[float], str], unit: str = "") -> str:
        """Mean and, of three values or more that differ, the t-interval: 2.87× [2.80, 2.94]."""
        bounds = self.interval if self.std else None
        shown = f" [{write(bounds[0])}, {write(bounds[1])}]" if bounds else ""
        return f"{write(self.mean)}{unit}{shown}".replace("-", MINUS)

    def deviation_text(self, write: Callable[[float], str]) -> str:
        """Mean and, where there is one, the standard deviation by its name: 52.3 (sd 1.2)."""
        return f"{write(self.mean)}{f' (sd {write(self.std)})' if self.std is not None else ''}".replace("-", MINUS)


def mean_std(values: Iterable[Any]) -> MeanStd | None:
    """Mean and sample standard deviation of the finite numbers among `values`; None where there is none."""
    found = [float(value) for value in values if is_number(value)]
    if not found:
        return None
    # `statistics` counts exactly: values that agree have the deviation 0
    return MeanStd(statistics.mean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def pooled(rows: Iterable[Mapping[str, Any]]) -> MeanStd | None:
    """Mean and sample standard deviation in ms of all runs behind benchmark rows, as if they were of one row.

    Σ (n - 1) std² + Σ n (mean_row - mean)² over N - 1: the sum of squares within the rows and between them.
    A row that does not say its number of runs counts as one run.
    """
    found = [row for row in rows if is_number(row.get("mean_ms"))]
    if not found:
        return None
    runs = [row["runs"] if is_number(row.get("runs")) and row["runs"] > 0 else 1 for row in found]
    total = sum(runs)
    mean = math.fsum(n * row["mean_ms"] for n, row in zip(runs, found, strict=True)) / total
    stds = [row["std_ms"] if is_number(row.get("std_ms")) else 0.0 for row in found]
    parts = zip(runs, stds, found, strict=True)
    squares = math.fsum((n - 1) * std**2 + n * (row["mean_ms"] - mean) ** 2 for n, std, row in parts)
    return MeanStd(mean, math.sqrt(squares / (total - 1)) if total > 1 else None, int(total))


def scores(record: Record, model: str = "pruned") -> Mapping[str, Any]:
    """The metrics of "dense" or "pruned"; empty in a cell that was only timed."""
    return section(record, "metrics", model)


def relative_change(record: Record, metric: str | None) -> float | None:
    """Relative change of a metric of the pruned model against its own dense model: -0.05 is 5 % less."""
    part = ratio(scores(record).get(metric or ""), scores(record, "dense").get(metric or ""))
    return None if part is None else part - 1


def benchmark_rows(record: Record) -> Rows:
    """The benchmark rows of a cell, those of other models than dense and pruned left out."""
    return [row for row in record.get("benchmark") or [] if row.get("model") in ("dense", "pruned")]


def timed_seconds(record: Record) -> float:
    """Seconds of the timed runs of a cell: whole generations, and encoder passes once for each batch size."""
    rows = [row for row in benchmark_rows(record) if is_number(row.get("mean_ms")) and is_number(row.get("encode_ms"))]
    passes = {(row["model"], row["batch_size"]): row["runs"] * row["encode_ms"] for row in rows}
    return (math.fsum(row["runs"] * row["mean_ms"] for row in rows) + math.fsum(passes.values())) / 1000


def trained(record: Record, what: str) -> float | None:
    """The sum of `steps` or `seconds` over the stages that are this cell's own training.

    Args:
      record: of a cell.
      what: `steps` or `seconds`.

    Returns:
      None where no stage says it.
    """
    stages = section(record, "stages")
    found = [section(stages, name).get(what) for name in stages if name not in _NOT_TRAINING]
    numbers = [value for value in found if is_number(value)]
    return sum(numbers) if numbers else None


def taught(record: Record, what: str) -> float | None:
    """The same of its teacher."""
    value = section(record, "stages", TEACHER).get(what)
    return value if is_number(value) else None


def speedup(record: Record, setup: Setup) -> float | None:
    """Median time of dense over median time of pruned, both of this cell: they were timed in turn in one process."""
    return ratio(*(find_row(benchmark_rows(record), m, setup).get("median_ms") for m in ("dense", "pruned")))


def layers_kept(record: Record, side: str) -> tuple[int | None, int | None]:
    """(layers kept, layers of the dense model) of the encoder or the decoder; (None, None) where one is not known."""
    kept, dense = (section(record, "layers", side).get(key) for key in ("kept", "dense"))
    return (None, None) if kept is None or not isinstance(dense, int) else (len(kept), dense)


@dataclasses.dataclass(frozen=True)
class Group:
    """The cells that differ by nothing but the seed."""

    name: str
    records: tuple[Record, ...]

    @property
    def method(self) -> str:
        """How the model was pruned."""
        return str(self.records[0].get("method") or "")

    def over_seeds(self, value: Callable[[Record], Any]) -> MeanStd | None:
        """Mean and standard deviation over the seeds of what `value` finds in a record."""
        return mean_std(map(value, self.records))

    def score(self, metric: str) -> MeanStd | None:
        """A metric of the pruned model over the seeds."""
        return self.over_seeds(lambda record: scores(record).get(metric))

    def speedup(self, setup: Setup) -> MeanStd | None:
        """Speedup over dense, over the seeds."""
        return self.over_seeds(lambda record: speedup(record, setup))

    def depth(self, side: str) -> tuple[int | None, int | None]:
        """(layers kept, layers of the dense model); (None, None) where the seeds differ."""
        found = {layers_kept(record, side) for record in self.records}
        return found.pop() if len(found) == 1 else (None, None)


@dataclasses.dataclass(frozen=True)
class Comparison:
    """Cells that may be compared: one task, one dense model but for its seed, one device, one dtype.

    `teacher` tells dense models of one name apart: the settings that made them, as a hash.
    """

    task: str
    model: str
    device: str
    dtype: str
    teacher: str
    groups: tuple[Group, ...]

    @cached_property
    def records(self) -> tuple[Record, ...]:
        """All cells, group by group."""
        return tuple(record for group in self.groups for record in group.records)

    @cached_property
    def metrics(self) -> list[str]:
        """Every metric of any cell, the main one first."""
        found = (scores(record, model) for record in self.records for model in ("dense", "pruned"))
        names = list(dict.fromkeys(name for own in found for name, value in own.items() if is_number(value)))
        chosen = next((str(record["metric"]) for record in self.records if record.get("metric")), None)
        main = chosen if chosen in names else next((name for name in names if direction(name)), None)
        return sorted(names, key=lambda name: name != main)

    @property
    def metric(self) -> str | None:
        """What the task is judged by; None where no cell has quality."""
        return self.metrics[0] if self.metrics and direction(self.metrics[0]) else None

    @cached_property
    def setups(self) -> list[Setup]:
        """The setups timed, by lengths, beams and batch size."""
        found = setups([row for record in self.records for row in benchmark_rows(record)])
        return sorted(found, key=lambda s: [(not is_number(x), x if is_number(x) else 0) for x in (*s[1:], s[0])])

    @property
    def lengths(self) -> list[tuple[Any, ...]]:
        """(source length, new tokens, beams) of the setups timed."""
        return list(dict.fromkeys(tuple(setup[1:]) for setup in self.setups))

    def dense_scores(self) -> list[Mapping[str, Any]]:
        """Metrics of the dense models: of each seed that has one of its own, once."""
        first = {r.get("seed"): scores(r, "dense") for r in reversed(self.records) if scores(r, "dense")}
        found = list(first.values())
        return [own for i, own in enumerate(found) if own not in found[:i]]

    def dense_score(self, metric: str) -> MeanStd | None:
        """A metric of the dense models, over the seeds."""
        return mean_std(own.get(metric) for own in self.dense_scores())

    def dense_size(self) -> Any:
        """Parameters of the dense model, as the first cell says that knows it."""
        sizes = (section(record, "params").get("dense") for record in self.records)
        return next(filter(is_number, sizes), None)


def comparisons(records: Sequence[Record]) -> list[Comparison]:
    """Records sorted into comparisons and groups, both in the order of their first cells."""
    found: dict[tuple[str, ...], dict[str, list[Record]]] = {}
    fields = ("task", "model", "device", "dtype", "teacher")
    for record in records:
        key = tuple(str(record.get(field) or "") for field in fields)
        group = str(record.get("group") or record.get("cell") or "unnamed")
        found.setdefault(key, {}).setdefault(group, []).append(record)
    return [
        Comparison(**dict(zip(fields, key, strict=True)), groups=tuple(Group(n, tuple(g)) for n, g in own.items()))
        for key, own in found.items()
    ]


def comparison_title(one: Comparison, among: Sequence[Comparison]) -> str:
    """Task and model, and device, dtype and teacher where others differ by nothing else."""
    parts = [one.task or "latency only", one.model or "unnamed model"]
    same = [other for other in among if (other.task, other.model) == (one.task, one.model)]
    for field in ("device", "dtype", "teacher"):
        if len({getattr(other, field) for other in same}) > 1:
            parts.append(getattr(one, field) or f"unnamed {field}")
    return " · ".join(parts)


def state_sentence(states: Mapping[str, str]) -> str:
    """How far the study is: "3 of 5 cells are done, 1 failed, 1 waiting."."""
    kinds = [str(state).split(":", 1)[0] for state in states.values()]
    rest = (
        kind for kind in dict.fromkeys(("failed", "running", "waiting", *kinds)) if kind in kinds and kind != "done"
    )
    said = ", ".join(
        [f"{kinds.count('done')} of {len(kinds)} cells are done", *(f"{kinds.count(k)} {k}" for k in rest)]
    )
    return f"{said}." if states else "No cell has been planned."
