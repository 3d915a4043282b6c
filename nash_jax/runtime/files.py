"""Files that appear whole or not at all."""

import shutil
import socket
from pathlib import Path

from nash_jax.runtime.multihost import barrier, is_host0


def write_text(path: Path, text: str) -> None:
    """Writes a file beside and renames it; beside means apart from other hosts too, which may not see our locks."""
    partial = path.with_name(f"{path.name}.{socket.gethostname()}.partial")
    partial.write_text(text)
    partial.replace(path)


def clear_folder(folder: Path) -> Path:
    """Makes an empty folder, on host 0; what a killed run left in it is deleted."""
    if is_host0():
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
    barrier(f"clear {folder.name}")
    return folder
