"""Logits processors: the `LogitsProcessor`s of transformers in jax, which change scores before a token is chosen.

R rows, V vocabulary size, L width of the token array, S source length. Lists of ids for all rows are masks [V], so that
another list needs no compilation. Ids that differ by row are scattered; the scatter drops the id V.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.errors import UserError
from nash_jax.generation.allowed_sequences import allow_sequences, pack_sequences
from nash_jax.generation.options import GenerationOptions

Values = dict[str, jax.Array]

_ANY = -1  # in a prefix: matches every token
_NONE = -2  # in a context: no token at this position


class ProcessorRules(NamedTuple):
    """Static part: active processors and their sizes. Hashable, for a static argument of `jax.jit`.

    Attributes:
      processors: names that `apply_processors` applies, in order.
      warpers: names that `sampling.apply_warpers` applies, in order.
      no_repeat_ngram_size: for the output.
      encoder_no_repeat_ngram_size: for the input.
      top_k: for sampling, at most the vocabulary size.
      min_tokens_to_keep: minimum number of tokens that each warper keeps.
    """

    processors: tuple[str, ...]
    warpers: tuple[str, ...]
    no_repeat_ngram_size: int
    encoder_no_repeat_ngram_size: int
    top_k: int
    min_tokens_to_keep: int


class StepContext(NamedTuple):
    """State of generation in the current step.

    Attributes:
      rules: static part.
      values: traced part.
      tokens: int32 [R, L].
      length: number of valid tokens, int32 scalar.
      source: encoder ids, int32 [R, S], if a processor needs them.
    """

    rules: ProcessorRules
    values: Values
    tokens: jax.Array
    length: jax.Array
    source: jax.Array | None


def apply_processors(
    rules: ProcessorRules,
    values: Values,
    scores: jax.Array,
    tokens: jax.Array,
    length: jax.Array,
    source: jax.Array | None = None,
) -> jax.Array:
    """Applies the active processors in transformers' order; returns `scores` unchanged if there are none.

    Args:
      rules: static part.
      values: traced part.
      scores: float32 [R, V]: logits, or log-probabilities in beam search.
      tokens: int32 [R, L]; only the first `length` are read.
      length: int32 scalar, at least 1.
      source: int32 [R, S], for processors that use the input. Negative ids are ignored: a caller marks its padding with
        them. Padding given as an ordinary id counts as a token, as in transformers.

    Returns:
      float32 [R, V].
    """
    step = StepContext(rules, values, tokens, length, source)
    for name in rules.processors:
        scores = _PROCESSORS[name](step, scores)
    return scores


def _penalize(scores: jax.Array, ids: jax.Array, penalty: jax.Array) -> jax.Array:
    """Multiplies negative scores of `ids` [R, N] by the penalty and divides others by it, once for repeated ids."""
    old = jnp.take_along_axis(scores, jnp.minimum(ids, scores.shape[1] - 1), axis=1)
    return scores.at[_rows(ids), ids].set(jnp.where(old < 0, old * penalty, old / penalty), mode="drop")


def _ban(scores: jax.Array, ids: jax.Array) -> jax.Array:
    return scores.at[_rows(ids), ids].set(-jnp.inf, mode="drop")


def _rows(ids: jax.Array) -> jax.Array:
    return jnp.arange(ids.shape[0])[:, None]


def _generated(step: StepContext, scores: jax.Array) -> jax.Array:
    """Tokens [R, L], with V at positions not generated yet."""
    is_valid = jnp.arange(step.tokens.shape[1]) < step.length
    return jnp.where(is_valid[None], step.tokens, scores.shape[1])


def _source(step: StepContext, scores: jax.Array) -> jax.Array:
    """Encoder ids [R, S], with V for padding, since a negative index would count from the end."""
    if step.source is None:
        raise ValueError(f"{step.rules.processors} need the source ids")
    return jnp.where(step.source < 0, scores.shape[1], step.source)


def _encoder_repetition_penalty(step: StepContext, scores: jax.Array) -> jax.Array:
    return _penalize(scores, _source(step, scores), step.values["encoder_repetition_penalty"])


def _repetition_penalty(step: StepContext, scores: jax.Array) -> jax.Array:
    return _penalize(scores, _generated(step, scores), step.values["repetition_penalty"])


def _no_repeat_ngram(step: StepContext, scores: jax.Array) -> jax.Array:
    return _ban_ngrams(step, scores, _generated(step, scores), step.rules.no_repeat_ngram_size)


def _encoder_no_repeat_ngram(step: StepContext, scores: jax.Array) -> jax.Array:
    return _ban_ngrams(step, scores, _source(step, scores), step.rules.encoder_no_repeat_ngram_size)


def _ban_ngrams(step: StepContext, scores: jax.Array, text: jax.Array, size: int) -> jax.Array:
    """Bans tokens that follow an occurrence of the last size-1 tokens in `text` [R, W]; the id V is not banned."""
    known = size - 1
    windows = text.shape[1] - known
    if windows < 1 or known > step.tokens.shape[1]:
        return scores
    last = jax.lax.dynamic_slice_in_dim(step.tokens, step.length - known, known, axis=1)
    match = jnp.broadcast_to(step.length >= known, (text.shape[0], windows))
    for i in range(known):
        match &= text[:, i : i + windows] == last[:, i : i + 1]
    return _ban(scores, jnp.where(match, text[:, known:], scores.shape[1]))


def _bad_words(step: StepContext, scores: jax.Array) -> jax.Array:
    return jnp.where(step.values["bad_words"][None], -jnp.inf, scores)


def _bad_sequences(step: StepContext, scores: jax.Array) -> jax.Array:
    """Bans the last token of each sequence whose other tokens [M, P] are the most recent tokens."""
    prefixes = step.values["bad_prefixes"]
    places = step.length - prefixes.shape[1] + jnp.arange(prefixes.shape[1])
    context = jnp.take(step.tokens, jnp.maximum(places, 0), axis=1, mode="clip")
    context = jnp.where(places[None] < 0, _NONE, context)
    match = jnp.all((prefixes == _ANY)[None] | (context[:, None] == prefixes[None]), axis=-1)  # [R, M]
    return _ban(scores, jnp.where(match, step.values["bad_last"][None], scores.shape[1]))


def _min_length(step: StepContext, scores: jax.Array) -> jax.Array:
    return jnp.where(step.values["eos"][None] & (step.length < step.values["min_length"]), -jnp.inf, scores)


def _force(scores: jax.Array, ids: jax.Array, now: jax.Array) -> jax.Array:
    return jnp.where(now, jnp.where(ids, 0.0, -jnp.inf)[None], scores)


def _forced_bos(step: StepContext, scores: jax.Array) -> jax.Array:
    return _force(scores, step.values["forced_bos"], step.length == 1)


def _forced_eos(step: StepContext, scores: jax.Array) -> jax.Array:
    return _force(scores, step.values["forced_eos"], step.length == step.values["max_length"] - 1)


def _remove_invalid(step: StepContext, scores: jax.Array) -> jax.Array:
    return jnp.nan_to_num(scores)


def _decay(step: StepContext, scores: jax.Array) -> jax.Array:
    """EOS scores s + |s|·(factor^n - 1), n tokens after the start; infinite scores are unchanged."""
    late = step.length - step.values["decay_start"]
    grown = scores + jnp.abs(scores) * jnp.expm1(late * step.values["decay_log_factor"])
    return jnp.where(step.values["eos"][None] & (late > 0) & jnp.isfinite(scores), grown, scores)


def _suppress(step: StepContext, scores: jax.Array) -> jax.Array:
    return jnp.where(step.values["suppress"][None], -jnp.inf, scores)


def _begin_suppress(step: StepContext, scores: jax.Array) -> jax.Array:
    now = step.length == step.values["begin_index"]
    return jnp.where(step.values["begin_suppress"][None] & now, -jnp.inf, scores)


def _allow_sequences(step: StepContext, scores: jax.Array) -> jax.Array:
    table, begin, last = (step.values[name] for name in ("allowed", "allowed_begin", "allowed_last"))
    return allow_sequences(scores, step.tokens, step.length, table, begin, last)


def _renormalize(step: StepContext, scores: jax.Array) -> jax.Array:
    return jax.nn.log_softmax(scores, axis=-1)


_PROCESSORS: dict[str, Callable[[StepContext, jax.Array], jax.Array]] = {  # in the order of `_get_logits_processor`
    "encoder_repetition_penalty": _encoder_repetition_penalty,
    "repetition_penalty": _repetition_penalty,
    "no_repeat_ngram_size": _no_repeat_ngram,
    "encoder_no_repeat_ngram_size": _encoder_no_repeat_ngram,
    "bad_words": _bad_words,
    "bad_sequences": _bad_sequences,
    "min_length": _min_length,
    "forced_bos_token_id": _forced_bos,
    "forced_eos_token_id": _forced_eos,
    "remove_invalid_values": _remove_invalid,
    "exponential_decay_length_penalty": _decay,
    "suppress_tokens": _suppress,
    "begin_suppress_tokens": _begin_suppress,
    "allowed_sequences": _allow_sequences,
    "renormalize_logits": _renormalize,
}

_Part = tuple[bool, dict[str, Any]]  # whether it is active, the values that it reads


def make_rules(
    options: GenerationOptions, *, vocab_size: int, eos_ids: tuple[int, ...], prompt_length: int, max_length: int
) -> tuple[ProcessorRules, Values]:
    """Prepares `apply_processors` and `sampling.apply_warpers`, on the host.

    A new value of an active option keeps the same `ProcessorRules` and shapes, so nothing is recompiled. A new n-gram
    size, a new `top_k`, or bad or allowed sequences whose number or length exceeds the next power of two do recompile.

    Args:
      options: generation options.
      vocab_size: V.
      eos_ids: ids that end a row; may be empty.
      prompt_length: number of tokens the decoder starts from.
      max_length: total length at which generation ends, including the prompt.

    Raises:
      UserError: for a token id outside the vocabulary, or an allowed sequence without EOS at its end.
    """
    _check_ids(options, eos_ids, vocab_size)
    parts = _penalties(options) | _bans(options, eos_ids, vocab_size)
    parts |= _lengths(options, eos_ids, vocab_size, prompt_length, max_length)
    allowed = pack_sequences(options.allowed_sequences, eos_ids, prompt_length, vocab_size)
    parts["allowed_sequences"] = (bool(options.allowed_sequences), allowed)
    warpers = _warpers(options)
    rules = ProcessorRules(
        processors=tuple(name for name in _PROCESSORS if parts[name][0]),
        warpers=tuple(name for name, (on, _) in warpers.items() if on),
        no_repeat_ngram_size=options.no_repeat_ngram_size,
        encoder_no_repeat_ngram_size=options.encoder_no_repeat_ngram_size,
        **_kept(options, eos_ids, vocab_size),
    )
    values: dict[str, Any] = {}
    for is_active, part_values in [*parts.values(), *warpers.values()]:
        values |= part_values if is_active else {}
    return rules, {name: jnp.asarray(value) for name, value in values.items()}


def _penalties(options: GenerationOptions) -> dict[str, _Part]:
    source, output = options.encoder_repetition_penalty, options.repetition_penalty
    return {
        "encoder_repetition_penalty": (source != 1, {"encoder_repetition_penalty": np.float32(1 / source)}),
        "repetition_penalty": (output != 1, {"repetition_penalty": np.float32(output)}),
        "no_repeat_ngram_size": (options.no_repeat_ngram_size > 0, {}),
        "encoder_no_repeat_ngram_size": (options.encoder_no_repeat_ngram_size > 0, {}),
        "remove_invalid_values": (options.remove_invalid_values, {}),
        "renormalize_logits": (options.renormalize_logits and not options.do_sample, {}),  # sampling: after warping
    }


def _bans(options: GenerationOptions, eos_ids: tuple[int, ...], vocab_size: int) -> dict[str, _Part]:
    """EOS as a single-token bad word is ignored, as in transformers."""
    single = {word[0] for word in options.bad_words_ids if len(word) == 1} - set(eos_ids)
    sequences = [word for word in options.bad_words_ids if len(word) > 1]
    suppressed = options.suppress_tokens
    return {
        "bad_words": (bool(single), {"bad_words": _mask(single, vocab_size)}),
        "bad_sequences": (bool(sequences), _pack(sequences, vocab_size)),
        "suppress_tokens": (bool(suppressed), {"suppress": _mask(suppressed, vocab_size)}),
    }


def _lengths(
    options: GenerationOptions, eos_ids: tuple[int, ...], vocab_size: int, prompt_length: int, max_length: int
) -> dict[str, _Part]:
    """Processors that are active only at some lengths."""
    min_length, _ = options.length_limits(prompt_length)
    bos, last, first = options.forced_bos_token_id, options.forced_eos_token_id, options.begin_suppress_tokens
    start, factor = options.exponential_decay_length_penalty or (0, 1.0)
    begin = prompt_length + (bos is not None and prompt_length == 1)  # the first token that is not forced
    eos = {"eos": _mask(eos_ids, vocab_size)}
    decay = {"decay_start": np.int32(prompt_length + start), "decay_log_factor": np.float32(math.log(factor)), **eos}
    return {
        "min_length": (bool(eos_ids) and min_length > prompt_length, {"min_length": np.int32(min_length), **eos}),
        "forced_bos_token_id": (bos is not None, {"forced_bos": _mask([bos or 0], vocab_size)}),
        "forced_eos_token_id": (
            last is not None,
            {"forced_eos": _mask(last or (), vocab_size), "max_length": np.int32(max_length)},
        ),
        "exponential_decay_length_penalty": (bool(eos_ids) and factor != 1, decay),
        "begin_suppress_tokens": (
            bool(first),
            {"begin_suppress": _mask(first, vocab_size), "begin_index": np.int32(begin)},
        ),
    }


def _warpers(options: GenerationOptions) -> dict[str, _Part]:
    """Warpers in transformers' order."""
    min_p = options.min_p or 0.0
    parts: dict[str, _Part] = {
        "temperature": (options.temperature != 1, {"temperature": np.float32(options.temperature)}),
        "top_k": (options.top_k > 0, {}),
        "top_p": (options.top_p < 1, {"top_p": np.float32(options.top_p)}),
        "min_p": (min_p > 0, {"log_min_p": np.float32(math.log(min_p or 1))}),
        "renormalize_logits": (options.renormalize_logits, {}),
    }
    return parts if options.do_sample else {}


