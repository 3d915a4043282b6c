"""Names beside the points of a chart, placed so that they hide neither points, their error bars, nor each other."""

import itertools
import math
from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox

from nash_jax.report.svg import INK, MUTED

_SIZE = 7.5  # points
_DISTANCES = (5.0, 11.0, 18.0, 26.0)  # points; from the second on, a thin line leads to the point
_DIRECTIONS = tuple(math.radians(degrees) for degrees in (0, 180, 90, 270, 30, 330, 150, 210, 60, 300, 120, 240))


class Label(NamedTuple):
    """A text, the point it names and half its error bars, in the data's coordinates."""

    x: float
    y: float
    text: str
    x_error: float = 0.0
    y_error: float = 0.0


def place_labels(figure: Figure, axes: Axes, labels: Sequence[Label]) -> None:
    """Writes each text at the nearest free place around its point, at the least covered one where none is free.

    To be called last: what is drawn or laid out later moves the points.
    """
    figure.draw_without_rendering()  # the layout decides where points are
    scale = figure.dpi / 72
    points = [tuple(axes.transData.transform((label.x, label.y))) for label in labels]
    taken = [Bbox.from_bounds(x - 3.5 * scale, y - 3.5 * scale, 7 * scale, 7 * scale) for x, y in points]
    taken += [bar for label in labels for bar in _error_bars(axes, label, 1.8 * scale)]
    frame = axes.get_window_extent()
    for label, (x, y) in zip(labels, points, strict=True):
        width, height = (side * scale for side in _measure(figure, label.text))
        best, distance = _best_box(x, y, width, height, scale, taken, frame)
        taken.append(best)
        place = axes.transData.inverted().transform(((best.x0 + best.x1) / 2, (best.y0 + best.y1) / 2))
        arrow = {"arrowstyle": "-", "color": MUTED, "linewidth": 0.5, "shrinkA": 1.0, "shrinkB": 3.0}
        axes.annotate(
            label.text,
            (label.x, label.y),
            xytext=tuple(place),
            ha="center",
            va="center",
            fontsize=_SIZE,
            color=INK,
            arrowprops=arrow if distance > _DISTANCES[0] else None,
            in_layout=False,
        )


def _error_bars(axes: Axes, label: Label, half: float) -> list[Bbox]:
    """The boxes, `half` a width to each side of the line, that a point's error bars take on the canvas."""
    bars = []
    for x, y in ((label.x_error, 0.0), (0.0, label.y_error)):
        if x or y:
            ends = axes.transData.transform([(label.x - x, label.y - y), (label.x + x, label.y + y)])
            bars.append(Bbox([ends[0] - half, ends[1] + half]))
    return bars


def _measure(figure: Figure, text: str) -> tuple[float, float]:
    """Width and height of a text in points."""
    probe = figure.text(0, 0, text, fontsize=_SIZE)
    box = probe.get_window_extent()
    probe.remove()
    return box.width * 72 / figure.dpi, box.height * 72 / figure.dpi


def _best_box(
    x: float, y: float, width: float, height: float, scale: float, taken: Sequence[Bbox], frame: Bbox
) -> tuple[Bbox, float]:
    """The first box around a point that is free, else the least covered; with its distance in points."""
    costs: list[tuple[float, int, Bbox, float]] = []
    for distance, angle in itertools.product(_DISTANCES, _DIRECTIONS):
        reach = distance * scale
        middle_x = x + math.cos(angle) * (reach + width / 2)
        middle_y = y + math.sin(angle) * (reach + height / 2)
        box = Bbox.from_bounds(middle_x - width / 2, middle_y - height / 2, width, height)
        covered = sum(_overlap(box, other) for other in taken) + width * height - _overlap(box, frame)
        if covered < 1e-6:
            return box, distance
        costs.append((covered, len(costs), box, distance))
    return min(costs)[2:]


def _overlap(one: Bbox, other: Bbox) -> float:
    """Area that two boxes share."""
    width = min(one.x1, other.x1) - max(one.x0, other.x0)
    height = min(one.y1, other.y1) - max(one.y0, other.y0)
    return width * height if width > 0 and height > 0 else 0.0


def spread_out(places: Sequence[float], gap: float, low: float = -math.inf, high: float = math.inf) -> list[float]:
    """Moves places on a line apart to at least `gap`, in their order and about where they were.

    Neighbours that are too close form a cluster, which is laid out evenly around the mean of its places.

    Args:
      places: where the things would like to be.
      gap: between neighbours; less where so many do not fit between `low` and `high`.
      low: no place is below it.
      high: no place is above it.
    """
    gap = min(gap, (high - low) / max(1, len(places) - 1))

    def first(cluster: Sequence[int]) -> float:
        length = gap * (len(cluster) - 1)
        wanted = math.fsum(places[i] for i in cluster) / len(cluster) - length / 2
        return max(low, min(wanted, high - length))

    clusters: list[list[int]] = []
    for index in sorted(range(len(places)), key=lambda i: places[i]):
        clusters.append([index])
        while len(clusters) > 1 and first(clusters[-2]) + gap * len(clusters[-2]) > first(clusters[-1]):
            clusters[-2:] = [clusters[-2] + clusters[-1]]
    found = [0.0] * len(places)
    for cluster in clusters:
        for offset, index in enumerate(cluster):
            found[index] = first(cluster) + offset * gap
    return found
