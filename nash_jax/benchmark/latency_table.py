"""Milliseconds by kind of sub-layer and size, from whole generations: what a pruned model of any shape will take.

python -m nash_jax.benchmark.latency_table --model=FOLDER        a model on disk, or a hub name; only its shape counts
python -m nash_jax.benchmark.latency_table --preset=t5-base      that shape

  --batch_sizes    such as 1,8; a table for each (1)
  --source_length, --new_tokens   tokens of every input and every output (256, 64)
  --dtype          float32 (default), bfloat16, float16 or int8
  --engine         jax (default) or ctranslate2, in float32 or int8
  --shapes         models of random shapes that the table is made from (40)
  --held_out       others that it is checked on (20)
  --visits         how often each model is loaded and timed, in turn (4)
  --output         a file for the table, JSON; with several batch sizes their number is put before its ending
  --picture        a file for a picture, .png or .svg; likewise
  --fresh          measure again what is in the cache

A sub-layer alone, or an otherwise empty loop, is too fast: its weights stay in the processor's cache. So models of
random depths and uneven layers are timed as wholes, in turn, and the entries are those whose sums come nearest
(`nash_jax/benchmark/latency_fit.py`). Tables are kept in `~/.cache/nash_jax/latency`, by device, versions, model, dtype
and lengths.
"""

import dataclasses
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from nash_jax.benchmark.latency_entries import ENCODER_KINDS, GENERATION, SUBLAYERS, sizes_of, total_ms
from nash_jax.benchmark.latency_fit import Timed, fit
from nash_jax.benchmark.latency_shapes import random_shape
from nash_jax.benchmark.latency_store import (
    Check,
    LatencyTable,
    cache_path,
    describe_machine,
    read_table,
    save_table,
)
from nash_jax.benchmark.latency_timing import ENGINES, Setup, TimedModel, compile_models, time_models
from nash_jax.errors import UserError, did_you_mean, require_packages
from nash_jax.generation.arguments import read_dtype
from nash_jax.runtime.command import parse_flags, print_result, read_batch_sizes, run_command
from nash_jax.runtime.compilation import enable_cache
from nash_jax.runtime.files import check_local
from nash_jax.seq2seq import load
from nash_jax.spec import ModelSpec, preset

_NUMBERS = {"source_length": 256, "new_tokens": 64, "shapes": 40, "held_out": 20, "visits": 4}
_HELD_OUT = 10_000  # first seed of the shapes to check
_FREE = ("encoder", "decoder", "vocab_size", "encoder_vocab_size", "tied", "pad_id", "eos_id", "decoder_start_id")


def predict(table: LatencyTable, spec: ModelSpec) -> float:
    """Returns the milliseconds that a model takes for a generation of the table's setup.

    Args:
      table: of the model's family and width, and its machine.
      spec: the model, with layers of any sizes.

    Raises:
      UserError: for a model that differs in more than sizes of layers and vocabulary, or is larger.
    """
    for field in dataclasses.fields(ModelSpec):
        mine, theirs = getattr(table.dense, field.name), getattr(spec, field.name)
        if field.name not in _FREE and mine != theirs:
            raise UserError(f"spec.{field.name} is {theirs!r}", f"that of the table, {mine!r}")
    for kind, sizes in sizes_of(spec).items():
        largest = table.curves[kind].sizes[-1]
        if max(sizes, default=0) > largest:
            raise UserError(f"{kind} has size {max(sizes)}", f"no more than the table's {largest}")
    return total_ms(table.curves, table.fixed, spec)


def speedup(table: LatencyTable, spec: ModelSpec) -> float:
    """Returns how many times as fast as the dense model a model is, by the table's entries.

    Args:
      table: as in `predict`.
      spec: the model.

    Raises:
      UserError: as `predict`.
    """
    return predict(table, table.dense) / predict(table, spec)


