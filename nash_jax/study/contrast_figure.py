"""The contrasts of a study as intervals below each other: a forest plot."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib.axes import Axes
from matplotlib.lines import Line2D
from matplotlib.patches import Patch

from nash_jax.report import drawing
from nash_jax.report.drawing import ACCENT, BLUE, INK, MUTED, PRUNED, ROSE, report_style
from nash_jax.study.contrast_table import difference_text, verdict_text
from nash_jax.study.contrasts import HELD, REFUTED

Result = Mapping[str, Any]

_COLORS = {HELD: PRUNED, REFUTED: ROSE}
_HALF = 0.36  # of the height of a row, what a prediction fills


@report_style()
def forest_plot(results: Sequence[Result], name: str) -> str:
    """Each contrast's difference with both intervals, on the range that was predicted.

    Args:
      results: of `protocol.compare`.
      name: makes the figure's ids its own in the page.

    Returns:
      An `<svg>` element, or "" where no contrast has a difference.
    """
    shown = [own for own in results if own["mean"] is not None]
    if not shown:
        return ""
    figure = drawing.new_figure(92 + 34 * len(shown))
    axes = figure.subplots()
    low, high = _limits(shown)
    for y, own in enumerate(shown):
        _plot_row(axes, own, y, (low, high))
    axes.axvline(0.0, color=INK, linewidth=0.8, alpha=0.7)
    axes.set_yticks(range(len(shown)), [f"{own['a']}\n- {own['b']}" for own in shown])
    axes.tick_params(axis="y", colors=INK)
    axes.set(xlim=(low, high), ylim=(len(shown) - 0.45, -0.55))
    axes.set_xlabel(f"difference in {', '.join(dict.fromkeys(own['metric'] for own in shown))}, a - b")
    axes.set_title("Contrasts and what was predicted of them")
    figure.legend(handles=_legend(), loc="outside lower left", ncols=4)
    said = "; ".join(f"{own['name']} {difference_text(own)}, {verdict_text(own)}" for own in shown)
    return drawing.to_svg(figure, name, f"Differences of contrasts: {said}")


def _plot_row(axes: Axes, own: Result, y: int, limits: tuple[float, float]) -> None:
    color = _COLORS.get(own["verdict"], INK)
    low, high = _predicted(own["predicted"], limits)
    axes.barh(y, high - low, left=low, height=2 * _HALF, color=BLUE, alpha=0.13, linewidth=0)
    if own["rows_interval"]:
        axes.plot(own["rows_interval"], (y, y), color=MUTED, linewidth=1.0, marker="|", markersize=7)
    if own["interval"]:
        axes.plot(own["interval"], (y, y), color=color, linewidth=2.6, solid_capstyle="butt")
    axes.plot(own["differences"], [y] * own["n"], color=ACCENT, marker="o", markersize=2.6, linestyle="none", alpha=0.8)
    axes.plot(own["mean"], y, color=color, marker="D", markersize=5.5, markeredgecolor="white", markeredgewidth=0.7)
    # in the row itself: constrained layout leaves no room beside the axes
    look: dict[str, Any] = {"fontsize": 8, "ha": "right", "va": "bottom", "transform": axes.get_yaxis_transform()}
    axes.text(0.995, y + _HALF, f"predicted {own['predicted']}: {verdict_text(own)}", color=color, **look)


def _predicted(words: str, limits: tuple[float, float]) -> tuple[float, float]:
    """The range of differences that agree with a prediction, as far as the figure goes."""
    kind, _, number = words.rpartition(" ")
    at = float(number)
    return {"within": (-at, at), "at least": (at, limits[1]), "at most": (limits[0], at)}[kind]


def _limits(shown: Sequence[Result]) -> tuple[float, float]:
    """What all rows need, with the numbers of the predictions and some room."""
    values = [0.0]
    for own in shown:
        number = float(own["predicted"].rpartition(" ")[2])
        values += [*own["differences"], *(own["interval"] or ()), *(own["rows_interval"] or ()), number]
        values += [-number] * own["predicted"].startswith("within")
    room = 0.06 * (max(values) - min(values) or 1.0)
    return min(values) - room, max(values) + room


def _legend() -> list[Any]:
    return [
        Line2D([], [], color=INK, linewidth=2.6, marker="D", markersize=5, label="mean, 95 % over seeds"),
        Line2D([], [], color=MUTED, linewidth=1.0, marker="|", markersize=7, label="over seeds and rows"),
        Line2D([], [], color=ACCENT, marker="o", markersize=3, linestyle="none", label="one seed"),
        Patch(color=BLUE, alpha=0.13, label="predicted"),
    ]
