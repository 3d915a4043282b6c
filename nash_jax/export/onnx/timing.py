"""Times ONNX Runtime with weights in float32 and in both ways of 8 bits, in turn; random weights.

python -m nash_jax.export.onnx.timing [--preset=t5-small] [--source=128] [--new_tokens=32] [--runs=7] [--threads=2]

Printed are the sizes of the files, and for batches of 1 and 8 the median time of the encoder and of one token.
"""

import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from nash_jax.errors import require_packages
from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.spec import ModelSpec, preset
from nash_jax.testing import random_params

_NUMBERS = {"source": 128, "new_tokens": 32, "runs": 7, "threads": 2}  # flag → its default
_BATCHES = (1, 8)


def run(argv: Sequence[str]) -> None:
    """Prints a table."""
    own = flags.FlagValues()
    flags.DEFINE_string("preset", "t5-small", "", flag_values=own)
    for name, default in _NUMBERS.items():
        flags.DEFINE_integer(name, default, "", lower_bound=1, flag_values=own)
    parse_flags(own, argv, "--preset=NAME, --source=TOKENS, --new_tokens=TOKENS, --runs=RUNS, --threads=THREADS")
    require_packages("onnx")
    given = own.flag_values_dict()
    spec = preset(given["preset"])
    with tempfile.TemporaryDirectory() as place:
        models, sizes = _write_all(spec, Path(place), given["threads"])
        print_result("| weights | MiB | batch | encoder | one token |", "|---|---|---|---|---|")
        for batch in _BATCHES:
            for name, (encoder, token) in _times(models, spec, batch, given).items():
                print_result(f"| {name} | {sizes[name] >> 20} | {batch} | {encoder:.0f} ms | {token:.1f} ms |")


def _write_all(spec: ModelSpec, place: Path, threads: int) -> tuple[dict[str, Any], dict[str, int]]:
    """Writes and loads the model with each storage; also the bytes of each."""
    from nash_jax.export.onnx.folder import write_graphs
    from nash_jax.export.onnx.quantize import STORAGES
    from nash_jax.export.onnx.run import OnnxModel

    params, models, sizes = random_params(spec, scale=0.05), {}, {}
    for name in STORAGES:
        (place / name).mkdir()
        write_graphs(place / name, spec, params, {}, name, "")
        models[name] = OnnxModel(place / name, threads)
        sizes[name] = sum(path.stat().st_size for path in (place / name / "onnx").iterdir())
    return models, sizes


def _times(
    models: dict[str, Any], spec: ModelSpec, batch: int, given: dict[str, Any]
) -> dict[str, tuple[float, float]]:
    """Medians over runs in turn, ms: the encoder, and one token of a generation of fixed length."""
    ids = np.random.default_rng(0).integers(2, spec.vocab_size, (batch, given["source"]))
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in models}
    for number in range(given["runs"] + 1):
        for name, model in models.items():
            times = _one_run(model, ids, given["new_tokens"])
            found[name] += [times] if number else []  # the first is not counted
    medians = {name: np.median(runs, axis=0) for name, runs in found.items()}
    return {name: (float(pair[0]), float(pair[1])) for name, pair in medians.items()}


def _one_run(model: Any, ids: np.ndarray, new_tokens: int) -> tuple[float, float]:
    mask, start = np.ones_like(ids), time.perf_counter()
    encoded, tokens, cache = model.encode(ids, mask), ids[:, :1], None
    middle = time.perf_counter()
    for _ in range(new_tokens):
        logits, cache = model.decode(tokens, encoded, mask, cache)
        tokens = logits[:, -1:].argmax(-1)
    return (middle - start) * 1e3, (time.perf_counter() - middle) * 1e3 / new_tokens


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__ or "", "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
