"""The tables of a run's report as data frames: their columns are titles, their cells values, `Cell` or `Bar`."""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from nash_jax.data.checks import ISSUE_KINDS
from nash_jax.report.benchmark import Setup, setups, time_title
from nash_jax.report.numbers import (
    format_ms,
    format_percent,
    format_seconds,
    format_speedup,
    format_spread,
    is_number,
    ratio,
    section,
)
from nash_jax.report.quality import Report
from nash_jax.spec import SIDES

Row = dict[str, Any]  # title → cell
_VOCABULARY = {
    "tokens": "tokens",
    "model_bytes": "bytes of the model",
    "token_bytes": "bytes that a generated token reads",
    "head_bytes": "of these, LM head",
}
_CUTTING = {"before": "before cutting", "cut": "cut", "fitted": "outputs fitted to what is left"}


@dataclasses.dataclass(frozen=True)
class Cell:
    """A number as text, with a small note below it and a tooltip."""

    text: str
    note: str = ""
    tooltip: str = ""


@dataclasses.dataclass(frozen=True)
class Bar:
    """A share of a whole, from 0 to 1."""

    share: float


def make_frame(label: str, rows: Iterable[Sequence[Any] | Row], titles: Sequence[str] | None = None) -> pd.DataFrame:
    """A table of any values, which stay as they are; without rows it is empty.

    Args:
      label: what a screen reader calls it, kept in `attrs`; with `numeric`, which columns align right: those that hold
        nothing but numbers, cells, and gaps.
      rows: sequences of cells, or dicts from titles to cells; what a dict lacks is None among numbers, else empty.
      titles: of sequences.
    """
    frame = pd.DataFrame(list(rows), columns=titles, dtype=object)
    if titles is None:
        frame = frame.apply(lambda cells: cells.where(cells.notna(), None if _numeric(cells.dropna()) else ""))
    columns = (cells[cells != ""] for _, cells in frame.items())
    frame.attrs = {"label": label, "numeric": [bool(len(cells)) and _numeric(cells) for cells in columns]}
    return frame


def _numeric(cells: Iterable[Any]) -> bool:
    return all(isinstance(cell, int | float | Cell | None) for cell in cells)


def make_tables(report: Report) -> dict[str, pd.DataFrame]:
    """The tables of a report by their names in its template; those of which it holds nothing are empty."""
    target, vocabulary = section(report, "search").get("target", 0), section(report, "vocabulary")
    return {
        "benchmark": make_frame("All benchmark measurements", map(_titled, report.get("benchmark") or [])),
        "peers": make_frame("Both models in other engines", map(_peer, report.get("peers") or [])),
        "components": make_frame("Time of each component", _components(report)),
        "stages": _stages(report),
        "data": make_frame("Data by split", _splits(section(report, "data", "summary"))),
        "findings": make_frame(
            "What was found in the data", map(_finding, section(report, "data").get("findings") or [])
        ),
        "vocabulary": make_frame("Vocabulary before and after", _vocabulary(vocabulary)),
        "coverage": make_frame("Texts under the trimmed vocabulary", _splits(section(vocabulary, "coverage"))),
        "labels": make_frame(
            "Targets that the dense model wrote", [_titled(own) for own in [section(report, "labels")] if own]
        ),
        "cutting": make_frame("Validation loss of cutting", _cutting(section(report, "cutting", "losses"))),
        "search": make_frame(
            f"Candidates for {target:g} times the speed",
            map(_candidate, section(report, "search").get("candidates") or []),
        ),
    }


def _titled(row: Mapping[str, Any]) -> Row:
    """A row as the report has it."""
    times = {key: Cell(format_ms(value)) for key, value in row.items() if key.endswith("_ms") and is_number(value)}
    return {key.replace("_ms", ", ms").replace("_", " "): value for key, value in {**row, **times}.items()}


def _splits(found: Mapping[str, Any]) -> list[Row]:
    return [{"split": split} | _titled(own) for split, own in found.items() if own]


