"""One sequence a row: the best token at each step, or one drawn.

Letters: B inputs, n outputs for each, R = B·n rows, L tokens of an output, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nash_jax.generation import sampling
from nash_jax.generation.cache import Cache, CachedDecoder, get_column, set_column
from nash_jax.generation.processors import apply_processors
from nash_jax.generation.program_args import StaticArgs, TracedArgs


class GreedyState(NamedTuple):
    """The loop's carry.

    Attributes:
      length: tokens written in each row, the prompt included, int32 scalar.
      tokens: int32 [R, L]; padding after EOS and from `length` on.
      done: rows that have ended, bool [R].
      cache: self-attention keys and values by layer, of positions before `length - 1`.
    """

    length: jax.Array
    tokens: jax.Array
    done: jax.Array
    cache: Cache


def greedy(decoder: CachedDecoder, static: StaticArgs, traced: TracedArgs) -> tuple[jax.Array, jax.Array]:
    """Goes on until all rows have ended, or to the maximal length.

    Args:
      decoder: the model at work.
      static: without beams.
      traced: prompts and limits.

    Returns:
      int32 [R, L]: prompt, tokens up to and with EOS, padding; and how many columns are in use.
    """
    times = static.num_return_sequences
    source = jnp.repeat(traced.source, times, axis=0)

    def go_on(state: GreedyState) -> jax.Array:
        return (state.length < traced.max_length) & ~jnp.all(state.done)

    def step(state: GreedyState) -> GreedyState:
        length, tokens, done, cache = state
        logits, cache = decoder.step(get_column(tokens, length - 1), length - 1, cache)
        scores = apply_processors(static.rules, traced.values, logits, tokens, length, source)  # [R, V]
        token = jnp.where(done, traced.pad_id, _choose(scores, length, static, traced))
        return GreedyState(length + 1, set_column(tokens, token, length), done | _ends(token, traced), cache)

    state = jax.lax.while_loop(go_on, step, _start(decoder, static, traced))
    return state.tokens, state.length


def _start(decoder: CachedDecoder, static: StaticArgs, traced: TracedArgs) -> GreedyState:
    """Prompts in place; rows that only fill the batch are done."""
    times, rows = static.num_return_sequences, traced.prompt.shape[0]
    return GreedyState(
        traced.prompt_length,
        jnp.repeat(traced.prompt, times, axis=0),
        jnp.repeat(jnp.arange(rows) >= traced.num_rows, times),
        decoder.start_cache(traced.prompt, traced.prompt_length, times, static.long_prompt),
    )


def _choose(scores: jax.Array, length: jax.Array, static: StaticArgs, traced: TracedArgs) -> jax.Array:
    """The next token of each row, int32 [R], from scores [R, V]."""
    if not static.do_sample:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    times = static.num_return_sequences
    row_ids = (traced.row_ids[:, None] * times + jnp.arange(times)[None]).reshape(-1)  # [R]
    return sampling.sample_tokens(
        sampling.apply_warpers(static.rules, traced.values, scores), traced.key, row_ids, length
    )


def _ends(token: jax.Array, traced: TracedArgs) -> jax.Array:
    """Which tokens [R] are an EOS."""
    return jnp.any(token[:, None] == traced.eos_ids[None], axis=1)
