"""The charts of a run: training, sparsity, latency, parameters.

Every function returns an `<svg>` element, or "" where its input holds nothing to draw.
"""

import itertools
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import numpy as np
import pandas as pd
from matplotlib.axes import Axes
from matplotlib.patches import Patch
from matplotlib.ticker import LogLocator, MaxNLocator, NullFormatter, PercentFormatter, StrMethodFormatter

from nash_jax.report import drawing, numbers
from nash_jax.report.benchmark import Rows, Setup, setup_label, setup_speedup, setups
from nash_jax.report.drawing import ACCENT, BLUE, DENSE, INK, MUTED, PRUNED, ROSE, VIOLET, report_style
from nash_jax.report.numbers import format_percent, is_number
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
_ERROR = {"ecolor": INK, "elinewidth": 0.9, "capsize": 2.5, "capthick": 0.9}


def _logged(history: Rows) -> pd.DataFrame:
    """The finite numbers that were logged, by phase and step; what has none is no column."""
    rows = pd.DataFrame(list(history), columns=None if history else ["phase", "step"])
    values = rows.drop(columns=["phase", "step"]).map(lambda value: value if is_number(value) else np.nan)
    return values.astype(float).groupby([rows["phase"], rows["step"]]).last().dropna(axis=1, how="all")


@report_style()
def training_curves(history: Rows, metric: str | None = None) -> str:
    """Loss, token accuracy and a validation metric by step, one column a phase.

    Args:
      history: the logged steps, as in `metrics.jsonl`.
      metric: which `validation/<metric>` to show; the first one logged where it is missing.
    """
    logged = _logged(history)
    curves = _curves(logged, metric)
    values = logged[list(curves)].dropna(how="all")
    phases = sorted(values.index.unique("phase"), key=lambda phase: (*PHASES, phase).index(phase))
    if not phases:
        return ""
    figure = drawing.new_figure(30 + 118 * len(curves))
    grid = figure.subplots(len(curves), len(phases), sharex="col", sharey="row", squeeze=False)
    for panels, (key, (title, color)) in zip(grid, curves.items(), strict=True):
        for axes, phase in zip(panels, phases, strict=True):
            _plot_curve(axes, values[key].xs(phase).dropna(), color, points=key.startswith("validation/"))
        panels[0].set_ylabel(title)
        if 0 < 5 * values[key].min() <= values[key].max():
            _use_log_scale(panels[0])
    for top, bottom, phase in zip(grid[0], grid[-1], phases, strict=True):
        top.set_title(phase)
        bottom.set_xlabel("step")
    titles = ", ".join(title for title, _ in curves.values())
    return drawing.to_svg(figure, "training", f"{titles} by step in the phases {', '.join(phases)}")


def _curves(logged: pd.DataFrame, metric: str | None) -> dict[str, tuple[str, str]]:
    """Key of the history → title and colour, of what was logged."""
    scores = [key for key in logged if key.startswith("validation/")]
    score = f"validation/{metric}" if f"validation/{metric}" in scores else next(iter(scores), "")
    loss = "task_loss" if "task_loss" in logged else "loss"
    titles = {loss: loss.replace("_", " "), "token_accuracy": "token accuracy", score: score.replace("/", " ", 1)}
    looks = zip(titles.items(), (BLUE, PRUNED, ACCENT), strict=True)
    return {key: (title, color) for (key, title), color in looks if key in logged}


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


def _use_log_scale(axes: Axes) -> None:
    """For a loss that falls from 8 to 0.2: a linear scale leaves the later phases flat."""
    axes.set_yscale("log")
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
    logged = _logged([row for row in history if row.get("phase") == "prune"]).droplevel("phase")
    parts = [part for part in ("", "_decoder") if any(key + part in logged for key in _SPARSITIES)]
    if not parts:
        return ""
    ratios = [1.5, 1.0] if any(key + part in logged for key in _MULTIPLIERS for part in parts) else [1.5]
    figure = drawing.new_figure(25 + 190 * len(parts))
    grid = figure.subplots(len(parts), len(ratios), width_ratios=ratios, squeeze=False)
    titles = ("Encoder sparsity", "Decoder sparsity") if len(parts) > 1 else ("Sparsity",)
    for panels, part, title in zip(grid, parts, titles, strict=True):
        _plot_logged(panels[0], logged, _SPARSITIES, part)
        counted = logged.get(f"validation/counted_sparsity{part}", {}).get(best_step)
        if is_number(counted):
            panels[0].axhline(counted, label=f"counted {format_percent(counted)}", **_COUNTED)
        panels[0].yaxis.set_major_formatter(PercentFormatter(1.0, symbol=" %"))
        for axes in panels[1:]:
            _plot_logged(axes, logged, _MULTIPLIERS, part)
            axes.axhline(0, color=MUTED, linewidth=0.7)
        for axes, words in zip(panels, (title, "Lagrangian multipliers"), strict=False):
            axes.set_title(words)
            axes.legend(ncols=len(axes.get_legend_handles_labels()[0]), **_OVER)
    for axes in grid[-1]:
        axes.set_xlabel("step of the prune phase")
    where = " of encoder and decoder" if len(parts) > 1 else ""
    label = f"Target and expected sparsity{where} and the Lagrangian multipliers by step of the prune phase"
    return drawing.to_svg(figure, "sparsity", label)


