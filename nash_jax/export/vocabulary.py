"""Names of tokens for formats that store a vocabulary as a list of texts."""

from typing import Any


def token_names(tokenizer: Any | None, size: int) -> list[str]:
    """Returns one text for each id, all different.

    Args:
      tokenizer: a `transformers` tokenizer; None: tokens are called by their ids.
      size: number of ids; those that the tokenizer does not have are called by their ids too.
    """
    known: dict[str, int] = {} if tokenizer is None else tokenizer.get_vocab()
    prefix = "id_"
    while any(name.startswith(f"<{prefix}") for name in known):
        prefix += "_"
    names = [f"<{prefix}{i}>" for i in range(size)]
    for name, number in known.items():
        if 0 <= number < size:
            names[number] = name
    return names
