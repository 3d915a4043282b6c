"""A study's tables as CSV for programs and as Markdown for papers."""

import re
from collections.abc import Callable, Mapping, Sequence

import pandas as pd

from nash_jax.report.tables import numeric_columns
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
    "published": published_table,
}


def cells_csv(records: Sequence[Record], states: Mapping[str, str]) -> str:
    """A row a cell, nothing averaged."""
    return _csv(pd.DataFrame([cell_row(record, states) for record in records], dtype=object))


def benchmark_csv(records: Sequence[Record]) -> str:
    """Every benchmark row of every cell as it was measured."""
    rows = [{"cell": record.get("cell"), **row} for record in records for row in record.get("benchmark") or []]
    return _csv(pd.DataFrame(rows, dtype=object))


def tables_csv(tables: Sequence[Table]) -> str:
    """Tables of several comparisons as one: what is compared first, then the columns of all."""
    return _csv(pd.concat([table.values() for table in tables])) if tables else ""


def _csv(frame: pd.DataFrame) -> str:
    """Every number as Python writes it, None as nothing; "" without rows."""
    return "" if frame.empty else frame.to_csv(index=False, lineterminator="\n")


def tables_markdown(title: str, tables: Sequence[Table]) -> str:
    """Tables of several comparisons as one Markdown page, rounded; "" without tables."""
    among = [table.comparison for table in tables]
    parts = [f"# {_escape(title)}"]
    for table in tables:
        parts += [f"## {_escape(comparison_title(table.comparison, among))}", _escape(table.lead)]
        frame = table.frame()
        lines = [[_escape(title) for title in frame.columns]]
        lines.append(["---:" if right else "---" for right in numeric_columns(frame)])
        lines += [[_escape(cell_text(cell)) for cell in row] for row in frame.itertuples(index=False, name=None)]
        parts.append("\n".join(f"| {' | '.join(line)} |" for line in lines))
    return "\n\n".join(filter(None, parts)) + "\n" if tables else ""


def _escape(text: str) -> str:
    """Text that no Markdown reader takes for markup, in one line."""
    return re.sub(r"([\\`*|\[\]])", r"\\\1", re.sub(r"\s*\n\s*", " ", text).replace("<", "&lt;"))