def _plot_logged(axes: Axes, logged: pd.DataFrame, looks: Mapping[str, Mapping[str, Any]], part: str) -> None:
    for key, look in looks.items():
        if key + part in logged:
            axes.plot(logged[key + part].dropna(), **look)


def model_colors(models: Iterable[str]) -> dict[str, str]:
    """Colour of each model: grey for dense, teal for pruned or the one model, the others in turn."""
    peers = [model for model in dict.fromkeys(models) if model not in MODELS]
    turns = itertools.cycle((ACCENT, BLUE, VIOLET, ROSE))
    return {"dense": DENSE, "pruned": PRUNED, "model": PRUNED} | dict(zip(peers, turns, strict=False))


@report_style()
def latency_bars(report: Report) -> str:
    """Mean time of generation with its deviation, encoding and decoding apart, and the time a token.

    Args:
      report: read for `benchmark` and `speedup`. One row of panels a setup, each with its own scale.
    """
    rows = [row for row in report.get("benchmark") or [] if is_number(row.get("mean_ms"))]
    if not rows:
        return ""
    groups = {setup: [row for row in rows if Setup.of(row) == setup] for setup in setups(rows)}
    ratios = [1.9, 1.0] if any(_values(rows, "per_token_ms")) else [1.9]
    heights = [1 + len(own) for own in groups.values()]
    figure = drawing.new_figure(24 + sum(11 + 21 * height for height in heights))
    grid = figure.subplots(len(groups), len(ratios), squeeze=False, width_ratios=ratios, height_ratios=heights)
    colors = model_colors(str(row.get("model")) for row in rows)
    for panels, (setup, own) in zip(grid, groups.items(), strict=True):
        names = [str(row.get("model")) for row in own]
        look = {"color": [colors[name] for name in names], "height": 0.68}
        _plot_times(panels[0], own, names, look)
        _write_speedups(panels[0], [setup_speedup(report, setup, name) for name in names])
        panels[0].set_title(f"{setup_label(setup, list(groups))}: time to generate, ms")
        for axes in panels[1:]:
            tokens = _values(own, "per_token_ms")
            bars = axes.barh(range(len(own)), tokens, **look)
            _label_bars(axes, bars, names, [numbers.format_ms(time) if time else "" for time in tokens])
            axes.set_title("ms a token")
            axes.tick_params(labelleft=False)  # the same models as on the left
    if any(_values(rows, "encode_ms")):
        parts = [Patch(color=MUTED, alpha=0.45, label="encode"), Patch(color=MUTED, label="decode")]
        figure.legend(handles=parts, loc="outside lower left", ncols=2)
    label = "; ".join(setup_label(setup, list(groups)) for setup in groups)
    return drawing.to_svg(figure, "latency", f"Mean generation time of each model, {label}")


def _values(rows: Rows, key: str) -> np.ndarray:
    """Numbers of rows, 0 where one is missing."""
    return np.array([row[key] if is_number(row.get(key)) else 0.0 for row in rows])


def _plot_times(axes: Axes, rows: Rows, names: Sequence[str], look: Mapping[str, Any]) -> None:
    mean, std, encode = (_values(rows, key) for key in ("mean_ms", "std_ms", "encode_ms"))
    axes.barh(range(len(rows)), encode, alpha=0.45, **look)
    decode, error = np.maximum(mean - encode, 0.0), std if std.any() else None
    bars = axes.barh(range(len(rows)), decode, left=encode, xerr=error, error_kw=_ERROR, **look)
    _label_bars(axes, bars, names, [numbers.format_spread(row["mean_ms"], row.get("std_ms")) for row in rows])


def _write_speedups(axes: Axes, factors: Sequence[float | None]) -> None:
    """Writes a column of speedups on the right."""
    axes.set_title("speedup", loc="right", fontweight="normal", color=MUTED)
    look: dict[str, Any] = {"fontsize": 9.5, "fontweight": "bold", "transform": axes.get_yaxis_transform()}
    for y, factor in enumerate(factors):
        if factor is not None:
            axes.text(1.0, y, numbers.format_speedup(factor), ha="right", va="center", **look)


def _label_bars(axes: Axes, bars: Any, names: Iterable[str], labels: Iterable[str], margin: float = 0.32) -> None:
    """Names on the left of bars, a label on the right of each: so they need no axis."""
    axes.bar_label(bars, list(labels), padding=5, fontsize=8.5)
    axes.set_yticks(range(len(bars)), list(names))
    axes.tick_params(axis="y", colors=INK)
    axes.set(ylim=(len(bars) - 0.45, -0.55), xticks=[])
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
    figure = drawing.new_figure(36 + 34 * len(frame))
    axes = figure.subplots()
    for i, model in enumerate(models):
        places = np.arange(len(frame)) + (i - (len(models) - 1) / 2) * 0.36
        bars = axes.barh(places, frame[model], 0.34, color=model_colors([])[model], label=model)
        labels = [_size_label(size, dense) for size, dense in zip(frame[model], frame[models[0]], strict=True)]
        _label_bars(axes, bars, names, labels, margin=0.12)
    figure.legend(loc="outside lower left", ncols=len(models))
    return drawing.to_svg(figure, "components", "Parameters of each component in " + " and ".join(models))


def _size_label(size: float, dense: float) -> str:
    """A number of parameters, and by how much it differs from that of the dense model."""
    change = numbers.ratio(size - dense, dense)
    return numbers.format_count(size) + (f" ({format_percent(change, signed=True)})" if change else "")
