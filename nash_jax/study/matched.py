"""Methods at equal measured speed: what each would score as fast as the groups of the others, seed by seed."""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.report.benchmark import Setup
from nash_jax.report.numbers import direction, format_value, is_number
from nash_jax.study.records import Comparison, Group, MeanStd, Record, mean_std, scores, speedup
from nash_jax.study.tables import INTERVALS, SETUP, Column, Row, Table

Point = tuple[float, float]
_LEAD = (
    "Scores of other methods lie on the line through dense and their Pareto front, each seed's through its own; none "
    "beyond its fast end; of a method's groups, those with all seeds of the row, if there are any. Differences are "
    "paired by seed; positive is better, and one whose interval holds 0 shows no lead. " + INTERVALS
)


def pareto_front(points: Sequence[tuple[float, float]]) -> list[int]:
    """Indices of the points that no other point dominates, by rising first and falling second coordinate.

    Both coordinates are better when larger. A point dominates another when it is nowhere worse and somewhere
    better; equal points do not dominate each other, so all of them are returned, in the order given.
    """
    front: list[int] = []
    for index in sorted(range(len(points)), key=lambda i: (-points[i][0], -points[i][1], i)):
        # Those before it are at least as far along the first coordinate: only the second can save it.
        if not front or points[index][1] > points[front[-1]][1] or points[index] == points[front[-1]]:
            front.append(index)
    return sorted(front, key=lambda i: (points[i][0], -points[i][1], i))


def score_at(points: Sequence[Point], speedup: float) -> float | None:
    """The score of a method at a speedup: on the line through its Pareto front; None beyond its fast end.

    Args:
      points: (speedup, score) of its cells, higher is better.
      speedup: where.
    """
    front = [points[i] for i in pareto_front(points)]
    if not front or speedup > front[-1][0]:
        return None
    return float(np.interp(speedup, *np.transpose(front)))  # what is slower than the front is worse than its start


def matched_table(one: Comparison) -> Table | None:
    """A row for each group and setup: its score, that of every other method at its speed, and the difference.

    A cell is compared with the cells of its own seed, which share its dense model; then the seeds are averaged. Where
    a rival method has groups with all seeds of the row, these are its line, so that the line is the same for each seed.
    None without rivals.
    """
    metric, methods = one.metric, list(dict.fromkeys(group.method for group in one.groups if group.method != "none"))
    if metric is None or len(methods) < 2:
        return None
    compared = [(setup, group) for setup in one.setups for group in one.groups if group.method in methods]
    rows = [row for setup, group in compared if (row := _row(one, metric, methods, setup, group))]
    like = rows[0][metric].mean if rows else None  # a lead has the decimals of a score

    def write_lead(lead: MeanStd) -> str:
        return "+" * (lead.mean >= 0) + lead.text(lambda x: format_value(x, like))

    columns = [
        Column("group", "group"), Column("method", "method"), *SETUP, Column("seeds", "seeds"),
        Column("speedup", "speedup", "speedup"),
        Column(metric, metric.replace("_", " "), "score"),
        *(Column(f"at_{method}", f"{method} at this speed", "score") for method in methods),
        *(Column(f"ahead_of_{method}", f"difference to {method}", write_lead) for method in methods),
    ]  # fmt: skip
    return Table(one, columns, rows, _LEAD) if rows else None


def _row(one: Comparison, metric: str, methods: Sequence[str], setup: Setup, group: Group) -> Row:
    """A group in a setup; empty where no cell of it has both speed and quality."""
    points = {r.get("seed"): point for r in group.records if (point := _point(r, metric, setup))}
    if not points:
        return {}
    row: Row = {"group": group.name, "method": group.method, **setup._asdict(), "seeds": len(points)}
    row["speedup"] = mean_std(speed for speed, _ in points.values())
    row[metric] = mean_std(direction(metric) * score for _, score in points.values())
    for rival in (method for method in methods if method != group.method):
        pairs = list(_pairs(points, _lines(one, metric, rival, setup, set(points))))
        row[f"at_{rival}"] = mean_std(direction(metric) * other for _, other in pairs)
        row[f"ahead_of_{rival}"] = mean_std(own - other for own, other in pairs)
    return row


def _lines(one: Comparison, metric: str, method: str, setup: Setup, seeds: set[Any]) -> dict[Any, list[Point]]:
    """Seed → (speedup, signed score) of the dense model and of the method's groups: those with all `seeds`, if any."""
    groups = [group for group in one.groups if group.method == method]
    complete = [group for group in groups if seeds <= {record.get("seed") for record in group.records}]
    lines: dict[Any, list[Point]] = {}
    for record in (record for group in complete or groups for record in group.records):
        dense, point = scores(record, "dense").get(metric), _point(record, metric, setup)
        if point is not None:
            start = [(1.0, direction(metric) * dense)] if is_number(dense) else []
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
    speed, score = speedup(record, setup), scores(record).get(metric)
    return (speed, direction(metric) * score) if speed is not None and is_number(score) else None
