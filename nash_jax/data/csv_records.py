"""Reads records of CSV and TSV files: a file is read up to its first broken line, and refused there.

Where a quote is broken, nobody can tell rows from parts of a text, so no reading goes on after it. A row on one line
with too few or too many fields is certain to end there: it alone is dropped.
"""

import contextlib
import csv
import itertools
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nash_jax.data.checks import Entry, RowIssue
from nash_jax.data.columns import RequiredColumns
from nash_jax.data.lines import invalid_byte, read_lines
from nash_jax.errors import UserError

_NO_LIMIT = min(sys.maxsize, 2**31 - 1)  # largest limit that the csv module takes on every platform
_LIMIT_LOCK = threading.Lock()


def read_csv(path: Path, columns: RequiredColumns, delimiter: str = ",") -> Iterator[Entry]:
    """Yields (file and line number, record or `RowIssue`) for each row.

    Args:
      path: a file with a header, optionally .gz.
      columns: columns that the header must have.
      delimiter: between fields; another one of comma, semicolon and tab is used if the header has the required columns
        with that one and lacks them with this.

    Raises:
      UserError: for a header without the columns, or at a broken line.
    """
    with contextlib.closing(read_lines(path)) as lines:
        first = next(lines, "")
        reader = csv.reader(itertools.chain([first], lines), delimiter=_choose(delimiter, first, columns), strict=True)
        header = _next_fields(reader, path) or []
        _check_header(header, columns, f"{path}:1")
        begin = reader.line_num + 1
        while (fields := _next_fields(reader, path)) is not None:
            if fields and not _is_blank(fields, header):
                yield f"{path}:{begin}", _as_record(fields, header, f"{path}:{begin}", reader.line_num + 1 - begin)
            begin = reader.line_num + 1


def _is_blank(fields: list[str], header: list[str]) -> bool:
    """Whether a row is a line of white space; where there is one column only, that is a text."""
    return len(fields) == 1 < len(header) and not fields[0].strip()


def _choose(delimiter: str, first: str, columns: RequiredColumns) -> str:
    """Returns the first delimiter with which the header has the required columns."""
    for other in (delimiter, ",", ";", "\t"):
        header = next(csv.reader([first], delimiter=other), []) if len(first) < csv.field_size_limit() else []
        if not columns.missing(dict.fromkeys(header)):
            return other
    return delimiter


def _next_fields(reader: Any, path: Path) -> list[str] | None:
    """Returns the fields of the next record, an empty list for an empty line, or None at the end of the file.

    The csv module's limit of a field's size is one of the whole process, so it is lifted only in here.
    """
    begin = reader.line_num + 1
    with _LIMIT_LOCK:
        before = csv.field_size_limit(_NO_LIMIT)
        try:
            fields: list[str] | None = next(reader, None)
            return fields
        except csv.Error as error:
            raise _broken(f"{path}:{begin}", f"{error}{_until(begin, reader.line_num)}") from error
        finally:
            csv.field_size_limit(before)


def _until(begin: int, end: int) -> str:
    return f" in line {end}, in the row that begins here" if end > begin else ""


def _broken(place: str, what: str) -> UserError:
    return UserError(
        f"{place}: broken CSV: {what}",
        'each quoted field closed, and quotes within it doubled ("")',
        "correct that row: after it, rows cannot be told from texts",
    )


def _check_header(header: list[str], columns: RequiredColumns, place: str) -> None:
    if message := invalid_byte("".join(header)):
        raise UserError(f"{place}: {message}", "UTF-8 text")
    columns.check(dict.fromkeys(header), place)
    columns.check_unique(header, place)


def _as_record(fields: list[str], header: list[str], place: str, num_lines: int) -> dict[str, str] | RowIssue:
    """Returns the fields by header name, or the issue found.

    Raises:
      UserError: for a row of several lines with another number of fields than the header: a quote in it is broken.
    """
    while len(fields) > len(header) and not fields[-1]:
        fields.pop()  # spreadsheets add commas at the end of lines
    if len(fields) != len(header):
        count = f"{len(fields)} fields, not {len(header)}"
        if num_lines > 1:
            raise _broken(place, f"{count}, in a row of {num_lines} lines")
        return RowIssue("too_few_fields" if len(fields) < len(header) else "too_many_fields", count)
    if [field.removeprefix("\ufeff") for field in fields] == header:
        return RowIssue("header_again", "the header")
    message = invalid_byte("".join(fields))
    return RowIssue("not_utf8", message) if message else dict(zip(header, fields, strict=True))
