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

BROKEN = (OSError, EOFError, zlib.error)  # what reading a file, plain or gzip, raises


def open_file(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """The file's bytes, unpacked if its name ends in .gz."""
    return gzip.open(path) if path.suffix == ".gz" else path.open("rb")


def read_lines(path: Path) -> Iterator[str]:
    """Lines of a UTF-8 text file, with their line ends; a byte-order mark is left out.

    Raises:
      UserError: for a file cut short or not in UTF-8.
    """
    number = 0
    try:
        with open_file(path) as file:
            for number, line in enumerate(file, 1):
                yield line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        raise UserError(f"{path}:{number}: byte {error.object[error.start]:#x} is not UTF-8", "UTF-8 text") from error
    except BROKEN as error:
        raise UserError(f"{path}:{number + 1}: cannot be read: {error}", "a whole file", "fetch it again") from error


def parse_object(line: str, place: str) -> dict[str, Any]:
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
        what = re.sub(r": line 1 (column \d+).*", r" at \1", str(error))
        raise UserError(f"{place}: not JSON: {what}", "one JSON object a line") from error
    if not isinstance(record, dict):
        raise UserError(f"{place}: a JSON {type(record).__name__}", "one JSON object a line")
    return record
