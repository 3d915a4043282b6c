"""What can be wrong with a row of data, what is done about it, and the account of what was found.

Nothing is repaired: a row is dropped where what it should say can only be guessed, and kept, but counted, where it may
be meant. Too many dropped rows refuse the data set.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nash_jax.errors import UserError

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
DROP, KEEP, DROP_TRAIN = "drop", "keep", "drop from train"


class Kind(NamedTuple):
    """A kind of damage or oddity.

    Attributes:
      rule: `drop`, `keep` (counted) or `drop from train` (kept and counted in the other splits).
      meaning: what it is.
      why: the reason of the rule.
    """

    rule: str
    meaning: str
    why: str


_SHIFTED = "which text belongs to which column is not known"
KINDS = {
    "not_utf8": Kind(DROP, "bytes that are not UTF-8", "the encoding meant can only be guessed"),
    "not_json": Kind(DROP, "a line that is not JSON", "nothing in it can be relied on"),
    "not_object": Kind(DROP, "JSON, but no object", "it names no columns"),
    "missing_column": Kind(DROP, "no such column in this row", "half a pair teaches nothing"),
    "broken_quotes": Kind(DROP, "a CSV quote not closed, or text after it", "where the field ends is not known"),
    "fragment": Kind(DROP, "a CSV line after a broken quote that is no whole row", "it is the rest of a broken row"),
    "too_few_fields": Kind(DROP, "fewer CSV fields than the header", _SHIFTED),
    "too_many_fields": Kind(DROP, "more CSV fields than the header, as of a comma without quotes", _SHIFTED),
    "header_again": Kind(DROP, "the CSV header among the rows", "files were joined; it is no data"),
    "null": Kind(DROP, "null in place of a text", "half a pair teaches nothing"),
    "not_text": Kind(DROP, "a number, truth value, list, object or bytes", "how it would be written is not known"),
    "empty": Kind(DROP, "an empty text", "half a pair teaches nothing"),
    "blank": Kind(DROP, "white space and invisible characters alone", "it is empty after tokenising"),
    "nul_character": Kind(DROP, "a NUL character", "binary data, or a hole that a crash left in the file"),
    "surrogate": Kind(DROP, "half of a surrogate pair", "it is no character, and tokenizers fail at it"),
    "label_outside_set": Kind(DROP, "a target that is none of the labels", "a class that cannot be predicted"),
    "duplicate": Kind(
        DROP_TRAIN, "source and targets of an earlier row", "it counts twice; but scores are of all rows given"
    ),
    "leaked": Kind(DROP_TRAIN, "a source of the validation or test split", "scores would reward memory"),
    "repeated_source": Kind(KEEP, "the source of an earlier row, other targets", "there may be several answers"),
    "source_is_target": Kind(KEEP, "source and target are the same text", "nothing to change may be the answer"),
    "control_character": Kind(KEEP, "control characters other than tab and line ends", "tokenizers read over them"),
    "replacement_character": Kind(KEEP, "U+FFFD, what an earlier program could not decode", "the rest can be read"),
    "mojibake": Kind(KEEP, "UTF-8 that was read as Windows-1252, such as Ã©", "it may be what users will type"),
    "null_word": Kind(
        KEEP, "null, None, NaN or N/A as the whole text", "most often a missing value, but it may be meant"
    ),
    "no_word": Kind(KEEP, "no letter and no digit", "emoji and punctuation may be the answer"),
    "source_too_long": Kind(KEEP, "more tokens than max_source_length", "it is cut; the beginning is still read"),
    "target_too_long": Kind(KEEP, "more tokens than max_target_length", "it is cut; the model learns not to end there"),
}


def drops(kind: str, split: str) -> bool:
    """Whether rows of a kind are dropped from a split."""
    rule = KINDS[kind].rule
    return rule == DROP or (rule == DROP_TRAIN and split == "train")


class Damage(NamedTuple):
    """What is wrong with one row.

    Attributes:
      kind: of `KINDS`.
      detail: what was found there.
    """

    kind: str
    detail: str


Entry = tuple[str, Row | Damage]  # file and line or row, and what was read there


class Findings:
    """Rows read, and of each kind that was found in a split the number of rows and the first of them."""

    def __init__(self) -> None:
        self.rows_read: dict[str, int] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], str] = {}

    def begin(self, split: str) -> None:
        """The split's rows are read from now on."""
        self.rows_read[split] = 0

    def note(self, split: str, place: str, damage: Damage, count: int = 1) -> None:
        """Counts a row of a kind, or `count` of which this is the first."""
        key = split, damage.kind
        self._counts[key] = self._counts.get(key, 0) + count
        self._first.setdefault(key, f"{place}: {damage.detail}")

    def dropped(self, split: str) -> int:
        """Rows of a split that were dropped."""
        return sum(count for (own, kind), count in self._counts.items() if own == split and drops(kind, split))

    def to_json(self) -> list[dict[str, Any]]:
        """{"split", "kind", "rule": "dropped" or "kept", "rows", "first"} of each kind found in a split."""
        kinds = list(KINDS)
        found = sorted(self._counts, key=lambda key: (SPLITS.index(key[0]), kinds.index(key[1])))
        return [
            {
                "split": split,
                "kind": kind,
                "rule": "dropped" if drops(kind, split) else "kept",
                "rows": self._counts[split, kind],
                "first": self._first[split, kind],
            }
            for split, kind in found
        ]

    def check_limit(self, split: str, max_dropped: float) -> None:
        """Refuses a split of which too much was dropped.

        Args:
          split: its name.
          max_dropped: the largest share of its rows.

        Raises:
          UserError: naming the kinds, each with its number of rows and the first of them.
        """
        read, dropped = self.rows_read[split], self.dropped(split)
        if dropped <= max_dropped * read:
            return
        kinds = [row for row in self.to_json() if row["split"] == split and row["rule"] == "dropped"]
        said = ", ".join(f"{row['kind']} {row['rows']:,} ({row['first']})" for row in kinds)
        raise UserError(
            f"{dropped:,} of {read:,} {split} rows cannot be used: {said}",
            f"no more than config.task.max_dropped={max_dropped:g} of them",
            "repair them, or allow more",
        )


