"""Resumable results: appended to a partial file in any order, and written in order when all are complete.

OUTPUT.partial        results so far, each a JSON line [number, lines, CRC-32]; the last line may be incomplete
OUTPUT.settings.json  the settings that the results depend on; kept next to OUTPUT
OUTPUT                all results in order; does not exist before
"""

import contextlib
import json
import os
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from nash_jax.errors import UserError
from nash_jax.runtime.files import read_json, writing
from nash_jax.runtime.locks import LockedError, acquire, make_lock

_KEPT = "the results so far are kept; run the same command again to continue"


class ResumableFile:
    """A file of text lines that are created in any order.

    Args:
      path: the finished file.
      settings: JSON-serializable values that the results depend on; results with other settings are refused.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.partial = path.with_name(f"{path.name}.partial")
        self.record = path.with_name(f"{path.name}.settings.json")

    def is_done(self) -> bool:
        """Whether the finished file exists.

        Raises:
          UserError: if it exists, but with other settings.
        """
        if not self.path.exists():
            return False
        self._compare(self.path)
        return True

    @contextlib.contextmanager
    def open(self, total: int) -> Iterator["PartialResults"]:
        """Opens the partial results to continue from them; an incomplete last line is removed.

        When the block ends without an exception, the finished file is written.

        Args:
          total: total number of results, numbered from 0; all must exist at the end of the block.

        Raises:
          UserError: for results with other settings, another process that writes the file, or a file that cannot be
            written.
        """
        with writing(self.partial, _KEPT):
            if not self.partial.exists():
                self._check_record()  # before anything is created
            file = self.partial.open("ab", buffering=0)  # unbuffered: a failed write is not repeated on closing
        with file, self._locked():
            with writing(self.partial, _KEPT):
                if os.fstat(file.fileno()).st_size == 0:  # no results yet, so no results can be lost
                    self._check_record()
                    _write_whole(self.record, [json.dumps(self.settings, indent=1)])
                self._compare(self.partial)
                results = PartialResults(self.partial, file)
            yield results
            with writing(self.path, _KEPT):
                _write_whole(self.path, results.in_order(total))
                self.partial.unlink()

    @contextlib.contextmanager
    def _locked(self) -> Iterator[None]:
        lock = make_lock(self.partial)
        if not acquire(lock):
            raise LockedError(f"{self.partial} is being written by another process", do="wait, or stop it")
        try:
            yield
        finally:
            lock.release()

    def _check_record(self) -> None:
        """Refuses a settings file that another program wrote: it would be replaced."""
        try:
            ours = not self.record.exists() or self.settings.keys() & read_json(self.record).keys()
        except UserError:
            ours = False
        if not ours:
            raise UserError(f"{self.record} was not written by nash_jax", "no such file", "name another --output")

    def _compare(self, holder: Path) -> None:
        """Checks that existing results have the same settings."""
        try:
            then = read_json(self.record)
        except UserError as error:
            raise UserError(
                f"{holder} is there, but not its settings {self.record.name}",
                "results that this command wrote",
                "name another --output or move that one away",
            ) from error
        differing = [n for n in sorted(then.keys() | self.settings) if then.get(n) != self.settings.get(n)]
        if differing:
            pairs = (f"{n}={_shown(then, n)}, not {_shown(self.settings, n)}" for n in differing)
            raise UserError(
                f"{holder} holds results with {'; '.join(pairs)}",
                f"the settings they were made with, {self.record}",
                "name another --output or move that one away",
            )


class PartialResults:
    """Results by number, in a file that is open for appending.

    Args:
      path: JSON lines.
      file: the same file, open for appending.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path, self._file, self._end = path, file, 0
        self._places: dict[int, int] = {}  # number → offset of its line
        for number, line in _whole_lines(path):
            self._note(number, line)
        file.truncate(self._end)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, number: object) -> bool:
        return number in self._places

    def add(self, results: Mapping[int, Sequence[str]]) -> None:
        """Appends results, each a list of lines without line ends; they are on disk when it returns."""
        lines = [_line(number, list(lines)) for number, lines in results.items()]
        rest = memoryview(b"".join(lines))
        with writing(self._path, _KEPT):
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        for number, line in zip(results, lines, strict=True):
            self._note(number, line)

    def in_order(self, total: int) -> Iterator[str]:
        """Yields the lines of results 0 to total-1."""
        with self._path.open("rb") as file:
            for number in range(total):
                file.seek(self._places[number])
                yield from json.loads(file.readline())[1]

    def _note(self, number: int, line: bytes) -> None:
        self._places[number] = self._end
        self._end += len(line)


def read_results(path: Path) -> dict[int, list[str]]:
    """Reads partial results: number → lines, up to the first line that is incomplete or was changed.

    Args:
      path: a file that `PartialResults` appends to, or that another process does.
    """
    return {number: json.loads(line)[1] for number, line in _whole_lines(path)}


def _whole_lines(path: Path) -> Iterator[tuple[int, bytes]]:
    """Number and line of each result, up to the first that is incomplete or was changed, as by a power failure."""
    with path.open("rb") as lines:
        for line in lines:
            if (number := _number(line)) is None:
                break
            yield number, line


def _line(number: int, lines: list[str]) -> bytes:
    """The line of a result, with a checksum."""
    return f"{json.dumps([number, lines, zlib.crc32(json.dumps([number, lines]).encode())])}\n".encode()


def _number(line: bytes) -> int | None:
    """Number of the result in a line, or None if the line is incomplete or was changed."""
    try:
        number, lines, _ = json.loads(line)
    except (ValueError, TypeError, RecursionError):
        return None
    return number if line == _line(number, lines) else None


def _write_whole(path: Path, lines: Iterable[str]) -> None:
    """Writes a file atomically, also in case of a power failure.

    Half a surrogate pair, which UTF-8 cannot encode, is written as JSON's escape sequence.
    """
    beside = path.with_name(f".{path.name}.nash_jax")
    with beside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    _sync_folder(path.parent)


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False) if name in settings else "its default"


def _sync_folder(folder: Path) -> None:
    """Makes a rename durable, i.e. it survives a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
