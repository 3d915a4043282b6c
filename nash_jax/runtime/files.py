"""Small files: written whole or not at all, read with a message for what is wrong."""

import contextlib
import json
import os
import re
import socket
import stat
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from nash_jax.errors import UserError


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file beside and renames it; beside means apart from other hosts too, which may not see our locks.

    Half a surrogate pair, which UTF-8 cannot encode, is written as its escape sequence.
    """
    write_bytes(path, text.encode("utf-8", errors="backslashreplace"))


def write_bytes(path: Path, content: bytes) -> None:
    """Writes a file beside and renames it, as `write_text`."""
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.nash_jax")
    partial.write_bytes(content)
    partial.replace(path)


@contextlib.contextmanager
def writing(path: Path, do: str = "") -> Iterator[None]:
    """Turns an error of the file system within the block into one line.

    Args:
      path: what is written.
      do: what the message says to do.

    Raises:
      UserError: for such an error.
    """
    try:
        yield
    except OSError as error:
        reason = f"{path} cannot be written: {error.strerror or error}"
        raise UserError(reason, "a folder to write to and room in it", do) from error


# A path of pathlib has lost one of the two slashes; then only names of stores count, for a folder may be called `a:`.
_URL = re.compile(r"[a-z][a-z0-9+.-]*://|(abfss?|azure|file|ftp|gc?s|hdfs|hf|https?|oci|r2|s3[an]?|wasbs?):/", re.I)


def check_local(path: str | os.PathLike[str], setting: str = "") -> None:
    """Refuses a URL, which would be taken for a folder of this machine: `gs:` in the current one.

    A bucket has no renames of folders, no locks and no appending; runs, saves and outputs rely on all three.

    Args:
      path: a path, or several with commas between.
      setting: where it was given, for the message; empty: not said.

    Raises:
      UserError: for a path that begins as a URL does.
    """
    for part in os.fsdecode(path).split(","):
        if _URL.match(part.strip()):
            raise UserError(
                f"{setting}: {part.strip()} is a URL".removeprefix(": "),
                "a local or mounted file or folder",
                "mount the bucket (gcsfuse) or copy it before and after the run (rclone): launch/README.md",
            )


def find_folder(name: str) -> Path | None:
    """Returns the folder of a name, `~` expanded, or None if there is none.

    Raises:
      UserError: for the name of a file, or a URL.
    """
    check_local(name)
    try:
        path = Path(name).expanduser()
        if path.is_dir():
            return path
        is_file = path.exists()
    except (OSError, RuntimeError, ValueError):  # too long, an unknown user, a NUL character
        return None
    if is_file:
        raise UserError(f"{name} is a file", "a folder")
    return None


def check_regular(folder: Path, parts: Iterable[str] = ()) -> None:
    """Checks that the files of a folder are files: to open a pipe waits for its writer, and a device has no end.

    Args:
      folder: its own files are looked at, not those of its folders.
      parts: names of its folders of which everything is looked at.

    Raises:
      UserError: naming what is none.
    """
    below = (Path(place) / name for part in parts for place, _, names in os.walk(folder / part) for name in names)
    for path in [*folder.iterdir(), *below]:
        try:
            mode = path.stat().st_mode
        except OSError:  # a link to nothing, or to itself, is left to its reader
            continue
        if not (stat.S_ISREG(mode) or stat.S_ISDIR(mode)):
            raise UserError(f"{path} is a pipe or a device", "files of a model")


def read_small(path: Path) -> str:
    """Reads a UTF-8 file of settings: a regular one, for to open a pipe would wait for its writer, of bounded size.

    Raises:
      UserError: for anything else, or if it cannot be read.
    """
    try:
        status = path.stat()
        if not stat.S_ISREG(status.st_mode) or status.st_size > _SMALL:
            raise UserError(f"{path} is no file of settings", f"a regular file of up to {_SMALL >> 20} MiB")
        return path.read_text(encoding="utf-8")
    except FileNotFoundError as error:
        if path.is_symlink():
            raise UserError(f"{path} is a link to nothing", "the file itself", "download it again") from error
        raise UserError(f"{path.parent} has no {path.name}", "a folder in the hub's layout") from error
    except (OSError, ValueError) as error:
        raise UserError(f"{path} cannot be read: {error}", "the file as it was saved", "download it again") from error


def read_json(path: Path) -> dict[str, Any]:
    """Reads a JSON object from a model's folder.

    Raises:
      UserError: if the file is missing or does not contain a JSON object.
    """
    check_not_pointer(path)
    try:
        found = json.loads(read_small(path))
    except (ValueError, RecursionError) as error:
        raise UserError(f"{path} is not JSON: {error}", "the file as it was saved", "download it again") from error
    if not isinstance(found, dict):
        raise UserError(f"{path} holds a {type(found).__name__}", "the settings of a model")
    return found


_SMALL = 64 << 20  # bytes; tokenizers aside, files of a model's settings have some kilobytes
_POINTER = b"version https://git-lfs.github.com/spec/"


def check_not_pointer(path: Path) -> None:
    """Checks that a file is not what `git clone` leaves of it without Git LFS: a pointer of three lines.

    A file that cannot be opened is left to its reader.

    Raises:
      UserError: for a pointer.
    """
    if not path.is_file():  # to open a pipe would wait for its writer
        return
    try:
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
    except OSError:
        return
    if is_pointer:
        raise UserError(f"{path} is a pointer of Git LFS", "the file itself", f"git lfs pull in {path.parent}")
