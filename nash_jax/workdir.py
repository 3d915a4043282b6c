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

import jax
import numpy as np
from filelock import FileLock, Timeout
from jax.experimental import multihost_utils

from nash_jax.errors import UserError
from nash_jax.training.metrics import write_text


class HeldError(UserError):
    """Another process works in the folder."""


_MOMENT = 0.5  # seconds


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
        self.folder, self.shared = Path(folder).expanduser(), shared or {}
        self.config = json.loads(json.dumps(config))
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
            self._claim(own=False)
        except OSError as error:
            raise UserError(f"workdir {folder} cannot be written: {error.strerror}", "a folder to write to") from error

    def _claim(self, own: bool) -> None:
        """Refuses a folder where a stage is done with other settings; writes the settings where none is done.

        Args:
          own: whether the folder is held; until then, settings that are there may be those of who holds it.
        """
        path = self.folder / "config.json"
        if any(self.folder.glob("*/done")) or any(self.folder.glob("*/checkpoints")):
            self._compare(_read_settings(path))
        elif own and is_main():
            write_text(path, json.dumps(self.config, indent=1))
        elif is_main():
            with suppress(FileExistsError), path.open("x") as file:
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
        marker = self.folder / name / "done"
        return from_main(json.loads(marker.read_text()) if marker.exists() else None)

    def files(self, name: str) -> list[Path]:
        """Files of this name at the top of the folders that the stages lie in, shared ones first."""
        folders = dict.fromkeys([*(workdir.folder for workdir in self.shared.values()), self.folder])
        return [folder / name for folder in folders if (folder / name).exists()]

    @contextmanager
    def held(self, wait: bool = False) -> Iterator[None]:
        """No other process works here meanwhile. A process that dies, however it dies, lets go.

        Args:
          wait: until another lets go.

        Raises:
          HeldError: when another process works here.
          UserError: when another has done a stage with other settings.
        """
        lock, holder = _lock(self.folder), self.folder / ".holder"
        if not from_main(_acquire(lock, holder, wait) if is_main() else None):
            raise HeldError(f"{self.folder} is worked on by {_read_holder(holder)}", "one process at a time")
        try:
            self._claim(own=True)
            if is_main():
                write_text(holder, f"process {os.getpid()} on {socket.gethostname()}")
            yield
        finally:
            lock.release()

    def is_held(self) -> bool:
        """Whether a process works here."""
        lock = _lock(self.folder)
        free = _acquire(lock, self.folder / ".holder", wait=False)
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
            if is_main():
                print(f"{name} …", file=sys.stderr, flush=True)
            begun = time.monotonic()
            done = work(self.stage(name))
            done.setdefault("seconds", round(time.monotonic() - begun, 2))
            done = from_main(json.loads(json.dumps(done)))  # waits for all: nothing is missing when the marker is there
            if is_main():
                write_text(self.stage(name) / "done", json.dumps(done))
        if is_main():
            shutil.rmtree(self.stage(name) / "checkpoints", ignore_errors=True)  # three times the model; not needed now
        return dict(done)


def _lock(folder: Path) -> FileLock:
    """A lock that ends with its process; never filelock's marker file, which would outlive a killed one."""
    return FileLock(folder / ".lock", fallback_to_soft=False)


def _acquire(lock: FileLock, holder: Path, wait: bool) -> bool:
    """Takes the lock; whether it could be had. Who only looks whether it is held has it for a moment."""
    try:
        lock.acquire(timeout=_MOMENT, poll_interval=_MOMENT / 20)
    except Timeout:
        if not wait:
            return False
        print(f"waiting for {_read_holder(holder)}, which works on {holder.parent} …", file=sys.stderr, flush=True)
        lock.acquire()
    except OSError as error:
        raise UserError(
            f"{lock.lock_file} cannot be locked: {error.strerror}",
            "a file system with file locks (flock)",
            "name another --workdir, or mount this one with them: launch/README.md",
        ) from error
    return True


def _read_holder(holder: Path) -> str:
    return holder.read_text() if holder.exists() else "another process"


def _read_settings(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text()))
    except (FileNotFoundError, ValueError, TypeError) as error:
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


def is_main() -> bool:
    """Whether this process writes the files that one process writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def from_main(value: Any) -> Any:
    """The main process's JSON-able value, on every process: what is decided by it is decided alike.

    Processes call this together. A shared file system may show them a new file late, and their floats may differ.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    return json.loads(multihost_utils.broadcast_one_to_all(np.resize(text, size)).tobytes())


def clear(folder: Path) -> Path:
    """An empty folder, on the main process; what a killed run left in it is gone."""
    if is_main():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    barrier(f"clear {folder.name}")
    return folder
