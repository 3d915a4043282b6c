"""Reads records of JSONL, CSV and Parquet files, plain or gzip; a row that cannot be read does not stop the rest."""

import csv
import json
import re
from collections import deque
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nash_jax.data.checks import Entry, RowIssue
from nash_jax.data.columns import RequiredColumns, is_required, schema_fields
from nash_jax.data.hub import first_line
from nash_jax.data.lines import READ_ERRORS, json_error, open_file, read_byte_lines
from nash_jax.errors import UserError


def read_records(path: Path, columns: RequiredColumns) -> Iterator[Entry]:
    """Yields (file and line or row number, record or `RowIssue`) for each row of a file.

    Args:
      path: .jsonl, .csv or .parquet, optionally with .gz.
      columns: columns that a record must have.

    Raises:
      UserError: for a file that cannot be read or has another type, or if no row has the columns.
    """
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    readers = {"jsonl": _jsonl, "json": _jsonl, "csv": _csv, "parquet": _parquet}
    if kind not in readers:
        raise UserError(f"{path} has an unsupported file type", ".jsonl, .csv or .parquet, also with .gz")
    yield from readers[kind](path, columns)


# -- JSONL ------------------------------------------------------------------------------------------------


def _jsonl(path: Path, columns: RequiredColumns) -> Iterator[Entry]:
    """One record per line; if no object has the columns, the first message is raised after the last line."""
    objects, num_missing, first = 0, 0, ""
    for number, line in enumerate(read_byte_lines(path), 1):
        if not line.strip():
            continue
        place, read = f"{path}:{number}", _parse(line, columns)
        if isinstance(read, dict):
            objects += 1
        elif read.kind == "missing_column":
            objects, num_missing, first = objects + 1, num_missing + 1, first or f"{place} {read.detail}"
        yield place, read
    if num_missing and num_missing == objects:
        raise columns.error(first)


def _parse(line: bytes, columns: RequiredColumns) -> dict[str, Any] | RowIssue:
    try:
        record = json.loads(line.decode("utf-8-sig").strip())  # concatenated files have byte-order marks inside
    except UnicodeDecodeError as error:
        return _not_utf8(error.object[error.start])
    except (ValueError, RecursionError) as error:
        return RowIssue("not_json", f"not JSON: {json_error(error)}")
    if not isinstance(record, dict):
        return RowIssue("not_object", f"a JSON {type(record).__name__}")
    message = columns.missing(record)
    return RowIssue("missing_column", message) if message else record


def _not_utf8(byte: int) -> RowIssue:
    return RowIssue("not_utf8", f"byte {byte:#x} is not UTF-8")


# -- CSV --------------------------------------------------------------------------------------------------

_ESCAPED = re.compile(r"[\udc80-\udcff]")  # bytes that are not UTF-8, as decoded by `surrogateescape`


class _Lines:
    """Iterator over the lines of a file, numbered from 1; a record can give back lines that it should not consume."""

    def __init__(self, path: Path) -> None:
        self._rest, self._back = read_byte_lines(path), deque[str]()
        self._done, self.taken = 0, list[str]()

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if self._back:
            line = self._back.popleft()
        else:
            line = next(self._rest).decode("utf-8", "surrogateescape")
            line = line.removeprefix("\ufeff") if self.first == 1 and not self.taken else line
        self.taken.append(line)
        return line

    @property
    def first(self) -> int:
        """Number of the record's first line."""
        return self._done + 1

    def begin(self) -> None:
        """Starts the next record."""
        self._done += len(self.taken)
        self.taken = []

    def give_back(self) -> None:
        """Gives back all lines of the record except the first."""
        self._back.extendleft(reversed(self.taken[1:]))
        del self.taken[1:]


