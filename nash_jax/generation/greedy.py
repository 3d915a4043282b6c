"""Greedy search and sampling: one sequence per row.

Letters: B inputs, n outputs for each, R = B·n rows, L output length in tokens, V vocabulary size.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nash_jax.generation import sampling
from nash_jax.generation.cache import Cache, CachedDecoder, get_column, set_column
from nash_jax.generation.outputs import Decoded, log_prob_of
from nash_jax.generation.processors import apply_processors
from nash_jax.generation.program_args import StaticArgs, TracedArgs


class GreedyState(NamedTuple):
    """Carry of the decoding loop.

    Attributes:
      length: tokens in each row, including the prompt, int32 scalar.
      tokens: int32 [R, L]; padding after EOS and from `length` on.
      done: whether rows have ended, bool [R].
      cache: self-attention keys and values for each layer, of positions before `length - 1`.
      log_probs: the model's log-probabilities of the tokens, float32 [R, L]; None if scores are off.
    """

    length: jax.Array
    tokens: jax.Array
    done: jax.Array
    cache: Cache
    log_probs: jax.Array | None


def greedy(decoder: CachedDecoder, static: StaticArgs, traced: TracedArgs) -> Decoded:
    """Generates until all rows have ended, or to the maximum length.

    Args:
      decoder: the model and the encoded batch.
      static: with one beam.
      traced: prompts and limits.

    Returns:
      The tokens: prompt, tokens including EOS, padding.
    """

    def running(state: GreedyState) -> jax.Array:
        return (state.length < traced.max_length) & ~jnp.all(state.done)

    def next_state(state: GreedyState) -> GreedyState:
        return step(decoder, static, traced, state)

    state = jax.lax.while_loop(running, next_state, start(decoder, static, traced))
    return Decoded(state.tokens, state.length, state.log_probs)


def step(decoder: CachedDecoder, static: StaticArgs, traced: TracedArgs, state: GreedyState) -> GreedyState:
    """Chooses one more token of each row.

    Args:
      decoder: the model and the encoded batch.
      static: with one beam.
      traced: prompts and limits.
      state: with room for a token.
    """
    length, tokens, done, cache, log_probs = state
    source = jnp.repeat(traced.source, static.num_return_sequences, axis=0)
    logits, cache = decoder.step(get_column(tokens, length - 1), length - 1, cache)
    scores = apply_processors(static.rules, traced.values, logits, tokens, length, source)  # [R, V]
    token = jnp.where(done, traced.pad_id, _choose(decoder, scores, length, static, traced))
    if log_probs is not None:
        log_probs = set_column(log_probs, jnp.where(done, 0.0, log_prob_of(logits, token)), length)
    done |= _ends(token, traced)
    return GreedyState(length + 1, set_column(tokens, token, length), done, cache, log_probs)


def start(decoder: CachedDecoder, static: StaticArgs, traced: TracedArgs) -> GreedyState:
    """Initial state with the prompts; padding rows of the batch are marked as done."""
    times, rows = static.num_return_sequences, traced.prompt.shape[0]
    tokens = jnp.repeat(traced.prompt, times, axis=0)
    return GreedyState(
        traced.prompt_length,
        tokens,
        jnp.repeat(jnp.arange(rows) >= traced.num_rows, times),
        decoder.start_cache(traced.prompt, traced.prompt_length, times, static.long_prompt),
        jnp.zeros(tokens.shape) if static.return_scores else None,
    )


def _choose(
    decoder: CachedDecoder, scores: jax.Array, length: jax.Array, static: StaticArgs, traced: TracedArgs
) -> jax.Array:
    """Chooses the next token of each row, int32 [R], from scores [R, V]."""
    if not static.do_sample:
        return decoder.best_tokens(scores)
    times = static.num_return_sequences
    row_ids = (traced.row_ids[:, None] * times + jnp.arange(times)[None]).reshape(-1)  # [R]
    return sampling.sample_tokens(
        sampling.apply_warpers(static.rules, traced.values, scores), traced.key, row_ids, length
    )


def _ends(token: jax.Array, traced: TracedArgs) -> jax.Array:
    """Whether tokens [R] are EOS."""
    return jnp.any(token[:, None] == traced.eos_ids[None], axis=1)
