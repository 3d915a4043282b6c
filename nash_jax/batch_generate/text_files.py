"""Files of texts: one text per line, or a JSONL column. The whole file is checked before it is used."""

import dataclasses
import hashlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from nash_jax.data.lines import parse_json_object, read_lines
from nash_jax.errors import UserError, did_you_mean
from nash_jax.generation.arguments import check_characters

TEXT_COLUMNS = ("source", "document", "text")  # text columns to look for if no column is given
UNSUPPORTED_SUFFIXES = (".json", ".csv", ".tsv", ".parquet", ".arrow", ".xlsx", ".zip", ".bz2", ".xz", ".zst")


class TextRow(NamedTuple):
    """A row of a file.

    Attributes:
      place: file and line number.
      record: the JSON object; {"source": text} for a text file.
      text: the text to generate for.
    """

    place: str
    record: dict[str, Any]
    text: str


class FileScan(NamedTuple):
    """Result of reading a whole file.

    Attributes:
      num_rows: number of lines.
      num_empty: number of texts with only white space.
      digest: SHA-256 of the lines, hexadecimal.
    """

    num_rows: int
    num_empty: int
    digest: str


@dataclasses.dataclass(frozen=True)
class TextFile:
    """A file to read texts from; created by `open_text_file`.

    Attributes:
      path: a .jsonl file, or a text file with one text per line; optionally .gz.
      column: text column of JSONL; None: lines are texts.
      new_column: column that will be added, so rows must not have it.
    """

    path: Path
    column: str | None
    new_column: str | None = None

    def scan(self) -> FileScan:
        """Reads and checks the whole file.

        Raises:
          UserError: for the first invalid row, or an empty file.
        """
        num_rows, num_empty, digest = 0, 0, hashlib.sha256()
        for num_rows, line in enumerate(read_lines(self.path), 1):
            num_empty += not self._row(line, f"{self.path}:{num_rows}").text.strip()
            digest.update(line.encode())
        if num_rows == 0:
            raise UserError(f"{self.path} is empty", "at least one line")
        return FileScan(num_rows, num_empty, digest.hexdigest())

    def rows(self, scan: FileScan) -> Iterator[TextRow]:
        """Yields the rows.

        Raises:
          UserError: after the last row, if the file has changed since the scan.
        """
        digest = hashlib.sha256()
        for number, line in enumerate(read_lines(self.path), 1):
            digest.update(line.encode())
            yield self._row(line, f"{self.path}:{number}")
        if digest.hexdigest() != scan.digest:
            raise UserError(f"{self.path} was changed while it was read", "an unchanged file")

    def _row(self, line: str, place: str) -> TextRow:
        if self.column is None:
            text = line.removesuffix("\n").removesuffix("\r")
            return TextRow(place, {TEXT_COLUMNS[0]: text}, text)
        record = parse_json_object(line, place)
        if self.column not in record:
            near = did_you_mean(self.column, record)
            raise UserError(f"{place} has columns {list(record)}, not {self.column!r}{near}", "it in every row")
        if self.new_column in record:
            raise UserError(
                f"{place} has a column {self.new_column!r} already", "none: it would be lost", "rename that one"
            )
        return TextRow(place, record, _checked(record[self.column], f"{place}: column {self.column!r}"))


def open_text_file(path: Path, column: str | None, new_column: str | None = None) -> TextFile:
    """Opens a file of texts: JSONL if its name ends in .jsonl or .jsonl.gz, else one text per line.

    Args:
      path: the file.
      column: text column of JSONL; None: the first of `TEXT_COLUMNS` that the first row has.
      new_column: column that rows of JSONL must not have.

    Raises:
      UserError: if the file does not exist or has an unsupported type, or the text column is unknown.
    """
    if not path.is_file():
        raise UserError(f"no file {path}", "an existing file")
    name = path.name.removesuffix(".gz")
    if name.endswith(UNSUPPORTED_SUFFIXES):
        raise UserError(
            f"{path} has an unsupported file type", ".jsonl, or a text file with one text per line, also with .gz"
        )
    if name.endswith(".jsonl"):
        return TextFile(path, column or _first_column(path), new_column)
    if column is not None:
        raise UserError(f"column {column!r} of {path}, a text file", "a column only for a .jsonl file")
    return TextFile(path, None)


def _first_column(path: Path) -> str:
    for line in read_lines(path):
        record = parse_json_object(line, f"{path}:1")
        for column in TEXT_COLUMNS:
            if column in record:
                return column
        raise UserError(
            f"{path}:1 has columns {list(record)}", f"one of {', '.join(TEXT_COLUMNS)}", "name yours: --column"
        )
    raise UserError(f"{path} is empty", "at least one line")


def _checked(value: Any, what: str) -> str:
    """Returns a text that a tokenizer can read; it may be empty."""
    if not isinstance(value, str):
        raise UserError(f"{what} holds {value!r:.60}", "a text")
    check_characters(value, what)
    return value
