"""Memory of loading, of compaction and of generating; then time of `load`, with its comparing of hashes and without.

python -m nash_jax.benchmark.loading_cost [--preset=t5-base] [--runs=7]

python -m nash_jax.benchmark.loading_cost --mesh=fsdp:8 [--preset=t5-base] [--dtype=bfloat16]

Uses random weights. The files are in the page cache, so that reading them costs the least and comparing the most.
Memory is the most that a process of its own holds meanwhile, beyond what it held before, divided by the bytes of the
parameters; of compaction, with the dense model, which is held beside the new one; of generating, what is held after it.
Pages of mapped files are not counted: the system takes them back when it needs them.

With a mesh, weights are read into their shards. They are zeros in a file without blocks, which takes no room on the
disk. Of several processes on one machine, started as in docs/launch.md, one after the other loads its part and frees
it: so a machine that cannot hold a model shows what a process of a larger run needs.
"""

import contextlib
import json
import math
import multiprocessing
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
from absl import flags
from jax.sharding import Mesh

from nash_jax.benchmark.padding_cost import prune_model
from nash_jax.convert import hf
from nash_jax.models.placement import model_shardings
from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.runtime.memory import anonymous_memory, keep_freed_memory, return_freed_memory
from nash_jax.runtime.mesh import make_mesh, mesh_text
from nash_jax.runtime.multihost import barrier, broadcast_from_host0, end_together, is_host0, start_distributed
from nash_jax.runtime.sharding import place_params
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.spec import ModelSpec, dense_spec, preset
from nash_jax.testing import random_params
from nash_jax.tree import flatten

_TINY = dense_spec(vocab_size=32, d_model=8, d_ff=8, num_heads=1, encoder_layers=1, decoder_layers=1)
_SPARSITY = 0.3  # of the encoder, in the compaction
_DTYPES = "float32", "int8"
_Found = TypeVar("_Found")
_INTERVAL = 0.002  # s between two looks at the memory
_GIB = 2**30


def seconds_of(call: Callable[[], object]) -> tuple[float, float]:
    """Seconds that a call takes, and those of all its threads on processors."""
    begun, used = time.perf_counter(), time.process_time()
    call()
    return time.perf_counter() - begun, time.process_time() - used


def time_loading(folder: Path, runs: int) -> dict[bool, list[tuple[float, float]]]:
    """Seconds of `load` by whether it compares hashes, [runs, 2], in turn after one that is not counted."""
    load(folder)
    taken: dict[bool, list[tuple[float, float]]] = {False: [], True: []}
    for run in range(2 * runs):
        verify = run % 4 in (1, 2)  # first as often as second
        taken[verify].append(seconds_of(lambda verify=verify: load(folder, verify=verify)))  # type: ignore[misc]
    return taken


def describe_times(taken: dict[bool, list[tuple[float, float]]]) -> str:
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


@contextlib.contextmanager
def watched_memory() -> Iterator[list[int]]:
    """Watches this process while the block runs.

    Yields:
      A list that the end of the block fills with one number: the greatest memory beyond that at its begin, bytes.
    """
    begun, ended, found = anonymous_memory(), threading.Event(), list[int]()
    highest = begun

    def watch() -> None:
        nonlocal highest
        while not ended.wait(_INTERVAL):
            highest = max(highest, anonymous_memory())

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        yield found
    finally:
        ended.set()
        watcher.join()
        found.append(max(highest, anonymous_memory()) - begun)


