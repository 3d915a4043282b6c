"""Cost of comparing checksums while a model is loaded: `load` with `verify=True` and without, in turn.

python -m nash_jax.benchmark.verifying_cost [--preset=t5-base] [--runs=7]

Uses random weights; the files are in the page cache, so that reading them costs the least and comparing the most.
"""

import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from absl import flags

from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.runtime.memory import keep_freed_memory
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.spec import preset
from nash_jax.testing import random_params


def seconds_of(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds that a call takes, and those of all its threads on processors."""
    begun, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begun, time.process_time() - used


def time_loading(folder: Path, runs: int) -> dict[bool, list[tuple[float, float]]]:
    """Seconds of `load` by whether it compares checksums, [runs, 2], in turn after one that is not counted."""
    load(folder)
    taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for run in range(2 * runs):
        verify = run % 4 in (1, 2)  # first as often as second
        taken[verify].append(seconds_of(lambda verify=verify: load(folder, verify=verify)))  # type: ignore[misc]
    return taken


def describe(taken: dict[bool, list[tuple[float, float]]]) -> str:
    """Medians of both, and the median of the ratios of pairs with their range."""
    told = list[str]()
    for name, (plain, compared) in zip(
        ("", " of processor time"), zip(*(np.array(taken[kind]).T for kind in (False, True)), strict=True), strict=True
    ):
        ratios = compared / plain
        told.append(
            f"{np.median(plain):.2f} s{name} without comparing, {np.median(compared):.2f} s with it, "
            f"ratio {np.median(ratios):.2f} ({ratios.min():.2f} to {ratios.max():.2f} in {len(ratios)} pairs)"
        )
    return "; ".join(told)


def run(argv: Sequence[str]) -> None:
    """Saves a model, loads it again and again, and prints seconds and their ratio."""
    own = flags.FlagValues()
    flags.DEFINE_string("preset", "t5-base", "", flag_values=own)
    flags.DEFINE_integer("runs", 7, "", lower_bound=2, flag_values=own)
    parse_flags(own, argv, "--preset=NAME, --runs=TIMES")
    given = own.flag_values_dict()
    spec = preset(given["preset"])
    keep_freed_memory()
    with tempfile.TemporaryDirectory() as place:
        model = Seq2Seq(spec, random_params(spec))
        for name, save in (("export", model.save), ("hf", model.save_hf)):
            save(Path(place) / name)
        del model, save
        for name in ("export", "hf"):
            print_result(f"{given['preset']}, {name}: {describe(time_loading(Path(place) / name, given['runs']))}")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
