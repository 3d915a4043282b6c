"""Results that survive a kill: noted in a file beside, in any order, and put in order when all are there.

OUTPUT.partial        results so far, each a JSON line [number, lines]; perhaps a torn one at the end
OUTPUT.settings.json  what the results hang on; stays beside OUTPUT
OUTPUT                all, in order, or not there
"""

import contextlib
import json
import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from io import FileIO
from pathlib import Path
from typing import Any

from nash_jax.errors import UserError
from nash_jax.runtime.locks import LockedError, acquire, make_lock


class ResumableFile:
    """Lines of text, made in any order.

    Args:
      path: the finished file.
      settings: JSON-able values that the results hang on; results of other settings are refused.
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
    def open(self, total: int) -> Iterator["PartialResults"]:
        """What there is, to go on with; what is torn is cut off.

        When the block ends without an exception, the finished file is written.

        Args:
          total: results in all, numbered from 0; at the end of the block none may lack.

        Raises:
          UserError: for results of other settings, another process that writes here, or a file that cannot be
            written.
        """
        with _writing(self.partial):
            file = self.partial.open("ab", buffering=0)  # what could not be written is not tried again when closing
        with file, self._locked():
            with _writing(self.partial):
                if os.fstat(file.fileno()).st_size == 0:  # nothing can be lost
                    _write_whole(self.record, [json.dumps(self.settings, indent=1)])
                self._compare(self.partial)
                results = PartialResults(self.partial, file)
            yield results
            with _writing(self.path):
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

    def _compare(self, holder: Path) -> None:
        """Refuses results of other settings."""
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


class PartialResults:
    """Results by number, in a file that is open for more.

    Args:
      path: JSON lines.
      file: the same, open for appending.
    """

    def __init__(self, path: Path, file: FileIO) -> None:
        self._path, self._file, self._end = path, file, 0
        self._places: dict[int, int] = {}  # number → where its line begins
        with path.open("rb") as there:
            for line in there:
                number = _number(line)
                if number is None:  # torn, or after a power failure never written
                    break
                self._note(number, line)
        file.truncate(self._end)

    def __len__(self) -> int:
        return len(self._places)

    def __contains__(self, number: object) -> bool:
        return number in self._places

    def add(self, results: Mapping[int, Sequence[str]]) -> None:
        """Appends results, each some lines given without ends; when it returns they are on the disk."""
        lines = [f"{json.dumps([number, list(lines)])}\n".encode() for number, lines in results.items()]
        rest = memoryview(b"".join(lines))
        with _writing(self._path):
            while rest:
                rest = rest[self._file.write(rest) :]
            os.fsync(self._file.fileno())
        for number, line in zip(results, lines, strict=True):
            self._note(number, line)

    def in_order(self, total: int) -> Iterator[str]:
        """The lines of results 0 to total-1."""
        with self._path.open("rb") as file:
            for number in range(total):
                file.seek(self._places[number])
                yield from json.loads(file.readline())[1]

    def _note(self, number: int, line: bytes) -> None:
        self._places[number] = self._end
        self._end += len(line)


def _number(line: bytes) -> int | None:
    """Of the result that a line holds, if it is whole."""
    try:
        number, _ = json.loads(line)
    except (ValueError, TypeError):
        return None
    return number if line.endswith(b"\n") else None


def _write_whole(path: Path, lines: Iterable[str]) -> None:
    """A file that is there whole, also after a power failure, or not at all.

    Half a surrogate pair, which UTF-8 cannot hold, is written as JSON's escape.
    """
    beside = path.with_name(f"{path.name}.whole")
    with beside.open("w", encoding="utf-8", errors="backslashreplace", newline="\n") as file:
        file.writelines(f"{line}\n" for line in lines)
        file.flush()
        os.fsync(file.fileno())
    beside.rename(path)
    _sync_folder(path.parent)


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