def check_rows(
    entries: Iterable[Entry], columns: Sequence[str], to_row: Callable[[Row], Row], split: str, findings: Findings
) -> Iterator[tuple[str, Row]]:
    """(place, row) of the rows that are kept, in their order; what is found is noted.

    Args:
      entries: what was read.
      columns: those that must hold a text.
      to_row: makes {"source", "references"} of what was read, with "labels", all texts that a target may be, where
        there is such a set.
      split: its name.
      findings: takes the notes.
    """
    findings.begin(split)
    earlier: dict[str, set[tuple[str, ...]]] = {}  # source → targets seen with it
    for place, read in entries:
        findings.rows_read[split] += 1
        found = [read] if isinstance(read, Damage) else list(find_damage(read, columns))
        row: Row = {}
        if not any(drops(damage.kind, split) for damage in found) and not isinstance(read, Damage):
            row = to_row(read)
            found += _compare(row, earlier)
        worst = next((damage for damage in found if drops(damage.kind, split)), None)
        for damage in [worst] if worst else found:
            findings.note(split, place, damage)
        if worst is None:
            earlier.setdefault(row["source"], set()).add(tuple(row["references"]))
            yield place, row


def drop_leaked(
    rows: Iterable[tuple[str, Row]], held_out: Mapping[str, str], findings: Findings
) -> Iterator[tuple[str, Row]]:
    """(place, row) of the training rows whose source is held out nowhere.

    Args:
      rows: as `check_rows` gives them.
      held_out: sources of the other splits → where they are.
      findings: takes the notes.
    """
    for place, row in rows:
        source = row["source"]
        if source in held_out:
            findings.note("train", place, Damage("leaked", f"{source!r:.60} is the source of {held_out[source]} too"))
        else:
            yield place, row


def find_damage(record: Mapping[str, Any], columns: Sequence[str]) -> Iterator[Damage]:
    """What is wrong with a row's texts: the first reason to drop it, or each oddity once."""
    odd: dict[str, Damage] = {}
    for column in columns:
        value = record[column]
        kind = _find_break(value)
        if kind:
            yield Damage(kind, f"column {column!r} holds {value!r:.60}")
            return
        for name in _find_oddities(value):
            odd.setdefault(name, Damage(name, f"column {column!r} holds {value!r:.60}"))
    yield from odd.values()


_INVISIBLE = r"\s\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff"
_VISIBLE = re.compile(rf"[^{_INVISIBLE}]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_WORD = re.compile(r"[^\W_]")
_NULL_WORDS = frozenset({"null", "none", "nan", "n/a", "<na>"})


def _find_break(value: Any) -> str | None:
    """The kind of damage for which a value's row is dropped."""
    if not isinstance(value, str):
        return "null" if value is None else "not_text"
    if not value:
        return "empty"
    if "\0" in value:
        return "nul_character"
    if not value.isascii() and _SURROGATE.search(value):
        return "surrogate"
    return None if _VISIBLE.search(value) else "blank"


def _find_oddities(text: str) -> Iterator[str]:
    """Kinds of what is odd in a text, though it may be meant."""
    if not text.isprintable() and _CONTROL.search(text):
        yield "control_character"
    if not text.isascii():
        if "\ufffd" in text:
            yield "replacement_character"
        if _is_mojibake(text):
            yield "mojibake"
    if len(text) < 16 and text.strip().lower() in _NULL_WORDS:
        yield "null_word"
    if not _WORD.search(text):
        yield "no_word"


def _is_mojibake(text: str) -> bool:
    """Whether a text that is not ASCII is UTF-8 bytes read as Windows-1252: right text hardly ever decodes so."""
    try:
        text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return False
    return True


def _compare(row: Row, earlier: Mapping[str, set[tuple[str, ...]]]) -> Iterator[Damage]:
    """What is wrong with a row beside the set of labels and the rows before it."""
    source, references = row["source"], row["references"]
    text = f"{source!r:.60}"
    labels = row.get("labels") or references
    outside = [reference for reference in references if reference not in labels]
    if outside:
        yield Damage("label_outside_set", f"{outside[0]!r:.60} is none of {', '.join(map(repr, labels))}")
    if source in earlier:
        again = tuple(references) in earlier[source]
        yield Damage("duplicate" if again else "repeated_source", text)
    if references == [source]:
        yield Damage("source_is_target", text)
