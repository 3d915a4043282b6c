"""Size, SHA-256 and XXH3 of files: whether they still are what was written.

XXH3 (128 bits) is as fast as memory is read, and finds accidents: bits that flipped, a file that was cut or exchanged.
It is what `load` compares. SHA-256 takes ten times as long; `nash_jax.verify` compares it too, and other programs
(`sha256sum`) can.
"""

import hashlib
import json
import os
import time
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import xxhash

Checksum = dict[str, Any]  # {"size": bytes, "sha256": hexadecimal, "xxh3_128": the same; older files lack it}
_HASHES: dict[str, Callable[[], Any]] = {"sha256": hashlib.sha256, "xxh3_128": xxhash.xxh3_128}
_PIECE = 1 << 18  # bytes, which stay in a core's cache from one hash to the next


def list_files(folder: Path) -> list[str]:
    """Relative paths of all files below a folder, in order."""
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if not path.is_dir())


def checksum(path: Path, hashes: Iterable[str] = tuple(_HASHES)) -> Checksum:
    """Size of a file, and its hashes of these names; it is read once."""
    found = {name: _HASHES[name]() for name in hashes}
    with path.open("rb") as file:
        while piece := file.read(_PIECE):
            for own in found.values():
                own.update(piece)
    return {"size": path.stat().st_size} | {name: own.hexdigest() for name, own in found.items()}


def is_same(path: Path, entry: Checksum, *, every_hash: bool = True) -> bool:
    """Whether a file has this checksum; with `every_hash=False` only the fastest hash that it holds is compared."""
    held = [name for name in _HASHES if name in entry]
    compared = held if every_hash else held[-1:]
    return checksum(path, compared) == {name: entry[name] for name in ("size", *compared)}


def json_checksum(content: Any) -> str:
    """SHA-256 of JSON values, whatever the order of their keys and the spaces between."""
    return hashlib.sha256(json.dumps(json.loads(json.dumps(content)), sort_keys=True).encode()).hexdigest()


def checksums(folder: Path) -> dict[str, Checksum]:
    """Relative path → checksum of every file below a folder."""
    return {name: checksum(folder / name) for name in list_files(folder)}


def parse_checksums(found: Any) -> dict[str, Checksum]:
    """Checks what a file of checksums holds: relative path → checksum, of files below the folder that it is for.

    Raises:
      ValueError: for anything else.
    """
    try:
        parsed = {name: _parse_entry(entry) for name, entry in found.items()}
    except (TypeError, KeyError, AttributeError, OverflowError) as error:
        raise ValueError(f"not checksums: {error!r}") from error
    for name in parsed:
        parts = Path(name).parts
        if not parts or "\0" in name or "/" in parts or ".." in parts or max(map(len, parts)) > 200:
            raise ValueError(f"{name[:40]!r} is not below the folder")
    return parsed


def _parse_entry(entry: Mapping[str, Any]) -> Checksum:
    hashes = {name: str(entry[name]) for name in _HASHES if name in entry}
    return {"size": int(entry["size"]), "sha256": str(entry["sha256"])} | hashes


def resized_file(folder: Path, expected: Mapping[str, Checksum]) -> str | None:
    """The first file that is missing or has another size than expected; nothing is read."""
    for name, entry in expected.items():
        path = folder / name
        if not path.is_file() or path.stat().st_size != entry["size"]:
            return name
    return None


def changed_file(
    folder: Path, expected: Mapping[str, Checksum], *, once: bool = False, every_hash: bool = False
) -> str | None:
    """The first file that is missing or has another content than expected; None if all are as they were.

    Sizes are compared before any content is read; files are hashed side by side (both hashes release the GIL).

    Args:
      folder: where they are.
      expected: from `checksums`.
      once: leave out files that this process has found unchanged before, and that have the same time and size since.
      every_hash: compare SHA-256 too, not XXH3 alone.
    """
    if name := resized_file(folder, expected):
        return name
    asked = [name for name in expected if not (once and _state(folder / name) in _UNCHANGED)]
    with ThreadPoolExecutor(_THREADS) as pool:
        for name, same in zip(
            asked, pool.map(lambda name: _is_same(folder / name, expected[name], every_hash), asked), strict=True
        ):
            if not same:
                pool.shutdown(cancel_futures=True)
                return name
    return None


_THREADS = min(4, os.cpu_count() or 1)
_RECENT = 2.0  # s, within which two writes may have the same time
_UNCHANGED = set[tuple[Any, ...]]()  # states in which files of this process were as expected


def _state(path: Path) -> tuple[Any, ...]:
    found = path.stat()
    return str(path), found.st_ino, found.st_mtime_ns, found.st_ctime_ns, found.st_size


def _is_same(path: Path, entry: Checksum, every_hash: bool) -> bool:
    before = _state(path)
    if not is_same(path, entry, every_hash=every_hash):
        return False
    if time.time() - path.stat().st_ctime > _RECENT:
        _UNCHANGED.add(before)
    return True
