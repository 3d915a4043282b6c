"""Time of a generation by component.

The architecture is data, so a component is timed with specs that lack other components:
`keep_components(spec, {"decoder FFN"})` is a model whose decoder layers only have an FFN. Each of these models is
jitted separately and generates all its tokens in the same loop as the whole model; short calls are repeated.

How is the time of a component defined? Its time *alone* is too small: in a loop without the others, its weights stay
in the processor's cache. The time *saved* by removing it is too large: the rest then fits the cache better. With the
sizes of T5-small on a CPU (batch 1, 32 tokens), the decoder's components alone added up to 64 % of the loop's time,
their savings to 155 %. Therefore components are added to an empty loop one by one, in one order and in the reverse
order; the time of a component is the mean of the two increments. This is an estimate of its Shapley value from two
opposite orders (Castro, Gómez and Tejada 2009). These times add up to the time of the loop with all components.

Encoder and decoder are timed separately, so the sum differs from the whole generation. The difference is reported as
the remainder: XLA fuses and orders operations differently in one program, there is noise, and medians do not add up
exactly. A component with a time below the noise may be negative; it is reported as measured.
"""

import dataclasses
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any

import jax
import numpy as np

from nash_jax.axes import param_axes
from nash_jax.benchmark.latency import Call, encoding_call, generation_call, random_ids, sample_std, time_interleaved
from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import pad_inputs
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten

Components = frozenset[str]
Timed = Callable[[Engine, np.ndarray, int], Call]  # (model, ids [B, S], new tokens) → the call to time
Times = dict[str, np.ndarray]  # component → milliseconds [runs]

LOOP, SOURCE, KEYS_VALUES = "loop, target embeddings", "source embeddings", "cross-attention keys, values"
ENCODER = ("encoder attention", "encoder FFN")
CROSS, HEAD = "decoder cross-attention", "LM head"
DECODER = ("decoder self-attention", CROSS, "decoder FFN", HEAD)
ONCE = (SOURCE, *ENCODER, KEYS_VALUES)  # run once per generation; all others run for each token
SUM, WHOLE, REMAINDER = "sum of components", "whole generation", "remainder"

_FIELDS: dict[str, tuple[str, str, Any]] = {  # component → (side, field of its layers, value that removes it)
    "encoder attention": ("encoder", "heads", ()),
    "encoder FFN": ("encoder", "ffn", 0),
    "decoder self-attention": ("decoder", "self_heads", ()),
    CROSS: ("decoder", "cross_heads", ()),
    "decoder FFN": ("decoder", "ffn", 0),
}
_FEW_WORDS = 8  # an LM head with so few rows costs nothing
_SOURCE = frozenset({HEAD})  # no layers, full vocabulary: source embeddings are read from the full table
_AT_LEAST_MS = 20.0


def component_times(
    engine: Engine, batch_size: int, source_length: int, new_tokens: int, runs: int
) -> list[dict[str, Any]]:
    """Times the components of a model alternately; compilation is excluded.

    Args:
      engine: the model.
      batch_size: rows.
      source_length: tokens of each row.
      new_tokens: generated tokens; rows do not end early.
      runs: number of measurements of each component.

    Returns:
      A row for each component of the model, then `SUM`, `WHOLE` and `REMAINDER`:
        component, batch_size, source_length, new_tokens, runs;
        median_ms, std_ms: for one generation (std_ms is None for values that were not measured directly);
        per_token_ms: for components that run for each token, else None; for `SUM` and `WHOLE` without `ONCE`;
        share: of the whole generation, 0 to 1.
    """
    present = present_components(engine.spec)
    times = _split(_time_parts(engine, _timed_pairs(present), batch_size, source_length, new_tokens, runs), present)
    whole = times.pop(WHOLE)
    median = {name: float(np.median(ms)) for name, ms in times.items()}
    std: dict[str, float | None] = {name: sample_std(ms) for name, ms in times.items()}
    once = sum(median[name] for name in ONCE if name in median)
    median |= {SUM: sum(median.values()), WHOLE: float(np.median(whole))}
    median[REMAINDER] = median[WHOLE] - median[SUM]
    std |= {SUM: None, WHOLE: sample_std(whole), REMAINDER: None}
    setup = {"batch_size": batch_size, "source_length": source_length, "new_tokens": new_tokens, "runs": runs}
    return [
        {
            "component": name,
            **setup,
            "median_ms": ms,
            "std_ms": std[name],
            "per_token_ms": None if name in ONCE else (ms - once * (name in (SUM, WHOLE))) / new_tokens,
            "share": ms / median[WHOLE],
        }
        for name, ms in median.items()
    ]


