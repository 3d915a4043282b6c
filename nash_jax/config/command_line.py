"""The flags of the main command, and the messages for those that cannot be used."""

import re
import shlex
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from nash_jax.config.parsing import check_config_dict, expected
from nash_jax.config.shipped import resolve_names
from nash_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, or the name of a shipped one: quickstart.")
_CELL = flags.DEFINE_string("cell", None, "Of a study: run this cell alone.")
_LIST_CELLS = flags.DEFINE_bool("list-cells", False, "Of a study: print the command of each cell, and run none.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<config file>[-<variant>].")


class CommandLine(NamedTuple):
    """What the command line says.

    Attributes:
      config: of the config file, with the settings of the command line.
      workdir: if named.
      name: of the config file, and of its variant if named.
      cell: of a study, the only one to run.
      list_cells: whether to list a study's cells.
    """

    config: ConfigDict
    workdir: str | None
    name: str
    cell: str | None
    list_cells: bool


def parse(argv: Sequence[str]) -> CommandLine:
    """Reads the command line, and the config file that it names.

    Raises:
      UserError: for flags or config files that cannot be used.
    """
    argv = resolve_names(argv)
    file, variant = _config_file(argv)
    if file is not None and not Path(file).is_file():
        raise UserError(f"--config: no file {file!r}", "a config file such as configs/quickstart.py")
    try:
        rest = flags.FLAGS(list(argv))
        getattr(_CONFIG.value, "cells", None)  # a file that the config file could not read is told of only now
    except Exception as error:  # absl's own, or whatever the config file raised
        raise _mistake(argv, file, error) from error
    if len(rest) > 1:
        raise UserError(f"command line: {rest[1]!r} is no flag", "--config=FILE, --workdir=DIR, --config.field=value")
    if file is None:
        raise UserError("no --config", "--config=FILE", "try --config=configs/quickstart.py")
    check_config_dict(_CONFIG.value)
    if (_CELL.value or _LIST_CELLS.value) and "cells" not in _CONFIG.value:
        raise UserError(f"--cell, --list-cells: {file} is no study", "a config file that names cells")
    name = Path(file).stem + (f"-{variant.replace('/', '-')}" if variant else "")
    return CommandLine(_CONFIG.value, _WORKDIR.value, name, _CELL.value, _LIST_CELLS.value)


def cell_commands(argv: Sequence[str], cells: Iterable[str]) -> list[str]:
    """The shell command of each cell of a study.

    Args:
      argv: the command line that lists them.
      cells: their names.
    """
    args = [arg for arg in argv[1:] if not re.fullmatch(r"--?list-cells(=.*)?", arg)]
    return [shlex.join(["python", "-m", "nash_jax.main", *args, f"--cell={name}"]) for name in cells]


def _config_file(argv: Sequence[str]) -> tuple[str | None, str]:
    """The file that --config names, and its variant."""
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-config"):
            file, _, variant = (value if equals else following).partition(":")
            return file, variant
    return None, ""


def _mistake(argv: Sequence[str], file: str | None, error: Exception) -> UserError:
    """What could not be parsed: a setting's name, its value, another flag, or the config file."""
    if isinstance(error, UserError):
        return error
    for arg in argv:
        if cell := re.match(r"--?(config\.cells\b[^=]*)", arg):  # ml_collections takes no name with a hyphen
            return UserError(f"{cell[1]}: no flag changes this cell", do="change it in a config file (docs/study.md)")
        if setting := re.match(r"--?config\.([\w.]+)", arg):
            expected(setting[1])
    if wrong := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error)):
        return UserError(f"config.{wrong[1]} is {wrong[2]!r}", expected(wrong[1]))
    if "Error whilst parsing config file" in str(error):  # of a ValueError or TypeError, a traceback as text is left
        lines = re.findall(rf'File "{re.escape(str(file))}", line (\d+)', str(error))
        return _broken(file, lines, str(error).strip().splitlines()[-1])
    if isinstance(error, flags.Error):
        return UserError(f"command line: {error}")
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return _broken(file, lines, f"{type(error).__name__}: {error}")


def _broken(file: str | None, lines: Sequence[object], reason: str) -> UserError:
    """What a config file raised, with the line of it that was run last."""
    return UserError(f"--config: {file}{''.join(f':{line}' for line in lines[-1:])}: {reason}")
