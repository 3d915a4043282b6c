"""`python -m nash_jax.main --config=FILE [--workdir=DIR] [--config.a.b=value]`: prunes a T5 or BART, all stages.

The settings that `--config.a.b=value` may change are the fields in nash_jax/config.py; workdir is
runs/<name of the config file> when left out. Started again, the same command goes on where it was.
With `--config.stages=evaluate,benchmark --config.model.init=FOLDER` it looks at that model (docs/evaluation.md).
"""

import re
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from nash_jax.cli import run_command
from nash_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/quickstart.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<name of the config file>.")


def parse(argv: Sequence[str]) -> tuple[object, str | None, str]:
    """Command line → (ConfigDict, workdir if named, name of the config file).

    Raises:
      UserError: for flags or config files that cannot be used.
    """
    file = _config_file(argv)
    if file is not None and not Path(file).is_file():
        raise UserError(f"--config: no file {file!r}", "a config file such as configs/quickstart.py")
    try:
        rest = flags.FLAGS(list(argv))
    except Exception as error:  # absl's own, or whatever the config file raised
        raise _mistake(argv, file, error) from error
    if len(rest) > 1:
        raise UserError(f"command line: {rest[1]!r} is no flag", "--config=FILE, --workdir=DIR, --config.field=value")
    if file is None:
        raise UserError("no --config", "--config=FILE", "try --config=configs/quickstart.py")
    return _CONFIG.value, _WORKDIR.value, Path(file).stem


def _config_file(argv: Sequence[str]) -> str | None:
    """The file that --config names, without its variant."""
    for arg, following in zip(argv, [*argv[1:], ""], strict=True):
        name, equals, value = arg.partition("=")
        if name in ("--config", "-config"):
            return (value if equals else following).partition(":")[0]
    return None


def _mistake(argv: Sequence[str], file: str | None, error: Exception) -> UserError:
    """What could not be parsed: a setting's name, its value, another flag, or the config file."""
    from nash_jax.config import expected

    for arg in argv:
        if setting := re.match(r"--?config\.([\w.]+)", arg):
            expected(setting[1])
    if wrong := re.match(r"flag --config\.([\w.]+)=(.*?): ", str(error)):
        return UserError(f"config.{wrong[1]} is {wrong[2]!r}", expected(wrong[1]))
    if isinstance(error, flags.Error):
        return UserError(f"command line: {error}")
    lines = [f":{frame.lineno}" for frame in traceback.extract_tb(error.__traceback__) if frame.filename == file]
    return UserError(f"--config: {file}{''.join(lines[-1:])}: {type(error).__name__}: {error}")


def run(argv: Sequence[str]) -> None:
    """Parses, checks, runs the recipe, says what came of it and where it is."""
    config_dict, workdir, name = parse(argv)
    from nash_jax.config import from_config_dict

    config = from_config_dict(config_dict)
    from nash_jax.compilation import enable_cache
    from nash_jax.sharding import start_distributed

    enable_cache()
    start_distributed()
    from nash_jax.evaluate_recipe import make_recipe
    from nash_jax.report.console import places, summary
    from nash_jax.workdir import is_main

    recipe = make_recipe(config, workdir, name)
    report = recipe.run()
    if is_main():
        print(summary(report), places(recipe.workdir.folder), sep="\n")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    less_memory = "lower batch_size, raise accumulation, or set config.model.remat=True"
    return run_command(run, argv, __doc__, less_memory)


if __name__ == "__main__":
    sys.exit(main())
