"""Rows of a benchmark: what was timed in one setup, and how much faster the pruned model is there."""

from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from nash_jax.report.numbers import NBSP, is_number, ratio, section

Rows = Sequence[Mapping[str, Any]]


class Setup(NamedTuple):
    """What a benchmark row was measured with; only rows of one setup may be compared."""

    batch_size: Any
    source_length: Any
    new_tokens: Any
    num_beams: Any

    @staticmethod
    def of(row: Mapping[str, Any]) -> "Setup":
        """The setup of a row of `report["benchmark"]`."""
        return Setup(*(row.get(field) for field in Setup._fields))


def setups(rows: Rows) -> list[Setup]:
    """The setups measured, in the order of their first rows."""
    return list(dict.fromkeys(map(Setup.of, rows)))


def setup_label(setup: Setup, among: Sequence[Setup]) -> str:
    """A setup's name: its batch size, and whatever else differs from the other setups."""
    parts = [f"batch {setup.batch_size}"]
    if len({(other.source_length, other.new_tokens) for other in among}) > 1:
        parts.append(f"{setup.source_length} → {setup.new_tokens} tokens")
    if len({other.num_beams for other in among}) > 1:
        parts.append(f"{setup.num_beams} beam{'s' if setup.num_beams != 1 else ''}")
    return ", ".join(parts)


def time_title(setup: Setup, among: Sequence[Setup]) -> str:
    """The title of a column of times."""
    return f"ms, {setup_label(setup, among)}".replace("batch ", f"batch{NBSP}").replace(" beam", f"{NBSP}beam")


def find_row(rows: Rows, model: str, setup: Setup) -> Mapping[str, Any]:
    """The row of a model in a setup; empty where it was not measured."""
    return next((row for row in rows if row.get("model") == model and Setup.of(row) == setup), {})


def setup_speedup(report: Mapping[str, Any], setup: Setup, model: str = "pruned") -> float | None:
    """Speedup of a model over the dense one in a setup; None of dense itself, and where either was not measured.

    Of the pruned model the report's own number is taken where the batch size names one setup only, so that the page
    and `report.json` agree on the way of averaging.
    """
    rows = report.get("benchmark") or []
    alone = sum(other.batch_size == setup.batch_size for other in setups(rows)) == 1
    reported = section(report, "speedup").get(str(setup.batch_size))
    if model == "pruned" and alone and is_number(reported):
        return float(reported)
    dense, own = (find_row(rows, name, setup).get("mean_ms") for name in ("dense", model))
    return None if model == "dense" else ratio(dense, own)


def speedups(report: Mapping[str, Any]) -> dict[str, float]:
    """Label ("batch 1") → speedup; from `report["speedup"]`, else from the benchmark's means."""
    reported = {f"batch {size}": x for size, x in section(report, "speedup").items() if is_number(x)}
    found = setups(report.get("benchmark") or [])
    computed = {setup_label(setup, found): setup_speedup(report, setup) for setup in found}
    return reported or {label: x for label, x in computed.items() if x is not None}