def _peer(row: Mapping[str, Any]) -> Row:
    """A model in an engine: a generation, a token, and the ratio to the dense model in our own, with its interval."""
    factor, low, high = row["speedup"].get("dense nash_jax") or (None, None, None)
    return {
        "batch": row["batch_size"],
        "model": row["model"],
        "engine": row["system"],
        "ms": row["median_ms"],
        "ms a token": row["token_ms"],
        "speedup over dense here": factor and Cell(format_speedup(factor), f"{low:.2f} to {high:.2f}"),
        "same outputs as here": Cell(format_percent(row["same_outputs"])),
    }


def _components(report: Report) -> Iterable[Row]:
    """Time of each component in a generation: a row each, a column for each setup."""
    times = section(report, "components").get("times") or []
    rows: dict[str, Row] = {}
    for time in times:
        name = str(time.get("component"))
        title = time_title(Setup.of(time), setups(times))
        rows.setdefault(name, {"component": name})[title] = _component_cell(time)
    return rows.values()


def _component_cell(row: Mapping[str, Any]) -> Cell | None:
    if not is_number(row.get("median_ms")):
        return None
    note, token = format_percent(row.get("share")), row.get("per_token_ms")
    note += f" · {format_ms(token)} ms a token" if is_number(token) else ""
    return Cell(format_spread(row["median_ms"], row.get("std_ms")), note)


def _stages(report: Report) -> pd.DataFrame:
    """Time of each stage with its share of the whole, and whatever else the stage recorded."""
    stages = {name: section(report, "stages", name) for name in section(report, "stages")}
    total = sum(stage["seconds"] for stage in stages.values() if is_number(stage.get("seconds")))
    rows = []
    for name, stage in stages.items():
        seconds, steps = stage.get("seconds"), stage.get("steps")
        row = {"stage": name, "time": Cell(format_seconds(seconds)), "share": Bar(ratio(seconds, total) or 0.0)}
        row |= {"steps": steps, "s a step": ratio(seconds, steps)}
        rows.append(row | _titled({key: value for key, value in stage.items() if key not in ("seconds", "steps")}))
    frame = make_frame(
        "Time of each stage", [*rows, {"stage": "all", "time": Cell(format_seconds(total))}] if rows else []
    )
    frame.iloc[-1:, 2:] = ""
    return frame


def _finding(row: Mapping[str, Any]) -> Row:
    """An oddity of the rows, with what was done about it."""
    kind = ISSUE_KINDS[row["kind"]]
    said = {"split": f"{row.get('task') or ''} {row['split']}".strip(), "what": kind.meaning, "why so": kind.why}
    return said | {"rows": row["rows"], "rows were": row["rule"], "first": row["first"]}


def _vocabulary(sizes: Mapping[str, Any]) -> list[Row]:
    """Size of the vocabulary and what it costs, before and after it was trimmed."""
    whole = "before" in sizes and "after" in sizes
    return [
        {"float32": title, "before": sizes["before"][name], "after": sizes["after"][name]}
        for name, title in _VOCABULARY.items()
        if whole
    ]


def _cutting(losses: Mapping[str, float]) -> list[Row]:
    """The validation loss before and after gates were closed without training."""
    return [
        {"model": title, "loss a token": losses[name], "× before": ratio(losses[name], losses["before"])}
        for name, title in _CUTTING.items()
        if losses
    ]


def _candidate(row: Mapping[str, Any]) -> Row:
    """A candidate of a search for a target speed."""
    layers = {
        f"{side} layers": f"{' '.join(map(str, row[f'{side}_layers']))}, {format_percent(row[f'{side}_share'])} of each"
        for side in SIDES
    }
    return {
        "model": f"{row['name']}{' (chosen)' if row['chosen'] else ''}",
        **layers,
        "predicted": Cell(format_speedup(row["predicted"])),
        "measured": Cell(format_speedup(row["measured"]), f"tries: {len(row['tries'])}"),
        "KL before training": row["harm"],
        "validation loss": ", ".join(f"{loss:.4f}" for loss in row["losses"]),
    }
