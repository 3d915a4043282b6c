"""The tables of a study, one a subject: quality, latency, both together, and beside what was published.

They hold raw numbers; `table_files` writes them as CSV, Markdown and HTML.
"""

import dataclasses
import functools
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nash_jax.report.summary import (
    MINUS,
    Setup,
    direction,
    format_count,
    format_spread,
    format_value,
    section,
    setup_label,
    setups,
)
from nash_jax.report.tables import ARROWS
from nash_jax.spec import SIDES
from nash_jax.study.published_results import BATCH_SIZES, FLAN_T5_LARGE, SOURCE, sixths
from nash_jax.study.records import (
    Group,
    Record,
    Spread,
    Subject,
    benchmark_rows,
    impact,
    layers_kept,
    metrics_of,
    speedup,
    spread,
)

Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Column:
    """A column: its name for programs, its title for readers, and how a value is written for them.

    Where `spreads`, the values are `Spread` or None, and CSV has three columns of them: mean, std, n.
    """

    key: str
    title: str
    write: Callable[[Any], str] = format_value
    spreads: bool = False


@dataclasses.dataclass(frozen=True)
class Table:
    """Rows of one subject under columns; `lead` says what a reader must know of them."""

    subject: Subject
    columns: Sequence[Column]
    rows: Sequence[Row]
    lead: str = ""


def write_score(score: Spread) -> str:
    """A metric, with the decimals that suit its size."""
    return with_std(score, lambda x: format_value(x, like=score.mean))


def write_percent(share: Spread) -> str:
    """A fraction in percent, without the sign of percent; no deviation where the seeds agree."""
    return with_std(share._replace(std=share.std or None), lambda x: f"{100 * x:.1f}").replace("-", MINUS)


def write_change(change: Spread) -> str:
    """A relative change in percent with its sign, without the sign of percent."""
    text = f"{100 * change.mean:+.1f}" + (f" ± {100 * change.std:.1f}" if change.std is not None else "")
    return text.replace("-", MINUS)


def write_speedup(factor: Spread) -> str:
    """A speedup: 2.87×, 2.87 ± 0.03×."""
    return with_std(factor, lambda x: f"{x:.2f}") + "×"


def write_ms(time: Spread) -> str:
    """Milliseconds."""
    return format_spread(time.mean, time.std)


def write_count(count: Spread) -> str:
    """A number of parameters."""
    return format_count(count.mean) + (f" ± {format_count(count.std)}" if count.std else "")


def write_layers(kept: Spread) -> str:
    """A number of layers, whole where the seeds agree."""
    return f"{kept.mean:g}" if not kept.std else f"{kept.mean:.1f} ± {kept.std:.1f}"


def with_std(value: Spread, write: Callable[[float], str]) -> str:
    """Mean and, where there is one, the deviation: 2.87 ± 0.03."""
    return write(value.mean) + (f" ± {write(value.std)}" if value.std is not None else "")


_NAMED = [Column("group", "group"), Column("method", "method")]
_LAYERS = [Column(f"{side}_layers", f"{side} layers", write_layers, True) for side in SIDES]
_SPARSITY = [Column(f"{side}_sparsity", f"{side} sparsity, %", write_percent, True) for side in SIDES]
_SIZE = Column("parameters", "parameters", write_count, True)
_SEEDS = Column("seeds", "seeds")


def _described(group: Group) -> Row:
    """The values of the columns above for a group."""
    row: Row = {"group": group.name, "method": group.method, "seeds": len(group.records)}
    row["parameters"] = group.over_seeds(lambda record: section(record, "params").get("pruned"))
    for side in SIDES:
        row[f"{side}_layers"] = group.over_seeds(functools.partial(_number_kept, side))
        row[f"{side}_sparsity"] = group.over_seeds(functools.partial(_sparsity, side))
    return row


def _number_kept(side: str, record: Record) -> int | None:
    layers = layers_kept(record, side)
    return layers[0] if layers else None


def _sparsity(side: str, record: Record) -> Any:
    return section(record, "sparsity").get(side)


def _dense_row(subject: Subject) -> Row:
    row: Row = {"group": "dense", "method": "", "seeds": len(subject.dense_scores()) or None}
    sizes = [section(record, "params").get("dense") for record in subject.records]
    row["parameters"] = spread(sizes[:1])
    for side in SIDES:
        depths = [layers[1] for layers in (layers_kept(record, side) for record in subject.records) if layers]
        row |= {f"{side}_layers": spread(depths[:1]), f"{side}_sparsity": Spread(0.0, None, 1)}
    return row | {metric: subject.dense_score(metric) for metric in subject.metrics}


