"""Files that appear whole or not at all."""

import socket
from pathlib import Path


def write_text(path: Path, text: str) -> None:
    """Writes a UTF-8 file beside and renames it; beside means apart from other hosts too, which may not see our locks.

    Half a surrogate pair, which UTF-8 cannot encode, is written as its escape sequence.
    """
    partial = path.with_name(f".{path.name}.{socket.gethostname()}.nash_jax")
    partial.write_text(text, encoding="utf-8", errors="backslashreplace")
    partial.replace(path)
