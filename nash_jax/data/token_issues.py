"""Finds texts that a model cannot learn to write, or reads otherwise than they look, because of its tokenizer."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np

from nash_jax.data.checks import preview
from nash_jax.data.decoding import keep_ids
from nash_jax.data.forms import SEPARATOR
from nash_jax.ragged import Ragged


class TokenIssue(NamedTuple):
    """Texts with one kind of issue.

    Attributes:
      kind: key of `checks.ISSUE_KINDS`.
      pairs: indices of the (source, target) pairs, int64 [n], n > 0.
      detail: what the first one has.
    """

    kind: str
    pairs: np.ndarray
    detail: str


def find_token_issues(
    table: Any, pairs: Sequence[tuple[str, str]], tokenizer: Any, keep_tokens: Sequence[str]
) -> Iterator[TokenIssue]:
    """Yields what is found, each kind at most once for sources and once for targets.

    Args:
      table: the tokenized pairs (`pipeline.tokenized_table`).
      pairs: the texts, (source, target).
      tokenizer: of the run.
      keep_tokens: special tokens that stay in outputs.
    """
    targets = [target for _, target in pairs]
    yield from _unknown(Ragged.from_column(table, "target_ids"), targets, tokenizer)
    for number, name in enumerate(("source", "target")):
        ids, texts = Ragged.from_column(table, f"{name}_ids"), [pair[number] for pair in pairs]
        yield from _control(name, ids, texts, tokenizer, keep_ids(tokenizer, keep_tokens))
    if _loses_line_ends(tokenizer):
        found = np.flatnonzero([not _LINE_ENDS.isdisjoint(target) for target in targets])
        if len(found):
            yield TokenIssue("lost_line_end", found, f"the target is {preview(targets[found[0]])}")


def _unknown(ids: Ragged, targets: Sequence[str], tokenizer: Any) -> Iterator[TokenIssue]:
    found = np.flatnonzero(_count(ids, [tokenizer.unk_token_id]))
    if len(found):
        text, unknown = targets[found[0]], tokenizer.unk_token
        characters = ", ".join(map(repr, _unknown_characters(text, tokenizer))) or "some words"
        yield TokenIssue("unknown_token", found, f"{characters} become {unknown} in the target {preview(text)}")


def _unknown_characters(text: str, tokenizer: Any) -> list[str]:
    characters = [each for each in dict.fromkeys(text) if not each.isspace()]
    encoded = tokenizer(text_target=characters, add_special_tokens=False)["input_ids"] if characters else []
    return [each for each, ids in zip(characters, encoded, strict=True) if tokenizer.unk_token_id in ids][:_SHOWN]


def _control(name: str, ids: Ragged, texts: Sequence[str], tokenizer: Any, kept: set[int]) -> Iterator[TokenIssue]:
    """Special tokens beyond those that the tokenizer adds to every text, and separators that a form adds."""
    special = set(tokenizer.all_special_ids) - kept - {tokenizer.unk_token_id}
    kind = {"source": "text", "target": "text_target"}[name]
    added = len([i for i in tokenizer(**{kind: "a"})["input_ids"] if i in special])
    counts = _count(ids, special)
    more = np.flatnonzero(counts > added).tolist()
    found: list[int] = [i for i in more if counts[i] > added + 2 * texts[i].count(SEPARATOR)]
    if found:
        first = slice(ids.offsets[found[0]], ids.offsets[found[0] + 1])
        tokens = [i for i in dict.fromkeys(ids.ids[first].tolist()) if i in special]
        names = [token for token in tokenizer.convert_ids_to_tokens(tokens) if token in texts[found[0]]]
        detail = f"{', '.join(names) or 'a special token'} in the {name} {preview(texts[found[0]])}"
        yield TokenIssue("control_token", np.array(found), detail)


def _count(ids: Ragged, wanted: Any) -> np.ndarray:
    """Number of the wanted ids in each sequence, int64 [sequences]."""
    hits = np.concatenate([[0], np.cumsum(np.isin(ids.ids, [i for i in wanted if i is not None]))])
    return np.diff(hits[ids.offsets])


def _loses_line_ends(tokenizer: Any) -> bool:
    ids = tokenizer(text_target="a\nb")["input_ids"]
    return "\n" not in tokenizer.decode(ids, skip_special_tokens=True)


_LINE_ENDS = frozenset("\n\r\x85\u2028\u2029")
_SHOWN = 8  # characters named
