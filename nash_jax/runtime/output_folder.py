"""Folders that a save fills: all of its files or none, and nothing that someone else put there is changed.

FOLDER/nash_jax.json   the manifest: the files that were saved there, with sizes and hashes; written last
FOLDER/.nash_jax/      exists while a save runs: its lock, and the new files in `new`, renamed to `commit` when complete

A process that is killed before the rename leaves the folder as it was; after it, the next reader or writer of the
folder completes the save.
"""

import contextlib
import functools
import json
import os
import re
import shutil
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib import metadata
from pathlib import Path
from typing import Any

from filelock import FileLock

from nash_jax.errors import UserError
from nash_jax.runtime.checksums import (
    changed_file,
    checksums,
    is_same,
    json_checksum,
    list_files,
    parse_checksums,
    resized_file,
)
from nash_jax.runtime.files import check_local, read_json, writing
from nash_jax.runtime.locks import LockedError, acquire, make_lock
from nash_jax.runtime.multihost import barrier, broadcast_from_host0, is_host0

MANIFEST = "nash_jax.json"
MANIFEST_VERSION = 2  # 1 had neither XXH3 nor a checksum of its own
_STAGING = ".nash_jax"
_EDITABLE = ("config.json", "generation_config.json", "tokenizer_config.json", "special_tokens_map.json")
_SAVE_AGAIN = f"copy the folder anew; if another program saved there since, delete {MANIFEST}"
_LARGE = 1 << 20  # bytes
_FOREIGN = "was not written by nash_jax"


def resolve_folder(folder: Any) -> Path:
    """Returns the absolute path of a folder to write to: `~` and symbolic links are followed.

    Raises:
      UserError: for something that is no path, a URL, or a path that leads to something other than a folder.
    """
    if not isinstance(folder, str | os.PathLike) or not os.fspath(folder):
        raise UserError(f"the folder is {' '.join(repr(folder).split())[:60]}", "a path")
    check_local(folder)
    try:
        named = Path(os.fsdecode(folder)).expanduser().absolute()
        found = named.resolve()
        wrong = found.exists() and not found.is_dir()
    except (OSError, RuntimeError, ValueError) as error:  # a loop of links, an unknown user, a NUL character
        raise UserError(f"{folder!r} is no path: {error}", "a folder to write to") from error
    if "\\" in str(found):  # TensorStore reads it as another separator
        raise UserError(f"{folder} lies in a folder with a backslash in its name", "a name without")
    if wild := re.search(r"[\[*?]", f"{named}{found}"):  # Orbax finds its files by a pattern that has it
        raise UserError(f"{folder} lies in a folder with {wild[0]} in its name", "a name without [, * and ?")
    if not str(found).isascii() and re.search(r"[\ud800-\udfff]", str(found)):
        raise UserError(f"{str(folder)!r} lies in a folder whose name is not UTF-8", "a name in UTF-8")
    if wrong:
        raise UserError(f"{folder} is not a folder", "a folder to write to")
    return found


@contextlib.contextmanager
def fill_folder(folder: str | os.PathLike[str]) -> Iterator[Path]:
    """Gives an empty folder to write to; at the end of the block its files replace those of an earlier save.

    All processes of a run enter the block; what only one of them should write is up to the caller.

    Args:
      folder: created if missing. Files in it that no save wrote stay as they are.

    Yields:
      The folder to write to.

    Raises:
      UserError: if a file of another origin is in the way, another process saves there, or it cannot be written. The
        folder is then as it was.
    """
    target = resolve_folder(folder)
    new = target / _STAGING / "new"
    with writing(target):
        made, lock = _missing_folders(target), None
        try:
            lock = _begin(target, new) if is_host0() else None
            barrier(f"begin {target.name}")
            yield new
            barrier(f"written {target.name}")
            in_the_way = broadcast_from_host0(_foreign_files(target, new) if is_host0() else None)
            if in_the_way:
                raise UserError(
                    str(target / in_the_way[0]),
                    "a new folder, or that of an earlier save",
                    "name another folder or move that file away",
                )
            if is_host0():
                write_manifest(new)
                new.rename(new.with_name("commit"))
                _complete(target)
        finally:
            if lock is not None:
                _end(target, lock)
            if is_host0():
                _remove_empty(made)
    barrier(f"saved {target.name}")


def complete_save(folder: Path) -> None:
    """Completes a save into this folder that was interrupted after all of its files had been written.

    Raises:
      UserError: if the folder cannot be written.
    """
    commit = folder / _STAGING / "commit"
    if not commit.is_dir() or commit.is_symlink() or not is_host0():
        return
    with writing(folder):
        lock = make_lock(folder / _STAGING / "lock")
        acquire(lock, lambda: f"waiting for the process that saves to {folder} …")
        try:
            _complete(folder)
        finally:
            _end(folder, lock)


def verify_save(folder: Path, *, every_hash: bool = False) -> list[str]:
    """Compares the files of a folder with what was saved there; does nothing without a manifest.

    Args:
      folder: a folder that `fill_folder` filled.
      every_hash: compare SHA-256 too, not XXH3 alone.

    Returns:
      Files of settings in text, which a user may have edited, that are not as they were saved.

    Raises:
      UserError: naming another file that was changed or is missing, or a manifest that cannot be read.
    """
    with verifying(folder, every_hash=every_hash) as edited:
        return edited()


