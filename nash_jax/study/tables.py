"""The tables of a study, one a comparison: quality, latency, both together, and beside what was published.

They hold raw numbers; `Table.frame` writes them for people, `Table.values` for programs.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from nash_jax.report.benchmark import Setup, find_row, setup_label, setups
from nash_jax.report.numbers import DASH, direction, format_count, format_ms, format_value, is_number, section
from nash_jax.report.quality import ARROWS, metric_title
from nash_jax.report.tables import Cell, make_frame
from nash_jax.spec import SIDES
from nash_jax.study.published_results import BATCH_SIZES, FLAN_T5_LARGE, SOURCE, sixths
from nash_jax.study.records import (
    Comparison,
    Group,
    MeanStd,
    Record,
    benchmark_rows,
    layers_kept,
    mean_std,
    pooled,
    relative_change,
    scores,
    speedup,
    taught,
    trained,
)

Row = dict[str, Any]
INTERVALS = (
    "In brackets: 95 % t-interval over seeds, for three or more that differ; (n): so many of the seeds have a value."
)
_IDENTITY = ("task", "model", "device", "dtype", "teacher", "metric")  # of a comparison, in CSV

WRITERS: Mapping[str, Callable[[MeanStd], str]] = {
    "score": lambda value: value.text(lambda x: format_value(x, like=value.mean)),
    "percent": lambda share: share.text(lambda x: f"{100 * x:.1f}"),
    "change": lambda share: "+" * (share.mean >= 0) + share.text(lambda x: f"{100 * x:.1f}"),
    "speedup": lambda factor: factor.text("{:.2f}".format, "×"),
    "ms": lambda time: time.deviation_text(format_ms),
    "count": lambda count: count.text(format_count),
    "number": lambda count: count.text("{:,.0f}".format),
    "seconds": lambda time: time.text("{:,.1f}".format),
    "layers": lambda kept: kept.text("{:.1f}".format) if kept.std else f"{kept.mean:g}",
}


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its name for programs, its title for people, and, where it holds `MeanStd` or None, their writer."""

    key: str
    title: str
    kind: str | Callable[[MeanStd], str] = ""  # of `WRITERS`, or a writer
    over_seeds: bool = True  # else of runs, or published


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows (key → value) of one comparison under columns; `lead` says what a reader must know of them."""

    comparison: Comparison
    columns: Sequence[Column]
    rows: Sequence[Row]
    lead: str = ""

    def frame(self) -> pd.DataFrame:
        """For people: titles, and means with their intervals as text."""
        rows = [[_cell(column, row) for column in self.columns] for row in self.rows]
        label = f"{self.comparison.task} {self.comparison.model}".strip() or "table"
        return make_frame(label, rows, [column.title for column in self.columns])

    def values(self) -> pd.DataFrame:
        """For programs: what is compared, then the raw values, each `MeanStd` in three columns, over seeds in five."""
        rows = []
        for row in self.rows:
            rows.append({name: getattr(self.comparison, name) for name in _IDENTITY})
            for column in self.columns:
                value = row.get(column.key)
                rows[-1] |= {f"{column.key}{end}": part for end, part in _parts(column, value).items()}
        return pd.DataFrame(rows, dtype=object)


def _parts(column: Column, value: Any) -> Row:
    """End of the name of a column in CSV → what is in it."""
    if not column.kind:
        return {"": value}
    mean, std, n = value or (None, None, None)
    low, high = (value and value.interval) or (None, None)
    return {"": mean, "_std": std, "_n": n} | ({"_low": low, "_high": high} if column.over_seeds else {})


def _cell(column: Column, row: Row) -> Any:
    value, seeds = row.get(column.key), row.get("seeds")
    write = WRITERS[column.kind] if isinstance(column.kind, str) and column.kind else column.kind
    if not callable(write) or value is None:
        return value
    is_fewer = column.over_seeds and is_number(seeds) and value.n < seeds and row["group"] != "dense"
    return Cell(write(value) + f" ({value.n})" * is_fewer, tooltip=f"n = {value.n}")


def cell_text(cell: Any) -> str:
    """A cell of `Table.frame` as plain text."""
    return cell.text if isinstance(cell, Cell) else DASH if cell is None else format_value(cell)


_NAMED = [Column("group", "group"), Column("method", "method")]
_LAYERS = [Column(f"{side}_layers", f"{side} layers", "layers") for side in SIDES]
_SIZE = [Column(f"{side}_sparsity", f"{side} sparsity, %", "percent") for side in SIDES]
_SIZE_AND_SEEDS = [*_SIZE, Column("parameters", "parameters", "count"), Column("seeds", "seeds")]
SETUP = [Column("batch_size", "batch"), Column("source_length", "source length"),
         Column("new_tokens", "new tokens"), Column("num_beams", "beams")]  # fmt: skip


def _describe(one: Comparison, group: Group) -> Row:
    """What every table says of a group: name, structure, size, scores and their change."""
    row: Row = {"group": group.name, "method": group.method, "seeds": len(group.records)}
    row["parameters"] = group.over_seeds(lambda record: section(record, "params").get("pruned"))
    row["impact"] = group.over_seeds(lambda record: relative_change(record, one.metric))
    for side in SIDES:
        row[f"{side}_layers"] = mean_std(layers_kept(record, side)[0] for record in group.records)
        row[f"{side}_sparsity"] = mean_std(section(record, "sparsity").get(side) for record in group.records)
    return row | {metric: group.score(metric) for metric in one.metrics}


def _describe_dense(one: Comparison) -> Row:
    row: Row = {"group": "dense", "method": "", "seeds": len(one.dense_scores()) or None}
    row["parameters"] = mean_std([one.dense_size()])
    for side in SIDES:
        depths = [dense for _, dense in (layers_kept(record, side) for record in one.records) if dense]
        row |= {f"{side}_layers": mean_std(depths[:1]), f"{side}_sparsity": MeanStd(0.0, None, 1)}
    row |= {f"speedup_{setup_key(setup)}": MeanStd(1.0, None, 1) for setup in one.setups}
    return row | {metric: one.dense_score(metric) for metric in one.metrics}


def setup_key(setup: Setup) -> str:
    """The end of a column's name for a setup: b8_s512_n64_k1 is batch 8, 512 → 64 tokens, 1 beam."""
    return "b{}_s{}_n{}_k{}".format(*setup)


