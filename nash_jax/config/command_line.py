"""The flags of the main command, and the messages for those that cannot be used."""

import re
import shlex
import traceback
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from absl import flags
from ml_collections import ConfigDict, config_flags

from nash_jax.config.parsing import check_config_dict, expected
from nash_jax.config.shipped import resolve_names
from nash_jax.errors import UserError
from nash_jax.runtime.command import parse_flags, unusable
from nash_jax.runtime.files import check_local

_USAGE = "--config=FILE, --workdir=DIR, --config.field=value"


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
    own = _define_flags(argv)
    try:
        parse_flags(own, argv, _USAGE, lambda error: _mistake(argv, file, error))
        getattr(own["config"].value, "cells", None)  # errors of reading the config file are raised here
    except UserError:
        raise
    except Exception as error:  # whatever the config file raised
        raise _mistake(argv, file, error) from error
    check_local(own["workdir"].value or "", "--workdir")
    config: Any = own["config"].value
    cell, list_cells = own["cell"].value, bool(own["list-cells"].value)
    if file is None:
        raise UserError("no --config", "--config=FILE", "try --config=configs/quickstart.py")
    check_config_dict(config)
    if (cell or list_cells) and "cells" not in config:
        raise UserError(f"--cell, --list-cells: {file} is not a study", "a config file that names cells")
    name = Path(file).stem + (f"-{variant.replace('/', '-')}" if variant else "")
    return CommandLine(config, own["workdir"].value, name, cell, list_cells)


def _define_flags(argv: Sequence[str]) -> flags.FlagValues:
    own = flags.FlagValues()
    config_flags.DEFINE_config_file("config", None, "", flag_values=own, sys_argv=list(argv))
    flags.DEFINE_string("cell", None, "", flag_values=own)
    flags.DEFINE_bool("list-cells", False, "", flag_values=own)
    flags.DEFINE_string("workdir", None, "", flag_values=own)
    return own


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
        return unusable(error)
    lines = [frame.lineno for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return _broken(file, lines, f"{type(error).__name__}: {error}")


def _broken(file: str | None, lines: Sequence[object], reason: str) -> UserError:
    """What a config file raised, with the line of it that was run last."""
    return UserError(f"--config: {file}{''.join(f':{line}' for line in lines[-1:])}: {reason}")