def _has_quality(group: Group) -> bool:
    return any(metrics_of(record, "pruned") for record in group.records)


def _score(metric: str, record: Record) -> Any:
    return metrics_of(record, "pruned").get(metric)


def change_title(metric: str) -> str:
    """The title of a column of relative changes, with which way is better."""
    arrow = ARROWS[direction(metric)].strip()
    return f"{metric} change, %" + (f" {arrow}" if arrow else "")


def _score_column(metric: str) -> Column:
    return Column(metric, metric.replace("_", " ") + ARROWS[direction(metric)], write_score, True)


def _speedup_column(setup: Setup, among: Sequence[Setup]) -> Column:
    return Column(f"speedup_{setup_key(setup)}", setup_label(setup, among), write_speedup, True)


def _impact_column(metric: str) -> Column:
    return Column("impact", change_title(metric), write_change, True)


def quality_table(subject: Subject) -> Table | None:
    """Every metric of every group with dense first; None where nothing was evaluated."""
    groups = [group for group in subject.groups if _has_quality(group)]
    if not subject.metrics or not groups:
        return None
    scores = [_score_column(name) for name in subject.metrics]
    changes = [_impact_column(subject.metric)] if subject.metric else []
    rows = [_dense_row(subject)]
    for group in groups:
        row = _described(group) | {"seeds": sum(bool(metrics_of(record, "pruned")) for record in group.records)}
        row |= {name: group.over_seeds(functools.partial(_score, name)) for name in subject.metrics}
        rows.append(row | _impact(group, subject.metric))
    lead = "Mean ± sample standard deviation over seeds; the change is relative to the dense model of the same cell."
    return Table(subject, [*_NAMED, *_LAYERS, *_SPARSITY, _SIZE, _SEEDS, *changes, *scores], rows, lead)


def _impact(group: Group, metric: str | None) -> Row:
    return {"impact": group.over_seeds(lambda record: impact(record, metric)) if metric else None}


SETUP = [
    Column("batch_size", "batch"),
    Column("source_length", "source length"),
    Column("new_tokens", "new tokens"),
    Column("num_beams", "beams"),
]


def latency_table(subject: Subject) -> Table | None:
    """A row for each group and set-up; None where nothing was timed."""
    rows = []
    for group in subject.groups:
        for setup in subject.setups:
            times = {f"{model}_ms": group.times(model, setup) for model in ("pruned", "dense")}
            if any(times.values()):
                rows.append(_described(group) | setup._asdict() | times | {"speedup": group.speedup(setup)})
    if not rows:
        return None
    numbers = [
        Column("pruned_ms", "ms", write_ms, True),
        Column("dense_ms", "dense ms", write_ms, True),
        Column("speedup", "speedup", write_speedup, True),
    ]
    lead = (
        "Milliseconds: mean ± standard deviation over all runs of all seeds. Speedup: median of dense over median of "
        "pruned in the same process, mean ± sample standard deviation over seeds."
    )
    return Table(subject, [*_NAMED, *_LAYERS, *SETUP, _SEEDS, *numbers], rows, lead)


def setup_key(setup: Setup) -> str:
    """The end of a column's name for a set-up: b8_s512_n64_k1 is batch 8, 512 → 64 tokens, 1 beam."""
    return "b{}_s{}_n{}_k{}".format(*setup)


def combined_table(subject: Subject) -> Table | None:
    """A row a group: what it costs in quality and gains in speed at each set-up; None where neither is known."""
    metric, timed = subject.metric, subject.setups
    if not metric and not timed:
        return None
    scores = [_score_column(metric), _impact_column(metric)] if metric else []
    speeds = [_speedup_column(setup, timed) for setup in timed]
    rows = [_dense_row(subject) | {column.key: Spread(1.0, None, 1) for column in speeds}]
    for group in subject.groups:
        row = _described(group) | _impact(group, metric)
        row |= {metric: group.over_seeds(functools.partial(_score, metric))} if metric else {}
        rows.append(row | {f"speedup_{setup_key(setup)}": group.speedup(setup) for setup in timed})
    lead = "Change of the main metric and speedups over dense. " + lengths_sentence(subject)
    return Table(subject, [*_NAMED, *_LAYERS, *scores, *speeds, *_SPARSITY, _SIZE, _SEEDS], rows, lead.strip())