def _score_columns(metrics: Sequence[str]) -> list[Column]:
    return [Column(metric, metric_title(metric), "score") for metric in metrics]


def _change_columns(metric: str | None, who: str = "") -> list[Column]:
    """The relative change of a metric, with an arrow to the better end; no column without a metric."""
    if metric is None:
        return []
    return [Column("impact", f"{who}{metric} change, % {ARROWS[direction(metric)].strip()}".strip(), "change")]


def quality_table(one: Comparison) -> Table | None:
    """Every metric of every group with dense first; None where nothing was evaluated."""
    rows = [_describe_dense(one)]
    for group in one.groups:
        if judged := sum(bool(scores(record)) for record in group.records):
            rows.append(_describe(one, group) | {"seeds": judged})
    lead = f"{INTERVALS} The change is relative to the dense model of the same cell."
    found = [*_NAMED, *_LAYERS, *_SIZE_AND_SEEDS, *_change_columns(one.metric), *_score_columns(one.metrics)]
    return Table(one, found, rows, lead) if one.metrics and len(rows) > 1 else None


def latency_table(one: Comparison) -> Table | None:
    """A row for each group and setup; None where nothing was timed."""
    rows = []
    for group in one.groups:
        for setup in one.setups:
            found = {
                model: [find_row(benchmark_rows(r), model, setup) for r in group.records]
                for model in ("pruned", "dense")
            }
            times = {f"{model}_ms": pooled(rows) for model, rows in found.items()}
            if any(times.values()):
                rows.append(_describe(one, group) | setup._asdict() | times | {"speedup": group.speedup(setup)})
    numbers = [
        Column("pruned_ms", "ms", "ms", over_seeds=False),
        Column("dense_ms", "dense ms", "ms", over_seeds=False),
        Column("speedup", "speedup", "speedup"),
    ]
    lead = (
        "Milliseconds: mean and standard deviation (sd) of all runs of all seeds. Speedup: median of dense over median "
        f"of pruned in the same process. {INTERVALS}"
    )
    return Table(one, [*_NAMED, *_LAYERS, *SETUP, _SIZE_AND_SEEDS[-1], *numbers], rows, lead) if rows else None


