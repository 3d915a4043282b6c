"""What a report says of quality and structure: its main metric, what of it is kept, which layers are gone."""

from collections.abc import Mapping
from typing import Any

from nash_jax.report.numbers import MINUS, NBSP, direction, format_percent, is_number, ratio, section

Report = Mapping[str, Any]
MODELS = ("dense", "pruned", "model")  # of a training run the first two, of an evaluation the last
ARROWS = {1: f"{NBSP}↑", -1: f"{NBSP}↓", 0: ""}


def main_metric(report: Report) -> str | None:
    """The metric that the run is judged by: the report's own choice, else the first with a direction."""
    if report.get("metric"):
        return str(report["metric"])
    names = (name for model in MODELS for name in section(report, "metrics", model))
    return next((name for name in names if direction(name)), None)


def metric_names(report: Report) -> list[str]:
    """Every metric that any model has, the main one first."""
    models = [*(section(report, "metrics", m) for m in MODELS), *section(report, "metrics", "baselines").values()]
    names = dict.fromkeys(name for model in models if isinstance(model, Mapping) for name in model)
    return sorted(names, key=lambda name: name != main_metric(report))


def metric_title(name: str) -> str:
    """The title of a column of scores, with an arrow to the better end."""
    return name.replace("_", " ") + ARROWS[direction(name)]


def models(report: Report) -> dict[str, Mapping[str, Any]]:
    """Model name → its metrics: dense and pruned, or one model, then the baselines and peers; empty without data."""
    metrics, baselines = section(report, "metrics"), section(report, "metrics", "baselines")
    timed = [str(row.get("model")) for row in report.get("benchmark") or []]
    known = {*metrics, *section(report, "params"), *timed}
    found = {name: section(metrics, name) for name in MODELS if name in known}
    found |= {str(name): section(baselines, name) for name in (*baselines, *timed) if name not in found}
    return found if metric_names(report) or timed or section(report, "params") else {}


def quality_kept(report: Report, metric: str | None = None) -> float | None:
    """pruned / dense of a metric, the main one by default; None where either is missing or dense is not positive."""
    name = metric or main_metric(report)
    return ratio(*(section(report, "metrics", model).get(name or "") for model in ("pruned", "dense")))


def kept_interval(report: Report, metric: str) -> str:
    """The confidence interval of pruned / dense of a metric, in percent: "93.1 to 97.0"; "" where there is none."""
    low, high = (section(report, "paired", metric).get(bound) for bound in ("low", "high"))
    return f"{100 * low:.1f} to {100 * high:.1f}".replace("-", MINUS) if is_number(low) and is_number(high) else ""


def format_kept(report: Report, metric: str) -> str:
    """pruned / dense of a metric, with its interval where there is one: "95.0 % (93.1 to 97.0)"."""
    interval = kept_interval(report, metric)
    return format_percent(quality_kept(report, metric)) + (f" ({interval})" if interval else "")


def lone_sublayers(params: Mapping[str, Any], side: str) -> list[str]:
    """Sub-layers that are gone from layers of which others are left.

    Args:
      params: of the report of a training run.
      side: `encoder` or `decoder`.
    """
    kept = params.get(f"kept_{side}_layers") or []
    return [name for name in params.get(f"removed_{side}_sublayers") or [] if int(name.split(".")[1]) in kept]


def removed_layers(params: Mapping[str, Any], side: str) -> str:
    """Layers and sub-layers that a side has lost: "4 of 6 decoder layers gone"; "" where none is.

    Args:
      params: of the report of a training run.
      side: `encoder` or `decoder`.
    """
    kept, removed = params.get(f"kept_{side}_layers"), params.get(f"removed_{side}_sublayers") or []
    layers, sublayers = (params.get(f"dense_{side}_{parts}") for parts in ("layers", "sublayers"))
    whole = layers - len(kept) if kept is not None and is_number(layers) else 0
    lone = lone_sublayers(params, side)
    said = [f"{len(removed)} of {sublayers} {side} sub-layers gone"] if lone else []
    if whole:
        said.append(f"with them {whole} of {layers} layers" if lone else f"{whole} of {layers} {side} layers gone")
    return ", ".join(said)