def lengths_sentence(subject: Subject) -> str:
    """On what lengths the subject was timed: "Timed on 512 → 64 tokens, 1 beam."."""
    said = [
        f"{source} → {new} tokens, {beams} beam{'s' if beams != 1 else ''}" for source, new, beams in subject.lengths
    ]
    return f"Timed on {'; '.join(said)}." if said else ""


def published_table(subject: Subject) -> Table | None:
    """Groups that keep as much of each stack as a published row, beside it; None where there is none."""
    metric = "rouge2" if "rouge2" in subject.metrics else subject.metric
    rows = [row for group in subject.groups for row in _published_rows(subject, group, metric)]
    if not rows:
        return None
    theirs = [Column("published_impact", "published: R-2 change, %", write_change, True)]
    ours = [_impact_column(metric)] if metric else []
    for size in BATCH_SIZES:
        theirs.append(Column(f"published_speedup_b{size}", f"published: batch {size}", write_speedup, True))
        ours.append(Column(f"speedup_b{size}", f"ours: batch {size}", write_speedup, True))
    if metric:
        ours[0] = dataclasses.replace(ours[0], title=f"ours: {ours[0].title}")
        both = [column for pair in zip(theirs, ours, strict=True) for column in pair]
    else:
        both = [theirs[0], *(column for pair in zip(theirs[1:], ours, strict=True) for column in pair)]
    named = [*_NAMED, Column("sixths", "sixths kept, encoder-decoder")]
    compared = [Column("compared_metric", "metric of ours")] if metric else []
    return Table(subject, [*named, *SETUP[1:], *compared, *both, *_SPARSITY], rows, published_lead(subject))


def published_lead(subject: Subject) -> str:
    """Where both halves of the table come from."""
    where = [subject.model, subject.task or "no task, timed only", subject.device, subject.dtype]
    matched = "Matched by layers kept alone: what was removed within them is in the sparsity."
    return f"{SOURCE} Ours: {', '.join(filter(None, where))}. {lengths_sentence(subject)} {matched}".replace("  ", " ")


def _published_rows(subject: Subject, group: Group, metric: str | None) -> list[Row]:
    encoder, decoder = (sixths(*(group.depth(side) or (None, None))) for side in SIDES)
    found = FLAN_T5_LARGE.get((encoder, decoder)) if encoder and decoder else None
    if found is None:
        return []
    row = _described(group) | {"sixths": f"{encoder}-{decoder}", "compared_metric": metric} | _impact(group, metric)
    row["published_impact"] = Spread(found.impact, None, 1)
    for size, factor in zip(BATCH_SIZES, found.speedups, strict=True):
        row[f"published_speedup_b{size}"] = Spread(factor, None, 1)
    rows = []
    for lengths in subject.lengths or [(None, None, None)]:
        speeds = {f"speedup_b{size}": group.speedup(Setup(size, *lengths)) for size in BATCH_SIZES}
        rows.append(row | dict(zip(("source_length", "new_tokens", "num_beams"), lengths, strict=True)) | speeds)
    timed = [row for row in rows if any(row[f"speedup_b{size}"] for size in BATCH_SIZES)]
    return timed or rows[:1]


def cell_rows(records: Sequence[Record], states: Mapping[str, str]) -> list[Row]:
    """One flat row a cell, nothing averaged."""
    return [_cell_row(record, states) for record in records]


def _cell_row(record: Record, states: Mapping[str, str]) -> Row:
    fields = ("cell", "group", "task", "metric", "model", "method", "seed", "device", "dtype", "teacher", "seconds")
    row: Row = {field: record.get(field) for field in fields}
    row["state"] = states.get(str(record.get("cell")))
    for side in SIDES:
        layers = section(record, "layers", side)
        row[f"{side}_layers_dense"] = layers.get("dense")
        row[f"{side}_layers_kept"] = " ".join(map(str, layers.get("kept") or []))
        row[f"{side}_sparsity"] = _sparsity(side, record)
    for model in ("dense", "pruned"):
        row[f"{model}_parameters"] = section(record, "params").get(model)
        row |= {f"{model}_{name}": value for name, value in metrics_of(record, model).items()}
    row["impact"] = impact(record, str(record.get("metric")))
    for setup in setups(benchmark_rows(record)):
        row[f"speedup_{setup_key(setup)}"] = speedup(record, setup)
    return row


def benchmark_cells(records: Sequence[Record]) -> list[Row]:
    """Every benchmark row of every cell as it was measured."""
    return [{"cell": record.get("cell"), **row} for record in records for row in record.get("benchmark") or []]