def measure_table(
    dense: ModelSpec, setup: Setup, shapes: int = 40, held_out: int = 20, visits: int = 4
) -> LatencyTable:
    """Times models of random shapes and makes a table; then checks it on others.

    Args:
      dense: the model with the largest sizes.
      setup: engine, dtype, batch size and lengths.
      shapes: number of models to fit, beside the dense one.
      held_out: number of models to check.
      visits: how often each model is timed, in turn.
    """
    begun, specs = time.monotonic(), [dense, *(random_shape(dense, seed) for seed in range(shapes))]
    models = compile_models(specs, setup, "compiling")
    timed = time_models(models, visits, "timing")
    curves, fixed = fit(dense, [Timed(*row) for row in _rows(specs, timed)])
    table = LatencyTable(dense, setup, curves, fixed, describe_machine(setup.engine), shapes)
    check = _check(table, models[0], timed[0][GENERATION], held_out, visits)
    return dataclasses.replace(table, check=check, seconds=time.monotonic() - begun)


def _rows(specs: Sequence[ModelSpec], timed: Sequence[Mapping[str, float]]) -> Iterator[tuple[ModelSpec, str, float]]:
    for spec, times in zip(specs, timed, strict=True):
        for what, ms in times.items():
            yield spec, what, ms


def _check(table: LatencyTable, dense: TimedModel, dense_ms: float, held_out: int, visits: int) -> Check:
    """Times models that the table was not made from, and the dense one again."""
    others = [random_shape(table.dense, _HELD_OUT + seed) for seed in range(held_out)]
    models = compile_models(others, table.setup, "compiling others") if others else []
    again, *timed = (times[GENERATION] for times in time_models([dense, *models], visits, "checking"))
    return Check(tuple(predict(table, spec) for spec in others), tuple(timed), dense_ms, again)


def get_table(
    dense: ModelSpec, setup: Setup, shapes: int = 40, held_out: int = 20, visits: int = 4, *, fresh: bool = False
) -> LatencyTable:
    """Returns the table from the user's cache folder; if there is none, or it is damaged, it is measured and kept.

    Args:
      dense: the model with the largest sizes.
      setup: engine, dtype, batch size and lengths.
      shapes: as in `measure_table`.
      held_out: as in `measure_table`.
      visits: as in `measure_table`.
      fresh: measure again.
    """
    path = cache_path(dense, setup, describe_machine(setup.engine), (shapes, held_out, visits))
    if path.exists() and not fresh:
        try:
            found = read_table(path)
            if (found.dense, found.setup, found.machine) == (dense, setup, describe_machine(setup.engine)):
                return found
            raise UserError(f"{path} is of another model, setup or machine")
        except UserError as error:
            print(f"note: {error}; it is measured again", file=sys.stderr)
    table = measure_table(dense, setup, shapes, held_out, visits)
    save_table(table, path)
    return table


def describe_table(table: LatencyTable) -> list[str]:
    """Returns lines of Markdown: the setup, the entries and how well they predict.

    Args:
      table: a table.
    """
    setup = table.setup
    lines = [
        f"{setup.engine}, {setup.dtype}, batch {setup.batch_size}, {setup.source_length} → {setup.new_tokens} tokens; "
        f"{table.machine['processor']}, {table.machine['cores']} cores; "
        f"{table.shapes} shapes and the dense model, {table.seconds:.0f} s",
        "",
        "| milliseconds a generation | how often | size: ms | | | | | |",
        "|---" * 8 + "|",
    ]
    for kind, curve in table.curves.items():
        often = "each layer, once" if kind in ENCODER_KINDS else "each layer and token"
        pairs = [f"{size:,}: {_digits(ms)}" for size, ms in zip(curve.sizes, curve.ms, strict=True)]
        cells = [kind, often if kind in SUBLAYERS or kind in ENCODER_KINDS else "each token", *pairs]
        lines.append("| " + " | ".join(cells + [""] * (8 - len(cells))) + " |")
    for name, ms in table.fixed.items():
        lines.append(f"| {name} | | {_digits(ms)} | | | | | |")
    return [*lines, "", *_describe_check(table)]