def _kept(options: GenerationOptions, eos_ids: tuple[int, ...], vocab_size: int) -> dict[str, int]:
    """Sizes of warpers; beam search needs one token in addition to all EOS ids."""
    kept = min(vocab_size, max(2, len(eos_ids) + 1) if options.num_beams > 1 else 1)
    sampled = options.do_sample and options.top_k > 0
    return {"top_k": min(vocab_size, max(options.top_k, kept)) if sampled else 0, "min_tokens_to_keep": kept}


def _mask(ids: Iterable[int], vocab_size: int) -> np.ndarray:
    mask = np.zeros(vocab_size, bool)
    mask[list(ids)] = True
    return mask


def _pack(sequences: Sequence[tuple[int, ...]], vocab_size: int) -> dict[str, np.ndarray]:
    """Packs sequences as prefixes [M, P], right-aligned, and last tokens [M]; M and P are powers of two."""
    longest = max(map(len, sequences), default=2) - 1
    shape = tuple(1 << (size - 1).bit_length() for size in (max(len(sequences), 1), longest))
    prefixes, last = np.full(shape, _ANY, np.int32), np.full(shape[:1], vocab_size, np.int32)
    for i, (*prefix, end) in enumerate(sequences):
        prefixes[i, -len(prefix) :], last[i] = prefix, end
    return {"bad_prefixes": prefixes, "bad_last": last}


def _check_ids(options: GenerationOptions, eos_ids: tuple[int, ...], vocab_size: int) -> None:
    ids = {
        "eos_token_id": eos_ids,
        "bad_words_ids": [token for word in options.bad_words_ids for token in word],
        "forced_bos_token_id": [] if options.forced_bos_token_id is None else [options.forced_bos_token_id],
        "forced_eos_token_id": options.forced_eos_token_id or (),
        "suppress_tokens": options.suppress_tokens,
        "allowed_sequences": [token for sequence in options.allowed_sequences for token in sequence],
        "begin_suppress_tokens": options.begin_suppress_tokens,
    }
    for name, tokens in ids.items():
        for token in tokens:
            if not 0 <= token < vocab_size:
                raise UserError(f"{name} holds the id {token}", f"ids below the vocabulary's {vocab_size}")
