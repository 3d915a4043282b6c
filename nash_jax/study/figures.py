"""The figures of a study: quality against speed and depth, speed against batch and length, length against size.

Every function takes a subject and the name that makes the figure's ids its own in the page, and returns an
`<svg>` element, or "" where there is nothing to draw.
"""

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FuncFormatter, LogLocator, MaxNLocator, NullFormatter, StrMethodFormatter

from nash_jax.report.labels import Label, place_labels, spread_out
from nash_jax.report.summary import Setup, direction, format_count, measured, section, setup_label
from nash_jax.report.svg import ACCENT, BLUE, DENSE, INK, MUTED, PEERS, PRUNED, draw
from nash_jax.study.pareto import pareto_front
from nash_jax.study.records import Group, Spread, Subject, metrics_of

MOST_LINES = 10
_LOOKS = {
    "nash": (PRUNED, "o"),
    "nash_auto": (BLUE, "s"),
    "cofi": (PEERS[2], "^"),
    "drop": (ACCENT, "D"),
    "none": (MUTED, "P"),
}
_RAMP = (ACCENT, BLUE, PRUNED, *PEERS[2:], MUTED, INK)
_DASHES = ("-", (0, (5, 1.5)), (0, (1.2, 1.2)), (0, (5, 1.2, 1.2, 1.2)))


class Point(NamedTuple):
    """A group in a chart."""

    group: Group
    x: Spread
    y: Spread


def _look(method: str) -> tuple[str, str]:
    return _LOOKS.get(method, (PEERS[3], "v"))


def quality(group: Group, metric: str) -> Spread | None:
    """A metric of the pruned model over the seeds."""
    return group.over_seeds(lambda record: metrics_of(record, "pruned").get(metric))


def main_lengths(subject: Subject) -> tuple[Any, ...] | None:
    """The (source length, new tokens, beams) that most groups with quality were timed on; the longest among equals."""
    judged = [group for group in subject.groups if any(metrics_of(record, "pruned") for record in group.records)]

    def timed(lengths: tuple[Any, ...]) -> int:
        mine = [setup for setup in subject.setups if setup[1:] == lengths]
        return sum(any(group.speedup(setup) for setup in mine) for group in judged or subject.groups)

    # `lengths` are sorted, and max returns the first of equals: reversed, that is the longest.
    return max(reversed(subject.lengths), key=timed, default=None)


def main_setups(subject: Subject) -> list[Setup]:
    """The set-ups of the main lengths, by batch size."""
    lengths = main_lengths(subject)
    return [setup for setup in subject.setups if setup[1:] == lengths]


def _lengths_text(setup: Setup) -> str:
    beams = "" if setup.num_beams == 1 else f", {setup.num_beams} beams"
    return f"{setup.source_length} → {setup.new_tokens} tokens{beams}"


def points(subject: Subject, setup: Setup) -> list[Point]:
    """Speedup and main metric of every group that has both."""
    metric = subject.metric
    if metric is None:
        return []
    found = ((group, group.speedup(setup), quality(group, metric)) for group in subject.groups)
    return [Point(group, x, y) for group, x, y in found if x and y]


