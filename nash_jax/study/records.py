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

from nash_jax.report.summary import Rows, Setup, direction, find_row, measured, ratio, section, setups

Record = Mapping[str, Any]


class Spread(NamedTuple):
    """Mean and sample standard deviation of n values; one value has no deviation."""

    mean: float
    std: float | None
    n: int


def spread(values: Iterable[Any]) -> Spread | None:
    """Mean ± sample standard deviation of the finite numbers among `values`; None where there is none."""
    found = [float(value) for value in values if measured(value)]
    if not found:
        return None
    # `statistics` counts exactly: values that agree have the deviation 0
    return Spread(statistics.mean(found), statistics.stdev(found) if len(found) > 1 else None, len(found))


def pooled(rows: Iterable[Mapping[str, Any]]) -> Spread | None:
    """Mean ± sample standard deviation in ms of all runs behind benchmark rows, as if they were of one row.

    Σ (n - 1) std² + Σ n (mean_row - mean)² over N - 1: the sum of squares within the rows and between them.
    A row whose runs are not told counts as one.
    """
    found = [row for row in rows if measured(row.get("mean_ms"))]
    if not found:
        return None
    runs = [row["runs"] if measured(row.get("runs")) and row["runs"] > 0 else 1 for row in found]
    total = sum(runs)
    mean = math.fsum(n * row["mean_ms"] for n, row in zip(runs, found, strict=True)) / total
    squares = [
        (n - 1) * (row["std_ms"] if measured(row.get("std_ms")) else 0.0) ** 2 + n * (row["mean_ms"] - mean) ** 2
        for n, row in zip(runs, found, strict=True)
    ]
    return Spread(mean, math.sqrt(math.fsum(squares) / (total - 1)) if total > 1 else None, int(total))


def metrics_of(record: Record, model: str) -> Mapping[str, Any]:
    """The scores of "dense" or "pruned"; empty in a cell that was only timed."""
    return section(record, "metrics", model)


def impact(record: Record, metric: str) -> float | None:
    """Relative change of a metric of the pruned model against its own dense model: -0.05 is 5 % less."""
    part = ratio(metrics_of(record, "pruned").get(metric), metrics_of(record, "dense").get(metric))
    return None if part is None else part - 1


def benchmark_rows(record: Record) -> Rows:
    """The benchmark rows of a cell, those of other models than dense and pruned left out."""
    return [row for row in record.get("benchmark") or [] if row.get("model") in ("dense", "pruned")]


def timed_seconds(record: Record) -> float:
    """Seconds of the timed runs of a cell: whole generations, and encoder passes once for each batch size."""
    rows = [row for row in benchmark_rows(record) if measured(row.get("mean_ms")) and measured(row.get("encode_ms"))]
    whole = math.fsum(row["runs"] * row["mean_ms"] for row in rows)
    passes = {(row["model"], row["batch_size"]): row["runs"] * row["encode_ms"] for row in rows}
    return (whole + math.fsum(passes.values())) / 1000


def speedup(record: Record, setup: Setup) -> float | None:
    """Median time of dense over median time of pruned, both of this cell: they were timed in turn in one process."""
    rows = benchmark_rows(record)
    dense, pruned = (find_row(rows, model, setup).get("median_ms") for model in ("dense", "pruned"))
    return ratio(dense, pruned)


def layers_kept(record: Record, side: str) -> tuple[int, int] | None:
    """(layers kept, layers of the dense model) of the encoder or the decoder."""
    layers = section(record, "layers", side)
    kept, dense = layers.get("kept"), layers.get("dense")
    return None if kept is None or not isinstance(dense, int) else (len(kept), dense)


@dataclasses.dataclass(frozen=True)
class Group:
    """The cells that differ by nothing but the seed."""

    name: str
    records: tuple[Record, ...]

    @property
    def method(self) -> str:
        """How the model was pruned."""
        return str(self.records[0].get("method") or "")

    @property
    def label(self) -> str:
        """The name without what the method's colour says already."""
        return self.name.removeprefix(f"{self.method}-") or self.name

    def over_seeds(self, value: Callable[[Record], Any]) -> Spread | None:
        """Mean ± standard deviation over the seeds of what `value` finds in a record."""
        return spread(value(record) for record in self.records)

    def depth(self, side: str) -> tuple[int, int] | None:
        """(layers kept, layers of the dense model); None where the seeds differ."""
        found = {layers_kept(record, side) for record in self.records}
        return found.pop() if len(found) == 1 else None

    def speedup(self, setup: Setup) -> Spread | None:
        """Speedup over dense, mean ± standard deviation over the seeds."""
        return self.over_seeds(lambda record: speedup(record, setup))

    def times(self, model: str, setup: Setup) -> Spread | None:
        """Milliseconds, mean ± standard deviation over all runs of all seeds."""
        return pooled(find_row(benchmark_rows(record), model, setup) for record in self.records)


