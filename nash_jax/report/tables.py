"""The tables of the report: models, latency, stages, data."""

import math
from collections.abc import Mapping
from typing import Any

from nash_jax.data.checks import ISSUE_KINDS
from nash_jax.report.markup import Markup, Number, join, table, tag
from nash_jax.report.summary import (
    MINUS,
    MODELS,
    Report,
    Setup,
    columns,
    direction,
    find_row,
    format_count,
    format_ms,
    format_percent,
    format_seconds,
    format_speedup,
    format_spread,
    format_value,
    measured,
    metric_names,
    ratio,
    section,
    setup_label,
    setup_speedup,
    setups,
)

NBSP = "\N{NO-BREAK SPACE}"
ARROWS = {1: f"{NBSP}↑", -1: f"{NBSP}↓", 0: ""}
ARROW_TITLES = {1: "higher is better", -1: "lower is better", 0: None}


def right(title: Any, explanation: str | None = None) -> Markup:
    """The title of a column of numbers."""
    return tag("span", title, class_="right", title=explanation)


def _changed(value: str, change: str, good: int = 0) -> Number:
    mood = {1: " better", 0: "", -1: " worse"}[good]
    return Number(join([value, tag("span", change, class_="change" + mood)]))


def models_table(report: Report) -> Markup:
    """Quality, size and speed of the dense and the pruned model, the baselines and the peers; "" if none."""
    benchmark = report.get("benchmark") or []
    found, metrics = setups(benchmark), metric_names(report)
    models = _models(report)
    sized = bool(section(report, "params"))
    if not models or not (metrics or found or sized):
        return Markup("")
    header: list[Any] = ["model"]
    header += [_metric_title(name) for name in metrics]
    header += [right("parameters")] * sized
    header += [right(_unbroken(f"ms, {setup_label(setup, found)}"), "mean time to generate") for setup in found]
    rows = []
    for name, scores in models.items():
        row: list[Any] = [name]
        row += [_metric_cell(report, name, metric, scores.get(metric)) for metric in metrics]
        row += [_params_cell(report, name)] * sized
        row += [_time_cell(report, name, setup) for setup in found]
        rows.append(row)
    return table(header, rows, label="Quality, size and speed of every model")


def _metric_title(name: str) -> Markup:
    return right(name.replace("_", " ") + ARROWS[direction(name)], ARROW_TITLES[direction(name)])


def _unbroken(setup: str) -> str:
    return setup.replace("batch ", f"batch{NBSP}").replace(" beam", f"{NBSP}beam")


def _models(report: Report) -> dict[str, Mapping[str, Any]]:
    """Model name → its metrics, in the order of the table's rows."""
    metrics = section(report, "metrics")
    timed = [str(row.get("model")) for row in report.get("benchmark") or []]
    known = {*metrics, *section(report, "params"), *timed}
    models = {name: section(metrics, name) for name in MODELS if name in known}
    baselines = section(metrics, "baselines")
    return models | {str(name): section(baselines, name) for name in (*baselines, *timed) if name not in models}


def _metric_cell(report: Report, model: str, metric: str, value: Any) -> Any:
    dense = section(report, "metrics", "dense").get(metric)
    part = ratio(value, dense)
    interval = _interval(report, model, metric)
    if model == "dense" or part is None:
        return Number(join([value, interval])) if measured(value) else value
    good = direction(metric) * (0 if math.isclose(part, 1.0, abs_tol=5e-4) else 1 if part > 1 else -1)
    change = format_percent(part - 1, signed=True)
    return Number(join([_changed(format_value(value, like=dense), change, good), interval]))


def _interval(report: Report, model: str, metric: str) -> Markup:
    """The confidence interval of a metric where `report["intervals"]` has one; models as in `metrics`."""
    intervals = section(report, "intervals")
    bounds = (section(intervals, model) or section(intervals, "baselines", model)).get(metric)
    if not (isinstance(bounds, list | tuple) and len(bounds) == 2 and all(map(measured, bounds))):
        return Markup("")
    return tag("span", " … ".join(map(format_value, bounds)), class_="change", title="confidence interval")


def _params_cell(report: Report, model: str) -> Any:
    params = section(report, "params")
    if model not in MODELS or not measured(params.get(model)):
        return None
    count = Number(tag("span", format_count(params[model]), title=format_value(params[model])))
    part = ratio(params[model], params.get("dense"))
    if model == "dense" or part is None:
        return count
    return Number(join([count, tag("span", format_percent(part - 1, signed=True), class_="change")]))


