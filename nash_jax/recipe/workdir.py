"""The run's folder: a sub-folder a stage, each ending with a `done` marker written last."""

import json
import os
import shutil
import socket
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from nash_jax.config.schema import STAGES
from nash_jax.errors import UserError
from nash_jax.runtime.checksums import Checksum, changed_file, checksum, json_checksum, parse_checksums
from nash_jax.runtime.files import read_json, write_text
from nash_jax.runtime.locks import LockedError, acquire, make_lock
from nash_jax.runtime.multihost import broadcast_from_host0, is_host0
from nash_jax.runtime.output_folder import MANIFEST, read_manifest, resolve_folder

WORKDIR_VERSION = 1
_VERSION_KEY = "nash_jax_workdir"  # first key of the settings file: what tells it from another program's config.json
_RUN_FILES = (
    *STAGES, "cells", "teachers", "tables", "metrics.jsonl", "report.json", "report.html", "study.json",
)  # fmt: skip


class Workdir:
    """Stages by name: what is done is not done again.

    Args:
      folder: made if missing.
      config: the run's settings; another run's folder is refused.
      shared: stages that lie in another run's folder → that one.
    """

    def __init__(
        self, folder: str | Path, config: dict[str, Any], shared: Mapping[str, "Workdir"] | None = None
    ) -> None:
        resolve_folder(folder)  # refuses what is no folder
        self.folder, self.shared = Path(folder).expanduser(), shared or {}
        self._verified: set[str] = set()  # stages whose files have been compared with their checksums
        self.config = json.loads(json.dumps({_VERSION_KEY: WORKDIR_VERSION} | config))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            if not self._is_begun():
                self._check_origin()
            self._claim(own=False)
        except OSError as error:
            raise UserError(f"workdir {folder} cannot be written: {error.strerror}", "a folder to write to") from error

    def _is_begun(self) -> bool:
        """Whether a run has done a stage here, or is in the middle of its first."""
        return any(self.folder.glob("*/done")) or any(self.folder.glob("*/checkpoints"))

    def _check_origin(self) -> None:
        """Refuses a folder in which files of another program have the names that a run would write."""
        settings = self.folder / "config.json"
        if settings.exists():
            text = settings.read_text(encoding="utf-8", errors="replace")
            foreign = [settings] if text and f'"{_VERSION_KEY}"' not in text[:100] else []
        else:
            foreign = [self.folder / name for name in _RUN_FILES if (self.folder / name).exists()]
            foreign = [] if settings.exists() else foreign  # another process has just begun this run
        if foreign:
            raise UserError(
                f"{foreign[0]} was not written by this version of nash_jax",
                "a new folder, or that of an earlier run",
                "name another --workdir",
            )

    def _claim(self, own: bool) -> None:
        """Refuses a folder where a stage is done with other settings; writes the settings where none is done.

        Args:
          own: whether this process has the lock; until then, settings that are there may be those of who has it.
        """
        path = self.folder / "config.json"
        if self._is_begun():
            self._compare(_read_settings(path))
        elif own and is_host0():
            write_text(path, json.dumps(self.config, indent=1))
        elif is_host0():
            with suppress(FileExistsError), path.open("x", encoding="utf-8") as file:
                json.dump(self.config, file, indent=1)

    def _compare(self, first: dict[str, Any]) -> None:
        differing = sorted(set(_leaves(first).items()) ^ set(_leaves(self.config).items()))
        if differing:
            name = differing[0][0]
            then, now = (_leaves(c).get(name, "(not there)") for c in (first, self.config))
            raise UserError(
                f"{self.folder} holds a run with {name}={then}, not {now}",
                "the settings it was started with",
                f"name another --workdir or delete {self.folder}",
            )

    def stage(self, name: str) -> Path:
        """The stage's folder."""
        if name in self.shared:
            return self.shared[name].stage(name)
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def result(self, name: str) -> dict[str, Any] | None:
        """What a stage that is done returned; None of one that is not. Processes of one run all call this."""
        if name in self.shared:
            return self.shared[name].result(name)
        is_done = is_host0() and (self.folder / name / "done").exists()
        found = None
        if is_done:
            found = read_done(self.folder / name, verify_files=name not in self._verified)
            self._verified.add(name)
        return broadcast_from_host0(found)

    def files(self, name: str) -> list[Path]:
        """Files of this name at the top of the folders that the stages lie in, shared ones first."""
        folders = dict.fromkeys([*(workdir.folder for workdir in self.shared.values()), self.folder])
        return [folder / name for folder in folders if (folder / name).exists()]

    @contextmanager
    def locked(self, wait: bool = False) -> Iterator[None]:
        """No other process works here meanwhile. The lock ends with the process, however that ends.

        Args:
          wait: when another process holds the lock, until it is released.

        Raises:
          LockedError: when another process works here.
          UserError: when another has done a stage with other settings.
        """
        lock, holder = make_lock(self.folder / ".lock"), self.folder / ".holder"

        def waiting() -> str:
            return f"waiting for {_read_holder(holder)}, which works in {self.folder} …"

        if not broadcast_from_host0(acquire(lock, waiting if wait else None) if is_host0() else None):
            raise LockedError(f"{self.folder} is locked by {_read_holder(holder)}", "one process at a time")
        try:
            self._claim(own=True)
            if is_host0():
                write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:
            lock.release()

    def is_locked(self) -> bool:
        """Whether a process works here."""
        lock = make_lock(self.folder / ".lock")
        free = acquire(lock)
        lock.release()
        return not free

    def results(self, names: Iterable[str]) -> dict[str, dict[str, Any]]:
        """What those stages returned that are done."""
        found = {name: self.result(name) for name in names}
        return {name: result for name, result in found.items() if result is not None}

    def run(self, name: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """What the stage returned: now, or when it was done; a shared one has been done before.

        Args:
          name: of the stage.
          work: does it, in the folder given; its JSON-able result goes into the marker.
        """
        done = self.result(name)
        if done is None:
            if is_host0():
                print(f"{name} …", file=sys.stderr, flush=True)
            begun = time.monotonic()
            done = work(self.stage(name))
            done.setdefault("seconds", round(time.monotonic() - begun, 2))
            done = broadcast_from_host0(
                json.loads(json.dumps(done))
            )  # waits for all: nothing is missing when the marker is there
            if is_host0():
                files = _own_checksums(self.stage(name))
                sums = {"done": json_checksum([done, files]), "files": files}
                write_text(self.stage(name) / "done", json.dumps(done | {"checksums": sums}))
        if is_host0():
            shutil.rmtree(self.stage(name) / "checkpoints", ignore_errors=True)  # three times the model; not needed now
        return dict(done)


def read_done(folder: Path, verify_files: bool = True) -> dict[str, Any]:
    """Reads the marker of a finished stage.

    Args:
      folder: of the stage.
      verify_files: also compare the files beside the marker with their checksums.

    Returns:
      What the stage returned.

    Raises:
      UserError: naming the marker or the file that is not as it was written.
    """
    try:
        found = read_json(folder / "done")
        sums = found.pop("checksums")
        wrong = None if sums["done"] == json_checksum([found, sums["files"]]) else "done"
        if wrong is None and verify_files:
            wrong = changed_file(folder, parse_checksums(sums["files"]))
    except (UserError, AttributeError, KeyError, TypeError, ValueError):
        found, wrong = {}, "done"
    if wrong:
        raise UserError(
            f"{folder / wrong} was changed or is damaged",
            "the file as it was written",
            f"delete {folder} to do this stage again",
        )
    return found


def _own_checksums(folder: Path) -> dict[str, Checksum]:
    """Checksums of the files at the top of a stage's folder that have no manifest."""
    names = [path.name for path in folder.iterdir() if path.is_file() and path.name not in ("done", MANIFEST)]
    return {name: checksum(folder / name) for name in sorted(set(names) - read_manifest(folder).keys())}


def _read_holder(holder: Path) -> str:
    return holder.read_text(encoding="utf-8") if holder.exists() else "another process"


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return read_json(path)
    except UserError as error:
        raise UserError(
            f"{path} is not the settings of a run, though stages of one are done there",
            "the file as it was written",
            f"name another --workdir or delete {path.parent}",
        ) from error


def _leaves(config: Any, place: str = "config") -> dict[str, str]:
    """Nested settings → {dotted name: value as text}."""
    if isinstance(config, dict):
        return {k: v for name, value in config.items() for k, v in _leaves(value, f"{place}.{name}").items()}
    return {place: json.dumps(config)}
