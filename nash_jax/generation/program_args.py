"""Arguments of the compiled generation programs: static ones, which select a program, and traced ones.

Letters: B inputs, S source length, P prompt length, L output length (including prompt and padding).
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from nash_jax.errors import UserError
from nash_jax.generation.inputs import PaddedInputs, check_ids, check_length, length_bucket
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.processors import ProcessorRules, Values, make_rules
from nash_jax.spec import ModelSpec


class StaticArgs(NamedTuple):
    """Static arguments: a new value compiles a new program.

    Attributes:
      num_beams: K; 1 without beam search.
      num_return_sequences: n, outputs for each input.
      num_eos: number of EOS ids; beam search keeps K more candidates for each id after the first.
      do_sample: sample tokens instead of choosing the best.
      long_prompt: the decoder starts from more than one token.
      rules: active logits processors and their sizes.
      return_scores: also return log-probabilities.
    """

    num_beams: int
    num_return_sequences: int
    num_eos: int
    do_sample: bool
    long_prompt: bool
    rules: ProcessorRules
    return_scores: bool

    @property
    def rows_of_input(self) -> int:
        """Rows that are decoded for each input."""
        return self.num_beams if self.num_beams > 1 else self.num_return_sequences


class BeamSettings(NamedTuple):
    """How finished beams are scored, and when a search ends.

    Attributes:
      norms: float32 [L+1]; the score of a beam with t tokens is its sum of log-probabilities / norms[t], where
        norms[t] = t ** length_penalty. Computed on the host, since powers on the device may be rounded differently.
      stop_when_full: an input is done when K beams have finished (`early_stopping=True`).
      score_at_max_length: the best reachable score of a running beam is computed at the maximum length instead of the
        current one (`early_stopping="never"` and a positive length penalty).
    """

    norms: np.ndarray
    stop_when_full: np.bool_
    score_at_max_length: np.bool_


class TracedArgs(NamedTuple):
    """Traced arguments: new values run the same program.

    Attributes:
      prompt: int32 [B, L]: P prompt tokens, then the fill token.
      prompt_length: P, int32 scalar.
      max_length: of an output including its prompt, int32 scalar, at most L.
      num_rows: number of real rows; the rows after them are batch padding.
      pad_id: token after the EOS of a row that ended before others, int32 scalar.
      eos_ids: int32 [E], negative if there are none.
      source: int32 [B, S], the inputs used by logits processors; negative for padding.
      values: parameters of the logits processors.
      row_ids: int32 [B]; a row's random numbers depend on it and on the key (None: no sampling).
      key: PRNG key (None: no sampling).
      beams: `BeamSettings` (None: no beam search).
    """

    prompt: Any
    prompt_length: Any
    max_length: Any
    num_rows: Any
    pad_id: Any
    eos_ids: Any
    source: Any
    values: Values
    row_ids: Any
    key: Any
    beams: Any


def make_program_args(
    spec: ModelSpec,
    options: GenerationOptions,
    inputs: PaddedInputs,
    decoder_input_ids: Any | None,
    stop_at_eos: bool,
    return_scores: bool = False,
) -> tuple[StaticArgs, TracedArgs]:
    """Returns the static and traced arguments of a call; the arguments are those of `Engine.generate`.

    Raises:
      UserError: for prompts with a wrong shape, ids outside the vocabulary, more beams than possible first tokens, or
        no room for a new token.
    """
    options = options.for_allowed_sequences()
    start_id, eos_ids, pad_id = _special_ids(options, spec)
    prompt = _prompt(decoder_input_ids, start_id, inputs.num_rows, spec.vocab_size)
    ends = eos_ids if stop_at_eos else ()
    max_length = _max_length(options, prompt.shape[1], spec)
    rules, values = make_rules(
        options, vocab_size=spec.vocab_size, eos_ids=ends, prompt_length=prompt.shape[1], max_length=max_length
    )
    beams, drawn = options.num_beams, options.do_sample
    if beams + len(ends) > spec.vocab_size:
        raise UserError(f"num_beams is {beams}", f"no more than the {spec.vocab_size - len(ends)} tokens to begin with")
    static = StaticArgs(
        beams, options.num_return_sequences, len(eos_ids), drawn, prompt.shape[1] > 1, rules, return_scores
    )
    length = length_bucket(max_length - 1) + 1  # the last token is written, but not read
    # transformers fills with EOS in beam search if the padding id is 0, which it treats as not set
    fill_id = eos_ids[0] if beams > 1 and pad_id == 0 else pad_id
    padded = np.full((len(inputs.input_ids), length), fill_id, np.int32)
    padded[:, 0] = start_id
    padded[: len(prompt), : prompt.shape[1]] = prompt
    return static, TracedArgs(
        prompt=padded,
        prompt_length=np.int32(prompt.shape[1]),
        max_length=np.int32(max_length),
        num_rows=np.int32(inputs.num_rows),
        pad_id=np.int32(pad_id),
        eos_ids=np.array(eos_ids if stop_at_eos else [-1] * len(eos_ids), np.int32),  # same shape, same program
        source=inputs.source,
        values=values,
        row_ids=inputs.row_ids if drawn else None,
        key=jax.random.key(options.seed) if drawn else None,
        beams=_beam_settings(options, length) if beams > 1 else None,
    )


def _special_ids(options: GenerationOptions, spec: ModelSpec) -> tuple[int, tuple[int, ...], int]:
    """Returns start id, EOS ids and padding id: those of the options, or else those of the model."""
    start_id = spec.decoder_start_id if options.decoder_start_token_id is None else options.decoder_start_token_id
    eos_ids = (spec.eos_id,) if options.eos_token_id is None else options.eos_token_id
    pad_id = spec.pad_id if options.pad_token_id is None else options.pad_token_id
    check_ids("decoder_start_token_id and pad_token_id", np.array([start_id, pad_id]), spec.vocab_size)
    return start_id, eos_ids, pad_id


def _prompt(given: Any | None, start_id: int, num_rows: int, vocab_size: int) -> np.ndarray:
    """Returns the prompts, int32 [num_rows, P]; the start token is prepended if no row starts with it."""
    start = np.full((num_rows, 1), start_id, np.int32)
    if given is None:
        return start
    prompt = np.asarray(given)
    if prompt.ndim != 2 or prompt.shape[0] != num_rows or prompt.shape[1] == 0 or prompt.dtype.kind not in "iu":
        raise UserError(
            f"decoder_input_ids has shape {prompt.shape} and type {prompt.dtype}",
            f"integers [{num_rows}, length], a row for each input and at least one token",
        )
    check_ids("decoder_input_ids", prompt, vocab_size)
    return np.concatenate([start, prompt], axis=1) if (prompt[:, 0] != start_id).all() else prompt


def _max_length(options: GenerationOptions, prompt_length: int, spec: ModelSpec) -> int:
    """Returns the maximum total length; the last token needs no position, since it is not read."""
    longest = options.length_limits(prompt_length)[1]
    if options.max_new_tokens is None and options.max_length is None and spec.absolute_positions:
        longest = min(longest, spec.max_positions + 1)
    check_length("outputs can be", longest - 1, spec)
    return longest


def _beam_settings(options: GenerationOptions, length: int) -> BeamSettings:
    """Returns the beam settings for outputs of up to `length` tokens."""
    penalty = options.length_penalty
    with np.errstate(over="ignore", divide="ignore"):  # 0 ** negative is not used
        norms = np.power(np.arange(length + 1, dtype=np.float64), penalty).astype(np.float32)
    longest = options.early_stopping == "never" and penalty > 0
    return BeamSettings(norms, np.bool_(options.early_stopping is True), np.bool_(longest))
