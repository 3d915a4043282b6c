"""A study's tables as CSV for programs, Markdown for papers, HTML for the page, aligned text for the terminal."""

import csv
import io
import re
from collections.abc import Iterable, Sequence
from typing import Any

from nash_jax.report.markup import Markup, Number, table, tag
from nash_jax.report.summary import DASH, columns
from nash_jax.report.tables import right
from nash_jax.study.records import Spread, subject_title
from nash_jax.study.tables import Column, Row, Table

_SUBJECT = ("task", "model", "device", "dtype", "teacher", "metric")


def rows_csv(rows: Sequence[Row], names: Sequence[str] | None = None) -> str:
    """Rows as CSV, every number as Python writes it, None as nothing; "" without rows.

    Args:
      rows: name → value; a row may lack names of another.
      names: the columns; all names in the order of their first sight where None.
    """
    if not rows:
        return ""
    out = io.StringIO()
    writer = csv.DictWriter(out, names or columns(rows), lineterminator="\n", extrasaction="ignore")
    writer.writeheader()
    writer.writerows(rows)
    return out.getvalue()


def tables_csv(tables: Sequence[Table]) -> str:
    """Tables of several subjects as one CSV: the subject first, then the columns of all, each spread in three."""
    found = {column.key: column for one in tables for column in one.columns}
    names = [*_SUBJECT, *(name for column in found.values() for name in _csv_names(column))]
    rows = [_subject_fields(one) | _csv_fields(one.columns, row) for one in tables for row in one.rows]
    return rows_csv(rows, names)


def _subject_fields(one: Table) -> Row:
    return {name: getattr(one.subject, name) for name in _SUBJECT}


def _csv_names(column: Column) -> list[str]:
    return [column.key, f"{column.key}_std", f"{column.key}_n"] if column.spreads else [column.key]


def _csv_fields(found: Sequence[Column], row: Row) -> Row:
    fields: Row = {}
    for column in found:
        value = row.get(column.key)
        values = (value or (None, None, None)) if column.spreads else (value,)
        fields |= dict(zip(_csv_names(column), values, strict=True))
    return fields


def tables_markdown(title: str, tables: Sequence[Table]) -> str:
    """Tables of several subjects as one Markdown page, rounded; "" without tables."""
    among = [one.subject for one in tables]
    parts = [f"# {_markdown(title)}"]
    for one in tables:
        parts += [f"## {_markdown(subject_title(one.subject, among))}", _markdown(one.lead), _markdown_table(one)]
    return "\n\n".join(part for part in parts if part) + "\n" if tables else ""


def _markdown_table(one: Table) -> str:
    lines = [[_markdown(column.title) for column in one.columns]]
    lines.append(["---:" if _is_numeric(one, column) else "---" for column in one.columns])
    lines += [[_markdown(cell_text(column, row)) for column in one.columns] for row in one.rows]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _is_numeric(one: Table, column: Column) -> bool:
    return column.spreads or all(isinstance(row.get(column.key), int | float | None) for row in one.rows)


def cell_text(column: Column, row: Row) -> str:
    """A cell as a reader sees it."""
    value = row.get(column.key)
    return DASH if value is None else column.write(value)


def _markdown(text: str) -> str:
    """Text that no Markdown reader takes for markup, in one line."""
    return re.sub(r"([\\`*|\[\]])", r"\\\1", re.sub(r"\s*\n\s*", " ", text).replace("<", "&lt;"))


def table_html(one: Table) -> Markup:
    """A table for the page; spreads align right and tell their n to a pointer."""
    header = [right(column.title) if _is_numeric(one, column) else column.title for column in one.columns]
    body = ([_cell(column, row) for column in one.columns] for row in one.rows)
    return table(header, body, label=f"{one.subject.task} {one.subject.model}".strip() or "table")


def _cell(column: Column, row: Row) -> Any:
    value = row.get(column.key)
    if not isinstance(value, Spread):
        return value
    return Number(tag("span", column.write(value), title=f"n = {value.n}"))


def align(lines: Iterable[Sequence[str]]) -> list[str]:
    """Rows of texts as lines with aligned columns: the first to the left, the others to the right."""
    rows = [list(line) for line in lines]
    widths = [max(map(len, cells)) for cells in zip(*rows, strict=True)]
    return [
        "  ".join(
            cell.ljust(width) if i == 0 else cell.rjust(width)
            for i, (cell, width) in enumerate(zip(row, widths, strict=True))
        ).rstrip()
        for row in rows
    ]
