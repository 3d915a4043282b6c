"""Pads inputs of any size to a small set of shapes.

Letters: B inputs, S source length.
"""

from typing import Any, NamedTuple

import jax
import numpy as np

from nash_jax.errors import UserError
from nash_jax.spec import ModelSpec


class PaddedInputs(NamedTuple):
    """A padded batch, the input of a compiled program.

    Attributes:
      input_ids: int32 [B, S].
      attention_mask: int32 [B, S]: 1 at tokens, 0 at padding that was given, -1 at padding that fills the bucket; rows
        that fill the batch attend to one token.
      source: int32 [B, S], the ids used by logits processors; negative where they ignore padding.
      row_ids: int32 [B]; a row's random numbers depend on it and on the seed.
      num_rows: number of real rows; the rows after them are batch padding.
    """

    input_ids: np.ndarray
    attention_mask: np.ndarray
    source: np.ndarray
    row_ids: np.ndarray
    num_rows: int


def length_bucket(length: int) -> int:
    """Returns the smallest of 8, 12, 16, 24, 32, 48, 64, 96, … that is at least `length`."""
    size = 8
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def batch_bucket(rows: int) -> int:
    """Returns the smallest power of two that is at least `rows`."""
    return 1 << max(rows - 1, 0).bit_length()


def pad_inputs(
    input_ids: np.ndarray, attention_mask: np.ndarray, row_ids: np.ndarray, pad_id: int, platform: str = ""
) -> PaddedInputs:
    """Pads a batch to a batch bucket and a length bucket; for a GPU to two rows at least.

    XLA compiles the product of one row for a GPU to two kernels: one writes each weight times its input to memory, the
    other adds them up.

    Logits processors see the padding of the given arrays, as in transformers, but not the padding added here.

    Args:
      input_ids: int [B, S].
      attention_mask: [B, S] of 0/1.
      row_ids: int [B].
      pad_id: padding token id.
      platform: that the batch is for, such as `gpu`; empty: the one that jax runs on.
    """
    rows, length = input_ids.shape
    fewest = 2 if (platform or jax.default_backend()) == "gpu" else 1
    shape = (max(batch_bucket(rows), fewest), length_bucket(length))
    ids, source = np.full(shape, pad_id, np.int32), np.full(shape, -1, np.int32)
    mask, padded_row_ids = np.full(shape, -1, np.int32), np.zeros(shape[0], np.int32)
    ids[:rows, :length] = source[:rows, :length] = input_ids
    mask[:rows, :length], padded_row_ids[:rows] = attention_mask, row_ids
    mask[rows:, 0] = 1
    return PaddedInputs(ids, mask, source, padded_row_ids, rows)


def check_inputs(input_ids: Any, attention_mask: Any, spec: ModelSpec) -> None:
    """Checks that the model can read the inputs.

    Raises:
      UserError: for arrays with a wrong shape or dtype, without rows or columns, or longer than the model's positions,
        and for ids outside the vocabulary.
    """
    if input_ids.ndim != 2 or input_ids.dtype.kind not in "iu":
        raise UserError(f"input_ids has shape {input_ids.shape} and type {input_ids.dtype}", "integers [batch, length]")
    if input_ids.size == 0:
        raise UserError(f"input_ids has shape {input_ids.shape}", "at least one row of at least one token")
    if attention_mask.shape != input_ids.shape:
        raise UserError(f"attention_mask has shape {attention_mask.shape}", f"that of input_ids, {input_ids.shape}")
    check_length("input_ids are", input_ids.shape[1], spec)
    check_ids("input_ids", input_ids, spec.source_vocab_size)


def check_length(what: str, length: int, spec: ModelSpec) -> None:
    """Checks that a sequence is not longer than the model's position table.

    Raises:
      UserError: naming the length.
    """
    if spec.absolute_positions and length > spec.max_positions:
        raise UserError(
            f"{what} {length} tokens long", f"no more than the model's {spec.max_positions} positions", "cut them"
        )


def check_ids(name: str, ids: np.ndarray, vocab_size: int) -> None:
    """Checks that ids are in the vocabulary.

    Raises:
      UserError: naming the first id that is not.
    """
    wrong = ids[(ids < 0) | (ids >= vocab_size)]
    if wrong.size:
        raise UserError(f"{name} hold {wrong.flat[0]}", f"ids from 0 to {vocab_size - 1}, the model's vocabulary")
