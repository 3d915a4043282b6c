"""From generated ids to texts: which special tokens stay in them."""

import itertools
import re
from collections.abc import Collection, Iterable, Sequence
from typing import Any

import numpy as np

from nash_jax.errors import UserError, did_you_mean

_SHOWN = 10  # special tokens named in a message


def decode_outputs(
    tokenizer: Any, tokens: np.ndarray, skip_special_tokens: bool = True, keep_tokens: Sequence[str] = (),
    eos_ids: Collection[int] | None = None,
) -> list[str]:  # fmt: skip
    """Returns the texts of generated ids.

    Args:
      tokenizer: a `transformers` tokenizer.
      tokens: int [R, L], each row with the start token first; what follows a row's EOS is ignored.
      skip_special_tokens: leave special tokens out; otherwise all of a row are written, the start token and EOS too.
      keep_tokens: special tokens that stay.
      eos_ids: ids that end a row; None: the tokenizer's.

    Raises:
      UserError: for a token to keep that the tokenizer does not have.
    """
    ends = {tokenizer.eos_token_id} if eos_ids is None else set(eos_ids)
    rows = [_without_padding(row, ends, tokenizer.pad_token_id) for row in tokens.tolist()]
    if skip_special_tokens and not keep_tokens:
        return _decode(tokenizer, rows, True)
    kept = keep_ids(tokenizer, keep_tokens)
    left_out = set(tokenizer.all_special_ids) - kept if skip_special_tokens else set()
    return _decode(tokenizer, [[i for i in row if i not in left_out] for row in rows], False)


def _decode(tokenizer: Any, rows: list[list[int]], skip_special_tokens: bool) -> list[str]:
    """Decodes rows without the ids of a padded table: fast tokenizers leave them out, slow ones raise many types."""
    try:
        return list(tokenizer.batch_decode(rows, skip_special_tokens=skip_special_tokens))
    except (KeyError, IndexError, ValueError, TypeError, OverflowError):
        known = set(tokenizer.get_vocab().values())
        own = [[number for number in row if number in known] for row in rows]
        return list(tokenizer.batch_decode(own, skip_special_tokens=skip_special_tokens))


def written_forms(tokenizer: Any, texts: Iterable[str], keep_tokens: Sequence[str] = ()) -> dict[str, str]:
    """Returns text → the output that means it, for texts that the tokenizer cannot write as they are.

    Some lose case or compatibility forms, and BERT's puts spaces between Chinese characters. Texts with characters that
    the tokenizer does not know are left out: no output means them.

    Args:
      tokenizer: a `transformers` tokenizer.
      texts: targets.
      keep_tokens: special tokens that outputs keep.
    """
    unique = list(dict.fromkeys(texts))
    left_out = set(tokenizer.all_special_ids) - keep_ids(tokenizer, keep_tokens)
    all_ids = tokenizer(text_target=unique, verbose=False)["input_ids"] if unique else []
    outputs = _decode(tokenizer, [[i for i in ids if i not in left_out] for ids in all_ids], False)
    pairs = zip(unique, all_ids, (space_tokens(output, keep_tokens).strip() for output in outputs), strict=True)
    return {text: form for text, ids, form in pairs if form != text.strip() and tokenizer.unk_token_id not in ids}


def _without_padding(row: list[int], ends: Collection[int], pad_id: int | None) -> list[int]:
    """Returns the ids up to the first that ends the row, or to the padding.

    The start token, which may be EOS or padding too, does not count.
    """
    for place, token in enumerate(row[1:], 1):
        if token in ends:
            return row[: place + 1]
    padding = len(list(itertools.takewhile(lambda token: token == pad_id, row[:0:-1])))
    return row[: len(row) - padding]


def split_names(tokens: str) -> tuple[str, ...]:
    """Returns the tokens of a setting that names them with commas between."""
    return tuple(token.strip() for token in tokens.split(",") if token.strip())


def keep_ids(tokenizer: Any, tokens: Sequence[str]) -> set[int]:
    """Returns the ids of tokens that outputs keep.

    Raises:
      UserError: for a text that is not one token of the tokenizer.
    """
    if isinstance(tokens, str):
        raise UserError("keep_tokens is one string", "a list of special tokens", f"write [{tokens[:20]!r}]")
    if not isinstance(tokens, Collection) or not all(isinstance(token, str) for token in tokens):
        raise UserError(f"keep_tokens is {tokens!r:.60}", "a list of special tokens")
    found = {token: tokenizer.convert_tokens_to_ids(token) for token in tokens}
    for token, number in found.items():
        if number is None or (number == tokenizer.unk_token_id and token != tokenizer.unk_token):
            special = list(tokenizer.all_special_tokens)
            shown = ", ".join(map(str, special[:_SHOWN])) + " …" * (len(special) > _SHOWN)
            raise UserError(
                f"keep_tokens names {token!r}{did_you_mean(token, special)}",
                f"tokens of the tokenizer, such as its special ones: {shown}",
                "add others to it and train with them",
            )
    return set(found.values())


def space_tokens(text: str, tokens: Sequence[str]) -> str:
    """Returns a text with one space on either side of each kept token: tokenizers lose how many there were."""
    if not tokens:
        return text
    pattern = "|".join(map(re.escape, sorted(tokens, key=len, reverse=True)))
    return re.sub(rf"\s*({pattern})\s*", r" \1 ", text).strip()