@contextlib.contextmanager
def verifying(folder: Path, *, every_hash: bool = False) -> Iterator[Callable[[], list[str]]]:
    """Compares as `verify_save`: sizes and small files at once, large ones in a thread while the block reads them.

    Yields:
      Waits until all is compared; returns what `verify_save` does.

    Raises:
      UserError: as `verify_save`; also where the block failed, for what it read may be damaged.
    """
    saved = read_manifest(folder)
    if not saved and os.path.lexists(folder / MANIFEST):
        raise UserError(f"{folder / MANIFEST} is no manifest", "the file as it was saved", _SAVE_AGAIN)
    fixed = {name: entry for name, entry in saved.items() if Path(name).name not in _EDITABLE}

    def compare(find: Callable[[Path, Mapping[str, Any]], str | None], files: Mapping[str, Any]) -> None:
        if wrong := find(folder, files):
            raise UserError(
                f"{folder / wrong} was changed since it was saved, or is missing", "it as saved", _SAVE_AGAIN
            )

    def edited() -> list[str]:
        compared.result()
        return [name for name in saved if name not in fixed and changed_file(folder, {name: saved[name]})]

    large = {name: entry for name, entry in fixed.items() if entry["size"] > _LARGE}
    changed = functools.partial(changed_file, every_hash=every_hash)
    compare(resized_file, fixed)
    compare(changed, {name: entry for name, entry in fixed.items() if name not in large})
    with ThreadPoolExecutor(1) as pool:
        compared = pool.submit(compare, changed, large)
        try:
            yield edited
        finally:
            compared.result()


def read_manifest(folder: Path) -> dict[str, dict[str, Any]]:
    """Returns the files that a save wrote to a folder: relative path → its checksum.

    Empty without a manifest, and for a file of this name that is not one.
    """
    try:
        found = read_json(folder / MANIFEST)
        files, version = parse_checksums(found["files"]), found["manifest_version"]
        whole = version == 1 or (version == MANIFEST_VERSION and found["checksum"] == json_checksum(found["files"]))
    except (UserError, ValueError, KeyError):
        return {}
    return files if whole else {}


def _begin(target: Path, new: Path) -> FileLock:
    """Takes the lock of a folder and prepares an empty folder for the new files."""
    staging = new.parent
    if staging.exists() and not (staging / "lock").exists() and any(staging.iterdir()):
        raise UserError(f"{staging} was not written by nash_jax", "no such name", "move it away")
    staging.mkdir(parents=True, exist_ok=True)
    lock = make_lock(staging / "lock")
    if not acquire(lock):
        raise LockedError(f"{target} is being written by another process", do="wait, or stop it")
    _complete(target)
    shutil.rmtree(new, ignore_errors=True)
    new.mkdir()
    return lock


def _foreign_files(target: Path, new: Path) -> list[str]:
    """Paths that the new files need and that hold something that no save wrote, or changed since, and which of both."""
    ours, found = read_manifest(target), []
    for name in [*list_files(new), MANIFEST]:
        parents = [target / parent for parent in list(Path(name).parents)[:-1]]
        blocked = [p for p in parents if os.path.lexists(p) and (p.is_symlink() or not p.is_dir())]
        if blocked:
            found.append(f"{blocked[0].relative_to(target)} {_FOREIGN}")
        elif os.path.lexists(target / name) and not (name == MANIFEST and ours) and not _is_saved(target, name, ours):
            found.append(f"{name} {'was changed since nash_jax wrote it' if name in ours else _FOREIGN}")
    return found


def _is_saved(target: Path, name: str, saved: Mapping[str, Any]) -> bool:
    """Whether a file is still the one of an earlier save: another program may have written a newer one."""
    return name in saved and (target / name).is_file() and is_same(target / name, saved[name])


def write_manifest(new: Path) -> None:
    """Writes the manifest of all files that are in a folder."""
    files, version = checksums(new), metadata.version("nash_jax")
    content = {"manifest_version": MANIFEST_VERSION, "written_by": f"nash_jax {version}"}
    content |= {"checksum": json_checksum(files), "files": files}
    (new / MANIFEST).write_text(json.dumps(content, indent=1), encoding="utf-8")


def _complete(target: Path) -> None:
    """Moves the files of a finished `commit` to their places, the manifest last; does nothing without one."""
    commit = target / _STAGING / "commit"
    if not commit.is_dir():
        return
    new = read_manifest(commit)
    if new:  # else the manifest has been moved, and with it all
        _remove_stale(target, new)
        for name in [*new, MANIFEST]:
            if (commit / name).exists():  # else it was moved before an interruption
                (target / name).parent.mkdir(parents=True, exist_ok=True)
                (commit / name).replace(target / name)
    shutil.rmtree(commit)


def _remove_stale(target: Path, new: Mapping[str, Any]) -> None:
    """Removes files of the earlier save that the new one does not have, unless they were changed since."""
    for name, entry in read_manifest(target).items():
        path = target / name
        if name in new or path.is_symlink() or not _is_saved(target, name, {name: entry}):
            continue
        path.unlink()
        _remove_empty([target / parent for parent in list(Path(name).parents)[:-1]])


def _missing_folders(target: Path) -> list[Path]:
    """The folders that have to be created for a folder to exist, innermost first."""
    return [path for path in (target, *target.parents) if not path.exists()]


def _end(target: Path, lock: FileLock) -> None:
    """Removes what a save needed while it ran, and releases its lock."""
    staging = target / _STAGING
    shutil.rmtree(staging / "new", ignore_errors=True)
    if not (staging / "commit").exists():
        (staging / "lock").unlink(missing_ok=True)
        _remove_empty([staging])
    lock.release()


def _remove_empty(folders: Iterable[Path]) -> None:
    """Removes folders in this order, except those that hold anything."""
    for folder in folders:
        with contextlib.suppress(OSError):
            folder.rmdir()
