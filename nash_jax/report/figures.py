"""The charts of the report: training, sparsity, latency, parameters.

Every function returns an `<svg>` element, or "" where its input holds nothing to draw.
"""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from nash_jax.report.summary import (
    MODELS,
    Report,
    Rows,
    Setup,
    find_row,
    format_count,
    format_ms,
    format_percent,
    format_speedup,
    format_spread,
    measured,
    ratio,
    setup_label,
    setup_speedup,
    setups,
)
from nash_jax.report.svg import ACCENT, BLUE, DENSE, INK, MUTED, PEERS, PRUNED, draw

PHASES = ("finetune", "prune", "retrain")


class _Curve(NamedTuple):
    key: str
    title: str
    color: str
    points: bool  # few and far between: drawn with markers


def series(history: Rows, phase: str, key: str) -> tuple[np.ndarray, np.ndarray]:
    """Steps and values of one phase where `key` was logged as a finite number, both [n], by step."""
    found = sorted((row["step"], row[key]) for row in history if row.get("phase") == phase and measured(row.get(key)))
    steps, values = zip(*found, strict=True) if found else ((), ())
    return np.asarray(steps, float), np.asarray(values, float)


def _phases(history: Rows, keys: Sequence[str]) -> list[str]:
    seen = dict.fromkeys(row.get("phase", "") for row in history if any(measured(row.get(key)) for key in keys))
    return [p for p in PHASES if p in seen] + [p for p in seen if p not in PHASES]


def _curves(history: Rows, metric: str | None) -> list[_Curve]:
    keys = dict.fromkeys(key for row in history for key, value in row.items() if measured(value))
    validation = [key for key in keys if key.startswith("validation/")]
    wanted = f"validation/{metric}"
    chosen = wanted if wanted in validation else next(iter(validation), "")
    loss = "task_loss" if "task_loss" in keys else "loss"
    curves = [
        _Curve(loss, "task loss" if loss == "task_loss" else "loss", BLUE, False),
        _Curve("token_accuracy", "token accuracy", PRUNED, False),
        _Curve(chosen, chosen.replace("/", " ", 1), ACCENT, True),
    ]
    return [curve for curve in curves if curve.key in keys]


def training_curves(history: Rows, metric: str | None = None) -> str:
    """Task loss, token accuracy and a validation metric by step, one column a phase.

    Args:
      history: the logged steps, as in `metrics.jsonl`.
      metric: which `validation/<metric>` to show; the first one logged where it is missing.
    """
    curves = _curves(history, metric)
    phases = _phases(history, [curve.key for curve in curves])
    if not phases:
        return ""

    def paint(figure: Figure) -> None:
        grid = figure.subplots(len(curves), len(phases), sharex="col", sharey="row", squeeze=False)
        for panels, curve in zip(grid, curves, strict=True):
            for axes, phase in zip(panels, phases, strict=True):
                _plot_curve(axes, *series(history, phase, curve.key), curve)
            panels[0].set_ylabel(curve.title)
            _use_log_scale_if_wide(panels)
        for axes, phase in zip(grid[0], phases, strict=True):
            axes.set_title(phase)
        for axes in grid[-1]:
            axes.set_xlabel("step")

    label = f"{', '.join(curve.title for curve in curves)} by step in the phases {', '.join(phases)}"
    return draw(paint, name="training", label=label, height=30 + 118 * len(curves), layout="constrained")


