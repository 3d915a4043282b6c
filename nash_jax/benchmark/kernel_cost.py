"""Time of a token with XLA's own code, with the kernels in float32, and with them in int8, by the number of rows.

python -m nash_jax.benchmark.kernel_cost [--preset=t5-base] [--decoder_layers=3] [--rows=1,2,4,8,16,32,64]

  --source_length, --new_tokens   tokens of every input and every output (256, 64)
  --num_beams      1 (default): greedy search; more: --rows counts the beams
  --runs           timed calls of each (7)

All run in turn in one process, with random weights. A token's time is that of a whole generation minus that of one
token, divided by the tokens between. `MAX_ROWS` of nash_jax/generation/weights.py is set by this table.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from absl import flags

from nash_jax.benchmark.latency import Call, random_ids, time_interleaved
from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.kernels.build import kernel_problem
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.spec import preset
from nash_jax.testing import random_params

_NUMBERS = {"decoder_layers": 3, "source_length": 256, "new_tokens": 64, "num_beams": 1, "runs": 7}
SYSTEMS = {"XLA": ("float32", False), "kernels float32": ("float32", True), "kernels int8": ("int8", True)}


def make_engines(name: str, decoder_layers: int) -> dict[str, Engine]:
    """Returns name of `SYSTEMS` → engine, all with the same random weights.

    Args:
      name: of a preset.
      decoder_layers: that are kept, the first ones.
    """
    spec = preset(name)
    spec, params = select_layers(spec, random_params(spec, scale=0.05), decoder=tuple(range(decoder_layers)))
    return {system: Engine(spec, params, *how) for system, how in SYSTEMS.items()}


def token_times(engines: Mapping[str, Engine], rows: int, given: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns milliseconds a token of each engine, [runs].

    Args:
      engines: name → engine.
      rows: that are decoded together.
      given: the settings of the command.
    """
    vocabulary = min(engine.spec.source_vocab_size for engine in engines.values())
    ids = random_ids(vocabulary, rows // given["num_beams"], given["source_length"])
    calls = {
        (name, tokens): _call(engine, ids, tokens, given["num_beams"])
        for name, engine in engines.items()
        for tokens in (given["new_tokens"], 1)
    }
    ms, between = time_interleaved(calls, given["runs"]), given["new_tokens"] - 1
    return {name: (ms[name, given["new_tokens"]] - ms[name, 1]) / between for name in engines}


def _call(engine: Engine, ids: np.ndarray, tokens: int, beams: int) -> Call:
    options = GenerationOptions(max_new_tokens=tokens, min_new_tokens=tokens, num_beams=beams)
    return lambda: engine.generate(ids, np.ones_like(ids), options)


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    flags.DEFINE_string("preset", "t5-base", "", flag_values=own)
    flags.DEFINE_list("rows", ["1", "2", "4", "8", "16", "32", "64"], "", flag_values=own)
    for name, default in _NUMBERS.items():
        flags.DEFINE_integer(name, default, "", lower_bound=2 if name == "new_tokens" else 1, flag_values=own)
    parse_flags(own, argv, "--preset=NAME, --decoder_layers=LAYERS, --rows=1,8,…")
    given = own.flag_values_dict()
    if not all(size.isdecimal() and int(size) >= given["num_beams"] for size in given["rows"]):
        raise UserError(f"--rows is {','.join(given['rows'])}", "whole numbers, not below --num_beams")
    return given | {"rows": [int(size) for size in given["rows"]]}


def run(argv: Sequence[str]) -> None:
    """Times all and prints a table."""
    given = _parse(argv)
    if problem := kernel_problem():
        raise UserError(f"no kernels: {problem}", "a CPU and a C++ compiler")
    engines = make_engines(given["preset"], given["decoder_layers"])
    print_result("| rows | " + " | ".join(f"{name}, ms a token" for name in engines) + " |", "|---" * 4 + "|")
    for rows in given["rows"]:
        times = token_times(engines, rows, given)
        cells = [f"{np.median(ms):.2f} ± {np.std(ms):.2f}" for ms in times.values()]
        print_result(f"| {rows} | " + " | ".join(cells) + " |")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__ or "", "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