def _digits(ms: float) -> str:
    return f"{ms:.3g}" if ms < 1000 else f"{ms:.0f}"


def _describe_check(table: LatencyTable) -> Iterator[str]:
    check, dense = table.check, predict(table, table.dense)
    yield f"dense: {_digits(dense)} ms predicted, {_digits(check.dense_ms)} measured"
    if check.measured_ms:
        what = {"milliseconds": check.errors(), "speedups": check.errors(dense)}
        for name, errors in what.items():
            middle, largest = np.median(abs(errors)), abs(errors).max()
            yield f"{name} of {len(errors)} other shapes: error {middle:.1%} in the median, {largest:.1%} at worst"
        times = f"{min(check.measured_ms):.3g} to {max(check.measured_ms):.3g} ms"
        yield f"they took {times}; the dense model then took {_digits(check.dense_again_ms)} ms"


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    for name in ("model", "preset", "output", "picture"):
        flags.DEFINE_string(name, "", "", flag_values=own)
    flags.DEFINE_string("dtype", "float32", "", flag_values=own)
    flags.DEFINE_string("engine", "jax", "", flag_values=own)
    flags.DEFINE_list("batch_sizes", ["1"], "", flag_values=own)
    flags.DEFINE_bool("fresh", False, "", flag_values=own)
    for name, default in _NUMBERS.items():
        flags.DEFINE_integer(name, default, "", lower_bound=int(name != "held_out"), flag_values=own)
    parse_flags(own, argv, "--model=FOLDER or --preset=NAME, --batch_sizes=…, --source_length=TOKENS, …")
    return _checked(own.flag_values_dict())


def _checked(given: dict[str, Any]) -> dict[str, Any]:
    """The flags with values that can be used; before anything is measured."""
    if bool(given["model"]) == bool(given["preset"]):
        raise UserError("command line: no model, or two", "either --model=FOLDER or --preset=NAME")
    sizes = read_batch_sizes(given["batch_sizes"])
    if given["engine"] not in ENGINES:
        hint = did_you_mean(given["engine"], ENGINES)
        raise UserError(f"--engine is {given['engine']!r}{hint}", f"one of {', '.join(ENGINES)}")
    if given["engine"] == "ctranslate2":
        require_packages("ctranslate2")
    for name in ("output", "picture"):
        check_local(given[name], f"--{name}")
    if given["picture"] and Path(given["picture"]).suffix not in (".png", ".svg"):
        raise UserError(f"--picture is {given['picture']!r}", "a name that ends in .png or .svg")
    return given | {"batch_sizes": sizes, "dtype": read_dtype(given["dtype"])}


def run(argv: Sequence[str]) -> None:
    """Measures or reads a table for each batch size; prints, writes and draws it."""
    given = _parse(argv)
    enable_cache()
    dense = preset(given["preset"]) if given["preset"] else load(given["model"]).spec
    for size in given["batch_sizes"]:
        setup = Setup(given["engine"], given["dtype"], size, given["source_length"], given["new_tokens"])
        numbers = (given[name] for name in ("shapes", "held_out", "visits"))
        table = get_table(dense, setup, *numbers, fresh=given["fresh"])
        print_result(*describe_table(table), "")
        if given["output"]:
            save_table(table, _numbered(given["output"], size, given["batch_sizes"]))
        if given["picture"]:
            _draw(table, _numbered(given["picture"], size, given["batch_sizes"]))


def _numbered(name: str, size: int, sizes: Sequence[int]) -> Path:
    path = Path(name)
    return path.with_name(f"{path.stem}-{size}{path.suffix}") if len(sizes) > 1 else path


def _draw(table: LatencyTable, path: Path) -> None:
    from nash_jax.benchmark.latency_picture import save_picture

    save_picture(table, path)


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__ or "", "choose a smaller model")


if __name__ == "__main__":
    sys.exit(main())
