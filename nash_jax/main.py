"""`python -m nash_jax.main --config=FILE [--workdir=DIR] [--config.a.b=value]`."""

import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from absl import flags
from ml_collections import config_flags

from nash_jax.errors import UserError

_CONFIG = config_flags.DEFINE_config_file("config", None, "Config file, e.g. configs/quickstart.py.")
_WORKDIR = flags.DEFINE_string("workdir", None, "Folder of the run; default: runs/<name of the config file>.")


def parse(argv: Sequence[str]) -> tuple[object, str]:
    """Command line → (ConfigDict, workdir).

    Raises:
      UserError: for flags or config files that cannot be used.
    """
    named = [a.partition("=")[2] for a in argv if a.startswith("--config=")]
    if named and not Path(named[0].partition(":")[0]).is_file():
        raise UserError(f"--config: no file {named[0]!r}", "a config file such as configs/quickstart.py")
    try:
        rest = flags.FLAGS(list(argv))
    except flags.Error as error:
        raise UserError(f"command line: {error}") from error
    except (AttributeError, KeyError, TypeError, ValueError, SyntaxError, ImportError) as error:
        raise UserError(f"--config: {type(error).__name__}: {' '.join(str(error).split())}") from error
    if len(rest) > 1:
        raise UserError(f"command line: {rest[1]!r} is no flag", "--config=FILE, --workdir=DIR, --config.field=value")
    if _CONFIG.value is None:
        raise UserError("no --config", "--config=FILE", "try --config=configs/quickstart.py")
    return _CONFIG.value, _WORKDIR.value or f"runs/{Path(named[0].partition(':')[0]).stem}"


def run(argv: Sequence[str]) -> None:
    """Parses, checks, runs the recipe, says where the report is."""
    config_dict, workdir = parse(argv)
    from nash_jax.config import from_config_dict

    config = from_config_dict(config_dict)
    from nash_jax.compilation import enable_cache
    from nash_jax.sharding import start_distributed

    enable_cache()
    start_distributed()
    from nash_jax.recipe import Recipe
    from nash_jax.report.console import summary

    recipe = Recipe(config, workdir)
    report = recipe.run()
    print(summary(report))
    print(f"report: {recipe.workdir.folder / 'report.html'}  model: {recipe.workdir.folder / 'export'}")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: 0, or 2 with one line on stderr for a user's mistake, 3 when memory ran out."""
    try:
        run(argv)
        return 0
    except UserError as error:
        print(f"error: {error}", file=sys.stderr)
        return 2
    except Exception as error:
        if "RESOURCE_EXHAUSTED" not in str(error) and not isinstance(error, MemoryError):
            traceback.print_exc()
            return 1
        print(
            f"error: out of memory: {str(error).splitlines()[0]}; lower batch_size, raise accumulation, or set "
            "config.model.remat=True; what was done is kept",
            file=sys.stderr,
        )
        return 3


if __name__ == "__main__":
    sys.exit(main())
