"""Cost of padding layers to uniform sizes: a ragged model against its `transformers` folder, both run by our engine.

python -m nash_jax.benchmark.padding_cost [--preset=t5-small] [--decoder_layers=2] [--source=128] [--new_tokens=32]

Uses random weights; layers are pruned unevenly, as in real runs; the two models are timed alternately.
"""

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from nash_jax.axes import param_axes
from nash_jax.benchmark.latency import encoding_call, generation_call, random_ids, time_interleaved
from nash_jax.config.schema import BenchmarkConfig
from nash_jax.pruning.compact import compact, removed_fraction
from nash_jax.pruning.lagrangian import gate_costs, size_terms
from nash_jax.pruning.layer_selection import choose_layers, select_layers
from nash_jax.runtime.command import parse_flags, run_command
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.spec import ModelSpec, preset
from nash_jax.testing import random_params
from nash_jax.tree import count_params

_NUMBERS = {"decoder_layers": 2, "batch_size": 1, "source": 128, "new_tokens": 32, "runs": 15}  # flag → its default
_SPARSITIES = (0.3, 0.6, 0.8)  # of the encoder's attention and FFN


def uneven_masks(spec: ModelSpec, sparsity: float, seed: int) -> dict[str, np.ndarray]:
    """Returns masks of 0 and 1 over encoder heads and units that remove a share of the encoder's parameters.

    Each gate's score is the sum of two normal variables, one for the gate and one for its layer, and the lowest scores
    are removed. So some layers keep almost everything, others almost nothing.
    """
    rng, sizes = np.random.default_rng(seed), spec.axis_sizes()
    costs = gate_costs(size_terms(param_axes(spec), sizes, "encoder"), sizes)
    scores = {axis: rng.normal() + rng.normal(size=sizes[axis]) for axis in costs}
    order = np.argsort(np.concatenate(list(scores.values())))
    removed = np.cumsum(np.concatenate([np.full(sizes[axis], cost) for axis, cost in costs.items()])[order])
    closed = np.zeros(len(order), bool)
    closed[order[removed <= sparsity * removed[-1]]] = True
    ends = np.cumsum([sizes[axis] for axis in costs])[:-1]
    return {axis: (~part).astype(np.float32) for axis, part in zip(costs, np.split(closed, ends), strict=True)}


def prune_model(dense: ModelSpec, params: Any, sparsity: float, decoder_layers: int) -> tuple[Seq2Seq, float]:
    """Returns the model with a shorter decoder and a pruned encoder, and the encoder's sparsity."""
    kept = choose_layers(len(dense.decoder), decoder_layers)
    spec, params = select_layers(dense, params, decoder=kept)
    narrow, small = compact(spec, params, uneven_masks(spec, sparsity, 0))
    return Seq2Seq(narrow, small), removed_fraction(spec, narrow, "encoder")


def compare_models(dense: ModelSpec, params: Any, sparsity: float, decoder_layers: int, timing: BenchmarkConfig) -> str:
    """Compares file sizes and times of a pruned model's export and of its `transformers` folder; returns the text."""
    ragged, removed = prune_model(dense, params, sparsity, decoder_layers)
    widths = " ".join(f"{len(layer.heads)}/{layer.ffn}" for layer in ragged.spec.encoder)
    lines = [f"encoder sparsity {removed:.1%}, heads/units by layer {widths}"]
    with tempfile.TemporaryDirectory() as place:
        folders = {"ragged": Path(place) / "export", "padded": Path(place) / "hf"}
        ragged.save(folders["ragged"])
        ragged.save_hf(folders["padded"])
        models = {"ragged": ragged, "padded": load(folders["padded"])}
        for name, model in models.items():
            size = sum(file.stat().st_size for file in folders[name].rglob("*") if file.is_file())
            lines.append(f"  {name:12} {count_params(model.params):12,} parameters {size:13,} bytes")
    return "\n".join(lines + [line for size in timing.batch_sizes for line in time_ratios(models, size, timing)])


def time_ratios(models: Mapping[str, Seq2Seq], batch_size: int, timing: BenchmarkConfig) -> list[str]:
    """Returns lines with the ratio of times, padded / ragged: median and quartiles over pairs timed alternately."""
    ids = random_ids(models["ragged"].spec.source_vocab_size, batch_size, timing.source_length)
    lines = []
    for what, make in (("encoder pass", encoding_call), ("generation", generation_call)):
        calls = {name: make(model.engine, ids, timing.new_tokens[0]) for name, model in models.items()}
        ms = time_interleaved(calls, timing.runs, at_least_ms=100.0)
        low, middle, high = np.percentile(ms["padded"] / ms["ragged"], (25, 50, 75))
        times = ", ".join(f"{name} {np.median(ms[name]):.1f} ms" for name in models)
        lines.append(f"  {what:12} padded / ragged {middle:.2f} (quartiles {low:.2f} to {high:.2f}); {times}")
    return lines


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    flags.DEFINE_string("preset", "t5-small", "", flag_values=own)
    for name, default in _NUMBERS.items():
        flags.DEFINE_integer(name, default, "", lower_bound=1, flag_values=own)
    parse_flags(own, argv, "--preset=NAME, --decoder_layers=LAYERS, --runs=PAIRS, …")
    return own.flag_values_dict()


def run(argv: Sequence[str]) -> None:
    """Prints sizes and ratios for each sparsity."""
    given = _parse(argv)
    dense, timing = preset(given["preset"]), _timing(given)
    params = random_params(dense, scale=0.05)
    tokens = f"{given['batch_size']} × {given['source']} → {given['new_tokens']} tokens"
    print(f"{given['preset']}, {count_params(params):,} parameters; {tokens}, {given['runs']} pairs")
    for sparsity in _SPARSITIES:
        print(compare_models(dense, params, sparsity, given["decoder_layers"], timing), flush=True)


def _timing(given: Mapping[str, Any]) -> BenchmarkConfig:
    return BenchmarkConfig((given["batch_size"],), given["source"], (given["new_tokens"],), given["runs"])


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