def keep_components(spec: ModelSpec, kept: Collection[str]) -> ModelSpec:
    """Returns the spec without the components of `ENCODER` and `DECODER` that are not in `kept`."""
    sides: dict[str, dict[str, Any]] = {"encoder": {}, "decoder": {}}
    for component, (side, field, nothing) in _FIELDS.items():
        if component not in kept:
            sides[side][field] = nothing
    encoder = tuple(dataclasses.replace(layer, **sides["encoder"]) for layer in spec.encoder)
    decoder = tuple(dataclasses.replace(layer, **sides["decoder"]) for layer in spec.decoder)
    spec = dataclasses.replace(spec, encoder=encoder, decoder=decoder)
    if HEAD in kept:
        return spec
    few = min(_FEW_WORDS, spec.vocab_size)
    return dataclasses.replace(spec, vocab_size=few, pad_id=0, eos_id=1, decoder_start_id=0)


def present_components(spec: ModelSpec) -> Components:
    """Returns the components of `ENCODER` and `DECODER` in a spec; without cross-attention the encoder is not run."""
    everything = {*ENCODER, *DECODER}
    found = {part for part in everything if keep_components(spec, everything - {part}) != spec}
    return frozenset(found if CROSS in found else found - set(ENCODER))


def _timed_pairs(present: Components) -> list[tuple[Timed, Components]]:
    """Returns what is timed, with which components, in a fixed order."""
    found = {(generation_call, present), (encoding_call, Components()), (encoding_call, _SOURCE | present & {CROSS})}
    found |= {(generation_call, kept) for kept in _chains(Components(), _ordered(DECODER, present))}
    found |= {(_encoder_only_call, kept) for kept in _chains(_SOURCE, _ordered(ENCODER, present))}
    return sorted(found, key=lambda item: (item[0].__name__, sorted(item[1])))


def _time_parts(
    engine: Engine,
    wanted: Sequence[tuple[Timed, Components]],
    batch_size: int,
    source_length: int,
    new_tokens: int,
    runs: int,
) -> dict[tuple[Timed, Components], np.ndarray]:
    """Returns milliseconds [runs] for each pair."""
    engines = {kept: _partial_engine(engine, kept) for _, kept in wanted}
    ids = {kept: random_ids(e.spec.source_vocab_size, batch_size, source_length) for kept, e in engines.items()}
    calls = {(timed, kept): timed(engines[kept], ids[kept], new_tokens) for timed, kept in wanted}
    return time_interleaved(calls, runs, _AT_LEAST_MS)


def _split(ms: Mapping[tuple[Timed, Components], np.ndarray], present: Components) -> Times:
    """Computes the times of components and of the whole generation from the measured times."""
    added = component_contributions(lambda kept: ms[generation_call, kept], Components(), _ordered(DECODER, present))
    times = {LOOP: ms[generation_call, Components()]}
    if CROSS in present:
        # these generations also compute CROSS's keys and values once, from the source embeddings: not per token
        before = ms[encoding_call, _SOURCE | {CROSS}] - ms[encoding_call, Components()]
        times[SOURCE] = ms[_encoder_only_call, _SOURCE] - ms[encoding_call, Components()]
        times |= component_contributions(lambda kept: ms[_encoder_only_call, kept], _SOURCE, _ordered(ENCODER, present))
        times[KEYS_VALUES] = before - times[SOURCE]
        added[CROSS] = added[CROSS] - before
    return times | added | {WHOLE: ms[generation_call, present]}


def _ordered(parts: Sequence[str], present: Components) -> list[str]:
    return [part for part in parts if part in present]


def _chains(base: Components, parts: Sequence[str]) -> set[Components]:
    """Returns the sets of components that occur when `parts` are added to `base` in order and in reverse order."""
    orders = (parts, parts[::-1])
    return {base | set(order[:count]) for order in orders for count in range(len(parts) + 1)}


def component_contributions(ms: Callable[[Components], np.ndarray], base: Components, parts: Sequence[str]) -> Times:
    """Returns the time that each part adds, averaged over both orders, [runs]."""
    added: Times = {}
    for i, part in enumerate(parts):
        before, after = base | set(parts[:i]), base | set(parts[i + 1 :])
        added[part] = (ms(before | {part}) - ms(before) + ms(after | {part}) - ms(after)) / 2
    return added


def _partial_engine(engine: Engine, kept: Components) -> Engine:
    """Returns a model with some components, which shares the weights (on the device) of the whole model."""
    spec = keep_components(engine.spec, kept)
    flat, sizes = flatten(engine.params), spec.axis_sizes()
    params = {}
    for path, axes in param_axes(spec).items():
        shape = tuple(sizes[axis] for axis in axes)
        params[path] = flat[path] if flat[path].shape == shape else flat[path][tuple(map(slice, shape))]
    return Engine(spec, unflatten(params), engine.dtype)


def _encoder_only_call(engine: Engine, ids: np.ndarray, new_tokens: int) -> Call:
    """Returns a call that encodes ids [B, S] and blocks, with the same overhead as `encoding_call`."""
    encode = jax.jit(lambda params, ids, mask: engine.model.apply({"params": params}, ids, mask, method="encode")[0])
    mask = np.ones_like(ids)

    def call() -> Any:
        inputs = pad_inputs(ids, mask, np.arange(len(ids)), engine.spec.pad_id)
        return jax.block_until_ready(encode(engine.params, inputs.input_ids, inputs.attention_mask))

    return call
