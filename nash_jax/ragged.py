"""Sequences of different lengths, stored in two arrays."""

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np


class Ragged:
    """Token ids of many sequences: flat ids, int32 [tokens], and offsets, int64 [sequences + 1]."""

    def __init__(self, ids: np.ndarray, offsets: np.ndarray) -> None:
        self.ids, self.offsets = ids, offsets
        self.lengths = np.diff(offsets)

    @staticmethod
    def from_lists(sequences: Sequence[Sequence[int]]) -> "Ragged":
        """Creates from one list of ids per sequence."""
        offsets = np.concatenate([[0], np.cumsum([len(s) for s in sequences], dtype=np.int64)])
        return Ragged(np.fromiter(itertools.chain.from_iterable(sequences), np.int32, offsets[-1]), offsets)

    @staticmethod
    def from_column(table: Any, name: str) -> "Ragged":
        """Creates from a column of lists of a `datasets.Dataset`, without Python lists."""
        column = table.with_format("arrow")[:][name].combine_chunks()
        offsets = column.offsets.to_numpy().astype(np.int64)
        return Ragged(column.flatten().to_numpy().astype(np.int32), offsets - offsets[0])

    @staticmethod
    def concatenate(parts: Sequence["Ragged"]) -> "Ragged":
        """Joins the sequences of several, in their order."""
        lengths = np.concatenate([part.lengths for part in parts])
        ids = np.concatenate([part.ids[part.offsets[0] : part.offsets[-1]] for part in parts])
        return Ragged(ids, np.concatenate([[0], np.cumsum(lengths, dtype=np.int64)]))

    def __len__(self) -> int:
        return len(self.lengths)

    def pad(self, rows: Sequence[int] | np.ndarray, length: int, pad_id: int) -> np.ndarray:
        """Returns the given sequences as int32 [rows, length], padded on the right or truncated."""
        out = np.full((len(rows), length), pad_id, np.int32)
        for i, row in enumerate(rows):
            ids = self.ids[self.offsets[row] : self.offsets[row + 1]][:length]
            out[i, : len(ids)] = ids
        return out
