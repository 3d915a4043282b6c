"""Beam search with the same steps as in `transformers` 5: deterministic (C best continuations) or sampled (C drawn).

Letters: B inputs, K beams for each, C candidates in a step (so many that K remain even if the best ones end), V
vocabulary size, L output length in tokens, n outputs for each input.

The result for an input does not depend on the other inputs: a finished input does not change while others continue.
Source of the algorithm: `GenerationMixin._beam_search` of transformers 5.23.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nash_jax.generation import sampling
from nash_jax.generation.cache import CachedDecoder, get_column, pick_beams, set_column
from nash_jax.generation.outputs import Decoded
from nash_jax.generation.processors import apply_processors
from nash_jax.generation.program_args import StaticArgs, TracedArgs

REJECTED = -1e9  # added to scores of excluded beams; finite, so that the best of them is chosen if none is left


class Beams(NamedTuple):
    """Candidates of a step (C instead of K), or the candidates that continue; sorted by score, or as drawn.

    Attributes:
      tokens: int32 [B, K, L].
      scores: sums of log-probabilities, float32 [B, K].
      parents: index of the beam that each continues, int32 [B, K].
      log_probs: the model's log-probabilities of the tokens, float32 [B, K, L]; None if scores are off.
    """

    tokens: jax.Array
    scores: jax.Array
    parents: jax.Array
    log_probs: jax.Array | None


class Finished(NamedTuple):
    """The best finished sequences so far, best first; unused places are filled with placeholders.

    Attributes:
      tokens: int32 [B, K, L].
      scores: sums of log-probabilities, divided by length ** length_penalty, float32 [B, K].
      lengths: number of generated tokens, int32 [B, K].
      ended: bool [B, K]; False for a placeholder.
      log_probs: as in `Beams`.
    """

    tokens: jax.Array
    scores: jax.Array
    lengths: jax.Array
    ended: jax.Array
    log_probs: jax.Array | None


class BeamState(NamedTuple):
    """Carry of the decoding loop.

    Attributes:
      length: tokens in each running beam, including the prompt, int32 scalar.
      tokens: of running beams, int32 [B, K, L].
      scores: of running beams, float32 [B, K].
      log_probs: of running beams, as in `Beams`.
      finished: the best finished sequences.
      open: bool [B]; whether a running beam may still become better than a finished one.
      cache: self-attention keys and values, from `decoder.start_beams`.
    """

    length: jax.Array
    tokens: jax.Array
    scores: jax.Array
    log_probs: jax.Array | None
    finished: Finished
    open: jax.Array
    cache: Any


def beam_search(decoder: CachedDecoder, static: StaticArgs, traced: TracedArgs) -> Decoded:
    """Runs beam search until no input can improve, or all have K finished beams (if configured), or `max_length`.

    Args:
      decoder: the model and the encoded batch.
      static: with K > 1 beams.
      traced: prompts, limits and beam settings.

    Returns:
      The n best sequences of each input, R = B·n rows.
    """
    real = jnp.arange(traced.prompt.shape[0]) < traced.num_rows  # [B]; the other rows are batch padding

    def cond(state: BeamState) -> jax.Array:
        full = jnp.all(state.finished.ended | ~real[:, None]) & traced.beams.stop_when_full
        return (state.length < traced.max_length) & jnp.any(state.open) & ~full

    def step(state: BeamState) -> BeamState:
        log_probs, own, cache = _log_probs(decoder, static, traced, state)
        candidates = _candidates(log_probs, own, state, static, traced)
        ended = _ended(candidates.tokens, state.length, traced)
        running = _running(candidates, ended, static.num_beams)
        finished = _finish(candidates, ended, state, traced)
        generated = state.length + 1 - traced.prompt_length
        still_open = state.open & _may_improve(running.scores, finished, generated, traced)
        cache = decoder.reorder(cache, running.parents)
        beams = (running.tokens, running.scores, running.log_probs)
        return BeamState(state.length + 1, *beams, finished, still_open, cache)

    state = jax.lax.while_loop(cond, step, _start(decoder, static, traced, real))
    best = jax.tree.map(lambda x: x[:, : static.num_return_sequences], state.finished)
    width = traced.prompt_length + jnp.max(jnp.where(real[:, None], best.lengths, 0))
    rows = jax.tree.map(lambda x: x.reshape(-1, *x.shape[2:]), best)  # [R, …]
    return Decoded(rows.tokens, width, rows.log_probs, rows.scores if static.return_scores else None)


def _start(decoder: CachedDecoder, static: StaticArgs, traced: TracedArgs, real: jax.Array) -> BeamState:
    """K equal beams, all but the first rejected, so that the first step selects K different tokens."""
    shape = (traced.prompt.shape[0], static.num_beams)
    tokens = jnp.broadcast_to(traced.prompt[:, None], (*shape, traced.prompt.shape[1]))
    log_probs = jnp.zeros(tokens.shape) if static.return_scores else None
    nothing = jnp.full(shape, REJECTED)
    finished = Finished(tokens, nothing, jnp.zeros(shape, jnp.int32), jnp.zeros(shape, bool), log_probs)
    cache = decoder.start_beams(traced.prompt, traced.prompt_length, static.num_beams, static.long_prompt)
    return BeamState(traced.prompt_length, tokens, nothing.at[:, 0].set(0), log_probs, finished, real, cache)


def _log_probs(
    decoder: CachedDecoder, static: StaticArgs, traced: TracedArgs, state: BeamState
) -> tuple[jax.Array, jax.Array, Any]:
    """Log-probabilities of the next token [B, K, V] after all processors, those before, and the updated cache."""
    tokens = state.tokens.reshape(-1, state.tokens.shape[-1])  # [B·K, L]
    logits, cache = decoder.step(get_column(tokens, state.length - 1), state.length - 1, state.cache)
    source = jnp.repeat(traced.source, static.num_beams, axis=0)
    own = jax.nn.log_softmax(logits)
    scores = apply_processors(static.rules, traced.values, own, tokens, state.length, source)
    if static.do_sample:
        scores = sampling.apply_warpers(static.rules, traced.values, scores)
    shape = (*state.scores.shape, -1)
    return scores.reshape(shape), own.reshape(shape), cache


def _candidates(
    log_probs: jax.Array, own: jax.Array, state: BeamState, static: StaticArgs, traced: TracedArgs
) -> Beams:
    """The C best continuations of all beams, or C continuations sampled without replacement."""
    scores = log_probs + state.scores[..., None]
    flat = scores.reshape(scores.shape[0], -1)  # [B, K·V]
    rank = sampling.add_gumbel_noise(flat, traced.key, traced.row_ids, state.length) if static.do_sample else flat
    index = sampling.top_k(rank, max(2, 1 + static.num_eos) * static.num_beams)[1]  # [B, C]
    parents, token = jnp.divmod(index, scores.shape[-1])
    tokens = set_column(pick_beams(state.tokens, parents), token, state.length)
    if state.log_probs is None:
        return Beams(tokens, pick_beams(flat, index), parents, None)
    chosen = pick_beams(own.reshape(flat.shape), index)
    return Beams(
        tokens, pick_beams(flat, index), parents, set_column(pick_beams(state.log_probs, parents), chosen, state.length)
    )


def _ended(tokens: jax.Array, length: jax.Array, traced: TracedArgs) -> jax.Array:
    """Whether candidates end in this step, bool [B, C]: their last token is EOS, or the maximum length is reached."""
    last = jax.lax.dynamic_index_in_dim(tokens, length, axis=2, keepdims=False)
    return jnp.any(last[..., None] == traced.eos_ids[None, None], axis=-1) | (length + 1 >= traced.max_length)


def _running(candidates: Beams, ended: jax.Array, num_beams: int) -> Beams:
    """Returns the K best candidates that have not ended."""
    scores = candidates.scores + ended * REJECTED
    best = sampling.top_k(scores, num_beams)[1]
    return pick_beams(candidates._replace(scores=scores), best)


def _finish(candidates: Beams, ended: jax.Array, state: BeamState, traced: TracedArgs) -> Finished:
    """Returns the K best of the finished sequences and of the candidates that end now and are among the K best."""
    old, num_beams = state.finished, state.scores.shape[1]
    generated = state.length + 1 - traced.prompt_length
    ended = ended & (jnp.arange(ended.shape[1]) < num_beams)[None]
    full = jnp.all(old.ended, axis=1, keepdims=True) & traced.beams.stop_when_full
    scores = candidates.scores / traced.beams.norms[generated]
    scores = scores + full * REJECTED + ~state.open[:, None] * REJECTED + ~ended * REJECTED
    new = Finished(candidates.tokens, scores, jnp.full_like(candidates.parents, generated), ended, candidates.log_probs)
    merged = jax.tree.map(lambda *x: jnp.concatenate(x, axis=1), old, new)
    return pick_beams(merged, sampling.top_k(merged.scores, num_beams)[1])


def _may_improve(scores: jax.Array, finished: Finished, generated: jax.Array, traced: TracedArgs) -> jax.Array:
    """Whether the best running beam may become better than a finished one, by the `early_stopping` rule; bool [B]."""
    longest = traced.max_length - traced.prompt_length
    reachable = scores[:, :1] / traced.beams.norms[jnp.where(traced.beams.score_at_max_length, longest, generated)]
    worst = jnp.where(finished.ended, jnp.min(finished.scores, axis=1, keepdims=True), REJECTED)
    return jnp.any(reachable > worst, axis=1)
