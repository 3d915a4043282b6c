"""Generation with CTranslate2, by the same calls and options as with our own engine.

Letters: B inputs, n outputs for each, R = B·n rows, L output length in tokens, S source length.
"""

import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.engines.options import length_limits, num_threads, refuse_options
from nash_jax.errors import UserError
from nash_jax.export.ct2 import write_ctranslate2
from nash_jax.export.vocabulary import token_names
from nash_jax.generation.arguments import preview
from nash_jax.generation.engine import BatchGenerator, OnToken, check_stream
from nash_jax.generation.inputs import PaddedInputs, check_ids
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.outputs import ScoredIds
from nash_jax.spec import ModelSpec

DTYPES = ("float32", "int8", "int16", "float16", "bfloat16")
_WITHOUT = (  # options that CTranslate2 has no counterpart for
    "allowed_sequences", "begin_suppress_tokens", "encoder_no_repeat_ngram_size", "encoder_repetition_penalty",
    "exponential_decay_length_penalty", "forced_eos_token_id", "min_p", "remove_invalid_values",
)  # fmt: skip


class CTranslate2Engine(BatchGenerator):
    """Generates with CTranslate2, on a GPU if it finds one.

    Greedy outputs are those of our engine, but for the rounding of the type it computes in. Its beam search ends by
    other rules than that of `transformers`, so its outputs may be others.

    Args:
      spec: the model's architecture.
      params: its parameters, nested dict of arrays.
      dtype: one of `DTYPES`: the type that it computes in; with int8 and int16, weights and inputs of products are
        quantized, norms and softmax are float32.

    Raises:
      UserError: for another dtype or one that the device does not have, or without the package ctranslate2.
    """

    def __init__(self, spec: ModelSpec, params: Any, dtype: str = "float32") -> None:
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise UserError(f"dtype is {preview(dtype)}", f"one of {', '.join(DTYPES)}, with engine='ctranslate2'")
        self.spec, self._names = spec, token_names(None, max(spec.vocab_size, spec.source_vocab_size))
        self._ids = {name: number for number, name in enumerate(self._names)}
        stored = "int8" if dtype == "int8" else "float32"
        with tempfile.TemporaryDirectory(prefix="nash_jax") as folder:
            write_ctranslate2(Path(folder), spec, params, None, stored)
            self._translator = _load(folder, dtype)

    def check_options(self, options: GenerationOptions) -> None:
        """Refuses options that CTranslate2 does not have.

        Raises:
          UserError: naming the options.
        """
        refuse_options("CTranslate2", options, _WITHOUT, self.spec, "options that it has")

    def generate_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *,
        decoder_input_ids: np.ndarray | None = None, stop_at_eos: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """As `Engine.generate_padded`."""
        return self._pad_rows(self._generate(inputs, options, decoder_input_ids, stop_at_eos), options)

    def score_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *, decoder_input_ids: np.ndarray | None = None
    ) -> ScoredIds:
        """As `Engine.score_padded`; outputs are scored in a second pass."""
        rows = self._generate(inputs, options, decoder_input_ids, True)
        prompt = 1 if decoder_input_ids is None else 1 + len((self._prefix(1, options, decoder_input_ids) or [[]])[0])
        sources = [source for source in self._sources(inputs) for _ in range(options.num_return_sequences)]
        ends = self._eos_ids(options)
        targets = [row[1:-1] if row[-1] in ends else row[1:] for row in rows]
        found = self._translator.score_batch(sources, [self._named(target) for target in targets], max_input_length=0)
        ids = self._pad_rows(rows, options)
        log_probs = np.zeros((len(rows), ids.shape[1] - prompt), np.float32)
        for i, (row, result) in enumerate(zip(rows, found, strict=True)):
            own = result.log_probs[prompt - 1 : len(row) - 1]
            log_probs[i, : len(own)] = own
        lengths = np.array([len(row) - prompt for row in rows])
        beams = log_probs.sum(1) / lengths**options.length_penalty if options.num_beams > 1 else None
        return ScoredIds(ids, log_probs.sum(1), log_probs, beams)

    def stream_padded(self, inputs: PaddedInputs, options: GenerationOptions, on_token: OnToken) -> np.ndarray:
        """As `Engine.stream_padded`."""
        check_stream(inputs, options)

        def tell(result: Any) -> bool:
            return bool(on_token(result.token_id))

        return np.array(self._generate(inputs, options, None, True, callback=tell), np.int32)

    def _generate(
        self, inputs: PaddedInputs, options: GenerationOptions, prompts: np.ndarray | None, stop_at_eos: bool,
        **more: Any,
    ) -> list[list[int]]:  # fmt: skip
        """Returns R rows of token ids: start token, prompt, generated tokens with EOS."""
        self.check_options(options)
        prefix = self._prefix(inputs.num_rows, options, prompts)
        given = len(prefix[0]) if prefix and prompts is not None else 0
        arguments = self._arguments(options, given, stop_at_eos)
        found = self._translator.translate_batch(self._sources(inputs), prefix, **arguments, **more)
        start = self.spec.decoder_start_id
        return [[start, *(self._ids[name] for name in row)] for result in found for row in result.hypotheses]

    def _sources(self, inputs: PaddedInputs) -> list[list[str]]:
        """Returns the names of the tokens of each input, without padding.

        Raises:
          UserError: for padding on the left in a model whose positions count it.
        """
        mask = inputs.attention_mask[: inputs.num_rows] > 0
        counts_padding = self.spec.absolute_positions and self.spec.positions != "sinusoidal_tokens"
        if counts_padding and (mask[:, 1:] > mask[:, :-1]).any():
            raise UserError("input_ids are padded on the left", "padding on the right, with engine='ctranslate2'")
        return [self._named(row[kept]) for row, kept in zip(inputs.input_ids, mask, strict=False)]

    def _named(self, ids: Any) -> list[str]:
        return [self._names[number] for number in ids]

    def _prefix(self, rows: int, options: GenerationOptions, prompts: np.ndarray | None) -> list[list[str]] | None:
        """Returns what each output begins with after the start token; None: nothing."""
        forced = [] if options.forced_bos_token_id is None else [options.forced_bos_token_id]
        if prompts is None:
            return [self._named(forced)] * rows if forced else None
        check_ids("decoder_input_ids", prompts, self.spec.vocab_size)
        begun = (prompts[:, 0] == self.spec.decoder_start_id).any()
        given = [row[1:] if begun else row for row in prompts.tolist()]
        return [self._named(row or forced) for row in given]

    def _arguments(self, options: GenerationOptions, prefix: int, stop_at_eos: bool) -> dict[str, Any]:
        """Returns the arguments of `translate_batch` for these options."""
        longest, least = length_limits(options, prefix)
        forbidden = [[number] for number in options.suppress_tokens] + [list(ids) for ids in options.bad_words_ids]
        found = {
            "beam_size": options.num_beams, "num_hypotheses": options.num_return_sequences,
            "length_penalty": options.length_penalty, "repetition_penalty": options.repetition_penalty,
            "no_repeat_ngram_size": options.no_repeat_ngram_size, "max_input_length": 0,
            "max_decoding_length": longest, "min_decoding_length": least if stop_at_eos else longest,
            "return_end_token": True, "end_token": list(self._eos_ids(options)),
            "suppress_sequences": [self._named(ids) for ids in forbidden] or None,
        }  # fmt: skip
        if options.do_sample:
            found |= {
                "sampling_topk": options.top_k, "sampling_topp": options.top_p,
                "sampling_temperature": options.temperature,
            }  # fmt: skip
        return found

    def _eos_ids(self, options: GenerationOptions) -> tuple[int, ...]:
        return options.eos_token_id or (self.spec.eos_id,)

    def _pad_rows(self, rows: Sequence[Sequence[int]], options: GenerationOptions) -> np.ndarray:
        pad_id = self.spec.pad_id if options.pad_token_id is None else options.pad_token_id
        found = np.full((len(rows), max(map(len, rows))), pad_id, np.int32)
        for i, row in enumerate(rows):
            found[i, : len(row)] = row
        return found


def _load(folder: str, dtype: str) -> Any:
    import ctranslate2

    try:
        return ctranslate2.Translator(folder, device="auto", compute_type=dtype, intra_threads=num_threads())
    except ValueError as error:
        raise UserError(f"CTranslate2: {error}", "another dtype") from error
