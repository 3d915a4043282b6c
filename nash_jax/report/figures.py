"""The charts of a run: training, sparsity, latency, parameters.

Every function returns an `<svg>` element, or "" where its input holds nothing to draw.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from nash_jax.report import drawing
from nash_jax.report.benchmark import Rows, Setup, find_row, setup_label, setup_speedup, setups
from nash_jax.report.drawing import ACCENT, BLUE, DENSE, INK, MUTED, PRUNED, report_style
from nash_jax.report.numbers import (
    format_count,
    format_ms,
    format_percent,
    format_speedup,
    format_spread,
    is_number,
    ratio,
)
from nash_jax.report.quality import MODELS, Report

PHASES = ("finetune", "halfway", "prune", "retrain")
_SPARSITIES: dict[str, dict[str, Any]] = {
    "target_sparsity": {"color": MUTED, "linestyle": (0, (4, 2)), "linewidth": 1.3, "label": "target"},
    "expected_sparsity": {"color": PRUNED, "label": "expected"},
}
_MULTIPLIERS = {"lambda_1": {"color": BLUE, "label": "λ₁"}, "lambda_2": {"color": ACCENT, "label": "λ₂"}}
_COUNTED: dict[str, Any] = {"color": ACCENT, "linewidth": 1.0, "linestyle": (0, (1, 1.5))}
# A legend in the line of the title, where no curve can run through it.
_OVER: dict[str, Any] = dict(loc="lower right", bbox_to_anchor=(1.0, 0.985), columnspacing=1.2, borderpad=0.1)


def series(history: Rows, phase: str, key: str) -> pd.Series:
    """Values of `key` in one phase, indexed by step, where it was logged as a finite number."""
    found = {row["step"]: row[key] for row in history if row.get("phase") == phase and is_number(row.get(key))}
    return pd.Series(found, dtype=float).sort_index()


@report_style()
def training_curves(history: Rows, metric: str | None = None) -> str:
    """Loss, token accuracy and a validation metric by step, one column a phase.

    Args:
      history: the logged steps, as in `metrics.jsonl`.
      metric: which `validation/<metric>` to show; the first one logged where it is missing.
    """
    curves = _curves(history, metric)
    seen = dict.fromkeys(row.get("phase", "") for row in history if any(is_number(row.get(key)) for key in curves))
    phases = sorted(seen, key=lambda phase: PHASES.index(phase) if phase in PHASES else len(PHASES))
    if not phases:
        return ""
    figure = drawing.new_figure(30 + 118 * len(curves))
    grid = figure.subplots(len(curves), len(phases), sharex="col", sharey="row", squeeze=False)
    for panels, (key, (title, color)) in zip(grid, curves.items(), strict=True):
        for axes, phase in zip(panels, phases, strict=True):
            _plot_curve(axes, series(history, phase, key), color, points=key.startswith("validation/"))
        panels[0].set_ylabel(title)
        _use_log_scale_if_wide(panels)
    for top, bottom, phase in zip(grid[0], grid[-1], phases, strict=True):
        top.set_title(phase)
        bottom.set_xlabel("step")
    titles = ", ".join(title for title, _ in curves.values())
    return drawing.to_svg(figure, "training", f"{titles} by step in the phases {', '.join(phases)}")


def _curves(history: Rows, metric: str | None) -> dict[str, tuple[str, str]]:
    """Key of the history → title and colour, of what was logged."""
    keys = dict.fromkeys(key for row in history for key, value in row.items() if is_number(value))
    validation = [key for key in keys if key.startswith("validation/")]
    chosen = f"validation/{metric}" if f"validation/{metric}" in validation else next(iter(validation), "")
    loss = "task_loss" if "task_loss" in keys else "loss"
    titles = {loss: loss.replace("_", " "), "token_accuracy": "token accuracy", chosen: chosen.replace("/", " ", 1)}
    looks = zip(titles.items(), (BLUE, PRUNED, ACCENT), strict=False)
    return {key: (title, color) for (key, title), color in looks if key in keys}


def _plot_curve(axes: Axes, values: pd.Series, color: str, points: bool) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    if values.empty:
        axes.text(0.5, 0.5, "not logged", transform=axes.transAxes, ha="center", va="center", color=MUTED)
    elif points or len(values) < 20:
        axes.plot(values, color=color, marker="o", markersize=3.5, linewidth=1.1)
    else:
        axes.plot(values, color=color, alpha=0.28, linewidth=0.8)
        width = 2 * (max(3, len(values) // 25) // 2) + 1
        axes.plot(values.rolling(width, center=True, min_periods=1).mean(), color=color)


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


@report_style()
def sparsity_curves(history: Rows, best_step: int | None = None) -> str:
    """Target and expected sparsity of the prune phase, and the two Lagrangian multipliers, a row each constraint.

    Args:
      history: the logged steps; names of the decoder's own constraint end in `_decoder`.
      best_step: the step whose final masks were taken; the sparsity counted there is drawn as a line.
    """
    parts = [part for part in ("", "_decoder") if _logged(history, _SPARSITIES, part)]
    if not parts:
        return ""
    ratios = [1.5, 1.0] if any(_logged(history, _MULTIPLIERS, part) for part in parts) else [1.5]
    figure = drawing.new_figure(25 + 190 * len(parts))
    grid = figure.subplots(len(parts), len(ratios), width_ratios=ratios, squeeze=False)
    titles = ("Encoder sparsity", "Decoder sparsity") if len(parts) > 1 else ("Sparsity",)
    for panels, part, title in zip(grid, parts, titles, strict=True):
        _plot_logged(panels[0], history, _SPARSITIES, part)
        counted = series(history, "prune", f"validation/counted_sparsity{part}")
        for value in counted[counted.index == best_step]:
            panels[0].axhline(value, label=f"counted {format_percent(value)}", **_COUNTED)
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        for axes in panels[1:]:
            _plot_logged(axes, history, _MULTIPLIERS, part)
            axes.axhline(0, color=MUTED, linewidth=0.7)
        for axes, words in zip(panels, (title, "Lagrangian multipliers"), strict=False):
            axes.set_title(words)
            axes.legend(ncols=len(axes.get_legend_handles_labels()[0]), **_OVER)
    for axes in grid[-1]:
        axes.set_xlabel("step of the prune phase")
    where = " of encoder and decoder" if len(parts) > 1 else ""
    label = f"Target and expected sparsity{where} and the Lagrangian multipliers by step of the prune phase"
    return drawing.to_svg(figure, "sparsity", label)


def _logged(history: Rows, keys: Iterable[str], part: str) -> list[str]:
    return [key for key in keys if not series(history, "prune", key + part).empty]


def _plot_logged(axes: Axes, history: Rows, looks: Mapping[str, Mapping[str, Any]], part: str) -> None:
    for key in _logged(history, looks, part):
        axes.plot(series(history, "prune", key + part), **looks[key])


def model_colors(models: Iterable[str]) -> dict[str, str]:
    """Colour of each model: grey for dense, teal for pruned or the one model, the others in turn."""
    peers = [model for model in dict.fromkeys(models) if model not in MODELS]
    turns = (ACCENT, BLUE, drawing.VIOLET, drawing.ROSE)
    return {"dense": DENSE, "pruned": PRUNED, "model": PRUNED} | {m: turns[i % 4] for i, m in enumerate(peers)}


@report_style()
def latency_bars(report: Report) -> str:
    """Mean time of generation with its deviation, encoding and decoding apart, and the time a token.

    Args:
      report: read for `benchmark` and `speedup`. One row of panels a setup, each with its own scale.
    """
    rows = [row for row in report.get("benchmark") or [] if is_number(row.get("mean_ms"))]
    if not rows:
        return ""
    found = setups(rows)
    counts = [sum(Setup.of(row) == setup for row in rows) for setup in found]
    ratios = [1.9, 1.0] if any(is_number(row.get("per_token_ms")) for row in rows) else [1.9]
    figure = drawing.new_figure(24 + sum(32 + 21 * count for count in counts))
    sizes = {"width_ratios": ratios, "height_ratios": [1 + count for count in counts]}
    colors = model_colors(str(row.get("model")) for row in rows)
    for panels, setup in zip(
        figure.subplots(len(found), len(ratios), squeeze=False, gridspec_kw=sizes), found, strict=True
    ):
        mine = [row for row in rows if Setup.of(row) == setup]
        _plot_times(panels[0], mine, colors, setup_speedup(report, setup))
        panels[0].set_title(setup_label(setup, found) + ": time to generate, ms")
        panels[0].set_title("speedup", loc="right", fontweight="normal", color=MUTED)
        for axes in panels[1:]:
            _plot_token_times(axes, mine, colors)
    if any(is_number(row.get("encode_ms")) for row in rows):
        parts = [Patch(color=MUTED, alpha=0.45, label="encode"), Patch(color=MUTED, label="decode")]
        figure.legend(handles=parts, loc="outside lower left", ncols=2)
    label = "Mean generation time of each model, " + "; ".join(setup_label(setup, found) for setup in found)
    return drawing.to_svg(figure, "latency", label)


def _plot_times(axes: Axes, rows: Rows, colors: Mapping[str, str], speedup: float | None) -> None:
    names = [str(row.get("model")) for row in rows]
    own, places, dense = [colors[name] for name in names], range(len(rows)), find_row(rows, "dense", Setup.of(rows[0]))
    encode, std = ([row[key] if is_number(row.get(key)) else 0.0 for row in rows] for key in ("encode_ms", "std_ms"))
    decode = [max(0.0, row["mean_ms"] - first) for row, first in zip(rows, encode, strict=True)]
    error = {"ecolor": INK, "elinewidth": 0.9, "capsize": 2.5, "capthick": 0.9}
    axes.barh(places, encode, color=own, alpha=0.45, height=0.68)
    bars = axes.barh(
        places, decode, left=encode, color=own, height=0.68, xerr=std if any(std) else None, error_kw=error
    )
    _label_bars(axes, bars, names, [format_spread(row["mean_ms"], row.get("std_ms")) for row in rows])
    for y, (name, row) in enumerate(zip(names, rows, strict=True)):
        ahead = speedup if name == "pruned" else ratio(dense.get("mean_ms"), row["mean_ms"])
        if name != "dense" and ahead is not None:
            look: dict[str, Any] = {"fontsize": 9.5, "fontweight": "bold", "transform": axes.get_yaxis_transform()}
            axes.text(1.0, y, format_speedup(ahead), ha="right", va="center", **look)  # the speedups form a column


def _plot_token_times(axes: Axes, rows: Rows, colors: Mapping[str, str]) -> None:
    times = [row["per_token_ms"] if is_number(row.get("per_token_ms")) else 0.0 for row in rows]
    names = [str(row.get("model")) for row in rows]
    bars = axes.barh(range(len(rows)), times, color=[colors[name] for name in names], height=0.68)
    _label_bars(axes, bars, names, [format_ms(time) if time else "" for time in times])
    axes.set_title("ms a token")
    axes.tick_params(labelleft=False)  # the same models as on the left


def _label_bars(axes: Axes, bars: Any, names: Sequence[str], labels: Sequence[str], margin: float = 0.32) -> None:
    """Names on the left of bars, a label on the right of each: so they need no axis."""
    axes.bar_label(bars, labels, padding=5, fontsize=8.5)
    axes.set_yticks(range(len(names)), names)
    axes.tick_params(axis="y", colors=INK)
    axes.set(ylim=(len(names) - 0.45, -0.55), xticks=[])
    axes.spines["bottom"].set_visible(False)
    axes.grid(False)
    axes.margins(x=margin)


@report_style()
def component_bars(parameters: Mapping[str, Mapping[str, int]]) -> str:
    """Parameters of each component, dense against pruned, or of one model.

    Args:
      parameters: "dense", "pruned" or "model" → component → number of parameters; any may be missing.
    """
    models = [model for model in MODELS if parameters.get(model)]
    names = dict.fromkeys(name for model in models for name, size in parameters[model].items() if size)
    if not names:
        return ""
    frame = pd.DataFrame({model: parameters[model] for model in models}).reindex(names).fillna(0)
    change = frame.div(frame["dense"], axis=0) - 1 if "dense" in frame else frame * 0
    figure = drawing.new_figure(36 + 34 * len(frame))
    axes = figure.subplots()
    for i, model in enumerate(models):
        places = np.arange(len(frame)) + (i - (len(models) - 1) / 2) * 0.36
        bars = axes.barh(places, frame[model], 0.34, color=model_colors([])[model], label=model)
        pairs = zip(frame[model], change[model], strict=True)
        notes = [
            (n, f" ({format_percent(x, signed=True)})" if abs(x) > 1e-9 and is_number(x) else "") for n, x in pairs
        ]
        _label_bars(axes, bars, list(names), [format_count(size) + note for size, note in notes], margin=0.12)
    figure.legend(loc="outside lower left", ncols=len(models))
    return drawing.to_svg(figure, "components", "Parameters of each component in " + " and ".join(models))