def peak_memory(folder: Path, tiny: Path) -> tuple[float, float]:
    """Peak memory of `load`, and of `load` and compaction, in units of the parameters' bytes.

    Args:
      folder: of the model.
      tiny: of a tiny one, which is loaded before, so that packages do not count.
    """
    load(tiny)
    with watched_memory() as of_load:
        model = load(folder)
    size = sum(leaf.nbytes for leaf in flatten(model.params).values())
    with watched_memory() as of_compaction:
        prune_model(model.spec, model.params, _SPARSITY, max(len(model.spec.decoder) // 4, 1))
    return of_load[0] / size, 1 + of_compaction[0] / size


def write_zeros(folder: Path, spec: ModelSpec, dtype: str) -> None:
    """Writes a folder in the hub's layout whose weights are zeros that take no room.

    Args:
      folder: made here.
      spec: a model of a family of transformers, with uniform layers.
      dtype: of the weights.
    """
    folder.mkdir(parents=True)
    (folder / "config.json").write_text(json.dumps(hf.hf_config(spec)))
    name, size = {"bfloat16": ("BF16", 2), "float32": ("F32", 4)}[dtype]
    header, end = dict[str, Any](), 0
    for weight, shape in hf.weight_shapes(spec).items():
        begin, end = end, end + size * math.prod(shape)
        header[weight] = {"dtype": name, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with (folder / "model.safetensors").open("wb") as file:
        file.write(len(text).to_bytes(8, "little") + text)
        file.truncate(8 + len(text) + end)


def load_shards(folder: Path, mesh: Mesh, dtype: str) -> dict[str, jax.Array]:
    """The parameters of a folder on a mesh, by path."""
    model = load(folder, lazy=True)
    placed = place_params(mesh, model.params, model_shardings(mesh, model.spec), dtype)
    return flatten(jax.block_until_ready(placed))


def measure_shards(folder: Path, tiny: Path, mesh: Mesh, dtype: str) -> str:
    """Seconds and memory of loading this process's shards, in words; `tiny` is loaded before, as in `peak_memory`."""
    load_shards(tiny, mesh, dtype)
    with watched_memory() as held:
        begun = time.perf_counter()
        placed = load_shards(folder, mesh, dtype)
        taken = time.perf_counter() - begun
    own = sum(shard.data.nbytes for leaf in placed.values() for shard in leaf.addressable_shards)
    largest = max(leaf.size * 4 for leaf in placed.values())
    return (
        f"{own / _GIB:.2f} GiB in {taken:.1f} s; memory at most {(held[0] - own) / _GIB:.2f} GiB beyond these shards, "
        f"the largest parameter in float32 has {largest / _GIB:.2f} GiB"
    )


def run_on_mesh(name: str, mesh: Mesh, dtype: str) -> None:
    """Prints `measure_shards` of each process, one after the other."""
    with tempfile.TemporaryDirectory() as own:
        place = Path(broadcast_from_host0(own))
        for size, spec in (("whole", preset(name)), ("tiny", _TINY)) if is_host0() else ():
            write_zeros(place / size, spec, dtype)
        for turn in range(jax.process_count()):
            barrier("next turn")
            if turn == jax.process_index():
                found = measure_shards(place / "whole", place / "tiny", mesh, dtype)
                print_result(f"{name}, {dtype}, {mesh_text(mesh)}, process {turn} of {jax.process_count()}: {found}")
                return_freed_memory()
        barrier("all read")


def memory_after_generating(folder: Path, tiny: Path, dtype: str) -> float:
    """Memory that a loaded model holds once it has generated, in units of the parameters' bytes.

    Args:
      folder: of the model.
      tiny: of a tiny one, which generates before, so that packages do not count.
      dtype: as of `load`.
    """
    ids = np.full((1, 8), _TINY.eos_id + 1)
    load(tiny, dtype=dtype).generate_ids(ids, max_new_tokens=4)
    begun = anonymous_memory()
    model = load(folder, dtype=dtype)
    model.generate_ids(ids, max_new_tokens=4)
    held = anonymous_memory() - begun
    return held / sum(leaf.nbytes for leaf in flatten(model.params).values())


def in_a_process(call: Callable[..., _Found], *args: Any) -> _Found:
    """What a new process finds, which has freed no memory yet."""
    with ProcessPoolExecutor(1, multiprocessing.get_context("spawn")) as process:
        return process.submit(call, *args).result()


def run(argv: Sequence[str]) -> None:
    """Saves a model, loads it again and again, and prints seconds, their ratio, and memory."""
    own = flags.FlagValues()
    flags.DEFINE_string("preset", "t5-base", "", flag_values=own)
    flags.DEFINE_integer("runs", 7, "", lower_bound=2, flag_values=own)
    flags.DEFINE_string("mesh", "", "", flag_values=own)
    flags.DEFINE_enum("dtype", "bfloat16", ["bfloat16", "float32"], "", flag_values=own)
    parse_flags(own, argv, "--preset=NAME, --runs=TIMES, --mesh=SIZES, --dtype=bfloat16 or float32")
    given = own.flag_values_dict()
    spec = preset(given["preset"])
    if given["mesh"]:
        start_distributed()
        run_on_mesh(given["preset"], make_mesh(given["mesh"]), given["dtype"])
        end_together()
        return
    with tempfile.TemporaryDirectory() as place:
        for size, shape in (("whole", spec), ("tiny", _TINY)):
            model = Seq2Seq(shape, random_params(shape))
            model.save(Path(place) / size / "export")
            model.save_hf(Path(place) / size / "hf")
            del model
        folders = {name: (Path(place) / "whole" / name, Path(place) / "tiny" / name) for name in ("export", "hf")}
        for name in folders:
            loaded, compacted = in_a_process(peak_memory, *folders[name])
            held = [in_a_process(memory_after_generating, *folders[name], dtype) for dtype in _DTYPES]
            print_result(
                f"{given['preset']}, {name}: memory {loaded:.2f} times the parameters' to load, {compacted:.2f} times "
                f"with a compaction to {_SPARSITY:.0%} less encoder and a quarter of the decoder, after generating "
                f"{held[0]:.2f} in float32, {held[1]:.2f} in int8"
            )
        keep_freed_memory()
        for name in folders:
            print_result(f"{given['preset']}, {name}: {describe_times(time_loading(folders[name][0], given['runs']))}")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__, "choose a smaller preset")


if __name__ == "__main__":
    sys.exit(main())
