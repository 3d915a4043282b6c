"""The tables of a run's report as data frames: their columns are titles, their cells values, `Cell` or `Bar`.

`frame.attrs["label"]` is what a screen reader calls the table.
"""

import dataclasses
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pandas as pd

from nash_jax.data.checks import ISSUE_KINDS
from nash_jax.report import numbers
from nash_jax.report.benchmark import Setup, setup_label, setups
from nash_jax.report.numbers import direction, format_ms, format_percent, format_seconds, is_number, ratio, section
from nash_jax.report.quality import MODELS, Report, metric_names
from nash_jax.spec import SIDES

NBSP = "\N{NO-BREAK SPACE}"
ARROWS = {1: f"{NBSP}↑", -1: f"{NBSP}↓", 0: ""}


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


def make_frame(label: str, rows: Sequence[Sequence[Any]], titles: Sequence[str]) -> pd.DataFrame:
    """A table of any values, which stay as they are; without rows it is empty."""
    frame = pd.DataFrame(list(rows), columns=pd.Index(titles, dtype=object), dtype=object)
    frame.attrs["label"] = label
    return frame


def numeric_columns(frame: pd.DataFrame) -> list[bool]:
    """Which columns hold nothing but numbers, cells, and gaps, so that they align right."""
    columns = ([cell for cell in frame.iloc[:, place] if cell != ""] for place in range(frame.shape[1]))
    kinds = int | float | Cell | None
    return [bool(cells) and all(isinstance(cell, kinds) for cell in cells) for cells in columns]


def columns(entries: Iterable[Any]) -> list[str]:
    """The keys of all dicts together, in the order of their first sight."""
    return list(dict.fromkeys(key for entry in entries if isinstance(entry, Mapping) for key in entry))


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


def time_title(setup: Setup, among: Sequence[Setup]) -> str:
    """The title of a column of times."""
    return f"ms, {setup_label(setup, among)}".replace("batch ", f"batch{NBSP}").replace(" beam", f"{NBSP}beam")


def benchmark_table(report: Report) -> pd.DataFrame:
    """Every benchmark row with every number measured."""
    rows = report.get("benchmark") or []
    names = columns(rows)
    body = [[_benchmark_cell(name, row.get(name)) for name in names] for row in rows]
    titles = [name.replace("_ms", ", ms").replace("_", " ") for name in names]
    return make_frame("All benchmark measurements", body, titles)


def _benchmark_cell(name: str, value: Any) -> Any:
    return Cell(format_ms(value)) if name.endswith("_ms") and is_number(value) else value


def peers_table(report: Report) -> pd.DataFrame:
    """Both models in each engine: a generation, a token, and the ratio to the dense model in our own."""
    rows = report.get("peers") or []
    body = [
        [row["batch_size"], row["model"], row["system"], row["median_ms"], row["token_ms"],
         _ratio_cell(row["speedup"].get("dense nash_jax")), Cell(format_percent(row["same_outputs"]))]
        for row in rows
    ]  # fmt: skip
    titles = ["batch", "model", "engine", "ms", "ms a token", "speedup over dense here", "same outputs as here"]
    return make_frame("Both models in other engines", body, titles)


def _ratio_cell(ratio: Sequence[float] | None) -> Cell | None:
    """A ratio with its interval."""
    return None if ratio is None else Cell(f"{ratio[0]:.2f}×", f"{ratio[1]:.2f} to {ratio[2]:.2f}")


def components_table(report: Report) -> pd.DataFrame:
    """Time of each component in a generation: a row each, a column for each setup."""
    rows = section(report, "components").get("times") or []
    found = setups(rows)
    cells = {(str(row.get("component")), Setup.of(row)): _component_cell(row) for row in rows}
    names = dict.fromkeys(name for name, _ in cells)
    body = [[name, *(cells.get((name, setup)) for setup in found)] for name in names]
    return make_frame("Time of each component", body, ["component", *(time_title(setup, found) for setup in found)])


def _component_cell(row: Mapping[str, Any]) -> Cell | None:
    if not is_number(row.get("median_ms")):
        return None
    note, token = format_percent(row.get("share")), row.get("per_token_ms")
    note += f" · {format_ms(token)} ms a token" if is_number(token) else ""
    return Cell(numbers.format_spread(row["median_ms"], row.get("std_ms")), note)


