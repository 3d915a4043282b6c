"""Results that survive a kill: lines are appended in chunks to a file beside, which is renamed when all are there.

OUTPUT.partial        what there is so far: whole chunks, and perhaps a torn one at the end
OUTPUT.settings.json  what the results hang on; stays beside OUTPUT
OUTPUT                all, or not there
"""

import contextlib
import fcntl
import itertools
import json
import os
from collections.abc import Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from nash_jax.errors import UserError


class ResumableFile:
    """Lines of text, each written once.

    Args:
      path: the finished file.
      settings: JSON-able values that the lines hang on; lines of other settings are refused.
    """

    def __init__(self, path: Path, settings: Mapping[str, Any]) -> None:
        self.path, self.settings = path, json.loads(json.dumps(settings))
        self.partial = path.with_name(f"{path.name}.partial")
        self.record = path.with_name(f"{path.name}.settings.json")

    def is_done(self) -> bool:
        """Whether all lines are there.

        Raises:
          UserError: when the file is there, but of other settings.
        """
        if not self.path.exists():
            return False
        self._compare(self.path)
        return True

    @contextlib.contextmanager
    def open(self, total: int, chunk: int) -> Iterator["Appender"]:
        """Goes on after the whole chunks that there are; what is torn is cut off.

        When the block ends without an exception the file gets its name.

        Args:
          total: lines in all.
          chunk: lines appended at a time; the last time it may be fewer.

        Raises:
          UserError: for lines of other settings, another process that writes here, or a file that cannot be
            written.
        """
        with _writing(self.partial):
            file = self.partial.open("ab", buffering=0)  # what could not be written is not tried again when closing
        with file:
            with _writing(self.partial):
                self._lock(file)
                if os.fstat(file.fileno()).st_size == 0:  # nothing can be lost
                    self._write_record()
                self._compare(self.partial)
                kept, size = _whole_chunks(self.partial, total, chunk)
                file.truncate(size)
            yield Appender(self.partial, file, kept)
            with _writing(self.path):
                self.partial.rename(self.path)
                _sync_folder(self.path.parent)

    def _lock(self, file: FileIO) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(f"{self.partial} is being written by another process", do="wait, or stop it") from error

    def _write_record(self) -> None:
        beside = self.record.with_name(f"{self.record.name}.partial")
        with beside.open("w") as file:
            json.dump(self.settings, file, indent=1)
            file.flush()
            os.fsync(file.fileno())
        beside.rename(self.record)
        _sync_folder(self.record.parent)

    def _compare(self, holder: Path) -> None:
        """Refuses lines of other settings."""
        try:
            then = dict(json.loads(self.record.read_text()))
        except (OSError, ValueError, TypeError) as error:
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


class Appender:
    """A file open for whole chunks.

    Attributes:
      start: lines that were there.
    """

    def __init__(self, path: Path, file: FileIO, start: int) -> None:
        self._path, self._file, self.start = path, file, start

    def append(self, lines: Sequence[str]) -> None:
        """Appends lines, given without ends; when it returns they are on the disk.

        Half a surrogate pair, which UTF-8 cannot hold, is written as JSON's escape.
        """
        rest = memoryview("".join(f"{line}\n" for line in lines).encode("utf-8", "backslashreplace"))
        with _writing(self._path):
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())


def _whole_chunks(path: Path, total: int, chunk: int) -> tuple[int, int]:
    """Lines in a file's whole chunks, and their bytes.

    Going on there, chunks begin where they would have begun without the kill, so that batches hold the same rows.
    """
    kept = end = position = 0
    with path.open("rb") as file:
        for count, line in enumerate(itertools.islice(file, total), 1):
            position += len(line)
            if line.endswith(b"\n") and (count % chunk == 0 or count == total):
                kept, end = count, position
    return kept, end


@contextlib.contextmanager
def _writing(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"{path} cannot be written: {error.strerror or error}",
            "a folder to write to and room in it",
            "what was done is kept, and the same command goes on after it",
        ) from error


def _shown(settings: Mapping[str, Any], name: str) -> str:
    return json.dumps(settings[name], ensure_ascii=False) if name in settings else "its default"


def _sync_folder(folder: Path) -> None:
    """Makes a rename last through a power failure."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
