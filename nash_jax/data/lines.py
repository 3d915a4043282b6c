"""Reads lines of text files and objects of JSONL files, plain or gzip; errors name the line."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nash_jax.errors import UserError

READ_ERRORS = (OSError, EOFError, zlib.error)  # raised when reading a plain or gzip file


def open_file(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Opens a file for reading bytes; files ending in .gz are decompressed."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def read_lines(path: Path) -> Iterator[str]:
    """Yields the lines of a UTF-8 text file, with line ends; a byte-order mark is removed.

    Raises:
      UserError: for a truncated file or one that is not UTF-8.
    """
    for number, line in enumerate(read_byte_lines(path), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(f"{path}:{number}: byte {byte:#x} is not UTF-8", "UTF-8 text") from error


def read_byte_lines(path: Path) -> Iterator[bytes]:
    """Yields the lines of a file as bytes, with line ends.

    Raises:
      UserError: for a truncated file.
    """
    number = 0
    try:
        with open_file(path) as file:
            for line in file:
                number += 1
                yield line
    except READ_ERRORS as error:
        raise UserError(
            f"{path}:{number + 1}: cannot be read: {error}", "a complete file", "download it again"
        ) from error


def parse_json_object(line: str, place: str) -> dict[str, Any]:
    """Parses a line as a JSON object.

    Args:
      line: with or without line end.
      place: file and line number, for the message.

    Raises:
      UserError: if it is not JSON, or not an object.
    """
    try:
        record = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {json_error(error)}", "one JSON object per line") from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: a JSON {type(record).__name__}", "one JSON object per line")
    return record


def json_error(error: Exception) -> str:
    """Returns the message of a `json.loads` error for one line, with the column."""
    return re.sub(r": line 1 (column \d+).*", r" at \1", str(error))
