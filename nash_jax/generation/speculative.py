"""Speculative decoding: a small model drafts, the large one verifies a block at once. Its greedy tokens, fewer passes.

Leviathan et al. 2023 ("Fast Inference from Transformers via Speculative Decoding"), for greedy search: of a block of K
drafted tokens those stay that the large model would have chosen, and the first other one is replaced by its choice. So
each pass of the large model gives 1 to K tokens, whatever the draft is worth. Rows accept independently of each other.

Letters: R rows, L output length, K tokens of a block, V vocabulary size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.errors import UserError
from nash_jax.generation.cache import Cache, CachedDecoder, Encoded
from nash_jax.generation.engine import BatchGenerator, Engine, OnToken
from nash_jax.generation.inputs import PaddedInputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.outputs import ScoredIds
from nash_jax.generation.processors import apply_processors
from nash_jax.generation.program_args import StaticArgs, TracedArgs, make_program_args
from nash_jax.generation.weights import Weights, encode_batch, make_decoder
from nash_jax.spec import ModelSpec

BLOCK = 4  # K
_SAME = ("vocab_size", "source_vocab_size", "pad_id", "eos_id", "decoder_start_id")


class _State(NamedTuple):
    """Carry of the loop.

    Attributes:
      tokens: int32 [R, L + K]; what lies beyond a row's length is not yet decided.
      lengths: tokens of each row, including the prompt, int32 [R].
      done: whether rows have ended, bool [R].
      cache: of the large model, all positions before `lengths - 1`.
      draft_cache: of the small one, likewise.
      passes: of the large model while the row was not done, int32 [R].
    """

    tokens: jax.Array
    lengths: jax.Array
    done: jax.Array
    cache: Cache
    draft_cache: Cache
    passes: jax.Array


class Speculated(NamedTuple):
    """Result of the loop.

    Attributes:
      tokens: int32 [R, L]: prompt, tokens including EOS, padding.
      lengths: of each row, including the prompt, int32 [R].
      passes: of the large model for each row, int32 [R].
    """

    tokens: jax.Array
    lengths: jax.Array
    passes: jax.Array


def speculate(large: CachedDecoder, small: CachedDecoder, static: StaticArgs, traced: TracedArgs) -> Speculated:
    """Generates until all rows have ended, or to the maximum length.

    Args:
      large: whose greedy tokens are wanted, encoded for L - 1 + K positions.
      small: what drafts, encoded likewise.
      static: with one beam, without sampling.
      traced: prompts [R, L] and limits.
    """
    width = traced.prompt.shape[1]
    prompt = jnp.pad(traced.prompt, ((0, 0), (0, BLOCK)))
    rows = jnp.arange(len(prompt))
    start = (prompt, traced.prompt_length, 1, static.long_prompt)
    lengths = jnp.full(len(prompt), traced.prompt_length, jnp.int32)
    state = _State(
        prompt, lengths, rows >= traced.num_rows, large.start_cache(*start), small.start_cache(*start),
        jnp.zeros_like(lengths),
    )  # fmt: skip

    def running(state: _State) -> jax.Array:
        return jnp.any(_active(state, traced))

    def block(state: _State) -> _State:
        return _verify(large, static, traced, _draft(small, static, traced, state))

    state = jax.lax.while_loop(running, block, state)
    decided = jnp.arange(width)[None] < state.lengths[:, None]
    return Speculated(jnp.where(decided, state.tokens[:, :width], traced.pad_id), state.lengths, state.passes)


def _active(state: _State, traced: TracedArgs) -> jax.Array:
    return ~state.done & (state.lengths < traced.max_length)


def _draft(small: CachedDecoder, static: StaticArgs, traced: TracedArgs, state: _State) -> _State:
    """Writes a block of drafted tokens beyond each row's length."""
    rows = jnp.arange(len(state.lengths))

    def one(index: jax.Array, carry: tuple[jax.Array, Cache]) -> tuple[jax.Array, Cache]:
        tokens, cache = carry
        lengths = state.lengths + index
        logits, cache = _logits(small, tokens[rows, lengths - 1][:, None], lengths - 1, cache)
        best = _best(static, traced, logits, tokens, lengths)
        return tokens.at[rows, lengths].set(best[:, 0]), cache

    tokens, cache = jax.lax.fori_loop(0, BLOCK, one, (state.tokens, state.draft_cache))
    return state._replace(tokens=tokens, draft_cache=cache)


def _verify(large: CachedDecoder, static: StaticArgs, traced: TracedArgs, state: _State) -> _State:
    """Takes of each row's block what the large model chooses too, and its choice where it differs."""
    lengths, tokens, active = state.lengths, state.tokens, _active(state, traced)
    offsets = jnp.arange(BLOCK)[None]
    columns = lengths[:, None] + offsets  # [R, K]
    logits, cache = _logits(large, jnp.take_along_axis(tokens, columns - 1, axis=1), lengths - 1, state.cache)
    best = _best(static, traced, logits, tokens, lengths)
    same = jnp.cumprod(best == jnp.take_along_axis(tokens, columns, axis=1), axis=1).sum(axis=1)
    ends = jnp.any(best[..., None] == traced.eos_ids[None, None], axis=-1)  # [R, K]
    to_end = jnp.where(ends.any(axis=1), jnp.argmax(ends, axis=1) + 1, BLOCK + 1)
    new = jnp.minimum(jnp.minimum(same + 1, BLOCK), traced.max_length - lengths)
    done = state.done | (active & (to_end <= new))
    new = jnp.where(active, jnp.minimum(new, to_end), 0)
    best = jnp.where(offsets < new[:, None], best, traced.pad_id)
    rows = jnp.arange(len(lengths))[:, None]
    return _State(
        tokens.at[rows, columns].set(best), lengths + new, done, cache, state.draft_cache, state.passes + active
    )