def _csv(path: Path, columns: RequiredColumns) -> Iterator[Entry]:
    """One record at a time; after a broken quote, parsing restarts at the next line.

    Until a complete record is found that is not ended by a quote of the broken one, lines are fragments.
    """
    lines = _Lines(path)
    reader = csv.reader(lines, strict=True)
    header = _header(reader, path, columns)
    recovering = False
    while (fields := _next_fields(reader, lines)) is not None:
        if not fields:
            continue
        read = fields if isinstance(fields, RowIssue) else _as_record(fields, header, lines.taken, recovering)
        yield f"{path}:{lines.first}", read
        recovering = isinstance(read, RowIssue) and read.kind in ("broken_quotes", "fragment")
        if recovering and not _ends_within(lines.taken[1:]):
            lines.give_back()


def _next_fields(reader: Iterator[list[str]], lines: _Lines) -> list[str] | RowIssue | None:
    """Returns the fields of the next record, an empty list for an empty line, or None at the end of the file."""
    lines.begin()
    try:
        return next(reader, None)
    except csv.Error as error:
        return RowIssue("broken_quotes", f"broken CSV: {error}")


def _header(reader: Iterator[list[str]], path: Path, columns: RequiredColumns) -> list[str]:
    try:
        header = next(reader, [])
    except csv.Error as error:
        raise UserError(f"{path}:1: broken CSV: {error}", "quoted fields, each closed") from error
    if escaped := _ESCAPED.search("".join(header)):
        raise UserError(f"{path}:1: {_not_utf8(ord(escaped[0]) - 0xDC00).detail}", "UTF-8 text")
    columns.check(dict.fromkeys(header), f"{path}:1")
    columns.check_unique(header, f"{path}:1")
    return header


def _as_record(fields: list[str], header: list[str], taken: list[str], recovering: bool) -> dict[str, str] | RowIssue:
    """Returns the fields by header name, or the issue found; `taken` are the lines they were read from."""
    while len(fields) > len(header) and not fields[-1]:
        fields.pop()  # spreadsheets add commas at the end of lines
    count = f"{len(fields)} fields, not {len(header)}"
    if len(fields) != len(header):
        if len(taken) > 1:  # an unclosed quote: the next opening quote was read as its end
            return RowIssue("broken_quotes", f"broken CSV: {count} over {len(taken)} lines")
        if recovering:
            return RowIssue("fragment", count)
        return RowIssue("too_few_fields" if len(fields) < len(header) else "too_many_fields", count)
    if recovering and _has_bare_quote(fields, "".join(taken)):
        return RowIssue("fragment", "a quote in an unquoted field")
    if [field.removeprefix("\ufeff") for field in fields] == header:
        return RowIssue("header_again", "the header")
    escaped = _ESCAPED.search("".join(fields))
    return _not_utf8(ord(escaped[0]) - 0xDC00) if escaped else dict(zip(header, fields, strict=True))


def _ends_within(lines: list[str]) -> bool:
    """Whether a broken record extends to the last of these lines, i.e. no field of that line starts with its quote."""
    try:
        return bool(lines) and _has_bare_quote(next(csv.reader(lines[-1:])), lines[-1])
    except csv.Error:
        return False


def _has_bare_quote(fields: list[str], text: str) -> bool:
    """Whether an unquoted field contains a quote."""
    return '""' not in text and any('"' in field for field in fields)


# -- Parquet ----------------------------------------------------------------------------------------------


def _parquet(path: Path, columns: RequiredColumns) -> Iterator[Entry]:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as file:
            parquet = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(file.read()))
        columns.check(schema_fields(parquet.schema_arrow), str(path))
        columns.check_unique(parquet.schema_arrow.names, str(path))
        names = [name for name in parquet.schema_arrow.names if is_required(columns.names, name)]
        table = parquet.read(columns=names)
        values = [_values(table[name]) for name in names]
    except (pyarrow.ArrowException, *READ_ERRORS) as error:
        raise UserError(f"{path} cannot be read: {first_line(error)}", "a complete Parquet file") from error
    for number, row in enumerate(zip(*values, strict=True), 1):
        issue = next((value for value in row if isinstance(value, RowIssue)), None)
        yield f"{path} row {number}", issue or dict(zip(names, row, strict=True))


def _values(column: Any) -> list[Any]:
    """Values of a column, with `RowIssue` for bytes that are not UTF-8: Parquet readers accept them."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return _not_utf8(error.object[error.start])
