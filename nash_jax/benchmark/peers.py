"""A model in our engine and in others: times of whole generations, their ratios, and whether the outputs agree.

python -m nash_jax.benchmark.peers --model=FOLDER [--dense=FOLDER]     models on disk, or hub names
python -m nash_jax.benchmark.peers --preset=t5-base --decoder_layers=3 --sparsity=0.3     that shape, random weights

  --systems        those to time, by commas; left out: all whose packages are installed
  --batch_sizes    such as 1,8 (default)
  --source_length, --new_tokens   tokens of every input and every output (256, 64)
  --num_beams      1 (default): greedy search
  --runs, --starts timed calls of each system in each start of all processes (7, 3)
  --threads        of every system (2)
  --burners        also times each system while so many other processes keep a core busy each, and prints its loss (0)
  --output         a file for the numbers, JSON

All systems read the same ids and generate exactly the same number of tokens, each in a process of its own, in turn.
The ratio is that of medians; its interval is a bootstrap over starts and runs. A token's time is that of a whole
generation minus that of one token, divided by the tokens between; its bytes are the decoder's weights that it reads.
"""

import contextlib
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from absl import flags

from nash_jax.benchmark.latency import random_ids
from nash_jax.benchmark.padding_cost import prune_model
from nash_jax.benchmark.peer_process import BANDWIDTH, PeerProcess
from nash_jax.benchmark.peer_systems import BYTES_PER_WEIGHT, GREEDY_ONLY, SYSTEMS
from nash_jax.errors import UserError, did_you_mean, is_installed
from nash_jax.runtime.command import parse_flags, print_result, read_batch_sizes, run_command
from nash_jax.runtime.files import check_local, write_text
from nash_jax.runtime.progress import Progress
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.spec import preset
from nash_jax.testing import random_params
from nash_jax.tree import flatten

Cell = tuple[str, str]  # model, system
_NUMBERS = {"source_length": 256, "new_tokens": 64, "num_beams": 1, "runs": 7, "starts": 3, "threads": 2}
_BANDWIDTH_BYTES = 400e6  # of one call of `read_bandwidth`
_RESAMPLES = 2000
# until this process has ended too
_BURN = """
import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000):
        pass
"""


def weights_per_token(model: Seq2Seq) -> int:
    """Returns the number of weights that a decoding step reads: the decoder's and the LM head's.

    Cross-attention keys and values are made once, so their kernels do not count; embeddings are looked up.

    Args:
      model: any model.
    """
    flat, count = flatten(model.params), model.spec.vocab_size * model.spec.d_model
    for path, leaf in flat.items():
        inside = path.startswith("decoder/") and not path.endswith(("/embedding", "/positions"))
        count += leaf.size if inside and "/cross_attention/kv" not in path else 0
    return count