def quality_against_speed(subject: Subject, name: str) -> str:
    """Main metric against speedup, a panel a batch size, with the Pareto front as steps."""
    panels = [(setup, found) for setup in main_setups(subject) if (found := points(subject, setup))]
    metric = subject.metric
    if not panels or metric is None:
        return ""
    across = min(2, len(panels))
    down = -(-len(panels) // across)

    def paint(figure: Figure) -> None:
        grid = list(figure.subplots(down, across, squeeze=False).flat)
        for axes in grid[len(panels) :]:
            axes.set_axis_off()
        for axes, (setup, found) in zip(grid, panels, strict=False):
            axes.set_title(f"{metric} against speedup, {setup_label(setup, main_setups(subject))}")
            axes.set_ylabel(metric)
            _plot_points(axes, found, f"speedup over dense, {_lengths_text(setup)}")
            _plot_front(axes, found, subject.dense_score(metric), direction(metric))
        _legend_of_methods(figure, [point.group for _, found in panels for point in found])
        for axes, (_, found) in zip(grid, panels, strict=False):
            place_labels(figure, axes, [_name_of(p) for p in found])

    label = f"{metric} against speedup over dense, one point a group"
    return draw(paint, name=name, label=label, height=26 + 250 * down, layout="constrained")


def _name_of(point: Point) -> Label:
    return Label(point.x.mean, point.y.mean, point.group.label, point.x.std or 0.0, point.y.std or 0.0)


def _plot_points(axes: Axes, found: Sequence[Point], x_label: str) -> None:
    for point in found:
        color, marker = _look(point.group.method)
        axes.errorbar(
            point.x.mean,
            point.y.mean,
            xerr=point.x.std,
            yerr=point.y.std,
            fmt=marker,
            color=color,
            markersize=4.5,
            elinewidth=0.8,
            capsize=1.8,
        )
    axes.set_xlabel(x_label)
    axes.margins(0.12)


def _plot_front(axes: Axes, found: Sequence[Point], dense: Spread | None, better: int) -> None:
    places = [(point.x.mean, point.y.mean) for point in found]
    if dense is not None:
        places.append((1.0, dense.mean))
        axes.plot(1.0, dense.mean, marker="*", markersize=9, color=DENSE, linestyle="none")
    front = [places[i] for i in pareto_front([(x, (better or 1) * y) for x, y in places])]
    # At a speedup between two points of the front, the faster one is the best that reaches it.
    axes.step(*zip(*front, strict=True), where="pre", color=INK, linewidth=0.9, alpha=0.6, zorder=1)


def _legend_of_methods(figure: Figure, groups: Sequence[Group], *, front: bool = True) -> None:
    entries = []
    for method in dict.fromkeys(group.method for group in groups):
        color, marker = _look(method)
        entries.append(Line2D([], [], color=color, marker=marker, linestyle="none", markersize=5, label=method or "?"))
    entries.append(Line2D([], [], color=DENSE, marker="*", linestyle="none", markersize=8, label="dense"))
    if front:
        entries.append(Line2D([], [], color=INK, linewidth=0.9, alpha=0.6, label="Pareto front"))
    figure.legend(handles=entries, loc="outside lower left", ncols=len(entries))


def shortened_stack(group: Group) -> tuple[str, int] | None:
    """Which stacks have fewer layers, and how many layers those keep.

    Returns:
      ("encoder" | "decoder" | "both", layers), or None where none is shorter, the depth is not known, or both
      are shorter by different shares, so that no one number stands for them.
    """
    encoder, decoder = group.depth("encoder"), group.depth("decoder")
    if encoder is None or decoder is None:
        return None
    short = [kept < dense for kept, dense in (encoder, decoder)]
    if all(short):
        return ("both", decoder[0]) if encoder[0] * decoder[1] == decoder[0] * encoder[1] else None
    return ("encoder", encoder[0]) if short[0] else ("decoder", decoder[0]) if short[1] else None


_STACKS = {"encoder": (BLUE, "s"), "decoder": (ACCENT, "D"), "both": (PRUNED, "o")}


def quality_against_depth(subject: Subject, name: str) -> str:
    """Main metric against layers kept where layers were dropped: of the encoder, of the decoder, of both alike."""
    metric = subject.metric
    lines: dict[str, dict[int, Spread]] = {}
    for group in subject.groups if metric else ():
        short, score = shortened_stack(group), quality(group, str(metric))
        if group.method == "drop" and short and score:
            lines.setdefault(short[0], {}).setdefault(short[1], score)
    if not lines or metric is None:
        return ""
    dense, depths = subject.dense_score(metric), _dense_depths(subject)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        for stack, (color, marker) in _STACKS.items():
            found = dict(lines.get(stack, {}))
            if found and dense and depths.get(stack):
                found[depths[stack]] = dense
            if found:
                title = {"both": "both alike"}.get(stack, f"{stack} only")
                _plot_line(axes, found, color, marker, label=title)
        if dense:
            axes.axhline(dense.mean, color=DENSE, linewidth=0.9, linestyle=(0, (4, 2)), label="dense")
        axes.xaxis.set_major_locator(MaxNLocator(integer=True))
        axes.set_xlabel("layers kept in the shortened stack")
        axes.set_ylabel(metric)
        axes.set_title(f"{metric} where layers are dropped")
        axes.legend(loc="lower right")

    label = f"{metric} against layers kept: {', '.join(lines)} shortened"
    return draw(paint, name=name, label=label, height=240, layout="constrained")


def _dense_depths(subject: Subject) -> dict[str, int]:
    """Layers of the dense stacks; "both" is counted as the decoder."""
    found: dict[str, int] = {}
    for record in subject.records:
        for side in ("encoder", "decoder"):
            dense = section(record, "layers", side).get("dense")
            if isinstance(dense, int):
                found.setdefault(side, dense)
    return found | ({"both": found["decoder"]} if "decoder" in found else {})


def _plot_line(axes: Axes, found: dict[Any, Spread], color: str, marker: str, **more: Any) -> None:
    places = sorted(found)
    errors = [found[x].std or 0.0 for x in places]
    bars = errors if any(errors) else None
    look: dict[str, Any] = {"markersize": 4, "linewidth": 1.2, "elinewidth": 0.8, "capsize": 1.8}
    axes.errorbar(places, [found[x].mean for x in places], yerr=bars, color=color, marker=marker, **(look | more))


def shown_groups(subject: Subject, groups: Sequence[Group]) -> list[Group]:
    """All groups, or where they are too many for one chart: the Pareto front and those with layers dropped only."""
    if len(groups) <= MOST_LINES:
        return list(groups)
    setups = main_setups(subject)
    found = points(subject, setups[0]) if setups and subject.metric else []
    better = direction(subject.metric) if subject.metric else 1
    front = {found[i].group.name for i in pareto_front([(p.x.mean, better * p.y.mean) for p in found])}
    return [group for group in groups if group.name in front or group.method == "drop"] or list(groups[:MOST_LINES])


def speed_against_batch(subject: Subject, name: str) -> str:
    """Speedup against batch size, a line a group."""
    setups = [setup for setup in main_setups(subject) if measured(setup.batch_size)]
    timed = [group for group in subject.groups if sum(bool(group.speedup(setup)) for setup in setups) > 1]
    if not timed:
        return ""
    lines = [
        (group.name, {setup.batch_size: found for setup in setups if (found := group.speedup(setup))}, group.method)
        for group in shown_groups(subject, timed)
    ]
    title = f"Speedup by batch size, {_lengths_text(setups[0])}"
    return _draw_lines(name, title, "batch size", lines, lambda i, method: _look(method)[0])


def speed_against_length(subject: Subject, name: str) -> str:
    """Speedup against output length at the smallest batch, a line for each depth of the decoder."""
    sizes = [setup.batch_size for setup in subject.setups if measured(setup.batch_size)]
    setups = [setup for setup in subject.setups if sizes and setup.batch_size == min(sizes)]
    first = setups[-1] if setups else None  # one source length and beam size: speedups of others do not compare
    setups = [s for s in setups if first and (s.source_length, s.num_beams) == (first.source_length, first.num_beams)]
    lines = []
    for group in subject.groups:
        encoder, decoder = group.depth("encoder"), group.depth("decoder")
        found = {setup.new_tokens: value for setup in setups if (value := group.speedup(setup))}
        if len(found) > 1 and encoder and decoder and encoder[0] == encoder[1]:
            lines.append((f"{group.name}: {decoder[0]} of {decoder[1]}", found, decoder[0]))
    if not lines:
        return ""
    title = f"Speedup by output length, batch {min(sizes)}, by decoder layers kept"
    depths = sorted({depth for *_, depth in lines})
    lines.sort(key=lambda line: line[2])
    return _draw_lines(name, title, "new tokens", lines, lambda i, depth: _RAMP[depths.index(depth) % len(_RAMP)])


def _draw_lines(
    name: str,
    title: str,
    x_label: str,
    lines: Sequence[tuple[str, dict[Any, Spread], Any]],
    color: Callable[[int, Any], str],
) -> str:
    """Lines of speedups on logarithmic axes, each named at its right end."""

    def paint(figure: Figure) -> None:
        axes = figure.add_axes((0.07, 0.14, 0.68, 0.76))
        axes.set_xscale("log", base=2)
        ticks = sorted({x for _, found, _ in lines for x in found})
        axes.set_xticks(ticks, [f"{x:g}" for x in ticks])
        for i, (_, found, key) in enumerate(lines):
            _plot_line(axes, found, color(i, key), "o", linestyle=_DASHES[i % len(_DASHES)], markersize=3)
        axes.axhline(1.0, color=DENSE, linewidth=0.9)
        axes.set_yscale("log")  # twice as fast is as far from one as half as fast
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 1.2, 1.5, 2.0, 3.0, 4.0, 6.0, 8.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())
        axes.set_xlabel(x_label)
        axes.set_ylabel("speedup over dense")
        axes.set_title(title)
        _name_ends(figure, axes, [(text, found, color(i, key)) for i, (text, found, key) in enumerate(lines)])

    label = f"{title}: {', '.join(text for text, _, _ in lines)}"
    return draw(paint, name=name, label=label, height=max(240, 50 + 14 * len(lines)), layout=None)


