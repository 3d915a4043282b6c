"""What the report says in numbers: ratios, set-ups, names and the way numbers are written."""

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, NamedTuple, TypeGuard

Report = Mapping[str, Any]
Rows = Sequence[Mapping[str, Any]]
DASH = "–"
MINUS = "−"
MODELS = ("dense", "pruned", "model")  # of a training run the first two, of an evaluation the last


class Setup(NamedTuple):
    """What a benchmark row was measured on; rows of one set-up may be compared."""

    batch_size: Any
    source_length: Any
    new_tokens: Any
    num_beams: Any

    @staticmethod
    def of(row: Mapping[str, Any]) -> "Setup":
        """The set-up of a row of `report["benchmark"]`."""
        return Setup(*(row.get(field) for field in Setup._fields))


def direction(metric: str) -> int:
    """+1 where higher is better, -1 where lower is, 0 for a metric that is neither."""
    if metric == "generated_length":
        return 0
    return -1 if any(word in metric for word in ("error", "loss", "invalid")) else 1


def section(report: Report, *path: str) -> Mapping[str, Any]:
    """The dict at a path of the report, empty where any step of it is missing or None."""
    found: Any = report
    for key in path:
        found = found.get(key) if isinstance(found, Mapping) else None
    return found if isinstance(found, Mapping) else {}


def measured(value: Any) -> TypeGuard[float]:
    """Whether a value is a finite number; False for None, NaN and text."""
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def ratio(numerator: Any, denominator: Any) -> float | None:
    """numerator / denominator, None where that says nothing."""
    if not (measured(numerator) and measured(denominator)) or denominator <= 0:
        return None
    return numerator / denominator


def main_metric(report: Report) -> str | None:
    """The metric that the run is judged by: the report's own choice, else the first with a direction."""
    if report.get("metric"):
        return str(report["metric"])
    names = (name for model in MODELS for name in section(report, "metrics", model))
    return next((name for name in names if direction(name)), None)


def metric_names(report: Report) -> list[str]:
    """Every metric that any model has, the main one first."""
    metrics = section(report, "metrics")
    models = [*(metrics.get(model) for model in MODELS), *section(metrics, "baselines").values()]
    names = dict.fromkeys(name for model in models if isinstance(model, Mapping) for name in model)
    return sorted(names, key=lambda name: name != main_metric(report))


def quality_kept(report: Report) -> float | None:
    """pruned / dense of the main metric; None where either is missing or dense is not positive."""
    name = main_metric(report)
    if name is None:
        return None
    return ratio(section(report, "metrics", "pruned").get(name), section(report, "metrics", "dense").get(name))


def kept_interval(report: Report, metric: str) -> str:
    """The interval of pruned / dense of a metric, in per cent: "93.1 to 97.0"; "" where there is none."""
    paired = section(report, "paired", metric)
    low, high = paired.get("low"), paired.get("high")
    return f"{100 * low:.1f} to {100 * high:.1f}".replace("-", MINUS) if measured(low) and measured(high) else ""


def format_kept(report: Report, metric: str) -> str:
    """pruned / dense of a metric, with its interval where there is one: "95.0 % (93.1 to 97.0)"."""
    values = (section(report, "metrics", model).get(metric) for model in ("pruned", "dense"))
    kept, interval = format_percent(ratio(*values)), kept_interval(report, metric)
    return f"{kept} ({interval})" if interval else kept


def what_went(params: Mapping[str, Any], side: str) -> str:
    """Layers and sub-layers that a side has lost: "4 of 6 decoder layers gone"; "" where none is.

    Args:
      params: of a report of a training run.
      side: `encoder` or `decoder`.
    """
    kept, removed = params.get(f"kept_{side}_layers"), params.get(f"removed_{side}_sublayers") or []
    layers, sublayers = (params.get(f"dense_{side}_{parts}") for parts in ("layers", "sublayers"))
    whole = layers - len(kept) if kept is not None and measured(layers) else 0
    lone = [name for name in removed if int(name.split(".")[1]) in (kept or [])]
    said = [f"{len(removed)} of {sublayers} {side} sub-layers gone"] if lone else []
    if whole:
        said.append(f"with them {whole} of {layers} layers" if lone else f"{whole} of {layers} {side} layers gone")
    return ", ".join(said)


def setups(rows: Rows) -> list[Setup]:
    """The set-ups measured, in the order of their first rows."""
    return list(dict.fromkeys(Setup.of(row) for row in rows))