def time_systems(folders: Mapping[Cell, Path], vocab_size: int, given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Times all cells in turn.

    Args:
      folders: where each model lies as each system reads it.
      vocab_size: inputs are random ids below.
      given: the settings of the command.

    Returns:
      A row for each batch size and cell: `model`, `system`, `batch_size`, `ms` and `first_ms` (milliseconds of whole
      generations and of one token, [starts][runs]), `tokens` of the first start, and `read_ms` of the bandwidth; with
      `burners` also `busy_ms`, of whole generations beside them.
    """
    sizes = given["batch_sizes"]
    rows = {(size, cell): _new_row(size, cell) for size in sizes for cell in folders}
    total = given["starts"] * (given["runs"] + 1) * len(sizes)
    bar, bar_round = Progress("timing", total, 0, unit="round"), 0
    for start in range(given["starts"]):
        with _processes(folders, given["threads"]) as (processes, bandwidth):
            for size in sizes:
                ids = random_ids(vocab_size, size, given["source_length"], start)
                for run in range(-1, given["runs"]):  # the first round compiles and warms up
                    read_ms, _ = bandwidth.ask(ids[:0], 0, 0)
                    for cell, process in processes.items():
                        ms, tokens = process.ask(ids, given["new_tokens"], given["num_beams"])
                        first_ms, _ = process.ask(ids, 1, given["num_beams"])
                        row = rows[size, cell]
                        row.setdefault("tokens", tokens)
                        _add(row, run, {"ms": ms, "first_ms": first_ms, "read_ms": read_ms})
                    with burning(given.get("burners", 0)) as busy:
                        for cell, process in processes.items() if busy else ():
                            ms, _ = process.ask(ids, given["new_tokens"], given["num_beams"])
                            _add(rows[size, cell], run, {"busy_ms": ms})
                    bar.update(bar_round := bar_round + 1)
    bar.close()
    return list(rows.values())


def _new_row(size: int, cell: Cell) -> dict[str, Any]:
    return {"model": cell[0], "system": cell[1], "batch_size": size}


def _add(row: dict[str, Any], run: int, times: Mapping[str, float]) -> None:
    for name, value in times.items():
        if run < 0:
            row.setdefault(name, []).append([])
        else:
            row[name][-1].append(value)


@contextlib.contextmanager
def burning(count: int) -> Iterator[int]:
    """While the block runs, so many processes compute without a pause, each as much as one core can.

    Args:
      count: of processes; yielded.
    """
    burners = [subprocess.Popen([sys.executable, "-S", "-c", _BURN]) for _ in range(count)]
    try:
        yield count
    finally:
        for burner in burners:
            burner.kill()
            burner.wait()


@contextlib.contextmanager
def _processes(folders: Mapping[Cell, Path], threads: int) -> Iterator[tuple[dict[Cell, PeerProcess], PeerProcess]]:
    """A process for each cell, and one that measures the memory; all end with the block."""
    processes: dict[Cell, PeerProcess] = {}
    bandwidth = PeerProcess(BANDWIDTH, Path(), threads)
    try:
        for (model, system), folder in folders.items():
            processes[model, system] = PeerProcess(system, folder, threads)
        yield processes, bandwidth
    finally:
        for process in (*processes.values(), bandwidth):
            process.close()


def ratio(
    slow: Sequence[Sequence[float]], fast: Sequence[Sequence[float]], seed: int = 0
) -> tuple[float, float, float]:
    """Returns the ratio of medians slow / fast, and a 95 % interval by a bootstrap over starts and their runs.

    Args:
      slow: milliseconds [starts][runs].
      fast: milliseconds of the other system, timed in turn.
      seed: of the bootstrap.
    """
    a, b, rng = np.array(slow), np.array(fast), np.random.default_rng(seed)
    starts = rng.integers(len(a), size=(_RESAMPLES, len(a)))[..., None]
    runs = rng.integers(a.shape[1], size=(_RESAMPLES, *a.shape))
    found = np.median(a[starts, runs], axis=(1, 2)) / np.median(b[starts, runs], axis=(1, 2))
    low, high = np.percentile(found, (2.5, 97.5))
    return float(np.median(a) / np.median(b)), float(low), float(high)


def summarize(
    rows: Sequence[Mapping[str, Any]], models: Mapping[str, Seq2Seq], new_tokens: int
) -> list[dict[str, Any]]:
    """Returns what is printed of each row: medians, a token's time and bytes, ratios, and agreement of the outputs.

    Args:
      rows: from `time_systems`.
      models: name → model.
      new_tokens: tokens of every output.
    """
    found = []
    for row in rows:
        alike = [r for r in rows if r["batch_size"] == row["batch_size"]]
        ours = next((r for r in alike if r["model"] == row["model"]), row)
        same = np.mean([a == b for a, b in zip(row["tokens"], ours["tokens"], strict=True)])
        token_ms = (np.median(row["ms"]) - np.median(row["first_ms"])) / max(new_tokens - 1, 1)
        read = weights_per_token(models[row["model"]]) * BYTES_PER_WEIGHT.get(row["system"], 4)
        memory = _BANDWIDTH_BYTES / np.median(row["read_ms"])  # bytes a millisecond
        found.append({
            "model": row["model"], "system": row["system"], "batch_size": row["batch_size"],
            "median_ms": float(np.median(row["ms"])), "token_ms": float(token_ms), "token_bytes": read,
            "bandwidth_share": float(read / token_ms / memory), "same_outputs": float(same),
            "speedup": {f"{r['model']} {r['system']}": ratio(r["ms"], row["ms"]) for r in alike},
        } | _beside_burners(row))  # fmt: skip
    return found


def _beside_burners(row: Mapping[str, Any]) -> dict[str, Any]:
    if "busy_ms" not in row:
        return {}
    return {"busy_ms": float(np.median(row["busy_ms"])), "loss": ratio(row["busy_ms"], row["ms"])}


def table(rows: Sequence[Mapping[str, Any]], against: Sequence[str]) -> list[str]:
    """Returns lines of a Markdown table.

    Args:
      rows: from `summarize`.
      against: names `model system` that speedups are shown against.
    """
    head = ["batch", "model", "system", "ms", "ms a token", "MB a token", "of the bandwidth", "same outputs"]
    head += ["ms beside burners", "loss"] if "loss" in rows[0] else []
    lines = ["| " + " | ".join([*head, *(f"speedup over {name}" for name in against)]) + " |"]
    lines.append("|" + "---|" * (len(head) + len(against)))
    for row in rows:
        ratios = [*([row["loss"]] if "loss" in row else []), *(row["speedup"][name] for name in against)]
        cells = [
            str(row["batch_size"]), row["model"], row["system"], f"{row['median_ms']:.0f}", f"{row['token_ms']:.2f}",
            f"{row['token_bytes'] / 1e6:.0f}", f"{row['bandwidth_share']:.0%}", f"{row['same_outputs']:.0%}",
            *([f"{row['busy_ms']:.0f}"] if "loss" in row else []),
            *(f"{middle:.2f} ({low:.2f} to {high:.2f})" for middle, low, high in ratios),
        ]  # fmt: skip
        lines.append("| " + " | ".join(cells) + " |")
    return lines


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    for name in ("model", "dense", "preset", "systems", "output"):
        flags.DEFINE_string(name, "", "", flag_values=own)
    flags.DEFINE_list("batch_sizes", ["1", "8"], "", flag_values=own)
    flags.DEFINE_integer("decoder_layers", 3, "", lower_bound=1, flag_values=own)
    flags.DEFINE_float("sparsity", 0.3, "", 0.0, 0.99, flag_values=own)
    for name, default in _NUMBERS.items():
        flags.DEFINE_integer(name, default, "", lower_bound=1, flag_values=own)
    flags.DEFINE_integer("burners", 0, "", lower_bound=0, flag_values=own)
    parse_flags(own, argv, "--model=FOLDER, --dense=FOLDER or --preset=NAME, --systems=…, --batch_sizes=…")
    given = own.flag_values_dict()
    if bool(given["model"]) == bool(given["preset"]):
        raise UserError("command line: no model, or two", "either --model=FOLDER or --preset=NAME")
    check_local(given["output"], "--output")
    sizes = read_batch_sizes(given["batch_sizes"])
    systems = [name for name in find_systems(given["systems"]) if given["num_beams"] == 1 or name not in GREEDY_ONLY]
    return given | {"batch_sizes": sizes, "systems": systems}


def find_systems(named: str, setting: str = "--systems") -> list[str]:
    """Returns the systems to time.

    Args:
      named: some, by commas; empty or `all`: those whose packages are installed.
      setting: what to call it in a message.

    Raises:
      UserError: for an unknown one, or one that is not installed.
    """
    if named in ("", "all"):
        return [name for name, (package, _, _) in SYSTEMS.items() if is_installed(package)]
    chosen = [name.strip() for name in named.split(",")]
    for name in chosen:
        if name not in SYSTEMS:
            raise UserError(f"{setting} names {name!r}{did_you_mean(name, SYSTEMS)}", f"some of {','.join(SYSTEMS)}")
        if not is_installed(SYSTEMS[name][0]):
            raise UserError(f"not installed: {SYSTEMS[name][0]}", f"the package that {name} needs")
    return chosen


def _models(given: Mapping[str, Any]) -> dict[str, Seq2Seq]:
    """Returns the models to time: `dense` and `pruned`, or the latter alone."""
    if given["preset"]:
        spec = preset(given["preset"])
        params = random_params(spec, scale=0.05)
        pruned, _ = prune_model(spec, params, given["sparsity"], given["decoder_layers"])
        return {"dense": Seq2Seq(spec, params), "pruned": pruned}
    pruned = load(given["model"])
    return ({"dense": load(given["dense"])} if given["dense"] else {}) | {"pruned": pruned}


def _write(models: Mapping[str, Seq2Seq], systems: Sequence[str], place: Path) -> dict[Cell, Path]:
    """Writes each model for each system; a system that cannot have it is left out with a note."""
    found: dict[Cell, Path] = {}
    for model_name, model in models.items():
        for system in systems:
            folder = place / f"{model_name} {system}"
            try:
                SYSTEMS[system][1](model, folder)
            except UserError as error:
                print(f"note: {system} without the {model_name} model: {error}", file=sys.stderr)
                continue
            found[model_name, system] = folder
    return found


def time_models(models: Mapping[str, Seq2Seq], given: Mapping[str, Any]) -> list[dict[str, Any]]:
    """Times models in systems, all in turn.

    Args:
      models: name → model.
      given: `systems` and the settings of the command.

    Returns:
      As `summarize`.
    """
    vocab_size = min(model.spec.source_vocab_size for model in models.values())
    with tempfile.TemporaryDirectory(prefix="nash_jax") as place:
        folders = _write(models, given["systems"], Path(place))
        rows = time_systems(folders, vocab_size, given)
    return summarize(rows, models, given["new_tokens"])


def run(argv: Sequence[str]) -> None:
    """Times all systems that are there and prints the table."""
    given = _parse(argv)
    summary = time_models(_models(given), given)
    if given["output"]:
        settings = {name: given[name] for name in ("model", "dense", "preset", "batch_sizes", "burners", *_NUMBERS)}
        write_text(Path(given["output"]), json.dumps({"settings": settings, "rows": summary}, indent=1))
    against = [name for name in ("dense transformers", "dense ctranslate2 int8") if name in summary[0]["speedup"]]
    print_result(*table(summary, against))


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__ or "", "choose a smaller model")


if __name__ == "__main__":
    sys.exit(main())