def _logits(
    decoder: CachedDecoder, token_ids: jax.Array, positions: jax.Array, cache: Cache
) -> tuple[jax.Array, Cache]:
    """Tokens [R, n] at positions that begin where each row is, int32 [R] → logits [R, n, V], and the updated cache."""
    encoded: Encoded = decoder.encoded

    def of_row(ids: jax.Array, position: jax.Array, *own: Any) -> Any:
        cache, cross, cross_bias = jax.tree.map(lambda x: x[None], own)
        variables = {"params": decoder.params}
        found = decoder.model.apply(
            variables, ids[None], position, cache, encoded.bias, cross, cross_bias, method="decode_block"
        )
        return jax.tree.map(lambda x: x[0], found)

    logits, cache = jax.vmap(of_row)(token_ids, positions, cache, encoded.cross, encoded.cross_bias)
    return logits, cache


def _best(
    static: StaticArgs, traced: TracedArgs, logits: jax.Array, tokens: jax.Array, lengths: jax.Array
) -> jax.Array:
    """The token of highest score at each of n consecutive places, after the processors: logits [R, n, V] → [R, n]."""

    def of_token(scores: jax.Array, tokens: jax.Array, length: jax.Array, source: jax.Array) -> jax.Array:
        rules, values = static.rules, traced.values
        return apply_processors(rules, values, scores[None], tokens[None], length, source[None])[0]

    def of_row(scores: jax.Array, tokens: jax.Array, length: jax.Array, source: jax.Array) -> jax.Array:
        lengths = length + jnp.arange(len(scores))
        return jax.vmap(of_token, in_axes=(0, None, 0, None))(scores, tokens, lengths, source)

    return jnp.argmax(jax.vmap(of_row)(logits, tokens, lengths, traced.source), axis=-1).astype(jnp.int32)


def _for_blocks(engine: Engine, rows: int) -> Weights:
    """The weights of an engine; blocks of tokens are decoded by XLA."""
    return engine.weights.of_rows(rows, packed=False)


class SpeculativeEngine(BatchGenerator):
    """A large model with a small one that drafts for it: the large one's greedy outputs.

    Args:
      large: the model whose outputs are wanted.
      small: a model with the same tokens, such as the large one pruned.

    Attributes:
      tokens_of_pass: new tokens of all rows so far / passes of the large model for them: 1 to K.

    Raises:
      UserError: for models with different tokens.
    """

    def __init__(self, large: Engine, small: Engine) -> None:
        for name in _SAME:
            mine, theirs = getattr(large.spec, name), getattr(small.spec, name)
            if mine != theirs:
                raise UserError(f"the draft's {name} is {theirs}", f"that of the model, {mine}")
        self.spec: ModelSpec = large.spec
        self._large, self._small = large, small
        self._counts = np.zeros(2)
        self._run = jax.jit(self._run_fn, static_argnums=5)

    @property
    def tokens_of_pass(self) -> float:
        """New tokens / passes of the large model."""
        return float(self._counts[0] / max(self._counts[1], 1))

    def check_options(self, options: GenerationOptions) -> None:
        """As `BatchGenerator.check_options`: only greedy search can be drafted."""
        if options.do_sample or options.num_beams > 1 or options.num_return_sequences > 1:
            found = f"do_sample={options.do_sample}, num_beams={options.num_beams}"
            raise UserError(
                f"a draft with {found}, num_return_sequences={options.num_return_sequences}",
                "greedy search, one output",
            )

    def _run_fn(
        self, weights: Weights, draft_weights: Weights, input_ids: jax.Array, attention_mask: jax.Array,
        traced: TracedArgs, static: StaticArgs,
    ) -> Speculated:  # fmt: skip
        inputs = input_ids, attention_mask, traced.prompt.shape[1] - 1 + BLOCK
        decoders = [
            make_decoder(engine.model, own, encode_batch(engine.model, own, *inputs))
            for engine, own in ((self._large, weights), (self._small, draft_weights))
        ]
        return speculate(decoders[0], decoders[1], static, traced)

    def generate_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *,
        decoder_input_ids: np.ndarray | None = None, stop_at_eos: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """As `BatchGenerator.generate_padded`."""
        self.check_options(options)
        static, traced = make_program_args(self.spec, options, inputs, decoder_input_ids, stop_at_eos)
        weights = [_for_blocks(engine, len(inputs.input_ids)) for engine in (self._large, self._small)]
        found = self._run(*weights, inputs.input_ids, inputs.attention_mask, traced, static)
        lengths, passes = (np.asarray(row)[: inputs.num_rows] for row in (found.lengths, found.passes))
        self._counts += np.sum(lengths - int(traced.prompt_length)), np.sum(passes)
        return np.asarray(found.tokens)[: inputs.num_rows, : int(lengths.max())]

    def score_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *, decoder_input_ids: np.ndarray | None = None
    ) -> ScoredIds:
        """Not offered: a draft has no scores of the large model to give."""
        raise UserError("return_scores with a draft", "one of the two")

    def stream_padded(self, inputs: PaddedInputs, options: GenerationOptions, on_token: OnToken) -> np.ndarray:
        """Not offered: tokens come in blocks."""
        raise UserError("a stream with a draft", "one of the two")
