"""Reads records of data files of every kind, one at a time; a row that cannot be read does not stop the rest."""

import functools
import itertools
import json
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from nash_jax.data.arrow_records import read_arrow
from nash_jax.data.checks import Entry, RowIssue
from nash_jax.data.columns import RequiredColumns
from nash_jax.data.csv_records import read_csv
from nash_jax.data.files import FILE_KINDS, file_kind
from nash_jax.data.lines import invalid_byte, json_error, read_lines
from nash_jax.errors import UserError


def read_records(path: Path, columns: RequiredColumns, all_columns: bool = False) -> Iterator[Entry]:
    """Yields (file and line or row number, record or `RowIssue`) for each row of a file.

    Args:
      path: from `files.find_files`.
      columns: columns that a record must have.
      all_columns: whether to read the other columns too, where this costs something.

    Raises:
      UserError: for a file that cannot be read or has another type, or if no row has the columns.
    """
    readers: dict[str, Callable[[Path, RequiredColumns], Iterator[Entry]]] = {
        "jsonl": _jsonl,
        "json": _json,
        "csv": read_csv,
        "tsv": functools.partial(read_csv, delimiter="\t"),
        "arrow": functools.partial(read_arrow, all_columns=all_columns),
    }
    kind = file_kind(path)
    if kind is None:
        raise UserError(f"{path} has an unsupported file type", FILE_KINDS)
    yield from readers[kind](path, columns)


def _jsonl(path: Path, columns: RequiredColumns) -> Iterator[Entry]:
    """One record per line; blank lines are skipped. What begins as a list of objects is read as in .json."""
    first = next((line.strip() for line in read_lines(path) if line.strip()), "")
    if re.match(r"\[\s*(\{|$)", first):
        yield from _json(path, columns)
    else:
        yield from _all_lack(_parsed(path, columns), columns)


def _parsed(path: Path, columns: RequiredColumns) -> Iterator[Entry]:
    for number, line in enumerate(read_lines(path), 1):
        if line.strip():
            yield f"{path}:{number}", _parse(line, columns)


def _all_lack(entries: Iterator[Entry], columns: RequiredColumns) -> Iterator[Entry]:
    """Yields the entries; if no object has the columns, the first message is raised after the last entry."""
    objects, num_missing, first = 0, 0, ""
    for place, read in entries:
        if isinstance(read, dict):
            objects += 1
        elif read.kind == "missing_column":
            objects, num_missing, first = objects + 1, num_missing + 1, first or f"{place} {read.detail}"
        yield place, read
    if num_missing and num_missing == objects:
        raise columns.error(first)


def _parse(line: str, columns: RequiredColumns) -> dict[str, Any] | RowIssue:
    if message := invalid_byte(line):
        return RowIssue("not_utf8", message)
    try:
        record = json.loads(line.removeprefix("\ufeff").strip())  # concatenated files have byte-order marks inside
    except (ValueError, RecursionError) as error:
        return RowIssue("not_json", f"not JSON: {json_error(error)}")
    return _as_object(record, columns)


def _as_object(record: Any, columns: RequiredColumns) -> dict[str, Any] | RowIssue:
    if not isinstance(record, dict):
        return RowIssue("not_object", f"a JSON {type(record).__name__}")
    message = columns.missing(record)
    return RowIssue("missing_column", message) if message else record


def _json(path: Path, columns: RequiredColumns) -> Iterator[Entry]:
    """A list of records, an object that holds one, or one record per line, as in .jsonl."""
    head = list(itertools.islice((line for line in read_lines(path) if line.strip()), 2))
    if not head or (len(head) == 2 and isinstance(_parse(head[0], RequiredColumns(())), dict)):
        yield from _jsonl(path, columns)
        return
    records = _list_of_records(_read_document(path), columns)
    entries = ((f"{path} row {number}", _as_object(record, columns)) for number, record in enumerate(records, 1))
    yield from _all_lack(entries, columns)


def _read_document(path: Path) -> Any:
    """Parses a whole file.

    Raises:
      UserError: naming the line where it is not JSON.
    """
    text = "".join(read_lines(path))
    if message := invalid_byte(text):
        number = next(i for i, line in enumerate(read_lines(path), 1) if invalid_byte(line))
        raise UserError(f"{path}:{number}: {message}", "UTF-8 text")
    try:
        return json.loads(text)
    except json.JSONDecodeError as error:
        found = f"{path}:{error.lineno}: not JSON: {error.msg} at column {error.colno}"
        raise UserError(found, "a list of objects, or one object per line") from error
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path}: not JSON: {error}", "a list of objects, or one object per line") from error


def _list_of_records(document: Any, columns: RequiredColumns) -> list[Any]:
    """Returns the rows of a document: its list, the only list of objects (with the columns) in it, or the object."""
    if not isinstance(document, dict):
        return document if isinstance(document, list) else [document]
    lists = [value for value in document.values() if isinstance(value, list) and value and isinstance(value[0], dict)]
    fitting = [each for each in lists if not columns.missing(each[0])] or lists
    return fitting[0] if columns.missing(document) and len(fitting) == 1 else [document]