def _plot_curve(axes: Axes, steps: np.ndarray, values: np.ndarray, curve: _Curve) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if not len(steps):
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color=MUTED)
        return
    if curve.points or len(steps) < 20:
        axes.plot(steps, values, color=curve.color, marker="o", markersize=3.5, linewidth=1.1)
        return
    axes.plot(steps, values, color=curve.color, alpha=0.28, linewidth=0.8)
    axes.plot(steps, moving_average(values, max(3, len(values) // 25)), color=curve.color)


def moving_average(values: np.ndarray, width: int) -> np.ndarray:
    """Centred mean over `width` neighbours, over fewer at the ends; [n] → [n]."""
    total = np.concatenate([[0.0], np.cumsum(values)])
    place = np.arange(len(values))
    first, last = np.maximum(place - width // 2, 0), np.minimum(place + width // 2 + 1, len(values))
    return (total[last] - total[first]) / (last - first)


def _use_log_scale_if_wide(panels: Sequence[Axes]) -> None:
    # A loss that falls from 8 to 0.2 leaves the later phases flat on a linear scale.
    values = np.concatenate([line.get_ydata() for axes in panels for line in axes.get_lines()])
    if not len(values) or values.min() <= 0 or values.max() / values.min() < 5:
        return
    panels[0].set_yscale("log")  # shared by the row
    for axes in panels:
        axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
        axes.yaxis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axes.yaxis.set_minor_formatter(NullFormatter())


def sparsity_curves(history: Rows, best_step: int | None = None) -> str:
    """Target and expected sparsity of the prune phase, and the two Lagrangian multipliers, a row each constraint.

    Args:
      history: the logged steps; names of the decoder's own constraint end in `_decoder`.
      best_step: the step whose final masks were taken; the sparsity counted there is drawn as a line.
    """
    parts = [part for part in ("", "_decoder") if _logged(history, _SPARSITIES, part)]
    if not parts:
        return ""
    with_multipliers = any(_logged(history, _MULTIPLIERS, part) for part in parts)
    titles = ("Encoder sparsity", "Decoder sparsity") if len(parts) > 1 else ("Sparsity",)

    def paint(figure: Figure) -> None:
        ratios = [1.5, 1.0][: 1 + with_multipliers]
        grid = figure.subplots(len(parts), len(ratios), width_ratios=ratios, squeeze=False)
        for (left, *rest), part, title in zip(grid, parts, titles, strict=True):
            _plot_sparsity(left, history, part, best_step)
            left.set_title(title)
            for axes in rest:
                _plot_multipliers(axes, history, part)
        for axes in grid[-1]:
            axes.set_xlabel("step of the prune phase")

    where = " of encoder and decoder" if len(parts) > 1 else ""
    label = f"Target and expected sparsity{where} and the Lagrangian multipliers by step of the prune phase"
    return draw(paint, name="sparsity", label=label, height=25 + 190 * len(parts), layout="constrained")


_SPARSITIES: dict[str, dict[str, Any]] = {
    "target_sparsity": {"color": MUTED, "linestyle": (0, (4, 2)), "linewidth": 1.3, "label": "target"},
    "expected_sparsity": {"color": PRUNED, "label": "expected"},
}
_MULTIPLIERS: dict[str, dict[str, Any]] = {
    "lambda_1": {"color": BLUE, "label": "λ₁"},
    "lambda_2": {"color": ACCENT, "label": "λ₂"},
}


def _logged(history: Rows, keys: Iterable[str], part: str) -> list[str]:
    return [key for key in keys if len(series(history, "prune", key + part)[0])]


def _plot_sparsity(axes: Axes, history: Rows, part: str, best_step: int | None) -> None:
    for key in _logged(history, _SPARSITIES, part):
        axes.plot(*series(history, "prune", key + part), **_SPARSITIES[key])
    steps, counted = series(history, "prune", f"validation/counted_sparsity{part}")
    for value in counted[steps == best_step]:
        text = f"counted {format_percent(value)}"
        axes.axhline(value, color=ACCENT, linewidth=1.0, linestyle=(0, (1, 1.5)), label=text)
    axes.yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
    _legend_over(axes)


def _plot_multipliers(axes: Axes, history: Rows, part: str) -> None:
    for key in _logged(history, _MULTIPLIERS, part):
        axes.plot(*series(history, "prune", key + part), **_MULTIPLIERS[key])
    axes.axhline(0, color=MUTED, linewidth=0.7)
    axes.set_title("Lagrangian multipliers")
    _legend_over(axes)


def _legend_over(axes: Axes) -> None:
    # In the line of the title, where no curve can run through it.
    entries = len(axes.get_legend_handles_labels()[0])
    axes.legend(loc="lower right", bbox_to_anchor=(1.0, 0.985), ncols=entries, columnspacing=1.2, borderpad=0.1)


def model_colors(models: Sequence[str]) -> dict[str, str]:
    """Colour of each model: grey for dense, teal for pruned or the one model, the others in turn."""
    peers = [model for model in models if model not in MODELS]
    others = {model: PEERS[i % len(PEERS)] for i, model in enumerate(peers)}
    return {"dense": DENSE, "pruned": PRUNED, "model": PRUNED} | others


def latency_bars(report: Report) -> str:
    """Mean time of generation with its deviation, encoding and decoding apart, and the time a token.

    Args:
      report: read for `benchmark` and `speedup`. One row of panels a set-up, each with its own scale.
    """
    rows = [row for row in report.get("benchmark") or [] if measured(row.get("mean_ms"))]
    if not rows:
        return ""
    found = setups(rows)
    counts = [sum(Setup.of(row) == setup for row in rows) for setup in found]
    tokens = any(measured(row.get("per_token_ms")) for row in rows)

    def paint(figure: Figure) -> None:
        ratios = [1.9, 1.0][: 1 + tokens]
        sizes = {"width_ratios": ratios, "height_ratios": [1 + count for count in counts]}
        grid = figure.subplots(len(found), len(ratios), squeeze=False, gridspec_kw=sizes)
        for panels, setup in zip(grid, found, strict=True):
            _plot_setup(panels, rows, setup, setup_speedup(report, setup))
            panels[0].set_title(setup_label(setup, found) + ": time to generate, ms")
            panels[0].set_title("speedup", loc="right", fontweight="normal", color=MUTED)
        for axes in grid[:, 1:].flat:
            axes.set_title("ms a token")
            axes.tick_params(labelleft=False)  # the same models as on the left
        if any(measured(row.get("encode_ms")) for row in rows):
            parts = [Patch(color=MUTED, alpha=0.45, label="encode"), Patch(color=MUTED, label="decode")]
            figure.legend(handles=parts, loc="outside lower left", ncols=2)

    height = 24 + sum(32 + 21 * count for count in counts)
    label = "Mean generation time of each model, " + "; ".join(setup_label(setup, found) for setup in found)
    return draw(paint, name="latency", label=label, height=height, layout="constrained")


def _plot_setup(panels: Sequence[Axes], rows: Rows, setup: Setup, speedup: float | None) -> None:
    mine = [row for row in rows if Setup.of(row) == setup]
    names = [str(row.get("model")) for row in mine]
    colors = model_colors(list(dict.fromkeys(str(row.get("model")) for row in rows)))
    for axes in panels:
        _prepare_bars(axes, names)
    for y, (row, name) in enumerate(zip(mine, names, strict=True)):
        _plot_time(panels[0], y, row, colors[name])
        ahead = speedup if name == "pruned" else ratio(find_row(mine, "dense", setup).get("mean_ms"), row["mean_ms"])
        if name != "dense" and ahead is not None:
            _write_at_edge(panels[0], y, format_speedup(ahead))
        for axes in panels[1:]:
            if measured(row.get("per_token_ms")):
                axes.barh(y, row["per_token_ms"], color=colors[name], height=0.68)
                _write(axes, y, row["per_token_ms"], format_ms(row["per_token_ms"]))


def _prepare_bars(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", colors=INK)
    axes.set_ylim(len(names) - 0.45, -0.55)
    axes.set_xticks([])  # every bar carries its number
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    axes.margins(x=0.32)


def _plot_time(axes: Axes, y: int, row: Mapping[str, Any], color: str) -> None:
    encode = row["encode_ms"] if measured(row.get("encode_ms")) else 0.0
    axes.barh(y, encode, color=color, alpha=0.45, height=0.68)
    axes.barh(y, max(0.0, row["mean_ms"] - encode), left=encode, color=color, height=0.68)
    if measured(row.get("std_ms")):
        bar: dict[str, Any] = {"ecolor": INK, "elinewidth": 0.9, "capsize": 2.5, "capthick": 0.9}
        axes.errorbar(row["mean_ms"], y, xerr=row["std_ms"], fmt="none", **bar)
    _write(axes, y, _bar_end(row), format_spread(row["mean_ms"], row.get("std_ms")))


def _bar_end(row: Mapping[str, Any]) -> float:
    return row["mean_ms"] + (row["std_ms"] if measured(row.get("std_ms")) else 0.0)


def _write(axes: Axes, y: float, x: float, text: str) -> None:
    axes.annotate(text, (x, y), xytext=(5, 0), textcoords="offset points", va="center", fontsize=8.5)


def _write_at_edge(axes: Axes, y: int, text: str) -> None:
    place = axes.get_yaxis_transform()  # x a fraction of the axes, so that the speedups form a column
    axes.text(1.0, y, text, transform=place, ha="right", va="center", fontsize=9.5, fontweight="bold")


def component_bars(components: Mapping[str, Mapping[str, int]]) -> str:
    """Parameters of each component, dense against pruned, or of one model.

    Args:
      components: "dense", "pruned" or "model" → component → number of parameters; any may be missing.
    """
    models = [model for model in MODELS if components.get(model)]
    names = list(dict.fromkeys(name for model in models for name, size in components[model].items() if size))
    if not names:
        return ""

    def paint(figure: Figure) -> None:
        axes = figure.subplots()
        _prepare_bars(axes, names)
        for i, model in enumerate(models):
            offset = (i - (len(models) - 1) / 2) * 0.36
            values = [components[model].get(name, 0) for name in names]
            axes.barh(np.arange(len(names)) + offset, values, 0.34, color=model_colors([])[model], label=model)
            for y, (name, value) in enumerate(zip(names, values, strict=True)):
                _write(axes, y + offset, value, _component_label(components, model, name))
        axes.margins(x=0.12)
        axes.legend(loc="lower right")

    label = "Parameters of each component in " + " and ".join(models)
    return draw(paint, name="components", label=label, height=16 + 34 * len(names), layout="constrained")


def _component_label(components: Mapping[str, Mapping[str, int]], model: str, name: str) -> str:
    value = components[model].get(name, 0)
    part = ratio(value, (components.get("dense") or {}).get(name))
    if model == "dense" or part is None or math.isclose(part, 1.0):
        return format_count(value)
    return f"{format_count(value)} ({format_percent(part - 1, signed=True)})"
