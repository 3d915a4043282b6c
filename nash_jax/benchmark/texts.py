"""Texts that models are measured on, and the tokenizer for them."""

from collections.abc import Collection
from pathlib import Path

from nash_jax.errors import UserError
from nash_jax.runtime.files import check_local, read_small
from nash_jax.seq2seq import Seq2Seq


def read_lines(name: str, most: int) -> list[str]:
    """The first texts of a file, one a line; empty lines do not count.

    Args:
      name: of the file.
      most: texts at most.

    Raises:
      UserError: for a file that cannot be read, or has no text.
    """
    check_local(name)
    texts = [line for line in read_small(Path(name)).splitlines() if line.strip()][:most]
    if not texts:
        raise UserError(f"{name} has no text", "a text on each line")
    return texts


def share_tokenizer(models: Collection[Seq2Seq]) -> None:
    """Gives models without a tokenizer, such as those of a run's stages, that of another of them.

    Args:
      models: with the same tokens.

    Raises:
      UserError: if none has one.
    """
    found = next((model.tokenizer for model in models if model.tokenizer is not None), None)
    if found is None:
        raise UserError("no model has a tokenizer", "tokenizer files in the folder of one")
    for model in models:
        model.tokenizer = found if model.tokenizer is None else model.tokenizer
