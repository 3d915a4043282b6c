"""Which tokens a tokenizer's model needs besides those of some texts, so that it segments these texts as before.

A segmenter is the entry `model` of `tokenizer.json`. Its tokens can only be taken away, so there is one question: could
a text whose tokens are all kept get others? For each kind the answer is no, if these are kept too:

- **Unigram** takes the path of pieces with the highest sum of scores. Without some pieces the best path is still there,
  with the same score, and no other path has gained; among equal paths the search takes the first, which stays first.
  Two things might gain: the unknown token, whose score is the lowest of all pieces less 10, and which may stand for a
  character only if no piece is that character. So a piece of the lowest score stays, and the pieces of one character.
- **BPE** merges the pair of the lowest rank, again and again. What is merged within a token at the end was merged as
  if the token stood alone. If all results of these merges are kept, every merge that was made can be made, and is
  still the first in rank; merges that lead to removed tokens are not made for these texts.
- **WordLevel** looks each word up.

`tests/test_vocabulary_segmenters.py` holds this for random tokenizers and texts.
"""

import itertools
import re
from collections.abc import Callable, Collection, Mapping
from typing import Any

from nash_jax.errors import UserError

Segmenter = dict[str, Any]
_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def needed_ids(segmenter: Segmenter, used: Collection[int], alphabet: bool) -> set[int]:
    """Returns the ids that a segmenter needs so that texts with the tokens `used` stay as they are.

    Args:
      segmenter: `model` of a tokenizer.json.
      used: ids, also of tokens that are not in the segmenter.
      alphabet: also keep the tokens of one character that are not used.

    Raises:
      UserError: for a kind of segmenter that is not supported.
    """
    kind = segmenter["type"]
    if kind not in _KINDS:
        raise UserError(f"the tokenizer is a {kind}", f"one of {', '.join(_KINDS)}", "keep its vocabulary whole")
    tokens = id_to_token(segmenter)
    own = {token_id for token_id in used if token_id in tokens}
    letters = {letter for token_id in own for letter in tokens[token_id]}
    found = own | {i for i, token in tokens.items() if len(token) == 1 and (alphabet or token in letters)}
    if segmenter.get("byte_fallback"):
        found |= {i for i, token in tokens.items() if _BYTE.fullmatch(token)}
    return found | _KINDS[kind](segmenter, found, tokens)


def id_to_token(segmenter: Segmenter) -> dict[int, str]:
    """Returns the tokens of a segmenter by id."""
    vocabulary = segmenter["vocab"]
    if isinstance(vocabulary, list):
        return {token_id: token for token_id, (token, _) in enumerate(vocabulary)}
    return {token_id: token for token, token_id in vocabulary.items()}


def _unigram(segmenter: Segmenter, used: set[int], tokens: Mapping[int, str]) -> set[int]:
    scores = [score for _, score in segmenter["vocab"]]
    unknown = segmenter.get("unk_id")
    return {scores.index(min(scores))} | (set() if unknown is None else {unknown})


def _word_level(segmenter: Segmenter, used: set[int], tokens: Mapping[int, str]) -> set[int]:
    unknown = segmenter["vocab"].get(segmenter.get("unk_token"))
    return set() if unknown is None else {unknown}


def _bpe(segmenter: Segmenter, used: set[int], tokens: Mapping[int, str]) -> set[int]:
    """The results of the merges that make the used tokens."""
    for name in ("continuing_subword_prefix", "end_of_word_suffix"):
        if segmenter.get(name):
            raise UserError(f"the tokenizer is a BPE with {name} {segmenter[name]!r}", "one without")
    ranks = {pair: rank for rank, pair in enumerate(read_merges(segmenter))}
    made = {part for token_id in used for part in merged_parts(tokens[token_id], ranks)}
    return {segmenter["vocab"][part] for part in made} | _word_level(segmenter, used, tokens)


def read_merges(segmenter: Segmenter) -> list[tuple[str, str]]:
    """Returns the merges of a BPE, the first in rank first; old files have texts with a space between."""
    merges = segmenter["merges"]
    return [(left, right) for left, right in (m.split(" ") if isinstance(m, str) else m for m in merges)]


def merged_parts(token: str, ranks: Mapping[tuple[str, str], int]) -> list[str]:
    """Returns what the merges of a token that stands alone make, in order; nothing if they do not make the token.

    Args:
      token: its characters are in the vocabulary.
      ranks: pair → rank.
    """
    parts, made = list(token), list[str]()
    while True:
        pairs = [(ranks[pair], i) for i, pair in enumerate(itertools.pairwise(parts)) if pair in ranks]
        if not pairs:
            return made if parts == [token] else []
        _, i = min(pairs)
        parts[i : i + 2] = [parts[i] + parts[i + 1]]
        made.append(parts[i])


_KINDS: dict[str, Callable[[Segmenter, set[int], Mapping[int, str]], set[int]]] = {
    "Unigram": _unigram, "BPE": _bpe, "WordLevel": _word_level,
}  # fmt: skip


def keep_tokens(segmenter: Segmenter, new_ids: Mapping[int, int]) -> Segmenter:
    """Returns a segmenter with some of its tokens.

    Args:
      segmenter: of a kind that `needed_ids` supports.
      new_ids: id → new id of the tokens that stay, in the same order.
    """
    vocabulary = segmenter["vocab"]
    if isinstance(vocabulary, list):
        unknown = segmenter.get("unk_id")
        kept = [entry for token_id, entry in enumerate(vocabulary) if token_id in new_ids]
        return segmenter | {"vocab": kept, "unk_id": None if unknown is None else new_ids[unknown]}
    own = {token: new_ids[token_id] for token, token_id in vocabulary.items() if token_id in new_ids}
    found = segmenter | {"vocab": own}
    if "merges" in segmenter:
        found["merges"] = [[a, b] for a, b in read_merges(segmenter) if a in own and b in own and a + b in own]
    return found
