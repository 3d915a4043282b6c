"""Outputs that can only be one of some token sequences, as label words are.

R rows, V vocabulary size, L width of the token array, M sequences, D length of the longest. A row's place in the prefix
tree of the sequences is found anew in each step, by comparing its tokens with all sequences: nothing is carried from
step to step, and beams need no reordering.
"""

from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.errors import UserError


def pack_sequences(
    sequences: Sequence[tuple[int, ...]], eos_ids: tuple[int, ...], prompt_length: int, vocab_size: int
) -> dict[str, Any]:
    """Packs sequences for `allow_sequences`, M and D padded to powers of two with the id V.

    Args:
      sequences: token ids, each with its EOS.
      eos_ids: ids that end a row; may be empty, if rows never end.
      prompt_length: number of tokens the decoder starts from.
      vocab_size: V.

    Raises:
      UserError: for a sequence that does not end at its first EOS.
    """
    for sequence in sequences if eos_ids else ():
        ends = [place for place, token in enumerate(sequence) if token in eos_ids]
        if ends[:1] != [len(sequence) - 1]:
            expected = f"an EOS ({' or '.join(map(str, eos_ids))}) at its end, and only there"
            raise UserError(f"allowed_sequences holds {list(sequence)}", expected)
    longest = max(map(len, sequences), default=1)
    table = np.full([1 << (size - 1).bit_length() for size in (max(len(sequences), 1), longest)], vocab_size, np.int32)
    for row, sequence in zip(table, sequences, strict=False):
        row[: len(sequence)] = sequence
    last = eos_ids[0] if eos_ids else 0
    return {"allowed": table, "allowed_begin": np.int32(prompt_length), "allowed_last": np.int32(last)}


def allow_sequences(
    scores: jax.Array, tokens: jax.Array, length: jax.Array, table: jax.Array, begin: jax.Array, last: jax.Array
) -> jax.Array:
    """Excludes all tokens that do not continue a row to one of the sequences; a row that is past its end gets EOS.

    Args:
      scores: float32 [R, V].
      tokens: int32 [R, L]; only the first `length` are read.
      length: int32 scalar.
      table: int32 [M, D], from `pack_sequences`.
      begin: number of tokens before the first generated one, int32 scalar.
      last: EOS, int32 scalar.

    Returns:
      float32 [R, V], -inf for excluded tokens.
    """
    places, vocab_size = jnp.arange(table.shape[1]), scores.shape[1]
    generated = jnp.take(tokens, begin + places, axis=1, mode="clip")  # [R, D]
    same = (generated[:, None] == table[None]) | (places >= length - begin)[None, None]
    column = jnp.take(table, length - begin, axis=1, mode="fill", fill_value=vocab_size)  # [M]
    following = jnp.where(jnp.all(same, axis=-1), column[None], vocab_size)  # [R, M]
    ended = jnp.all(following == vocab_size, axis=1, keepdims=True)
    ids = jnp.concatenate([following, jnp.where(ended, last, vocab_size)], axis=1)
    kept = jnp.take_along_axis(scores, jnp.minimum(ids, vocab_size - 1), axis=1)
    rows = jnp.arange(ids.shape[0])[:, None]
    return jnp.full_like(scores, -jnp.inf).at[rows, ids].set(kept, mode="drop")
