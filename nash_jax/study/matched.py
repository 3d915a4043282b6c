"""Methods at equal measured speed: what each would score as fast as the groups of the others, seed by seed."""

import functools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.report.summary import Setup, direction, format_value, measured
from nash_jax.study.pareto import pareto_front
from nash_jax.study.records import Record, Spread, Subject, metrics_of, speedup, spread
from nash_jax.study.tables import SETUP, Column, Row, Table, with_std, write_score, write_speedup

Point = tuple[float, float]


def score_at(points: Sequence[Point], speedup: float) -> float | None:
    """The score of a method at a speedup: on the line through its Pareto front; None beyond its fast end.

    Args:
      points: (speedup, score) of its cells, higher is better.
      speedup: where.
    """
    front = [points[i] for i in pareto_front(points)]
    if not front or speedup > front[-1][0]:
        return None
    speeds, scores = np.transpose(front)
    return float(np.interp(speedup, speeds, scores))  # what is slower than the front is worse than its start


def matched_table(subject: Subject) -> Table | None:
    """A row for each group and set-up: its score, that of every other method at its speed, and how far it is ahead.

    A cell is compared with the cells of its own seed, which share its dense model; then the seeds are averaged. Where
    a rival method has groups with all seeds of the row, these are its line, so that the line is the same for each seed.
    None without rivals.
    """
    metric, methods = subject.metric, dict.fromkeys(group.method for group in subject.groups if group.method != "none")
    if metric is None or len(methods) < 2:
        return None
    rows = []
    for setup in subject.setups:
        for group in subject.groups:
            points = {record.get("seed"): point for record in group.records if (point := _point(record, metric, setup))}
            if not points or group.method not in methods:
                continue
            row: Row = {"group": group.name, "method": group.method, **setup._asdict()}
            row["speedup"] = spread(speed for speed, _ in points.values())
            row[metric] = spread(direction(metric) * score for _, score in points.values())
            for rival in (method for method in methods if method != group.method):
                pairs = list(_pairs(points, _lines(subject, rival, setup, set(points))))
                row[f"at_{rival}"] = spread(direction(metric) * other for _, other in pairs)
                row[f"ahead_of_{rival}"] = spread(own - other for own, other in pairs)
            rows.append(row)
    if not rows:
        return None
    write_lead = functools.partial(_write_lead, like=rows[0][metric].mean)
    columns = [
        Column("group", "group"), Column("method", "method"), *SETUP, Column("speedup", "speedup", write_speedup, True),
        Column(metric, metric.replace("_", " "), write_score, True),
        *(Column(f"at_{method}", f"{method} at this speed", write_score, True) for method in methods),
        *(Column(f"ahead_of_{method}", f"ahead of {method} by (seeds)", write_lead, True) for method in methods),
    ]  # fmt: skip
    lead = (
        "Scores of other methods lie on the line through dense and their Pareto front, each seed's through its own; "
        "none beyond its fast end; of a method's groups, those with all seeds of the row, if there are any. A positive "
        "lead is the better score."
    )
    return Table(subject, columns, rows, lead)


def _lines(subject: Subject, method: str, setup: Setup, seeds: set[Any]) -> dict[Any, list[Point]]:
    """Seed → (speedup, signed score) of the dense model and of the method's groups: those with all `seeds`, if any."""
    metric = str(subject.metric)
    groups = [group for group in subject.groups if group.method == method]
    complete = [group for group in groups if seeds <= {record.get("seed") for record in group.records}]
    lines: dict[Any, list[Point]] = {}
    for record in (record for group in complete or groups for record in group.records):
        dense, point = metrics_of(record, "dense").get(metric), _point(record, metric, setup)
        if point is not None:
            start = [(1.0, direction(metric) * dense)] if measured(dense) else []
            lines.setdefault(record.get("seed"), start).append(point)
    return lines


def _pairs(points: Mapping[Any, Point], lines: Mapping[Any, Sequence[Point]]) -> Iterable[Point]:
    """(own signed score, a rival's at the same speed) of each seed in which the rival is as fast."""
    for seed, (speed, own) in points.items():
        other = score_at(lines.get(seed, []), speed)
        if other is not None:
            yield own, other


def _point(record: Record, metric: str, setup: Setup) -> Point | None:
    """(speedup, signed score) of a cell; None where one of them was not measured."""
    speed, score = speedup(record, setup), metrics_of(record, "pruned").get(metric)
    return (speed, direction(metric) * score) if speed is not None and measured(score) else None


def _write_lead(lead: Spread, like: float) -> str:
    """A difference of scores with its sign, decimals as of `like`, and of how many seeds: +0.42 ± 0.10 (3)."""
    sign = "+" if lead.mean >= 0 else ""
    return f"{sign}{with_std(lead, lambda x: format_value(x, like))} ({lead.n})"