def stages_table(report: Report) -> pd.DataFrame:
    """Time of each stage with its share of the whole, and whatever else the stage recorded."""
    stages = {name: section(report, "stages", name) for name in section(report, "stages")}
    others = [name for name in columns(stages.values()) if name not in ("seconds", "steps")]
    total = sum(stage["seconds"] for stage in stages.values() if is_number(stage.get("seconds")))
    rows: list[list[Any]] = []
    for name, stage in stages.items():
        seconds, steps = stage.get("seconds"), stage.get("steps")
        row = [name, Cell(format_seconds(seconds)), Bar(ratio(seconds, total) or 0.0), steps, ratio(seconds, steps)]
        rows.append(row + [stage.get(other) for other in others])
    rows += [["all", Cell(format_seconds(total)), "", "", ""] + [""] * len(others)] * bool(rows)
    titles = ["stage", "time", "share", "steps", "s a step", *(name.replace("_", " ") for name in others)]
    return make_frame("Time of each stage", rows, titles)


def data_table(report: Report) -> pd.DataFrame:
    """One row a split, one column a number."""
    summary = section(report, "data", "summary")
    names = columns(summary.values())
    gaps = {n: None if any(is_number(section(summary, s).get(n)) for s in summary) else "" for n in names}
    rows = [[s, *(section(summary, s).get(n, gaps[n]) for n in names)] for s in summary if names]
    return make_frame("Data by split", rows, ["split", *(n.replace("_", " ") for n in names)])


def findings_table(report: Report) -> pd.DataFrame:
    """RowIssue and oddities of the rows, with what was done about them."""
    found = section(report, "data").get("findings") or []
    rows = [
        [f"{r.get('task') or ''} {r['split']}".strip(), ISSUE_KINDS[r["kind"]].meaning, ISSUE_KINDS[r["kind"]].why]
        + [r[key] for key in ("rows", "rule", "first")]
        for r in found
    ]
    titles = ["split", "what", "why so", "rows", "rows were", "first"]
    return make_frame("What was found in the data", rows, titles)


def vocabulary_table(report: Report) -> pd.DataFrame:
    """Size of the vocabulary and what it costs, before and after it was trimmed."""
    sizes = [section(report, "vocabulary", name) for name in ("before", "after")]
    rows = [
        [title, *(own[name] for own in sizes)]
        for name, title in (("tokens", "tokens"), ("model_bytes", "bytes of the model"),
                            ("token_bytes", "bytes that a generated token reads"),
                            ("head_bytes", "of these, LM head"))
        if all(sizes)
    ]  # fmt: skip
    return make_frame("Vocabulary before and after", rows, ["float32", "before", "after"])


def coverage_table(report: Report) -> pd.DataFrame:
    """How the texts of each split are written with the tokens that are left."""
    splits = section(report, "vocabulary", "coverage")
    names = columns(splits.values())
    rows = [[split, *(section(splits, split)[name] for name in names)] for split in splits]
    return make_frame("Texts under the trimmed vocabulary", rows, ["split", *(n.replace("_", " ") for n in names)])


def labels_table(report: Report) -> pd.DataFrame:
    """How many outputs of the dense model students learnt, and why others were left out."""
    found = section(report, "labels")
    return make_frame(
        "Targets that the dense model wrote", [list(found.values())] if found else [],
        [name.replace("_", " ") for name in found],
    )  # fmt: skip


def cutting_table(report: Report) -> pd.DataFrame:
    """The validation loss before and after gates were closed without training."""
    losses = section(report, "cutting", "losses")
    rows = [
        [title, losses[name], ratio(losses[name], losses["before"])]
        for name, title in (("before", "before cutting"), ("cut", "cut"), ("fitted", "outputs fitted to what is left"))
        if losses
    ]
    return make_frame("Validation loss of cutting", rows, ["model", "loss a token", "× before"])


def search_table(report: Report) -> pd.DataFrame:
    """The candidates of a search, the best first."""
    found = section(report, "search")
    rows = [_search_row(row) for row in found.get("candidates", [])]
    titles = [
        "model", "encoder layers", "decoder layers", "predicted", "measured", "KL before training", "validation loss"
    ]  # fmt: skip
    return make_frame(f"Candidates for {found.get('target', 0):g} times the speed", rows, titles)


def _search_row(row: Mapping[str, Any]) -> list[Any]:
    layers = (
        f"{' '.join(map(str, row[f'{side}_layers']))}, {format_percent(row[f'{side}_share'])} of each" for side in SIDES
    )
    measured = Cell(f"{row['measured']:.2f}×", f"tries: {len(row['tries'])}")
    losses = ", ".join(f"{loss:.4f}" for loss in row["losses"])
    name = f"{row['name']}{' (chosen)' if row['chosen'] else ''}"
    return [name, *layers, Cell(f"{row['predicted']:.2f}×"), measured, row["harm"], losses]


TABLES = {
    "benchmark": benchmark_table,
    "peers": peers_table,
    "components": components_table,
    "stages": stages_table,
    "data": data_table,
    "findings": findings_table,
    "vocabulary": vocabulary_table,
    "coverage": coverage_table,
    "labels": labels_table,
    "cutting": cutting_table,
    "search": search_table,
}