def setup_label(setup: Setup, among: Sequence[Setup]) -> str:
    """A set-up's name: its batch size, and whatever else tells it from the other set-ups."""
    parts = [f"batch {setup.batch_size}"]
    if len({(other.source_length, other.new_tokens) for other in among}) > 1:
        parts.append(f"{setup.source_length} → {setup.new_tokens} tokens")
    if len({other.num_beams for other in among}) > 1:
        parts.append(f"{setup.num_beams} beam" + ("s" if setup.num_beams != 1 else ""))
    return ", ".join(parts)


def find_row(rows: Rows, model: str, setup: Setup) -> Mapping[str, Any]:
    """The row of a model on a set-up, empty where it was not measured."""
    return next((row for row in rows if row.get("model") == model and Setup.of(row) == setup), {})


def setup_speedup(report: Report, setup: Setup) -> float | None:
    """Speedup of the pruned model on a set-up.

    The report's own number is taken where the batch size names one set-up only, so that a figure and
    `report.json` cannot differ by the way of averaging.
    """
    rows = report.get("benchmark") or []
    alone = sum(other.batch_size == setup.batch_size for other in setups(rows)) == 1
    reported = section(report, "speedup").get(str(setup.batch_size))
    if alone and measured(reported):
        return float(reported)
    return ratio(find_row(rows, "dense", setup).get("mean_ms"), find_row(rows, "pruned", setup).get("mean_ms"))


def speedups(report: Report) -> dict[str, float]:
    """Label ("batch 1") → speedup; from `report["speedup"]`, else from the benchmark's means."""
    reported = {f"batch {size}": x for size, x in section(report, "speedup").items() if measured(x)}
    if reported:
        return reported
    found = setups(report.get("benchmark") or [])
    computed = {setup_label(setup, found): setup_speedup(report, setup) for setup in found}
    return {label: x for label, x in computed.items() if x is not None}


def format_value(value: Any, like: Any = None) -> str:
    """Any value as text: integers with thousands separators, floats with the decimals that suit `like` (or value)."""
    if value is None:
        return DASH
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    if not math.isfinite(value):
        return str(value)
    text = f"{value:,}" if isinstance(value, int) else f"{value:,.{_decimals(like if measured(like) else value)}f}"
    return text.replace("-", MINUS)


def _decimals(value: float) -> int:
    size = abs(value)
    return next((places for limit, places in ((1000, 0), (100, 1), (10, 2), (0.1, 3)) if size >= limit), 4)


def format_percent(fraction: Any, *, signed: bool = False) -> str:
    """A fraction in percent, one decimal."""
    if not measured(fraction):
        return DASH
    return f"{100 * fraction:{'+' if signed else ''}.1f} %".replace("-", MINUS)


def format_count(count: Any) -> str:
    """A number of parameters: 950, 12.4 K, 60.5 M, 1.23 B."""
    if not measured(count):
        return DASH
    for limit, unit, places in ((1e9, "B", 2), (1e6, "M", 1), (1e3, "K", 1)):
        if abs(count) >= limit:
            return f"{count / limit:.{places}f} {unit}"
    return f"{round(count):,}"


def format_ms(value: Any) -> str:
    """Milliseconds at three significant digits, without the unit."""
    if not measured(value):
        return DASH
    return f"{value:,.{_ms_decimals(value)}f}"


def _ms_decimals(value: float) -> int:
    return 0 if abs(value) >= 100 else 1 if abs(value) >= 10 else 2


def format_spread(mean: float, std: Any) -> str:
    """Mean ± standard deviation in milliseconds, as many decimals as the deviation gives meaning to."""
    if not measured(std):
        return format_ms(mean)
    places = max(_ms_decimals(mean), _ms_decimals(50 * std))
    return f"{mean:,.{places}f} ± {std:,.{places}f}"


def format_seconds(seconds: Any) -> str:
    """A duration: 3.2 s, 1 min 35 s, 2 h 10 min."""
    if not measured(seconds):
        return DASH
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    if round(seconds) < 3600:
        return f"{round(seconds) // 60} min {round(seconds) % 60} s"
    return f"{round(seconds / 60) // 60} h {round(seconds / 60) % 60} min"


def format_speedup(factor: float) -> str:
    """A speedup: 2.87×."""
    return f"{factor:.2f}×"


def columns(entries: Iterable[Any]) -> list[str]:
    """The keys of all dicts together, in the order of their first sight."""
    return list(dict.fromkeys(key for entry in entries if isinstance(entry, Mapping) for key in entry))