@dataclasses.dataclass(frozen=True)
class Subject:
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
        scores = (metrics_of(record, model) for record in self.records for model in ("dense", "pruned"))
        names = list(dict.fromkeys(name for scored in scores for name, value in scored.items() if measured(value)))
        chosen = next((str(record["metric"]) for record in self.records if record.get("metric")), None)
        main = chosen if chosen in names else next((name for name in names if direction(name)), None)
        return sorted(names, key=lambda name: name != main)

    @property
    def metric(self) -> str | None:
        """What the task is judged by; None where no cell has quality."""
        return self.metrics[0] if self.metrics and direction(self.metrics[0]) else None

    @cached_property
    def setups(self) -> list[Setup]:
        """The set-ups timed, by lengths, beams and batch size."""
        found = setups([row for record in self.records for row in benchmark_rows(record)])
        return sorted(
            found,
            key=lambda setup: [(not measured(x), x if measured(x) else 0) for x in (*setup[1:], setup.batch_size)],
        )

    @property
    def lengths(self) -> list[tuple[Any, ...]]:
        """(source length, new tokens, beams) of the set-ups timed."""
        return list(dict.fromkeys(tuple(setup[1:]) for setup in self.setups))

    def dense_scores(self) -> list[Mapping[str, Any]]:
        """Scores of the dense models: of each seed that has one of its own, once."""
        by_seed: dict[Any, Mapping[str, Any]] = {}
        for record in self.records:
            if metrics_of(record, "dense"):
                by_seed.setdefault(record.get("seed"), metrics_of(record, "dense"))
        distinct: list[Mapping[str, Any]] = []
        for scores in by_seed.values():
            if scores not in distinct:
                distinct.append(scores)
        return distinct

    def dense_score(self, metric: str) -> Spread | None:
        """A metric of the dense models, mean ± standard deviation over the seeds."""
        return spread(scores.get(metric) for scores in self.dense_scores())


def subjects(records: Sequence[Record]) -> list[Subject]:
    """Records sorted into subjects and groups, both in the order of their first cells."""
    found: dict[tuple[str, str, str, str, str], dict[str, list[Record]]] = {}
    fields = ("task", "model", "device", "dtype", "teacher")
    for record in records:
        task, model, device, dtype, teacher = (str(record.get(field) or "") for field in fields)
        group = str(record.get("group") or record.get("cell") or "unnamed")
        found.setdefault((task, model, device, dtype, teacher), {}).setdefault(group, []).append(record)
    return [
        Subject(*key, tuple(Group(name, tuple(cells)) for name, cells in groups.items()))
        for key, groups in found.items()
    ]


def subject_title(subject: Subject, among: Sequence[Subject]) -> str:
    """A subject's name: task and model, and device, dtype and teacher where others differ by nothing else."""
    parts = [subject.task or "latency only", subject.model or "unnamed model"]
    for field in ("device", "dtype", "teacher"):
        same = [other for other in among if (other.task, other.model) == (subject.task, subject.model)]
        if len({getattr(other, field) for other in same}) > 1:
            parts.append(getattr(subject, field) or f"unnamed {field}")
    return " · ".join(parts)


def state_counts(states: Mapping[str, str]) -> dict[str, int]:
    """State without its reason → number of cells: done, failed, running, waiting, others as they are."""
    kinds = [str(state).split(":", 1)[0] for state in states.values()]
    order = dict.fromkeys(("done", "failed", "running", "waiting", *kinds))
    return {kind: kinds.count(kind) for kind in order if kind in kinds}


def state_sentence(states: Mapping[str, str]) -> str:
    """How far the study is: "3 of 5 cells are done, 1 failed, 1 waiting."."""
    counts = state_counts(states)
    rest = "".join(f", {number} {kind}" for kind, number in counts.items() if kind != "done")
    if not states:
        return "No cell has been planned."
    return f"{counts.get('done', 0)} of {len(states)} cells are done{rest}."
