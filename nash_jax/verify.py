"""`python -m nash_jax.verify FOLDER …`: whether saved files are still what was written.

Looks at everything below a folder that has checksums: exports, `hf/`, tokenizers and tokenized texts (their manifests),
finished stages of runs, their logged rows and report.json, and checkpoints of training. Prints a line for each, and for
settings in text that were edited; the exit status is 2 if something is damaged. Nothing is changed.
"""

import contextlib
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from absl import flags

from nash_jax.errors import UserError
from nash_jax.runtime.command import parse_arguments, print_result, run_command
from nash_jax.runtime.files import find_folder, read_json


def find_problems(folder: Path) -> Iterator[tuple[Path, str]]:
    """Yields what has checksums below a folder, and what is wrong with it: an empty text if nothing is.

    Args:
      folder: of a model, a run or a study.
    """
    from nash_jax.recipe.workdir import read_done
    from nash_jax.report.result import read_report
    from nash_jax.runtime.output_folder import MANIFEST
    from nash_jax.training.checkpoint import CHECKSUMS, check_checkpoints

    kinds: dict[str, Callable[[Path], object]] = {
        MANIFEST: _verify_model, "done": read_done, CHECKSUMS: check_checkpoints, "metrics.jsonl": _check_rows,
        "report.json": read_report,
    }  # fmt: skip
    for path in sorted(folder.rglob("*")):
        if path.name in kinds and path.is_file():
            yield path, _problem(kinds[path.name], path.parent)


def _verify_model(folder: Path) -> None:
    """As `verify_save`; also settings in text, which may be edited, must be there and be JSON."""
    from nash_jax.runtime.output_folder import verify_save

    for name in verify_save(folder, every_hash=True):
        read_json(folder / name)
        print_result(f"edited   {folder / name} since it was saved, which is allowed")


def _check_rows(folder: Path) -> None:
    """Compares the logged rows of phases that are done with the checksums in their markers.

    A line that is no row may be the last of a run that was killed, but not of one that has its report.
    """
    from nash_jax.recipe.workdir import read_done
    from nash_jax.training.writers import changed_phases, read_rows

    stages = dict[str, Mapping[str, Any]]()
    for path in folder.glob("*/done"):
        with contextlib.suppress(UserError):  # a damaged marker has a line of its own
            stages[path.parent.name] = read_done(path.parent, verify_files=False)
    path = folder / "metrics.jsonl"
    rows, lines = read_rows(path), path.read_bytes().splitlines()
    changed = changed_phases(rows, stages)
    changed += ["no phase"] if len(lines) > len(rows) and (folder / "report.json").exists() else []
    if changed:
        raise UserError(f"{path} was changed or is damaged: rows of {', '.join(changed)}", "the rows as logged")


def _problem(check: Callable[[Path], object], folder: Path) -> str:
    try:
        check(folder)
    except UserError as error:
        return str(error)
    return ""


def run(argv: Sequence[str]) -> None:
    """Verifies the folders of a command line.

    Raises:
      UserError: if one holds nothing with checksums, or something is damaged.
    """
    names = parse_arguments(flags.FlagValues(), argv, "python -m nash_jax.verify FOLDER …")
    checked = damaged = 0
    for name in names:
        folder = find_folder(name)
        found = list(find_problems(folder)) if folder else []
        if not found:
            raise UserError(f"{name} holds nothing with checksums", "the folder of an export, a run or a study")
        lines = [
            f"damaged  {problem}" if problem else f"ok       {path.parent} ({path.name})" for path, problem in found
        ]
        print_result(*lines)
        checked, damaged = checked + len(found), damaged + sum(bool(problem) for _, problem in found)
    if damaged:
        raise UserError(f"{damaged} of {checked} are damaged", "files as they were written")


def main(argv: Sequence[str] | None = None) -> int:
    """The command, with `sys.argv` unless arguments are given; its exit status: see `run_command`."""
    return run_command(run, sys.argv if argv is None else argv, __doc__, "close other programs")


if __name__ == "__main__":
    sys.exit(main())
