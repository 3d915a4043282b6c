"""Methods at equal measured speed: what each would score as fast as the groups of the others."""

from collections.abc import Sequence
from typing import Any

import numpy as np

from nash_jax.report.pareto import pareto_front
from nash_jax.report.study_records import Group, Record, Spread, Subject, metrics_of
from nash_jax.report.study_tables import Column, Row, Table, setup_key, write_score, write_speedup
from nash_jax.report.summary import Setup, direction, setup_label

Point = tuple[float, float]


def score_at(points: Sequence[Point], speedup: float) -> float | None:
    """The score of a method at a speedup: on the line through its Pareto front; None beyond its fast end.

    Args:
      points: (speedup, score) of its groups, higher is better.
      speedup: where.
    """
    front = [points[i] for i in pareto_front(points)]
    if not front or speedup > front[-1][0]:
        return None
    speeds, scores = np.transpose(front)
    return float(np.interp(speedup, speeds, scores))  # what is slower than the front is worse than its start


def matched_table(subject: Subject) -> Table | None:
    """A row for each group and set-up: its score, and that of every other method at its speed; None without rivals."""
    metric, methods = subject.metric, dict.fromkeys(group.method for group in subject.groups if group.method != "none")
    if metric is None or len(methods) < 2:
        return None
    rows = []
    for setup in subject.setups:
        lines = {method: _points(subject, method, setup) for method in methods}
        for group in subject.groups:
            own = _point(group, metric, setup)
            if own is None or group.method not in methods:
                continue
            row: Row = {"group": group.name, "setup": setup_label(setup, subject.setups), "setup_key": setup_key(setup)}
            row |= {"speedup": group.speedup(setup), metric: group.over_seeds(lambda r: _score(r, metric))}
            rivals = {m: _at(points, own[0], metric) for m, points in lines.items() if m != group.method}
            rows.append(row | {f"at_{method}": found for method, found in rivals.items()})
    columns = [
        Column("group", "group"), Column("setup", "timed at"), Column("speedup", "speedup", write_speedup, True),
        Column(metric, metric.replace("_", " "), write_score, True),
        *(Column(f"at_{method}", f"{method} at this speed", write_score, True) for method in methods),
    ]  # fmt: skip
    lead = "Scores of other methods lie on the line through dense and their Pareto front; none beyond its fast end."
    return Table(subject, columns, rows, lead) if rows else None


def _points(subject: Subject, method: str, setup: Setup) -> list[Point]:
    """(speedup, signed score) of a method's groups, and of the dense model."""
    metric = str(subject.metric)
    dense = subject.dense_score(metric)
    found = [_point(group, metric, setup) for group in subject.groups if group.method == method]
    start = [(1.0, direction(metric) * dense.mean)] if dense else []
    return start + [point for point in found if point is not None]


def _point(group: Group, metric: str, setup: Setup) -> Point | None:
    speed, score = group.speedup(setup), group.over_seeds(lambda record: _score(record, metric))
    return (speed.mean, direction(metric) * score.mean) if speed and score else None


def _score(record: Record, metric: str) -> Any:
    return metrics_of(record, "pruned").get(metric)


def _at(points: Sequence[Point], speedup: float, metric: str) -> Spread | None:
    found = score_at(points, speedup)
    return None if found is None else Spread(direction(metric) * found, None, 1)
