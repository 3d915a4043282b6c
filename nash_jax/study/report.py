"""What comes out of a study: tables, figures, one page, and a table for the terminal.

    write_study(folder, "flan-t5-large on samsum", records, {"drop-6-3-s57": "done", "cofi-60-s57": "waiting"})

A record is the dict that the study's runner keeps of a cell (docs/study.md); states are "done", "running", "waiting"
or "failed: reason". Any subset of the records, none at all, and records with parts missing are fine.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from nash_jax.report.summary import DASH, Setup, measured
from nash_jax.runtime.files import write_text
from nash_jax.spec import SIDES
from nash_jax.study.matched import matched_table
from nash_jax.study.page import study_page
from nash_jax.study.records import Subject, state_sentence, subject_title, subjects, timed_seconds
from nash_jax.study.table_files import align, cell_text, rows_csv, tables_csv, tables_markdown
from nash_jax.study.tables import (
    Table,
    benchmark_cells,
    cell_rows,
    combined_table,
    latency_table,
    published_table,
    quality_table,
    setup_key,
)

TABLES: Mapping[str, Callable[[Subject], Table | None]] = {
    "quality": quality_table,
    "latency": latency_table,
    "combined": combined_table,
    "matched": matched_table,
    "published": published_table,
}


def write_study(folder: Path, name: str, records: Sequence[Mapping[str, Any]], states: Mapping[str, str]) -> None:
    """Writes `tables/*.csv`, `tables/*.md`, `report.html` and `study.json`, each whole or not at all.

    Args:
      folder: made where it is not there; what an earlier call wrote is replaced.
      name: the study's name, the page's title.
      records: of the cells done, in the order in which groups shall be shown.
      states: cell → state, of all cells planned.
    """
    (folder / "tables").mkdir(parents=True, exist_ok=True)
    found = subjects(records)
    for kind, build in TABLES.items():
        tables = [one for one in map(build, found) if one is not None]
        write_text(folder / "tables" / f"{kind}.csv", tables_csv(tables))
        write_text(folder / "tables" / f"{kind}.md", tables_markdown(f"{name}: {kind}", tables))
    write_text(folder / "tables" / "cells.csv", rows_csv(cell_rows(records, states)))
    write_text(folder / "tables" / "benchmark.csv", rows_csv(benchmark_cells(records)))
    whole = {"name": name, "states": dict(states), "records": list(records)}
    write_text(folder / "study.json", json.dumps(whole, indent=1))
    write_text(folder / "report.html", study_page(name, records, states))


def console_summary(records: Sequence[Mapping[str, Any]], states: Mapping[str, str]) -> str:
    """How far the study is, and a line a group: layers kept, main metric, its change, speedups."""
    found = subjects(records)
    lines = [state_sentence(states)]
    lines += [f"  {cell}: {state}" for cell, state in states.items() if state.startswith("failed")]
    for subject in found:
        lines += ["", subject_title(subject, found), *_group_lines(subject)]
    timed = [record for record in records if not record.get("metrics") and measured(record.get("seconds"))]
    runs, whole = sum(map(timed_seconds, timed)), sum(record["seconds"] for record in timed)
    if runs:
        lines += ["", f"timed runs took {runs:.0f} s of {whole:.0f} s ({whole / runs:.2f} times as long)"]
    return "\n".join(lines)


def _group_lines(subject: Subject) -> list[str]:
    """The combined table in its shortest form: layers as "24/12", set-ups as "b1 512→64"."""
    one = combined_table(subject)
    if one is None:
        return ["  nothing measured"]
    shown = {column.key: column for column in one.columns if column.spreads and column.key in _shown_keys(subject)}
    titles = {f"speedup_{setup_key(setup)}": _short_title(setup, subject) for setup in subject.setups}
    head = ["group", "enc/dec", *(titles.get(key, column.title) for key, column in shown.items())]
    body = [[str(row["group"]), _layers(row), *(cell_text(c, row) for c in shown.values())] for row in one.rows]
    return [f"  {line}" for line in align([head, *body])]


def _short_title(setup: Setup, subject: Subject) -> str:
    beams = f" k{setup.num_beams}" if len({other.num_beams for other in subject.setups}) > 1 else ""
    return f"b{setup.batch_size} {setup.source_length}→{setup.new_tokens}{beams}"


def _shown_keys(subject: Subject) -> set[str]:
    return {"impact", subject.metric or "", *(f"speedup_{setup_key(setup)}" for setup in subject.setups)}


def _layers(row: Mapping[str, Any]) -> str:
    counts = (row[f"{side}_layers"] for side in SIDES)
    return "/".join(DASH if kept is None else f"{kept.mean:g}" for kept in counts)
