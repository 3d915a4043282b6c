"""Whole-generation latency of several models, timed in turn in one process."""

import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nash_jax.config import BenchmarkConfig
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions


def measure(engines: Mapping[str, Engine], config: BenchmarkConfig, seed: int = 0) -> list[dict[str, Any]]:
    """Times every model at every batch size.

    All models read the same random ids (so they share a vocabulary), generate exactly `new_tokens` tokens,
    and are run in turn, so that a slow moment of the machine hits all alike. Each call blocks until its
    result is there; the first, which compiles, is left out.

    Returns:
      Rows of report.json's `benchmark`: times in milliseconds; `encode_ms` is the median time of encoder and
      cross-attention keys and values, `per_token_ms` the median rest divided by the tokens.
    """
    rows, options = [], GenerationOptions(max_new_tokens=config.new_tokens)
    for batch_size in config.batch_sizes:
        rng = np.random.default_rng(seed)
        vocabulary = min(e.spec.vocab_size for e in engines.values())
        ids = rng.integers(3, vocabulary, (batch_size, config.source_length)).astype(np.int32)
        mask = np.ones_like(ids)
        whole = {n: _call(e.generate, ids, mask, options, stop_at_eos=False) for n, e in engines.items()}
        encode = {n: _call(e.encode_only, ids, mask, config.new_tokens) for n, e in engines.items()}
        times, encode_times = _in_turn(whole, config.runs), _in_turn(encode, config.runs)
        for name in engines:
            ms, encode_ms = times[name], float(np.median(encode_times[name]))
            rows.append(
                {
                    "model": name,
                    "batch_size": batch_size,
                    "source_length": config.source_length,
                    "new_tokens": config.new_tokens,
                    "num_beams": 1,
                    "runs": config.runs,
                    "mean_ms": float(ms.mean()),
                    "std_ms": float(ms.std(ddof=1)) if len(ms) > 1 else 0.0,
                    "median_ms": float(np.median(ms)),
                    "encode_ms": encode_ms,
                    "per_token_ms": max(float(np.median(ms)) - encode_ms, 0.0) / config.new_tokens,
                }
            )
    return rows


def _call(fn: Callable[..., Any], *args: Any, **kwargs: Any) -> Callable[[], Any]:
    return lambda: fn(*args, **kwargs)


def _in_turn(calls: Mapping[str, Callable[[], Any]], runs: int) -> dict[str, np.ndarray]:
    """Milliseconds of `runs` calls of each, interleaved, after one call of each to warm up."""
    for call in calls.values():
        call()
    times: dict[str, list[float]] = {name: [] for name in calls}
    for _ in range(runs):
        for name, call in calls.items():
            start = time.perf_counter()
            call()
            times[name].append(1000 * (time.perf_counter() - start))
    return {name: np.array(values) for name, values in times.items()}


def speedups(rows: list[dict[str, Any]]) -> dict[str, float]:
    """Batch size → median time of dense over median time of pruned."""
    median = {(r["model"], r["batch_size"]): r["median_ms"] for r in rows}
    sizes = sorted({r["batch_size"] for r in rows})
    return {str(b): median["dense", b] / median["pruned", b] for b in sizes}
