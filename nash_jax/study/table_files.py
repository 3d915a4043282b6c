"""A study's tables as CSV for programs and as Markdown for papers."""

import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pandas as pd

from nash_jax.study.contrast_table import LEAD, contrast_frame, contrasts_values, sentences
from nash_jax.study.effort import training_table, trials_frame
from nash_jax.study.matched import matched_table
from nash_jax.study.records import Comparison, Record, comparison_title
from nash_jax.study.tables import (
    Table,
    cell_row,
    cell_text,
    combined_table,
    latency_table,
    published_table,
    quality_table,
)

TABLES: Mapping[str, Callable[[Comparison], Table | None]] = {
    "quality": quality_table,
    "latency": latency_table,
    "combined": combined_table,
    "matched": matched_table,
    "training": training_table,
    "published": published_table,
}


def cells_csv(records: Sequence[Record], states: Mapping[str, str]) -> str:
    """A row a cell, nothing averaged."""
    return _frame_csv(pd.DataFrame([cell_row(record, states) for record in records], dtype=object))


def benchmark_csv(records: Sequence[Record]) -> str:
    """Every benchmark row of every cell as it was measured."""
    rows = [{"cell": record.get("cell"), **row} for record in records for row in record.get("benchmark") or []]
    return _frame_csv(pd.DataFrame(rows, dtype=object))


def tables_csv(tables: Sequence[Table]) -> str:
    """Tables of several comparisons as one: what is compared first, then the columns of all."""
    return _frame_csv(pd.concat([table.values() for table in tables])) if tables else ""


def protocol_files(
    name: str,
    contrasts: Sequence[Mapping[str, Any]],
    withdrawn: Sequence[Mapping[str, Any]],
    trials: Mapping[str, Mapping[str, Any]],
) -> dict[str, str]:
    """Name of a file → what is in it, of contrasts and trials.

    Args:
      name: the study's.
      contrasts: of `protocol.compare`.
      withdrawn: contrasts that the study once had.
      trials: group → what `trials.choose` says of it.
    """
    frame, said = contrast_frame(contrasts), sentences(contrasts, withdrawn)
    return {
        "contrasts.csv": _frame_csv(contrasts_values(contrasts)),
        "contrasts.md": _one_markdown(f"{name}: contrasts", LEAD, frame, said),
        "trials.csv": _frame_csv(trials_frame(trials)),
    }


def _frame_csv(frame: pd.DataFrame) -> str:
    """Every number as Python writes it, None as nothing; "" without rows."""
    return "" if frame.empty else frame.to_csv(index=False, lineterminator="\n")


def tables_markdown(title: str, tables: Sequence[Table]) -> str:
    """Tables of several comparisons as one Markdown page, rounded; "" without tables."""
    among = [table.comparison for table in tables]
    parts = [f"# {_escape(title)}"]
    for table in tables:
        parts += [f"## {_escape(comparison_title(table.comparison, among))}", _escape(table.lead)]
        parts.append(_frame_markdown(table.frame()))
    return "\n\n".join(filter(None, parts)) + "\n" if tables else ""


def _one_markdown(title: str, lead: str, frame: pd.DataFrame, lines: Sequence[str]) -> str:
    """One table as a Markdown page, with lines of text below it; "" without rows."""
    parts = [f"# {_escape(title)}", _escape(lead), _frame_markdown(frame), *map(_escape, lines)]
    return "" if frame.empty else "\n\n".join(parts) + "\n"


def _frame_markdown(frame: pd.DataFrame) -> str:
    lines = [[_escape(title) for title in frame.columns]]
    lines.append(["---:" if right else "---" for right in frame.attrs["numeric"]])
    lines += [[_escape(cell_text(cell)) for cell in row] for row in frame.itertuples(index=False, name=None)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _escape(text: str) -> str:
    """Text that no Markdown reader takes for markup, in one line; intervals such as [1.2, 3.4] are none."""
    line = re.sub(r"\s*\n\s*", " ", text).replace("<", "&lt;")
    return re.sub(r"\[[-+−\d., ×KMB]*\](?![\[(:])|[\\`*|\[\]]", lambda m: m[0] if len(m[0]) > 1 else f"\\{m[0]}", line)
