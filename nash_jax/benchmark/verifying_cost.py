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


def seconds_of(call: Callable[[], object]) -> float:
    """Seconds that a call takes."""
    begun = time.perf_counter()
    call()
    return time.perf_counter() - begun


def time_loading(folder: Path, runs: int) -> dict[bool, list[float]]:
    """Seconds of `load` by whether it compares checksums, [runs] each, in turn after one that is not counted."""
    load(folder)
    taken: dict[bool, list[float]] = {False: [], True: []}
    for run in range(2 * runs):
        verify = run % 4 in (1, 2)  # first as often as second
        taken[verify].append(seconds_of(lambda verify=verify: load(folder, verify=verify)))  # type: ignore[misc]
    return taken


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
            taken = time_loading(Path(place) / name, given["runs"])
            ratios = np.array(taken[True]) / np.array(taken[False])
            print_result(
                f"{given['preset']}, {name}: {np.median(taken[False]):.2f} s without comparing, "
                f"{np.median(taken[True]):.2f} s with it; ratio {np.median(ratios):.2f} (median of {len(ratios)} pairs)"
            )


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
