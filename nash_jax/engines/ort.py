"""Greedy search with ONNX Runtime, by the same calls and options as with our own engine.

Letters: B inputs, L output length in tokens, N generated tokens, P prompt length, S source length, V vocabulary size.
"""

import dataclasses
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.engines.options import length_limits, num_threads, refuse_options
from nash_jax.errors import UserError, require_packages
from nash_jax.generation.arguments import preview
from nash_jax.generation.engine import BatchGenerator, OnToken, check_stream
from nash_jax.generation.inputs import PaddedInputs, check_ids
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.outputs import ScoredIds
from nash_jax.spec import ModelSpec

DTYPES = ("float32", "int8")
_HONOURED = (  # options that need not have their defaults; those after the blank line have no effect on a greedy search
    "max_new_tokens", "max_length", "min_new_tokens", "min_length", "eos_token_id", "pad_token_id", "bos_token_id",
    "forced_bos_token_id", "decoder_start_token_id",

    "length_penalty", "early_stopping", "temperature", "top_k", "top_p", "min_p", "renormalize_logits", "seed",
)  # fmt: skip


class OnnxRuntimeEngine(BatchGenerator):
    """Generates with the graphs of `save_onnx`, on the CPU.

    In float32 the outputs are those of our engine.

    Args:
      spec: the model's architecture.
      params: its parameters, nested dict of arrays.
      dtype: one of `DTYPES`; with int8, weights and inputs of products are quantized.

    Raises:
      UserError: for another dtype, or without the extra `onnx`.
    """

    def __init__(self, spec: ModelSpec, params: Any, dtype: str = "float32") -> None:
        if not isinstance(dtype, str) or dtype not in DTYPES:
            raise UserError(f"dtype is {preview(dtype)}", f"one of {', '.join(DTYPES)}, with engine='onnxruntime'")
        require_packages("onnx")
        from nash_jax.export.onnx.folder import write_onnx
        from nash_jax.export.onnx.run import OnnxModel

        self.spec = spec
        with tempfile.TemporaryDirectory(prefix="nash_jax") as folder:
            write_onnx(Path(folder), spec, params, {}, dtype)
            self._model = OnnxModel(folder, num_threads())

    def check_options(self, options: GenerationOptions) -> None:
        """Refuses options that are not those of a greedy search, or change its scores.

        Raises:
          UserError: naming the options.
        """
        without = [field.name for field in dataclasses.fields(options) if field.name not in _HONOURED]
        refuse_options("ONNX Runtime", options, without, self.spec, "greedy search")

    def generate_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *,
        decoder_input_ids: np.ndarray | None = None, stop_at_eos: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """As `Engine.generate_padded`."""
        return self._search(inputs, options, decoder_input_ids, stop_at_eos)[0]

    def score_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *, decoder_input_ids: np.ndarray | None = None
    ) -> ScoredIds:
        """As `Engine.score_padded`."""
        ids, log_probs = self._search(inputs, options, decoder_input_ids, True)
        return ScoredIds(ids, log_probs.sum(1), log_probs, None)

    def stream_padded(self, inputs: PaddedInputs, options: GenerationOptions, on_token: OnToken) -> np.ndarray:
        """As `Engine.stream_padded`."""
        check_stream(inputs, options)
        return self._search(inputs, options, None, True, on_token)[0]

    def _search(
        self, inputs: PaddedInputs, options: GenerationOptions, prompts: np.ndarray | None, stop_at_eos: bool,
        on_token: OnToken | None = None,
    ) -> tuple[np.ndarray, np.ndarray]:  # fmt: skip
        """Returns the tokens, int32 [B, L], and log-probabilities of the generated ones, float32 [B, N]."""
        self.check_options(options)
        ids, mask = inputs.input_ids[: inputs.num_rows], inputs.attention_mask[: inputs.num_rows] > 0
        tokens = self._prompts(len(ids), prompts)
        longest, least = (1 + limit for limit in length_limits(options, tokens.shape[1] - 1))
        eos_ids = list(options.eos_token_id or (self.spec.eos_id,))
        pad_id = self.spec.pad_id if options.pad_token_id is None else options.pad_token_id
        forced = options.forced_bos_token_id if tokens.shape[1] == 1 else None
        ended, given, cache, scores = np.zeros(len(ids), bool), tokens, None, list[np.ndarray]()
        encoded = self._model.encode(ids, mask)
        while tokens.shape[1] < longest and not ended.all():
            logits, cache = self._model.decode(given, encoded, mask, cache)
            chosen = _choose(logits[:, -1], eos_ids if tokens.shape[1] < least else [], None if scores else forced)
            scores.append(np.where(ended, 0, _log_probs(logits[:, -1], chosen)).astype(np.float32))
            chosen = np.where(ended, pad_id, chosen)
            tokens, given = np.concatenate([tokens, chosen[:, None]], axis=1), chosen[:, None]
            ended |= np.isin(chosen, eos_ids) & stop_at_eos
            if on_token is not None and on_token(int(chosen[0])):
                break
        return tokens.astype(np.int32), np.stack(scores, 1) if scores else np.zeros((len(ids), 0), np.float32)

    def _prompts(self, rows: int, prompts: np.ndarray | None) -> np.ndarray:
        """Returns what the decoder begins with, int [B, P]: the start token, and prompts after it."""
        start = np.full((rows, 1), self.spec.decoder_start_id)
        if prompts is None:
            return start
        check_ids("decoder_input_ids", prompts, self.spec.vocab_size)
        begun = (prompts[:, 0] == self.spec.decoder_start_id).any()
        return prompts if begun else np.concatenate([start, prompts], axis=1)


def _choose(logits: np.ndarray, forbidden: list[int], forced: int | None) -> np.ndarray:
    """Best tokens [B] by logits [B, V], none of the forbidden ones; or the forced one."""
    if forced is not None:
        return np.full(len(logits), forced)
    if forbidden:
        logits = logits.copy()
        logits[:, forbidden] = -np.inf
    return logits.argmax(-1)


def _log_probs(logits: np.ndarray, chosen: np.ndarray) -> np.ndarray:
    """Log-probabilities [B] of tokens [B] by logits [B, V]."""
    highest = logits.max(-1)
    log_sum = highest + np.log(np.exp(logits - highest[:, None]).sum(-1))
    return np.asarray(logits[np.arange(len(logits)), chosen] - log_sum)
