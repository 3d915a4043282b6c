"""Reads the lines of text files, plain or gzip; the encoding is told by the byte-order mark, UTF-8 without one."""

import codecs
import gzip
import io
import re
import zlib
from collections.abc import Generator
from pathlib import Path

from nash_jax.errors import UserError

READ_ERRORS = (OSError, EOFError, zlib.error)  # raised when reading a plain or gzip file
_ESCAPED = re.compile(r"[\udc80-\udcff]")  # bytes that are not UTF-8, as decoded by `surrogateescape`
_GZIP = b"\x1f\x8b"  # first bytes of such a file
_MARKS = (  # UTF-32's first: its mark of little-endian begins with UTF-16's
    (codecs.BOM_UTF32_LE, "utf-32"),
    (codecs.BOM_UTF32_BE, "utf-32"),
    (codecs.BOM_UTF16_LE, "utf-16"),
    (codecs.BOM_UTF16_BE, "utf-16"),
)


def open_file(path: Path) -> gzip.GzipFile | io.BufferedReader:
    """Opens a file for reading bytes; one packed by gzip is decompressed, whatever its name is."""
    file = path.open("rb")
    if file.peek(2)[:2] != _GZIP:
        return file
    file.close()
    return gzip.open(path)


def read_lines(path: Path) -> Generator[str, None, None]:
    r"""Yields the lines of a text file with their line ends: \n, \r\n or \r.

    A byte-order mark is removed. Bytes that are not UTF-8 are kept as half surrogate pairs: see `invalid_byte`.

    Raises:
      UserError: for a truncated file, or one that is not what its byte-order mark says.
    """
    number = 0
    try:
        with open_file(path) as file:
            start = file.peek(4)[:4]
            encoding = next((name for mark, name in _MARKS if start.startswith(mark)), "utf-8-sig")
            errors = "surrogateescape" if encoding == "utf-8-sig" else "strict"
            with io.TextIOWrapper(file, encoding, errors, newline="") as text:
                for line in text:
                    number += 1
                    yield line
    except READ_ERRORS as error:
        raise UserError(
            f"{path}:{number + 1}: cannot be read: {error}", "a complete file", "download it again"
        ) from error
    except UnicodeDecodeError as error:
        raise UserError(
            f"{path}:{number + 1}: not {error.encoding.upper()}, which the file's first bytes name: {error.reason}",
            "a complete file in one encoding",
        ) from error


def invalid_byte(text: str) -> str:
    """Returns a message if a text of `read_lines` has a byte that is not UTF-8, else an empty string."""
    found = None if text.isascii() else _ESCAPED.search(text)
    return f"byte {ord(found[0]) - 0xDC00:#x} is not UTF-8" if found else ""


def json_error(error: Exception) -> str:
    """Returns the message of a `json.loads` error for one line, with the column and without Python's advice."""
    return re.sub(r": line 1 (column \d+).*", r" at \1", str(error)).partition("; use sys.")[0]
