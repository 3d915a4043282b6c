"""Texts from tokenized texts: batches, decoding, labels and scores put together."""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import numpy as np

from nash_jax.generation.batching import generate_batches, generate_scored_batches, group_by_input
from nash_jax.generation.engine import BatchGenerator
from nash_jax.generation.labels import LabelSet
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.outputs import RowScore, ScoredTexts, join_rows, row_scores

Decode = Callable[[np.ndarray], list[str]]  # int32 [R, L] → R texts


class TextGenerator:
    """Generates texts with a model.

    Args:
      engine: the model.
      tokenizer: a `transformers` tokenizer.
      options: generation options.
      labels: the only outputs that are possible; None: all.
      decode: reads token ids, int [R, L], as R texts, where there are no labels; None: without special tokens.

    Attributes:
      options: the same, with the labels.
      decode: reads token ids, int [R, L], as R texts.
    """

    def __init__(
        self, engine: BatchGenerator, tokenizer: Any, options: GenerationOptions, labels: Iterable[str] | None = None,
        decode: Decode | None = None,
    ) -> None:  # fmt: skip
        self.engine, self._tokenizer = engine, tokenizer
        known = None if labels is None else LabelSet(labels, tokenizer, engine.spec, options)
        self.options = known.options if known else options
        self.decode: Decode = known.read if known else decode or self._decode

    def _decode(self, ids: np.ndarray) -> list[str]:
        return list(self._tokenizer.batch_decode(ids, skip_special_tokens=True))

    def texts(self, sources: Sequence[Sequence[int]], batch_size: int, progress: bool | None) -> list[str]:
        """Returns the texts in the order of the sources, n for each.

        Args:
          sources: token ids of each input.
          batch_size: inputs generated together.
          progress: as in `generate_batches`.
        """
        found: dict[int, list[str]] = {}
        for numbers, ids in generate_batches(self.engine, sources, self.options, batch_size, progress):
            found |= group_by_input(numbers, self.decode(ids))
        return [text for number in range(len(sources)) for text in found[number]]

    def scored(self, sources: Sequence[Sequence[int]], batch_size: int, progress: bool | None) -> ScoredTexts:
        """Like `texts`, with the scores."""
        found: dict[int, list[tuple[str, RowScore]]] = {}
        for numbers, ids in generate_scored_batches(self.engine, sources, self.options, batch_size, progress):
            rows = row_scores(ids, self.options.eos_token_id or (self.engine.spec.eos_id,))
            found |= group_by_input(numbers, list(zip(self.decode(ids.ids), rows, strict=True)))
        both = [pair for number in range(len(sources)) for pair in found[number]]
        return join_rows([text for text, _ in both], [row for _, row in both])
