"""Lines of text files and objects of JSONL files, plain or gzip; what is wrong is said with its line."""

import gzip
import io
import json
import re
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from nash_jax.errors import UserError

READ_ERRORS = (OSError, EOFError, zlib.error)  # what reading a file, plain or gzip, raises


def open_file(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """The file's bytes, unpacked if its name ends in .gz."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 text file, with their line ends; a byte-order mark is left out.

    Raises:
      UserError: for a file cut short or not in UTF-8.
    """
    for number, line in enumerate(read_byte_lines(path), 1):
        try:
            yield line.decode("utf-8-sig" if number == 1 else "utf-8")
        except UnicodeDecodeError as error:
            byte = error.object[error.start]
            raise UserError(f"{path}:{number}: byte {byte:#x} is not UTF-8", "UTF-8 text") from error


def read_byte_lines(path: Path) -> Iterator[bytes]:
    """Lines of a file as they are, with their line ends.

    Raises:
      UserError: for a file cut short.
    """
    number = 0
    try:
        with open_file(path) as file:
            for line in file:
                number += 1
                yield line
    except READ_ERRORS as error:
        raise UserError(f"{path}:{number + 1}: cannot be read: {error}", "a whole file", "fetch it again") from error


def parse_json_object(line: str, place: str) -> dict[str, Any]:
    """The JSON object that a line holds.

    Args:
      line: with or without its end.
      place: file and line, for the message.

    Raises:
      UserError: when it holds something else.
    """
    try:
        record = json.loads(line.rstrip())
    except (ValueError, RecursionError) as error:
        raise UserError(f"{place}: not JSON: {json_error(error)}", "one JSON object a line") from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: a JSON {type(record).__name__}", "one JSON object a line")
    return record


def json_error(error: Exception) -> str:
    """What `json.loads` complains of in a line, and in which column."""
    return re.sub(r": line 1 (column \d+).*", r" at \1", str(error))
