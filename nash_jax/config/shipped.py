"""The config files that come with the package, by name: `--config=quickstart`, with or without a checkout."""

import re
from collections.abc import Sequence
from pathlib import Path

from nash_jax.errors import UserError, did_you_mean
from nash_jax.runtime.files import check_local

_PACKAGE = Path(__file__).resolve().parents[1]
FOLDERS = (_PACKAGE / "configs", _PACKAGE.parent / "configs")  # of an installed wheel, of a checkout
_FLAGS = ("--config", "-config")


def resolve_names(argv: Sequence[str]) -> list[str]:
    """A command line with the file in the place of a shipped config's name; paths stay as they are.

    Args:
      argv: may hold `--config=NAME[:ARGUMENTS]` or `--config NAME[:ARGUMENTS]`.

    Raises:
      UserError: for a name that no shipped config has, or a URL.
    """
    found, follows = [], False  # follows: the argument before was `--config`
    for arg in argv:
        flag, equals, value = ("", "", arg) if follows else arg.partition("=")
        if follows or (equals and flag in _FLAGS):
            check_local(value, "--config")
            name, colon, arguments = value.partition(":")
            if re.fullmatch(r"[\w-]+", name) and not Path(name).is_file():
                arg = f"{flag}{equals}{shipped_file(name)}{colon}{arguments}"
        follows = arg in _FLAGS
        found.append(arg)
    return found


def names() -> list[str]:
    """Names of the config files that are shipped, sorted."""
    return sorted(path.stem for path in _folder().glob("*.py"))


def shipped_file(name: str) -> Path:
    """The file of a shipped config.

    Args:
      name: one of `names()`.

    Raises:
      UserError: for another name.
    """
    if name not in names():
        raise UserError(
            f"--config: no config {name!r}{did_you_mean(name, names())}", f"a file, or one of {', '.join(names())}"
        )
    return _folder() / f"{name}.py"


def _folder() -> Path:
    return next((folder for folder in FOLDERS if (folder / "quickstart.py").is_file()), FOLDERS[0])
