"""One sequence a row: the best token at each step, or one drawn.

Letters: B inputs, n outputs for each, R = B·n rows, L tokens of an output, V vocabulary.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp

from nash_jax.generation import sampling
from nash_jax.generation.cache import Cache, Decoder, column, put_column
from nash_jax.generation.processors import process
from nash_jax.generation.request import Plan, Request


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


def greedy(decoder: Decoder, plan: Plan, request: Request) -> tuple[jax.Array, jax.Array]:
    """Goes on until all rows have ended, or to the maximal length.

    Args:
      decoder: the model at work.
      plan: without beams.
      request: prompts and limits.

    Returns:
      int32 [R, L]: prompt, tokens up to and with EOS, padding; and how many columns are in use.
    """
    times = plan.num_return_sequences
    source = jnp.repeat(request.source, times, axis=0)

    def go_on(state: GreedyState) -> jax.Array:
        return (state.length < request.max_length) & ~jnp.all(state.done)

    def step(state: GreedyState) -> GreedyState:
        length, tokens, done, cache = state
        logits, cache = decoder.step(column(tokens, length - 1), length - 1, cache)
        scores = process(plan.rules, request.values, logits, tokens, length, source)  # [R, V]
        token = jnp.where(done, request.pad_id, _choose(scores, length, plan, request))
        return GreedyState(length + 1, put_column(tokens, token, length), done | _ends(token, request), cache)

    state = jax.lax.while_loop(go_on, step, _start(decoder, plan, request))
    return state.tokens, state.length


def _start(decoder: Decoder, plan: Plan, request: Request) -> GreedyState:
    """Prompts in place; rows that only fill the batch are done."""
    times, rows = plan.num_return_sequences, request.prompt.shape[0]
    return GreedyState(
        request.prompt_length,
        jnp.repeat(request.prompt, times, axis=0),
        jnp.repeat(jnp.arange(rows) >= request.num_rows, times),
        decoder.start(request.prompt, request.prompt_length, times, plan.long_prompt),
    )


def _choose(scores: jax.Array, length: jax.Array, plan: Plan, request: Request) -> jax.Array:
    """The next token of each row, int32 [R], from scores [R, V]."""
    if not plan.do_sample:
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)
    times = plan.num_return_sequences
    row_ids = (request.row_ids[:, None] * times + jnp.arange(times)[None]).reshape(-1)  # [R]
    return sampling.draw(sampling.warp(plan.rules, request.values, scores), request.key, row_ids, length)


def _ends(token: jax.Array, request: Request) -> jax.Array:
    """Which tokens [R] are an EOS."""
    return jnp.any(token[:, None] == request.eos_ids[None], axis=1)
