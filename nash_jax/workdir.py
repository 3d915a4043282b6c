"""The run's folder: a sub-folder a stage, each ending with a `done` marker written last."""

import json
import shutil
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

from nash_jax.errors import UserError
from nash_jax.training.metrics import write_text


class Workdir:
    """Stages by name: what is done is not done again.

    Args:
      folder: made if missing.
      config: the run's settings; another run's folder is refused.
    """

    def __init__(self, folder: str | Path, config: dict[str, Any]) -> None:
        self.folder = Path(folder).expanduser()
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise UserError(f"workdir {folder} cannot be made: {error.strerror}", "a folder to write to") from error
        self._claim(json.loads(json.dumps(config)))

    def _claim(self, config: dict[str, Any]) -> None:
        path = self.folder / "config.json"
        if path.exists():
            first = json.loads(path.read_text())
            differing = sorted(set(_leaves(first).items()) ^ set(_leaves(config).items()))
            if differing:
                name = differing[0][0]
                then, now = (_leaves(c).get(name, "(not there)") for c in (first, config))
                raise UserError(
                    f"{self.folder} holds a run with {name}={then}, not {now}",
                    "the settings it was started with",
                    "name another --workdir or delete this one",
                )
        elif is_main():
            write_text(path, json.dumps(config, indent=1))

    def stage(self, name: str) -> Path:
        """The stage's folder."""
        folder = self.folder / name
        folder.mkdir(exist_ok=True)
        return folder

    def run(self, name: str, work: Callable[[Path], dict[str, Any]]) -> dict[str, Any]:
        """What the stage returned: now, or when it was done.

        Args:
          name: of the stage.
          work: does it, in the folder given; its JSON-able result goes into the marker.
        """
        marker = self.stage(name) / "done"
        if not marker.exists():
            print(f"{name} …", file=sys.stderr, flush=True)
            begun = time.monotonic()
            result = work(self.stage(name))
            result.setdefault("seconds", round(time.monotonic() - begun, 2))
            barrier(name)
            if is_main():
                write_text(marker, json.dumps(result))
            barrier(f"{name} done")
        return dict(json.loads(marker.read_text()))


def _leaves(config: Any, place: str = "config") -> dict[str, str]:
    """Nested settings → {dotted name: value as text}."""
    if isinstance(config, dict):
        return {k: v for name, value in config.items() for k, v in _leaves(value, f"{place}.{name}").items()}
    return {place: json.dumps(config)}


def is_main() -> bool:
    """Whether this process writes the files that one process writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all hosts."""
    if jax.process_count() > 1:
        from jax.experimental import multihost_utils

        multihost_utils.sync_global_devices(name)


def clear(folder: Path) -> Path:
    """An empty folder, on the main process; what a killed run left in it is gone."""
    if is_main():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    barrier(f"clear {folder.name}")
    return folder