def _name_ends(figure: Figure, axes: Axes, lines: Sequence[tuple[str, dict[Any, Spread], str]]) -> None:
    edge = max(axes.transData.transform((max(found), 1.0))[0] for _, found, _ in lines)
    ends = [axes.transData.transform((max(found), found[max(found)].mean)) for _, found, _ in lines]
    scale = figure.dpi / 72
    frame = axes.get_window_extent()
    heights = spread_out([end[1] for end in ends], 11 * scale, frame.y0, frame.y1)
    back = axes.transData.inverted()
    for (text, _, color), end, height in zip(lines, ends, heights, strict=True):
        place = back.transform((edge + 22 * scale, height))
        arrow = {
            "arrowstyle": "-",
            "color": color,
            "linewidth": 0.5,
            "shrinkA": 0.0,
            "shrinkB": 2.0,
            "relpos": (0.0, 0.5),
        }
        axes.annotate(
            text,
            tuple(back.transform(end)),
            xytext=tuple(place),
            color=color,
            va="center",
            fontsize=7.5,
            arrowprops=arrow | {"relpos": (0.0, 0.5)},
            annotation_clip=False,
        )


def length_against_size(subject: Subject, name: str) -> str:
    """Length of the outputs against parameters of the pruned model, dense marked."""
    found = []
    for group in subject.groups:
        size = group.over_seeds(lambda record: section(record, "params").get("pruned"))
        length = quality(group, "generated_length")
        if size and length:
            found.append(Point(group, size, length))
    if not found:
        return ""
    dense_length = subject.dense_score("generated_length")
    sizes = [section(record, "params").get("dense") for record in subject.records]
    dense_size = next((size for size in sizes if measured(size)), None)

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        _plot_points(axes, found, "parameters")
        if dense_length and dense_size:
            axes.plot(dense_size, dense_length.mean, marker="*", markersize=9, color=DENSE, linestyle="none")
        axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: format_count(x)))
        axes.set_ylabel("generated length")
        axes.set_title("Length of the outputs by size of the model")
        _legend_of_methods(figure, [point.group for point in found], front=False)
        place_labels(figure, axes, [_name_of(p) for p in found])

    label = "Generated length against parameters of the pruned models"
    return draw(paint, name=name, label=label, height=260, layout="constrained")
