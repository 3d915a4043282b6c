"""Splits a training set alone: shares of its sources become the validation and the test split.

A record belongs to a split by a hash of its source, so records with the same source are in the same split, and the
split depends neither on the order of the records nor on limits.
"""

import bisect
import hashlib
from array import array
from collections.abc import Callable, Iterable, Iterator, Sequence

import numpy as np

from nash_jax.data.checks import Entry, Row, RowIssue, RowIssueError
from nash_jax.errors import UserError

Entries = Callable[[], Iterable[Entry]]  # reads the records of a split from the start
HELD_OUT = ("test", "validation")  # the splits that are taken from the training set, in this order


def take_shares(
    entries: Entries,
    to_rows: Callable[[Row], Sequence[Row]],
    splits: Sequence[str],
    share: float,
    seed: int,
    place: str,
) -> dict[str, Entries]:
    """Returns the records of the training split and of the splits that are taken from it.

    The sources are read once before, and their hashes kept in memory, 8 bytes each.

    Args:
      entries: all records.
      to_rows: turns a record into rows (`check_rows`); the source of the first row decides.
      splits: the splits to take, of `HELD_OUT`.
      share: of the different sources, for each of these splits; at least one source.
      seed: another one takes other sources.
      place: where the records are, for the message.

    Returns:
      Split → its records, which are read again each time. Records without rows, and issues, are the training split's.

    Raises:
      UserError: if there are fewer sources than splits.
    """
    unusable: list[str] = []
    hashes = np.unique(np.array(array("Q", _hashes(entries(), to_rows, seed, unusable)), np.uint64))
    count = max(1, round(share * len(hashes)))
    if len(hashes) <= len(splits) * count:
        rest = f", of which each of {' and '.join(splits)} takes {count}" if len(hashes) > len(splits) else ""
        first = f"; unusable rows, the first {unusable[0]}" if unusable else ""
        raise UserError(
            f"{place}: {len(hashes)} different sources{rest}, for the splits train, {', '.join(splits)}{first}",
            "a source for each split at least",
            "lower config.task.held_out_share" if rest else "or name a file for each split",
        )
    bounds = hashes[count : (len(splits) + 1) * count : count].tolist()  # the first hash after each split

    def select(wanted: str) -> Iterator[Entry]:
        for entry in entries():
            number = _hash(entry[1], to_rows, seed)
            index = bisect.bisect_right(bounds, number) if isinstance(number, int) else len(splits)
            if (*splits, "train")[index] == wanted:
                yield entry

    return {split: lambda split=split: select(split) for split in (*splits, "train")}  # type: ignore[misc]


def _hashes(
    entries: Iterable[Entry], to_rows: Callable[[Row], Sequence[Row]], seed: int, unusable: list[str]
) -> Iterator[int]:
    """Hashes of the sources; the first row that cannot be used is added to `unusable`."""
    for place, record in entries:
        found = _hash(record, to_rows, seed)
        if isinstance(found, int):
            yield found
        elif found and not unusable:
            unusable.append(f"{place}: {found.detail}")


def _hash(record: Row | RowIssue, to_rows: Callable[[Row], Sequence[Row]], seed: int) -> int | RowIssue | None:
    """Hash of a record's source, 64 bits; the issue for which it cannot be used; None if it has no rows."""
    if isinstance(record, RowIssue):
        return record
    try:
        rows = to_rows(record)
    except RowIssueError as error:
        return error.issue
    if not rows:
        return None
    text = f"{seed} {rows[0]['source']}".encode("utf-8", "surrogatepass")
    return int.from_bytes(hashlib.blake2b(text, digest_size=8).digest(), "big")
