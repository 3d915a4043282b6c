"""Label words as token sequences, and outputs as label words again."""

from collections.abc import Iterable
from typing import Any

import numpy as np

from nash_jax.errors import UserError
from nash_jax.generation.arguments import check_characters
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import ModelSpec


class LabelSet:
    """The only outputs that are possible.

    Args:
      labels: a list of different texts.
      tokenizer: a `transformers` tokenizer; labels are tokenized as targets are in training.
      spec: of the model.
      options: generation options of the model.

    Attributes:
      options: the options, with the labels as `allowed_sequences`.

    Raises:
      UserError: for labels that are not texts, or of which two have the same tokens.
    """

    def __init__(self, labels: Any, tokenizer: Any, spec: ModelSpec, options: GenerationOptions) -> None:
        texts = _check_labels(labels)
        self._eos_ids = (spec.eos_id,) if options.eos_token_id is None else options.eos_token_id
        self._labels: dict[tuple[int, ...], str] = {}
        for text, ids in zip(texts, tokenizer(text_target=texts, verbose=False)["input_ids"], strict=True):
            other = self._labels.setdefault(self._until_eos(ids) or self._eos_ids[:1], text)
            if other != text:
                found = f"the labels {other!r} and {text!r} have the same tokens"
                raise UserError(found, "labels that differ in them", "words that the tokenizer does not know do not")
        self.options = options.replace(allowed_sequences=list(self._labels))

    def _until_eos(self, ids: Iterable[int]) -> tuple[int, ...]:
        """Returns the ids up to the first EOS, which is added if there is none."""
        found: list[int] = []
        for token in ids:
            found.append(int(token))
            if token in self._eos_ids:
                return tuple(found)
        return (*found, self._eos_ids[0])

    def read(self, ids: np.ndarray) -> list[str]:
        """Returns the label of each output, int [R, L], that was generated with `options`; "" for a model of NaN."""
        return [self._labels.get(self._until_eos(row), "") for row in ids[:, 1:].tolist()]


def _check_labels(labels: Any) -> list[str]:
    texts = list(labels) if isinstance(labels, Iterable) and not isinstance(labels, str) else []
    wrong = [label for label in texts if not isinstance(label, str) or not label.strip()]
    if not texts or wrong or len(set(texts)) < len(texts):
        said = repr(wrong[0] if wrong else labels)
        raise UserError(f"labels hold {said:.80}", "a list of different texts, such as ['yes', 'no']")
    for text in texts:
        check_characters(text, "a label")
    return texts
