"""Latency of whole generations of several models, timed alternately in one process."""

import math
import os
import sys
import time
from collections.abc import Callable, Hashable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeVar

import numpy as np

from nash_jax.config.schema import BenchmarkConfig
from nash_jax.generation.engine import BatchGenerator, Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.runtime.progress import say_while

Name = TypeVar("Name", bound=Hashable)
Call = Callable[[], Any]


def measure_latency(engines: Mapping[str, Engine], config: BenchmarkConfig, seed: int = 0) -> list[dict[str, Any]]:
    """Times every model at every batch size and output length.

    All models read the same random ids (so they share a vocabulary), generate exactly the given number of tokens, and
    run alternately, so that slow phases of the machine affect all of them. Each call blocks until its result is ready;
    the first call, which compiles, is excluded.

    Args:
      engines: name → model.
      config: batch sizes, lengths and number of runs.
      seed: of the random ids.

    Returns:
      Rows of report.json's `benchmark`, times in milliseconds. `encode_ms` is the median time of the encoder and the
      cross-attention keys and values; `per_token_ms` is the rest of the median divided by the number of tokens.
    """
    vocabulary = min(engine.spec.source_vocab_size for engine in engines.values())
    ids = {size: random_ids(vocabulary, size, config.source_length, seed) for size in config.batch_sizes}
    longest = max(config.new_tokens)
    encode = {
        size: {n: encoding_call(e, ids[size], longest) for n, e in engines.items()} for size in config.batch_sizes
    }
    whole = {
        (size, tokens): {n: generation_call(e, ids[size], tokens) for n, e in engines.items()}
        for size in config.batch_sizes
        for tokens in config.new_tokens
    }
    rows: list[dict[str, Any]] = []
    encode_ms: dict[int, dict[str, np.ndarray]] = {}
    doing = "compiling"

    def say(seconds: float) -> None:
        print(f"benchmark: {doing}, {seconds:.0f} s so far", file=sys.stderr, flush=True)

    with say_while(say):
        compile_all([call for calls in (*encode.values(), *whole.values()) for call in calls.values()])
        for size, calls in encode.items():
            doing = f"timing encoders, batch {size}"
            encode_ms[size] = time_interleaved(calls, config.runs)
        for (size, tokens), calls in whole.items():
            doing = f"timing batch {size}, {tokens} new tokens"
            for name, ms in time_interleaved(calls, config.runs).items():
                rows.append(_row(name, size, tokens, config, ms, float(np.median(encode_ms[size][name]))))
    return rows


def _row(
    name: str, batch_size: int, new_tokens: int, config: BenchmarkConfig, ms: np.ndarray, encode_ms: float
) -> dict[str, Any]:
    median = float(np.median(ms))
    return {
        "model": name,
        "batch_size": batch_size,
        "source_length": config.source_length,
        "new_tokens": new_tokens,
        "num_beams": 1,
        "runs": config.runs,
        "mean_ms": float(ms.mean()),
        "std_ms": sample_std(ms),
        "median_ms": median,
        "encode_ms": encode_ms,
        "per_token_ms": max(median - encode_ms, 0.0) / new_tokens,
    }


def compile_all(calls: Sequence[Call]) -> None:
    """Runs each call once in a thread pool, so that their programs are compiled in parallel."""
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        list(pool.map(lambda call: call(), calls))


def random_ids(vocab_size: int, batch_size: int, source_length: int, seed: int = 0) -> np.ndarray:
    """Returns random source ids without padding, int32 [B, S]."""
    rng = np.random.default_rng(seed)
    return rng.integers(3, vocab_size, (batch_size, source_length)).astype(np.int32)


def generation_call(engine: BatchGenerator, ids: np.ndarray, new_tokens: int) -> Call:
    """Returns a call that generates exactly `new_tokens` tokens for ids [B, S] and blocks until they are ready."""
    mask, options = np.ones_like(ids), GenerationOptions(max_new_tokens=new_tokens)
    return lambda: engine.generate(ids, mask, options, stop_at_eos=False)


def encoding_call(engine: Engine, ids: np.ndarray, new_tokens: int) -> Call:
    """Returns a call that runs what precedes the first token (encoder, cross-attention keys and values) and blocks."""
    mask = np.ones_like(ids)
    return lambda: engine.encode_only(ids, mask, new_tokens)


def time_interleaved(calls: Mapping[Name, Call], runs: int, at_least_ms: float = 0.0) -> dict[Name, np.ndarray]:
    """Times several calls alternately; compilation is excluded.

    Args:
      calls: name → call to time, which blocks until its result is ready.
      runs: number of measurements of each call.
      at_least_ms: a measurement repeats its call until it lasts about this long, and is the mean over repetitions.

    Returns:
      Name → milliseconds per call, float64 [runs].
    """
    repeats = {name: _repeats(call, at_least_ms) for name, call in calls.items()}
    times: dict[Name, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            times[name].append(_time(call, repeats[name]))
    return {name: np.array(values) for name, values in times.items()}


def _repeats(call: Call, at_least_ms: float) -> int:
    """Returns how often to repeat a call in one measurement; also compiles it."""
    call()
    return math.ceil(at_least_ms / _time(call, 1)) if at_least_ms else 1


def _time(call: Call, repeats: int) -> float:
    """Returns the mean milliseconds of consecutive calls."""
    start = time.perf_counter()
    for _ in range(repeats):
        call()
    return 1000 * (time.perf_counter() - start) / repeats


def sample_std(ms: np.ndarray) -> float:
    """Returns the sample standard deviation; 0 for a single run."""
    return float(ms.std(ddof=1)) if len(ms) > 1 else 0.0


def speedups(rows: Sequence[Mapping[str, Any]]) -> dict[str, float]:
    """Returns batch size → median time of dense / median time of pruned, at the first output length."""
    median = {(r["model"], r["batch_size"]): r["median_ms"] for r in rows if r["new_tokens"] == rows[0]["new_tokens"]}
    sizes = sorted({r["batch_size"] for r in rows})
    return {str(b): median["dense", b] / median["pruned", b] for b in sizes}