def _time_cell(report: Report, model: str, setup: Setup) -> Any:
    rows = report.get("benchmark") or []
    time = find_row(rows, model, setup).get("mean_ms")
    if not measured(time):
        return None
    dense = find_row(rows, "dense", setup).get("mean_ms")
    speedup = setup_speedup(report, setup) if model == "pruned" else ratio(dense, time)
    if model == "dense" or speedup is None:
        return Number(format_ms(time))
    return _changed(format_ms(time), format_speedup(speedup), 1 if speedup > 1 else -1)


def benchmark_table(report: Report) -> Markup:
    """Every benchmark row with every number measured."""
    rows = report.get("benchmark") or []
    names = columns(rows)
    if not rows:
        return Markup("")
    header = [name if name == "model" else right(name.replace("_ms", ", ms").replace("_", " ")) for name in names]
    body = [[_benchmark_cell(name, row.get(name)) for name in names] for row in rows]
    return table(header, body, label="All benchmark measurements")


def _benchmark_cell(name: str, value: Any) -> Any:
    return Number(format_ms(value)) if name.endswith("_ms") and measured(value) else value


def components_table(report: Report) -> Markup:
    """Time of each component in a generation: a row each, a column for each set-up."""
    rows = section(report, "components").get("times") or []
    found = setups(rows)
    if not found:
        return Markup("")
    by_name: dict[str, dict[Setup, Mapping[str, Any]]] = {}
    for row in rows:
        by_name.setdefault(str(row.get("component")), {})[Setup.of(row)] = row
    header = ["component", *(right(_unbroken(f"ms, {setup_label(setup, found)}")) for setup in found)]
    body = [[name, *(_component_cell(row.get(setup, {})) for setup in found)] for name, row in by_name.items()]
    return table(header, body, label="Time of each component")


def _component_cell(row: Mapping[str, Any]) -> Any:
    if not measured(row.get("median_ms")):
        return None
    said = [format_percent(row.get("share"))]
    if measured(row.get("per_token_ms")):
        said.append(f"{format_ms(row['per_token_ms'])} ms a token")
    time = format_spread(row["median_ms"], row.get("std_ms"))
    return _changed(time.replace("-", MINUS), " · ".join(said).replace("-", MINUS))


def stages_table(report: Report) -> Markup:
    """Time of each stage with its share of the whole, and whatever else the stage recorded."""
    stages = {name: section(report, "stages", name) for name in section(report, "stages")}
    if not stages:
        return Markup("")
    others = [name for name in columns(stages.values()) if name not in ("seconds", "steps")]
    total = sum(stage["seconds"] for stage in stages.values() if measured(stage.get("seconds")))
    header = ["stage", right("time"), "share", right("steps"), right("s a step"), *map(_other_title, others)]
    rows: list[list[Any]] = []
    for name, stage in stages.items():
        pace = ratio(stage.get("seconds"), stage.get("steps"))
        row: list[Any] = [name, Number(format_seconds(stage.get("seconds"))), _share(stage.get("seconds"), total)]
        rows.append([*row, stage.get("steps"), pace, *(stage.get(other) for other in others)])
    rows.append(["all", Number(format_seconds(total)), "", "", "", *("" for _ in others)])
    return table(header, rows, label="Time of each stage")


def _other_title(name: str) -> Markup:
    return right(name.replace("_", " "))


def _share(seconds: Any, total: float) -> Markup:
    part = ratio(seconds, total) or 0.0
    bar = tag("span", style=f"width:{100 * part:.1f}%")
    return tag("span", bar, class_="share", role="img", aria_label=f"{100 * part:.0f} % of the time")


def data_table(data_summary: Mapping[str, Mapping[str, Any]]) -> Markup:
    """One row a split, one column a number."""
    splits = {name: section(data_summary, name) for name in data_summary}
    names = columns(splits.values())
    if not names:
        return Markup("")
    numeric = {name for name in names if any(measured(split.get(name)) for split in splits.values())}
    header = ["split", *(right(n.replace("_", " ")) if n in numeric else n.replace("_", " ") for n in names)]
    rows = ([name, *(split.get(n, None if n in numeric else "") for n in names)] for name, split in splits.items())
    return table(header, rows, label="Data by split")


def findings_table(report: Report) -> Markup:
    """RowIssue and oddities of the rows, with what was done about them; "" where none was found."""
    found = section(report, "data").get("findings") or []
    if not found:
        return Markup("")
    header = ["split", "what", "why so", right("rows"), "rows were", "first"]
    rows = (
        [
            " ".join(filter(None, (r.get("task"), r["split"]))),
            ISSUE_KINDS[r["kind"]].meaning,
            ISSUE_KINDS[r["kind"]].why,
            r["rows"],
            r["rule"],
            r["first"],
        ]
        for r in found
    )
    return table(header, rows, label="What was found in the data")
