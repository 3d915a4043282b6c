"""Files of texts: one text per line, or a column of a data file. All is checked before it is used."""

import dataclasses
import hashlib
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nash_jax.data.checks import Entry, RowIssue
from nash_jax.data.columns import RequiredColumns
from nash_jax.data.files import FILE_KINDS, file_kind, find_files
from nash_jax.data.forms import get_nested
from nash_jax.data.lines import invalid_byte, read_lines
from nash_jax.data.records import read_records
from nash_jax.errors import UserError
from nash_jax.generation.arguments import check_characters

TEXT_COLUMNS = ("source", "document", "text")  # text columns to look for if no column is given
UNSUPPORTED_SUFFIXES = (".xls", ".xlsx", ".ods", ".zip", ".bz2", ".xz", ".zst", ".pkl", ".npz")


class TextRow(NamedTuple):
    """A row of a file.

    Attributes:
      place: file and line or row number.
      record: all columns; {"source": text} for a text file.
      text: the text to generate for.
    """

    place: str
    record: dict[str, Any]
    text: str


class FileScan(NamedTuple):
    """Result of reading all rows.

    Attributes:
      num_rows: number of rows.
      num_empty: number of texts with only white space.
      digest: SHA-256 of the rows, hexadecimal.
    """

    num_rows: int
    num_empty: int
    digest: str


@dataclasses.dataclass(frozen=True)
class TextFile:
    """One or several files to read texts from; created by `open_text_file`.

    Attributes:
      paths: the files, read one after the other.
      column: text column, which may be nested (`a.b`); None: lines are texts.
      new_column: column that will be added, so rows must not have it.
    """

    paths: tuple[Path, ...]
    column: str | None
    new_column: str | None = None

    def scan(self) -> FileScan:
        """Reads and checks all rows.

        Raises:
          UserError: for the first invalid row, or if there are no rows.
        """
        num_rows, num_empty, digest = 0, 0, hashlib.sha256()
        for row in self._read():
            num_rows, num_empty = num_rows + 1, num_empty + (not row.text.strip())
            digest.update(to_json(row.record).encode("utf-8", "surrogatepass"))
        if num_rows == 0:
            raise UserError(f"{', '.join(map(str, self.paths))} is empty", "at least one row")
        return FileScan(num_rows, num_empty, digest.hexdigest())

    def rows(self, scan: FileScan) -> Iterator[TextRow]:
        """Yields the rows.

        Raises:
          UserError: after the last row, if the rows have changed since the scan.
        """
        digest = hashlib.sha256()
        for row in self._read():
            digest.update(to_json(row.record).encode("utf-8", "surrogatepass"))
            yield row
        if digest.hexdigest() != scan.digest:
            raise UserError(f"{', '.join(map(str, self.paths))} was changed while it was read", "an unchanged file")

    def _read(self) -> Iterator[TextRow]:
        for path in self.paths:
            if self.column is None:
                yield from _text_rows(path)
            else:
                columns = RequiredColumns((self.column,), "it in every row")
                for entry in read_records(path, columns, all_columns=True):
                    yield self._row(self.column, entry)

    def _row(self, column: str, entry: Entry) -> TextRow:
        place, record = entry
        if isinstance(record, RowIssue):
            raise _refusal(place, record)
        if self.new_column in record:
            raise UserError(
                f"{place} has a column {self.new_column!r} already", "none: it would be lost", "rename that one"
            )
        return TextRow(place, record, _checked(get_nested(record, column), f"{place}: column {column!r}"))


def open_text_file(
    names: str | Path, column: str | None, new_column: str | None = None, output: Path | None = None
) -> TextFile:
    """Opens files of texts: data files with a text column, or text files with one text per line.

    Args:
      names: a file, several with commas between, or a pattern (`data.files.find_files`).
      column: text column; None: the first of `TEXT_COLUMNS` that the first row has.
      new_column: column that rows of data files must not have.
      output: the file that is written, which is no input of a pattern.

    Raises:
      UserError: if a file does not exist or has an unsupported type, or the text column is unknown.
    """
    paths = tuple(find_files(str(names), "", output=output))
    for path in paths:
        if path.name.removesuffix(".gz").lower().endswith(UNSUPPORTED_SUFFIXES):
            raise UserError(f"{path} has an unsupported file type", f"{FILE_KINDS}, or text with one text per line")
    data = [path for path in paths if file_kind(path) is not None]
    if data and len(data) < len(paths):
        raise UserError(f"{names} names files with columns and files of lines", "files of one of the two")
    if data:
        return TextFile(paths, column or _first_column(data[0]), new_column)
    if column is not None:
        raise UserError(
            f"column {column!r} of {names}, a text file", "a column only for a file with columns, such as .jsonl"
        )
    return TextFile(paths, None)


def to_json(record: dict[str, Any]) -> str:
    """Returns a record as one line of JSON; values that JSON does not have, such as dates, become texts."""
    return json.dumps(record, ensure_ascii=False, default=str)


def _text_rows(path: Path) -> Iterator[TextRow]:
    """Every line is a row, blank ones too: outputs are found by line number."""
    for number, line in enumerate(read_lines(path), 1):
        if message := invalid_byte(line):
            raise UserError(f"{path}:{number}: {message}", "UTF-8 text")
        text = line.removesuffix("\n").removesuffix("\r")
        yield TextRow(f"{path}:{number}", {TEXT_COLUMNS[0]: text}, text)


def _first_column(path: Path) -> str:
    columns = RequiredColumns(TEXT_COLUMNS, f"one of {', '.join(TEXT_COLUMNS)}", "name yours: --column", one_of=True)
    place, record = next(read_records(path, columns, all_columns=True), ("", None))
    if record is None:
        raise UserError(f"{path} is empty", "at least one row")
    if not isinstance(record, RowIssue):
        return next(column for column in TEXT_COLUMNS if column in record)
    raise columns.error(f"{place} {record.detail}") if record.kind == "missing_column" else _refusal(place, record)


def _refusal(place: str, issue: RowIssue) -> UserError:
    """The error for a row that cannot be read: every row has an output, so none is left out."""
    if issue.kind == "missing_column":
        return UserError(f"{place} {issue.detail}", "it in every row")
    return UserError(f"{place}: {issue.detail}", _EXPECTED[issue.kind])


_EXPECTED = {
    "not_utf8": "UTF-8 text",
    "not_json": "one JSON object per line",
    "not_object": "one JSON object per line",
    "too_few_fields": "as many fields as the header",
    "too_many_fields": "as many fields as the header",
    "header_again": "it once, on the first line",
}


def _checked(value: Any, what: str) -> str:
    """Returns a text that a tokenizer can read; it may be empty."""
    if not isinstance(value, str):
        raise UserError(f"{what} holds {value!r:.60}", "a text")
    check_characters(value, what)
    return value
