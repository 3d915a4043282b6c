"""Agreement of a tokenizer and a model: special tokens, and ids that the model's tables have."""

import dataclasses
import sys
from collections.abc import Iterable, Mapping
from typing import Any

import numpy as np

from nash_jax.errors import UserError
from nash_jax.spec import ModelSpec

_ROLES = {"pad_token": "pad_id", "eos_token": "eos_id"}
_SAMPLE = 64  # rows that are tokenized first: a tokenizer of another model shows at once


def fill_special_tokens(tokenizer: Any, spec: ModelSpec) -> Any:
    """Gives a tokenizer without padding or EOS token those of its model; BertTokenizer has no `eos_token`, for one.

    Args:
      tokenizer: a `transformers` tokenizer; it is changed.
      spec: of the model.

    Returns:
      The tokenizer.
    """
    separator = getattr(tokenizer, "sep_token", None)
    if tokenizer.eos_token is None and separator and tokenizer("a")["input_ids"][-1] == tokenizer.sep_token_id:
        tokenizer.eos_token = separator  # a model trained with it ends texts so, whatever its config.json says
    for token, role in _ROLES.items():
        number = getattr(spec, role)
        if getattr(tokenizer, token) is None and number < len(tokenizer):
            setattr(tokenizer, token, tokenizer.convert_ids_to_tokens(number))
    return tokenizer


def end_with_eos(tokenizer: Any) -> None:
    """Makes a tokenizer that adds nothing to texts (KoBART's, GPT-2's) end them with EOS; it is changed, with a note.

    Args:
      tokenizer: a `transformers` tokenizer.
    """
    plain = tokenizer("a")["input_ids"] == tokenizer("a", add_special_tokens=False)["input_ids"]
    if plain and tokenizer.eos_token is not None and hasattr(tokenizer, "add_eos_token"):
        tokenizer.add_eos_token = True
        print(f"note: the tokenizer ends no text with {tokenizer.eos_token}; this run's does", file=sys.stderr)


def check_special_tokens(tokenizer: Any, text: str) -> None:
    """Checks that a tokenizer has a padding token and ends texts with its EOS token, as training needs it.

    Args:
      tokenizer: a `transformers` tokenizer.
      text: any text.

    Raises:
      UserError: if it does not.
    """
    for token in _ROLES:
        if getattr(tokenizer, token) is None:
            raise UserError(
                f"the tokenizer has no {token}, and neither has a model that comes with it",
                "one made for an encoder-decoder, such as T5's",
                f'add "{token}" to its tokenizer_config.json',
            )
    ids = tokenizer(text)["input_ids"]
    if tokenizer.eos_token_id not in ids[-2:]:  # mBART's tokenizer appends the language id after EOS
        raise UserError(f"the tokenizer ends a text with id {ids[-1]}", f"EOS, {tokenizer.eos_token_id}")


def align_special_ids(spec: ModelSpec, tokenizer: Any) -> ModelSpec:
    """Returns the spec with the padding and EOS ids of the tokenizer that it is trained with, as transformers does.

    Args:
      spec: of the model.
      tokenizer: with both tokens.
    """
    own = {"pad_id": tokenizer.pad_token_id, "eos_id": tokenizer.eos_token_id}
    changed = {name: value for name, value in own.items() if value != getattr(spec, name)}
    if changed:
        before = ", ".join(f"{name} {getattr(spec, name)}" for name in changed)
        after = ", ".join(f"{name} {value}" for name, value in changed.items())
        print(f"note: the model has {before}, its tokenizer {after}; the tokenizer's are used", file=sys.stderr)
    return dataclasses.replace(spec, **changed)


def check_first_rows(tokenizer: Any, spec: ModelSpec, rows: Iterable[Mapping[str, Any]]) -> None:
    """Checks the tokens of some rows as `check_token_ids`, before all are tokenized.

    Args:
      tokenizer: a `transformers` tokenizer.
      spec: of the model.
      rows: {"source", "references"}.
    """
    sample = [row for row, _ in zip(rows, range(_SAMPLE), strict=False)]
    sources = tokenizer([row["source"] for row in sample], verbose=False)["input_ids"]
    targets = tokenizer(text_target=[row["references"][0] for row in sample], verbose=False)["input_ids"]
    check_token_ids(tokenizer, spec, source=np.concatenate(sources), target=np.concatenate(targets))


def check_token_ids(tokenizer: Any, spec: ModelSpec, **ids: np.ndarray) -> None:
    """Checks that the model has a row for each token that occurs; a tokenizer may have more tokens than those.

    The tokenizers of BART-large-CNN, XSum and DistilBART have one more than the model: `<mask>`.

    Args:
      tokenizer: a `transformers` tokenizer.
      spec: of the model.
      **ids: `source` or `target` → all ids that occur on that side, int [tokens].

    Raises:
      UserError: naming the token.
    """
    for side, found in ids.items():
        known = spec.source_vocab_size if side == "source" else spec.vocab_size
        outside = found[found >= known]
        if len(outside):
            token = tokenizer.convert_ids_to_tokens(int(outside[0]))
            raise UserError(
                f"the {side}s contain the token {token!r} of id {outside[0]}, and the model has {known:,} tokens",
                "a tokenizer that fits the model",
                "set config.task.tokenizer, or leave that token out of the data",
            )
