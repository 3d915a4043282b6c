"""Where the time of a generation goes, by component.

Architecture is data, so a component is timed through specs that lack others: `part_of(spec, {"decoder FFN"})` is a
model whose decoder layers have an FFN and nothing else. Each such model is jitted by itself and generates all its
tokens in the same loop as the whole model does; short calls are repeated until they can be measured.

What is the time of a component? *Alone* is too little: in a loop of its own its weights stay in the processor's
cache. What is *saved* by leaving it out is too much: the rest then fits the cache better. With T5-small's shape on a
CPU (batch 1, 32 tokens) the decoder's components alone came to 64 % of its loop's time, their savings to 155 %.
So components are added to an empty loop one after the other, in an order and in the reverse one, and the time of
each is the mean of what it added in the two: its Shapley value, estimated from two opposite orders (Castro, Gómez
and Tejada 2009). Such times add up to the loop with all components.

Encoder and decoder are timed apart, so the sum is not the whole generation. What is left between the two is shown
as the remainder: what XLA fuses or orders otherwise in one program, and noise. Medians do not add up exactly either.
A component below the noise may come out negative; it is shown as it was measured.
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
ONCE = (SOURCE, *ENCODER, KEYS_VALUES)  # a generation; all others run for each token
SUM, WHOLE, REMAINDER = "sum of components", "whole generation", "remainder"

_FIELDS: dict[str, tuple[str, str, Any]] = {  # component → (side, field of its layers, value that leaves it out)
    "encoder attention": ("encoder", "heads", ()),
    "encoder FFN": ("encoder", "ffn", 0),
    "decoder self-attention": ("decoder", "self_heads", ()),
    CROSS: ("decoder", "cross_heads", ()),
    "decoder FFN": ("decoder", "ffn", 0),
}
_FEW_WORDS = 8  # an LM head of so many costs nothing
_SOURCE = frozenset({HEAD})  # no layers, the real vocabulary: source embeddings are read from the real table
_AT_LEAST_MS = 20.0


def component_times(
    engine: Engine, batch_size: int, source_length: int, new_tokens: int, runs: int
) -> list[dict[str, Any]]:
    """Times the components of a model in turn, compilation left out.

    Args:
      engine: the model.
      batch_size: rows.
      source_length: tokens of each row.
      new_tokens: tokens generated, no early end.
      runs: measurements of each.

    Returns:
      A row for each component that the model has, then `SUM`, `WHOLE` and `REMAINDER`:
        component, batch_size, source_length, new_tokens, runs;
        median_ms, std_ms: in one generation (no deviation of what is no measurement: None);
        per_token_ms: of what runs for each token, else None; of the whole without what runs once;
        share: of the whole generation.
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
    """The spec without the components (of `ENCODER` and `DECODER`) that are not in `kept`."""
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
    """The components of `ENCODER` and `DECODER` that a spec has; an encoder that nothing attends to is not run."""
    everything = {*ENCODER, *DECODER}
    found = {part for part in everything if keep_components(spec, everything - {part}) != spec}
    return frozenset(found if CROSS in found else found - set(ENCODER))


def _timed_pairs(present: Components) -> list[tuple[Timed, Components]]:
    """What is timed, on which parts, in a fixed order."""
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
    """Milliseconds [runs] of each."""
    engines = {kept: _partial_engine(engine, kept) for _, kept in wanted}
    ids = {kept: random_ids(e.spec.source_vocab_size, batch_size, source_length) for kept, e in engines.items()}
    calls = {(timed, kept): timed(engines[kept], ids[kept], new_tokens) for timed, kept in wanted}
    return time_interleaved(calls, runs, _AT_LEAST_MS)


def _split(ms: Mapping[tuple[Timed, Components], np.ndarray], present: Components) -> Times:
    """Times of what was timed → times of components, and of the whole generation."""
    added = component_contributions(lambda kept: ms[generation_call, kept], Components(), _ordered(DECODER, present))
    times = {LOOP: ms[generation_call, Components()]}
    if CROSS in present:
        # CROSS has its keys and values made in each of these generations, from embeddings alone: not for each token
        before = ms[encoding_call, _SOURCE | {CROSS}] - ms[encoding_call, Components()]
        times[SOURCE] = ms[_encoder_only_call, _SOURCE] - ms[encoding_call, Components()]
        times |= component_contributions(lambda kept: ms[_encoder_only_call, kept], _SOURCE, _ordered(ENCODER, present))
        times[KEYS_VALUES] = before - times[SOURCE]
        added[CROSS] = added[CROSS] - before
    return times | added | {WHOLE: ms[generation_call, present]}


def _ordered(parts: Sequence[str], present: Components) -> list[str]:
    return [part for part in parts if part in present]


def _chains(base: Components, parts: Sequence[str]) -> set[Components]:
    """What there is while `parts` are added to `base` one by one, in order and in the reverse order."""
    orders = (parts, parts[::-1])
    return {base | set(order[:count]) for order in orders for count in range(len(parts) + 1)}


def component_contributions(ms: Callable[[Components], np.ndarray], base: Components, parts: Sequence[str]) -> Times:
    """What each part adds to the time, the mean of both orders, [runs]."""
    added: Times = {}
    for i, part in enumerate(parts):
        before, after = base | set(parts[:i]), base | set(parts[i + 1 :])
        added[part] = (ms(before | {part}) - ms(before) + ms(after | {part}) - ms(after)) / 2
    return added


def _partial_engine(engine: Engine, kept: Components) -> Engine:
    """A model of some components, with the weights (on the device, not copied) of the whole one."""
    spec = keep_components(engine.spec, kept)
    flat, sizes = flatten(engine.params), spec.axis_sizes()
    params = {}
    for path, axes in param_axes(spec).items():
        shape = tuple(sizes[axis] for axis in axes)
        params[path] = flat[path] if flat[path].shape == shape else flat[path][tuple(map(slice, shape))]
    return Engine(spec, unflatten(params), engine.model.dtype)


def _encoder_only_call(engine: Engine, ids: np.ndarray, new_tokens: int) -> Call:
    """A call that encodes ids [B, S], and waits; it has what `encoding_call` has around it."""
    encode = jax.jit(lambda params, ids, mask: engine.model.apply({"params": params}, ids, mask, method="encode")[0])
    mask = np.ones_like(ids)

    def call() -> Any:
        inputs = pad_inputs(ids, mask, np.arange(len(ids)), engine.spec.pad_id)
        return jax.block_until_ready(encode(engine.params, inputs.input_ids, inputs.attention_mask))

    return call
