"""`python -m nash_jax.main --config=FILE [--workdir=DIR] [--config.a.b=value]`: prunes a T5 or BART, all stages.

The settings that `--config.a.b=value` may change are the fields in nash_jax/config/schema.py; workdir is
runs/<name of the config file>, with its variant, when left out. Started again, the same command continues where it
stopped.
With `--config.stages=evaluate,benchmark --config.model.init=FOLDER` it evaluates that model (docs/evaluation.md).
A config file that names cells is a study: all of them are run, or `--cell=NAME` alone; `--list-cells` prints a command
for each (docs/study.md).
"""

import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from nash_jax.errors import require_packages
from nash_jax.runtime.command import print_result, run_command

if TYPE_CHECKING:
    from nash_jax.config.command_line import CommandLine


def run(argv: Sequence[str]) -> None:
    """Parses and checks the command line, runs the recipe or the study, prints the results and where they are."""
    require_packages("train")
    from nash_jax.config.command_line import parse
    from nash_jax.config.parsing import parse_config

    line = parse(argv)
    if "cells" in line.config:
        return _run_study(argv, line)
    config = parse_config(line.config)
    _start()
    from nash_jax.recipe.modes import make_run
    from nash_jax.report.console import places, summary
    from nash_jax.runtime.multihost import end_together, is_host0

    chosen = make_run(config, line.workdir, line.name)
    report = chosen.run()
    if is_host0():
        print_result(summary(report), places(chosen.workdir.folder))
    end_together()


def _run_study(argv: Sequence[str], line: "CommandLine") -> None:
    """Lists the cells of a grid, or runs them, or one of them."""
    from nash_jax.config.command_line import cell_commands
    from nash_jax.study.contrasts import read_contrasts
    from nash_jax.study.grid import read_cells
    from nash_jax.study.runner import Study, check_failures

    cells = read_cells(line.config)
    contrasts = read_contrasts(line.config, cells)
    if line.list_cells:
        print_result(*cell_commands(argv, [cell.name for cell in cells]))
        return
    _start()
    from nash_jax.report.console import places
    from nash_jax.runtime.multihost import end_together, is_host0
    from nash_jax.study.report import console_summary

    study = Study(cells, line.workdir or f"runs/{line.name}", contrasts)
    found = study.run(line.cell)
    if is_host0():
        told = console_summary(found["records"], found["states"], found["said"])
        print_result(told, places(study.workdir.folder))
    end_together()
    if line.cell is None:  # else it is done, and the others are not this command's
        check_failures(study.workdir.folder, found["states"])


def _start() -> None:
    from nash_jax.runtime.compilation import enable_cache
    from nash_jax.runtime.memory import keep_freed_memory
    from nash_jax.runtime.multihost import start_distributed

    keep_freed_memory()
    enable_cache()
    start_distributed()


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with `sys.argv` unless arguments are given; its exit status: see `run_command`."""
    less_memory = "lower batch_size, raise accumulation, or set config.model.remat=True"
    return run_command(run, sys.argv if argv is None else argv, __doc__, less_memory)


if __name__ == "__main__":
    sys.exit(main())
