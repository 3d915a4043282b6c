"""The figures of a study: quality against speed and depth, speed against batch and length, length against size.

Every function takes a comparison and the name that makes the figure's ids its own in the page, and returns an
`<svg>` element, or "" where there is nothing to draw.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import numpy as np
import textalloc
from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter
from scipy.optimize import isotonic_regression

from nash_jax.report import drawing
from nash_jax.report.benchmark import Setup, setup_label
from nash_jax.report.drawing import ACCENT, BLUE, DENSE, INK, MUTED, PRUNED, ROSE, VIOLET, report_style
from nash_jax.report.numbers import direction, format_count, is_number, section
from nash_jax.report.visible import shortened
from nash_jax.spec import SIDES
from nash_jax.study.matched import pareto_front
from nash_jax.study.records import Comparison, Group, MeanStd, layers_kept, scores

MOST_LINES = 10
_METHODS = {"nash": (PRUNED, "o"), "nash_auto": (BLUE, "s"), "cofi": (VIOLET, "^"), "drop": (ACCENT, "D")}
_METHODS |= {"auto": (INK, "X"), "latency": (ROSE, "p"), "none": (MUTED, "P"), "dense": (DENSE, "*")}
_OTHER = (MUTED, "v")
_STACKS = {"encoder": (BLUE, "s"), "decoder": (ACCENT, "D"), "both": (PRUNED, "o")}
_RAMP = (ACCENT, BLUE, PRUNED, VIOLET, ROSE, MUTED, INK)
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))
_LEADER = {"arrowstyle": "-", "linewidth": 0.5, "shrinkA": 0, "shrinkB": 2, "relpos": (0, 0.5)}  # to a line's name


class Point(NamedTuple):
    """A group in a chart."""

    group: Group
    x: MeanStd
    y: MeanStd


class Line(NamedTuple):
    """A line in a chart: x → y."""

    name: str
    points: dict[Any, MeanStd]
    color: str


def main_setups(one: Comparison) -> list[Setup]:
    """By batch size, the setups of the lengths that most groups with quality were timed on; of equals the longest."""
    judged = [group for group in one.groups if any(map(scores, group.records))] or one.groups

    def timed(lengths: tuple[Any, ...]) -> int:
        return sum(any(group.speedup(s) for s in one.setups if s[1:] == lengths) for group in judged)

    # `lengths` are sorted, and max returns the first of equals: reversed, that is the longest.
    lengths = max(reversed(one.lengths), key=timed, default=None)
    return [setup for setup in one.setups if setup[1:] == lengths]


def _lengths_text(setup: Setup) -> str:
    beams = "" if setup.num_beams == 1 else f", {setup.num_beams} beams"
    return f"{setup.source_length} → {setup.new_tokens} tokens{beams}"


def points(one: Comparison, setup: Setup) -> list[Point]:
    """Speedup and main metric of every group that has both."""
    found = [(group, group.speedup(setup), group.score(one.metric or "")) for group in one.groups]
    return [Point(group, x, y) for group, x, y in found if x and y]


@report_style()
def quality_against_speed(one: Comparison, name: str) -> str:
    """Main metric against speedup, a panel a batch size, with the Pareto front as steps."""
    setups, metric = main_setups(one), one.metric
    panels = [(setup, found) for setup in setups if (found := points(one, setup))]
    if not panels or metric is None:
        return ""
    across = min(2, len(panels))
    down = -(-len(panels) // across)
    figure = drawing.new_figure(26 + 250 * down)
    grid = list(figure.subplots(down, across, squeeze=False).flat)
    for axes in grid[len(panels) :]:
        axes.set_axis_off()
    dense = [(1.0, score.mean) for score in [one.dense_score(metric)] if score]
    for axes, (setup, found) in zip(grid, panels, strict=False):
        _plot_points(axes, found, dense)
        _plot_front(axes, [(p.x.mean, p.y.mean) for p in found] + dense, direction(metric))
        axes.set_title(f"{metric} against speedup, {setup_label(setup, setups)}")
        axes.set(xlabel=f"speedup over dense, {_lengths_text(setup)}", ylabel=metric)
    front = Line2D([], [], color=INK, linewidth=0.9, alpha=0.6, label="Pareto front")
    handles = [*_legend_of_methods(point for _, found in panels for point in found), front]
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
    for axes, (_, found) in zip(grid, panels, strict=False):
        name_points(axes, found)
    return drawing.to_svg(figure, name, f"{metric} against speedup over dense, one point a group")


def _plot_points(axes: Axes, found: Sequence[Point], dense: Sequence[tuple[float, float]]) -> None:
    for (x, x_std, _), (y, y_std, _), method in ((p.x, p.y, p.group.method) for p in found):
        color, marker = _METHODS.get(method, _OTHER)
        axes.errorbar(x, y, y_std, x_std, marker, color=color, markersize=4.5, elinewidth=0.8, capsize=1.8)
    for place in dense:
        axes.plot(*place, marker="*", markersize=9, color=DENSE, linestyle="none")
    axes.margins(0.12)


def _plot_front(axes: Axes, places: Sequence[tuple[float, float]], better: int) -> None:
    front = [places[i] for i in pareto_front([(x, (better or 1) * y) for x, y in places])]
    # At a speedup between two points of the front, the faster one is the best that reaches it.
    axes.step(*zip(*front, strict=True), where="pre", color=INK, linewidth=0.9, alpha=0.6, zorder=1)


def _legend_of_methods(found: Iterable[Point]) -> list[Line2D]:
    methods = dict.fromkeys([*(point.group.method for point in found), "dense"])
    looks = {method or "?": _METHODS.get(method, _OTHER) for method in methods}
    return [
        Line2D([], [], color=c, marker=m, linestyle="none", markersize=8 if m == "*" else 5, label=n)
        for n, (c, m) in looks.items()
    ]


def name_points(axes: Axes, found: Sequence[Point]) -> None:
    """Writes the group's name beside each point, where it hides neither points, nor error bars, nor other names.

    To be called last: what is drawn or laid out later moves the points.
    """
    figure = axes.get_figure(root=True)
    assert figure is not None
    drawing.shorten_texts(figure)
    figure.draw_without_rendering()  # the layout decides where points are
    axes.autoscale(False)
    x, y = ([getattr(point, side).mean for point in found] for side in "xy")
    names = [p.group.name.removeprefix(f"{p.group.method}-") or p.group.name for p in found]  # colours tell the method
    names = [shortened(name) for name in names]
    reach_x, reach_y = (np.outer([getattr(point, side).std or 0 for point in found], [-1, 1]) for side in "xy")
    bars_x = [*(np.array(x)[:, None] + reach_x), *(np.array(x)[:, None] + 0 * reach_y)]
    bars_y = [*(np.array(y)[:, None] + 0 * reach_x), *(np.array(y)[:, None] + reach_y)]
    look: dict[str, Any] = {"textsize": 7.5, "textcolor": INK, "linecolor": MUTED, "linewidth": 0.5, "in_layout": False}
    textalloc.allocate(axes, x, y, names, x_scatter=x, y_scatter=y, x_lines=bars_x, y_lines=bars_y, **look)


def shortened_stack(group: Group) -> tuple[str, int] | None:
    """Which stacks have fewer layers, and how many layers those keep.

    Returns:
      ("encoder" | "decoder" | "both", layers), or None where none is shorter, the depth is not known, or both
      are shorter by different shares, so that no one number stands for them.
    """
    (e_kept, e_dense), (d_kept, d_dense) = (group.depth(side) for side in SIDES)
    if e_kept is None or e_dense is None or d_kept is None or d_dense is None:
        return None
    if e_kept < e_dense and d_kept < d_dense:
        return ("both", d_kept) if e_kept * d_dense == d_kept * e_dense else None
    return ("encoder", e_kept) if e_kept < e_dense else ("decoder", d_kept) if d_kept < d_dense else None


@report_style()
def quality_against_depth(one: Comparison, name: str) -> str:
    """Main metric against layers kept where layers were dropped: of the encoder, of the decoder, of both alike."""
    metric, lines = one.metric, dict[str, dict[int, MeanStd]]()
    for group in one.groups if metric else ():
        short, score = shortened_stack(group), group.score(str(metric))
        if group.method == "drop" and short and score:
            lines.setdefault(short[0], {}).setdefault(short[1], score)
    if not lines or metric is None:
        return ""
    figure, dense = drawing.new_figure(240), one.dense_score(metric)
    axes = figure.subplots()
    for stack, (color, marker) in ((stack, look) for stack, look in _STACKS.items() if stack in lines):
        side = "decoder" if stack == "both" else stack
        depth = next((depth for _, depth in (layers_kept(record, side) for record in one.records) if depth), None)
        found = lines[stack] | ({depth: dense} if dense and depth else {})
        _plot_line(axes, found, color, marker, label="both alike" if stack == "both" else f"{stack} only")
    if dense:
        axes.axhline(dense.mean, color=DENSE, linewidth=0.9, linestyle=(0, (4, 2)), label="dense")
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    axes.set(xlabel="layers kept in the shortened stack", ylabel=metric)
    axes.set_title(f"{metric} where layers are dropped")
    axes.legend(loc="lower right")
    return drawing.to_svg(figure, name, f"{metric} against layers kept: {', '.join(lines)} shortened")


def _plot_line(axes: Axes, found: dict[Any, MeanStd], color: str, marker: str, **more: Any) -> None:
    places = sorted(found)
    means, errors = [found[x].mean for x in places], [found[x].std or 0.0 for x in places]
    look: dict[str, Any] = {"markersize": 4, "linewidth": 1.2, "elinewidth": 0.8, "capsize": 1.8} | more
    axes.errorbar(places, means, errors if any(errors) else None, color=color, marker=marker, **look)


def shown_groups(one: Comparison, groups: Sequence[Group]) -> list[Group]:
    """All groups, or where they are too many for one chart: the Pareto front and those with layers dropped only."""
    if len(groups) <= MOST_LINES:
        return list(groups)
    found = [point for setup in main_setups(one)[:1] for point in points(one, setup)]
    better = direction(one.metric) if one.metric else 1
    front = {found[i].group.name for i in pareto_front([(p.x.mean, better * p.y.mean) for p in found])}
    return [group for group in groups if group.name in front or group.method == "drop"] or list(groups[:MOST_LINES])


def speed_against_batch(one: Comparison, name: str) -> str:
    """Speedup against batch size, a line a group."""
    setups = [setup for setup in main_setups(one) if is_number(setup.batch_size)]
    timed = [group for group in one.groups if sum(bool(group.speedup(setup)) for setup in setups) > 1]
    lines = []
    for group in shown_groups(one, timed):
        own = {setup.batch_size: x for setup in setups if (x := group.speedup(setup))}
        lines.append(Line(group.name, own, _METHODS.get(group.method, _OTHER)[0]))
    title = f"Speedup by batch size, {_lengths_text(setups[0])}" if lines else ""
    return _draw_speeds(name, title, "batch size", lines) if lines else ""


def speed_against_length(one: Comparison, name: str) -> str:
    """Speedup against output length at the smallest batch, a line for each depth of the decoder."""
    smallest = min((setup.batch_size for setup in one.setups if is_number(setup.batch_size)), default=None)
    setups = [setup for setup in one.setups if smallest is not None and setup.batch_size == smallest]
    # One source length and beam size: speedups of others do not compare.
    setups = [s for s in setups if (s.source_length, s.num_beams) == (setups[-1].source_length, setups[-1].num_beams)]
    found: list[tuple[int, str, dict[Any, MeanStd]]] = []
    for group in one.groups:
        (kept, dense), encoder = group.depth("decoder"), group.depth("encoder")
        own = {setup.new_tokens: value for setup in setups if (value := group.speedup(setup))}
        if len(own) > 1 and kept is not None and encoder[0] is not None and encoder[0] == encoder[1]:
            found.append((kept, f"{group.name}: {kept} of {dense}", own))
    depths = sorted({depth for depth, *_ in found})
    in_order = sorted(found, key=lambda line: line[0])
    lines = [Line(text, own, _RAMP[depths.index(depth) % len(_RAMP)]) for depth, text, own in in_order]
    title = f"Speedup by output length, batch {smallest}, by decoder layers kept"
    return _draw_speeds(name, title, "new tokens", lines) if lines else ""


@report_style()
def _draw_speeds(name: str, title: str, x_label: str, lines: Sequence[Line]) -> str:
    """Lines of speedups on logarithmic axes, each named at its right end."""
    figure = drawing.new_figure(max(240, 50 + 14 * len(lines)), layout=None)
    axes = figure.add_axes((0.07, 0.14, 0.68, 0.76))
    axes.set_xscale("log", base=2)
    ticks = sorted({x for line in lines for x in line.points})
    axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
    for i, line in enumerate(lines):
        _plot_line(axes, line.points, line.color, "o", linestyle=_DASHES[i % len(_DASHES)], markersize=3)
    axes.axhline(1.0, color=DENSE, linewidth=0.9)
    axes.set_yscale("log")  # twice as fast is as far from one as half as fast
    axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
    axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
    axes.yaxis.set_minor_formatter(NullFormatter())
    axes.set(xlabel=x_label, ylabel="speedup over dense")
    axes.set_title(title)
    _name_ends(axes, lines)
    return drawing.to_svg(figure, name, f"{title}: {', '.join(line.name for line in lines)}")


def _name_ends(axes: Axes, lines: Sequence[Line]) -> None:
    last = [(max(line.points), line.points[max(line.points)].mean) for line in lines]
    ends, frame, scale = axes.transData.transform(last), axes.get_window_extent(), axes.figure.dpi / 72
    heights = spread_out(ends[:, 1], 11 * scale, frame.y0, frame.y1)
    places = axes.transData.inverted().transform([(ends[:, 0].max() + 22 * scale, height) for height in heights])
    for line, end, place in zip(lines, last, places, strict=True):
        look: dict[str, Any] = {"color": line.color, "va": "center", "fontsize": 7.5, "annotation_clip": False}
        axes.annotate(line.name, end, xytext=tuple(place), arrowprops=_LEADER | {"color": line.color}, **look)


def spread_out(places: Sequence[float] | np.ndarray, gap: float, low: float, high: float) -> np.ndarray:
    """Moves places on a line apart to at least `gap`, in their order and as little as that takes.

    Where so many do not fit between `low` and `high`, the gaps are smaller.
    """
    found, steps = np.array(places, float), np.arange(len(places))
    gap, order = min(gap, (high - low) / max(1, len(places) - 1)), found.argsort(kind="stable")
    if len(places):  # without their gaps, places that keep their order are a regression that never falls
        free = isotonic_regression(found[order] - gap * steps).x
        found[order] = free.clip(low, high - gap * steps[-1]) + gap * steps
    return found


@report_style()
def length_against_size(one: Comparison, name: str) -> str:
    """Length of the outputs against parameters of the pruned model, dense marked."""
    pruned = [(g, g.over_seeds(lambda record: section(record, "params").get("pruned"))) for g in one.groups]
    lengths = [(group, size, group.score("generated_length")) for group, size in pruned]
    found = [Point(group, size, length) for group, size, length in lengths if size and length]
    if not found:
        return ""
    figure, dense, size = drawing.new_figure(260), one.dense_score("generated_length"), one.dense_size()
    axes = figure.subplots()
    _plot_points(axes, found, [(size, dense.mean)] if dense and is_number(size) else [])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: format_count(x)))
    axes.set(xlabel="parameters", ylabel="generated length")
    axes.set_title("Length of the outputs by size of the model")
    handles = _legend_of_methods(found)
    figure.legend(handles=handles, loc="outside lower left", ncols=len(handles))
    name_points(axes, found)
    return drawing.to_svg(figure, name, "Generated length against parameters of the pruned models")


FIGURES: dict[str, Callable[[Comparison, str], str]] = {
    "speed": quality_against_speed,
    "depth": quality_against_depth,
    "batch": speed_against_batch,
    "length": speed_against_length,
    "size": length_against_size,
}
