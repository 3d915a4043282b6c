"""SHA-256 and size of files: whether they still are what was written."""

import hashlib
from collections.abc import Mapping
from pathlib import Path
from typing import Any

Checksum = dict[str, Any]  # {"size": bytes, "sha256": hexadecimal}


def list_files(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def checksum(path: Path) -> Checksum:
    """Size and SHA-256 of a file."""
    with path.open("rb") as file:
        return {"size": path.stat().st_size, "sha256": hashlib.file_digest(file, "sha256").hexdigest()}


def checksums(folder: Path) -> dict[str, Checksum]:
    """Relative path → checksum of every file below a folder."""
    return {name: checksum(folder / name) for name in list_files(folder)}


def changed_file(folder: Path, expected: Mapping[str, Checksum]) -> str | None:
    """The first file that is missing or has another content than expected; None if all are as they were.

    Args:
      folder: where they are.
      expected: from `checksums`.
    """
    for name, entry in expected.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["size"] or checksum(path) != entry:
            return name
    return None