def combined_table(one: Comparison) -> Table | None:
    """A row a group: what it costs in quality and gains in speed in each setup; None where neither is known."""
    if not one.metric and not one.setups:
        return None
    rows = [_describe_dense(one)]
    for group in one.groups:
        rows.append(_describe(one, group) | {f"speedup_{setup_key(s)}": group.speedup(s) for s in one.setups})
    speeds = [Column(f"speedup_{setup_key(s)}", setup_label(s, one.setups), "speedup") for s in one.setups]
    found = [*_score_columns(one.metrics[:1]), *_change_columns(one.metric)] if one.metric else []
    lead = f"Change of the main metric and speedups over dense. {INTERVALS} {lengths_sentence(one)}"
    return Table(one, [*_NAMED, *_LAYERS, *found, *speeds, *_SIZE_AND_SEEDS], rows, lead.strip())


def lengths_sentence(one: Comparison) -> str:
    """The lengths that were timed: "Timed on 512 → 64 tokens, 1 beam."."""
    said = (f"{source} → {new} tokens, {beams} beam{'s' if beams != 1 else ''}" for source, new, beams in one.lengths)
    return f"Timed on {'; '.join(said)}." if one.lengths else ""


def published_table(one: Comparison) -> Table | None:
    """Groups that keep as much of each stack as a published row, beside it; None where there is none."""
    metric = "rouge2" if "rouge2" in one.metrics else one.metric
    rows = [row for group in one.groups for row in _published_rows(one, group, metric)]
    columns = [*_NAMED, Column("sixths", "sixths kept, encoder-decoder"), *SETUP[1:]]
    columns += [Column("compared_metric", "metric of ours")] if metric else []
    columns.append(Column("published_impact", "published: R-2 change, %", "change", over_seeds=False))
    columns += _change_columns(metric, "ours: ")
    for size in BATCH_SIZES:
        columns.append(Column(f"published_speedup_b{size}", f"published: batch {size}", "speedup", over_seeds=False))
        columns.append(Column(f"speedup_b{size}", f"ours: batch {size}", "speedup"))
    where = ", ".join(filter(None, [one.model, one.task or "no task, timed only", one.device, one.dtype]))
    matched = "Matched by layers kept alone: what was removed within them is in the sparsity."
    lead = " ".join(filter(None, [SOURCE, f"Ours: {where}.", lengths_sentence(one), matched, INTERVALS]))
    return Table(one, [*columns, *_SIZE], rows, lead) if rows else None


def _published_rows(one: Comparison, group: Group, metric: str | None) -> list[Row]:
    encoder, decoder = (sixths(*group.depth(side)) for side in SIDES)
    found = FLAN_T5_LARGE.get((encoder or 0, decoder or 0))
    if found is None:
        return []
    row = _describe(one, group) | {"sixths": f"{encoder}-{decoder}", "compared_metric": metric}
    row["impact"] = group.over_seeds(lambda record: relative_change(record, metric))
    row["published_impact"] = MeanStd(found.change, None, 1)
    theirs = zip(BATCH_SIZES, found.speedups, strict=True)
    row |= {f"published_speedup_b{size}": MeanStd(factor, None, 1) for size, factor in theirs}
    rows = []
    for lengths in one.lengths or [(None, None, None)]:
        speeds = {f"speedup_b{size}": group.speedup(Setup(size, *lengths)) for size in BATCH_SIZES}
        rows.append(row | dict(zip(Setup._fields[1:], lengths, strict=True)) | speeds)
    return [row for row in rows if any(row[f"speedup_b{size}"] for size in BATCH_SIZES)] or rows[:1]


def cell_row(record: Record, states: Mapping[str, str]) -> Row:
    """A cell in one flat row, nothing averaged."""
    fields = ("cell", "group", "task", "metric", "model", "method", "seed", "device", "dtype", "teacher", "seconds")
    row: Row = {field: record.get(field) for field in fields}
    row["state"] = states.get(str(record.get("cell")))
    for side in SIDES:
        layers = section(record, "layers", side)
        row[f"{side}_layers_dense"] = layers.get("dense")
        row[f"{side}_layers_kept"] = " ".join(map(str, layers.get("kept") or []))
        row[f"{side}_sparsity"] = section(record, "sparsity").get(side)
    for model in ("dense", "pruned"):
        row[f"{model}_parameters"] = section(record, "params").get(model)
        row |= {f"{model}_{name}": value for name, value in scores(record, model).items()}
    row["impact"] = relative_change(record, str(record.get("metric")))
    for what in ("steps", "seconds"):
        row |= {f"training_{what}": trained(record, what), f"teacher_{what}": taught(record, what)}
    return row | {f"speedup_{setup_key(s)}": speedup(record, s) for s in setups(benchmark_rows(record))}
