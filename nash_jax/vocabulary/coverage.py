"""How texts fare under a trimmed vocabulary: tokens that stay, texts that are written otherwise, unknown tokens."""

import dataclasses
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

_BATCH = 1000  # texts tokenized together


@dataclasses.dataclass(frozen=True)
class Coverage:
    """Texts under two tokenizers, the second with a part of the first one's tokens.

    Attributes:
      num_texts: number of texts.
      num_tokens: their tokens before, special tokens included.
      kept_tokens: how many of these tokens stay.
      tokens_after: their tokens after: a removed token is written with several others.
      changed_texts: texts that are written with other tokens than before.
      removed_ids: distinct tokens of the texts that are gone.
      unknown_before: unknown tokens before.
      unknown_after: unknown tokens after.
    """

    num_texts: int = 0
    num_tokens: int = 0
    kept_tokens: int = 0
    tokens_after: int = 0
    changed_texts: int = 0
    removed_ids: int = 0
    unknown_before: int = 0
    unknown_after: int = 0

    @property
    def kept_share(self) -> float:
        """Share of the tokens that stay, from 0 to 1; 1 without texts."""
        return self.kept_tokens / self.num_tokens if self.num_tokens else 1.0

    def summary(self) -> str:
        """One line for people."""
        return (
            f"{100 * self.kept_share:.2f} % of {self.num_tokens:,} tokens stay; {self.changed_texts:,} of "
            f"{self.num_texts:,} texts are written otherwise ({self.tokens_after:,} tokens); unknown tokens "
            f"{self.unknown_before:,} → {self.unknown_after:,}"
        )


def token_ids(tokenizer: Any, texts: Sequence[str]) -> Iterator[list[list[int]]]:
    """Yields the ids of texts, a batch of texts at a time, not truncated.

    Args:
      tokenizer: a `transformers` tokenizer.
      texts: sources or targets.
    """
    for start in range(0, len(texts), _BATCH):
        yield tokenizer(list(texts[start : start + _BATCH]), verbose=False, return_attention_mask=False)["input_ids"]


def used_ids(tokenizer: Any, texts: Sequence[str]) -> set[int]:
    """Returns the ids that occur in texts.

    Args:
      tokenizer: a `transformers` tokenizer.
      texts: sources or targets.
    """
    return {token_id for batch in token_ids(tokenizer, texts) for row in batch for token_id in set(row)}


def measure_coverage(old: Any, new: Any, new_ids: Mapping[int, int], texts: Sequence[str]) -> Coverage:
    """Compares what two tokenizers make of texts.

    Args:
      old: tokenizer with all tokens.
      new: tokenizer with some of them.
      new_ids: id → new id of these.
      texts: sources or targets.
    """
    totals, removed = np.zeros(6, int), set[int]()
    for before, after in zip(token_ids(old, texts), token_ids(new, texts), strict=True):
        for row, written in zip(before, after, strict=True):
            same = [new_ids.get(i, -1) for i in row]
            removed |= {i for i in row if i not in new_ids}
            unknown = row.count(old.unk_token_id), written.count(new.unk_token_id)
            totals += (len(row), len(row) - same.count(-1), len(written), same != written, *unknown)
    tokens, kept, later, changed, unknown_before, unknown_after = totals.tolist()
    return Coverage(len(texts), tokens, kept, later, changed, len(removed), unknown_before, unknown_after)
