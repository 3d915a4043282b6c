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


class IssueKind(NamedTuple):
    """A kind of issue or oddity.

    Attributes:
      rule: `drop`, `keep` (counted) or `drop from train` (kept and counted in the other splits).
      meaning: what it is.
      why: the reason of the rule.
    """

    rule: str
    meaning: str
    why: str


_SHIFTED = "which text belongs to which column is not known"
ISSUE_KINDS = {
    "not_utf8": IssueKind(DROP, "bytes that are not UTF-8", "the encoding meant can only be guessed"),
    "not_json": IssueKind(DROP, "a line that is not JSON", "nothing in it can be relied on"),
    "not_object": IssueKind(DROP, "JSON, but no object", "it names no columns"),
    "missing_column": IssueKind(DROP, "no such column in this row", "half a pair teaches nothing"),
    "broken_quotes": IssueKind(DROP, "a CSV quote not closed, or text after it", "where the field ends is not known"),
    "fragment": IssueKind(
        DROP, "a CSV line after a broken quote that is no whole row", "it is the rest of a broken row"
    ),
    "too_few_fields": IssueKind(DROP, "fewer CSV fields than the header", _SHIFTED),
    "too_many_fields": IssueKind(DROP, "more CSV fields than the header, as of a comma without quotes", _SHIFTED),
    "header_again": IssueKind(DROP, "the CSV header among the rows", "files were joined; it is no data"),
    "null": IssueKind(DROP, "null in place of a text", "half a pair teaches nothing"),
    "not_text": IssueKind(DROP, "a number, truth value, list, object or bytes", "how it would be written is not known"),
    "empty": IssueKind(DROP, "an empty text, or list of texts", "half a pair teaches nothing"),
    "blank": IssueKind(DROP, "white space and invisible characters alone", "it is empty after tokenising"),
    "nul_character": IssueKind(DROP, "a NUL character", "binary data, or a hole that a crash left in the file"),
    "surrogate": IssueKind(DROP, "half of a surrogate pair", "it is no character, and tokenizers fail at it"),
    "contradiction": IssueKind(
        DROP, "a number of a word that is not there in the text", "which of the two is wrong is not known"
    ),
    "label_outside_set": IssueKind(DROP, "a target that is none of the labels", "a class that cannot be predicted"),
    "duplicate": IssueKind(
        DROP_TRAIN, "source and targets of an earlier row", "it counts twice; but scores are of all rows given"
    ),
    "leaked": IssueKind(DROP_TRAIN, "a source of the validation or test split", "scores would reward memory"),
    "same_file": IssueKind(
        KEEP, "rows of a file that is the validation or test file too", "a trial run may want it; scores reward memory"
    ),
    "repeated_label": IssueKind(
        KEEP, "source and label of an earlier row", "how often a text has a label is part of what is learnt"
    ),
    "repeated_source": IssueKind(KEEP, "the source of an earlier row, other targets", "there may be several answers"),
    "source_is_target": IssueKind(KEEP, "source and target are the same text", "nothing to change may be the answer"),
    "control_character": IssueKind(
        KEEP, "control characters other than tab and line ends", "tokenizers read over them"
    ),
    "replacement_character": IssueKind(
        KEEP, "U+FFFD, what an earlier program could not decode", "the rest can be read"
    ),
    "mojibake": IssueKind(KEEP, "UTF-8 that was read as Windows-1252, such as Ã©", "it may be what users will type"),
    "null_word": IssueKind(
        KEEP, "null, None, NaN or N/A as the whole text", "most often a missing value, but it may be meant"
    ),
    "no_word": IssueKind(KEEP, "no letter and no digit", "emoji and punctuation may be the answer"),
    "source_too_long": IssueKind(KEEP, "more tokens than max_source_length", "it is cut; the beginning is still read"),
    "target_too_long": IssueKind(
        KEEP, "more tokens than max_target_length", "it is cut; the model learns not to end there"
    ),
}


def is_dropped(kind: str, split: str) -> bool:
    """Whether rows of a kind are dropped from a split."""
    rule = ISSUE_KINDS[kind].rule
    return rule == DROP or (rule == DROP_TRAIN and split == "train")


class RowIssue(NamedTuple):
    """What is wrong with one row.

    Attributes:
      kind: of `ISSUE_KINDS`.
      detail: what was found there.
    """

    kind: str
    detail: str


Entry = tuple[str, Row | RowIssue]  # file and line or row, and what was read there


class DataIssues:
    """Rows read, and of each kind that was found in a split the number of rows and the first of them.

    Attributes:
      rows_read: split → number.
      places: split → file and line, or row, of each row that was kept.
      by_task: of each task of a mixture.
    """

    def __init__(self) -> None:
        self.rows_read: dict[str, int] = {}
        self.places: dict[str, list[str]] = {}
        self.by_task: dict[str, DataIssues] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], str] = {}

    def start_split(self, split: str) -> None:
        """The split's rows are read from now on."""
        self.rows_read[split], self.places[split] = 0, []

    def add(self, split: str, place: str, issue: RowIssue, count: int = 1) -> None:
        """Counts a row of a kind, or `count` of which this is the first."""
        key = split, issue.kind
        self._counts[key] = self._counts.get(key, 0) + count
        self._first.setdefault(key, f"{place}: {issue.detail}")

    def num_dropped(self, split: str) -> int:
        """Rows of a split that were dropped."""
        own = sum(count for (where, kind), count in self._counts.items() if where == split and is_dropped(kind, split))
        return own + sum(part.num_dropped(split) for part in self.by_task.values())

    def to_json(self) -> list[dict[str, Any]]:
        """{"split", "kind", "rule": "dropped" or "kept", "rows", "first"} of each kind found in a split; of the parts
        with "task".
        """
        kinds = list(ISSUE_KINDS)
        found = sorted(self._counts, key=lambda key: (SPLITS.index(key[0]), kinds.index(key[1])))
        own = [
            {
                "split": split,
                "kind": kind,
                "rule": "dropped" if is_dropped(kind, split) else "kept",
                "rows": self._counts[split, kind],
                "first": self._first[split, kind],
            }
            for split, kind in found
        ]
        return own + [row | {"task": name} for name, part in self.by_task.items() for row in part.to_json()]

    def check_limit(self, split: str, max_dropped: float) -> None:
        """Refuses a split of which too much was dropped.

        Args:
          split: its name.
          max_dropped: the largest share of its rows.

        Raises:
          UserError: naming the kinds, each with its number of rows and the first of them.
        """
        read, dropped = self.rows_read[split], self.num_dropped(split)
        if dropped <= max_dropped * read:
            return
        kinds = [row for row in self.to_json() if row["split"] == split and row["rule"] == "dropped"]
        said = ", ".join(f"{row['kind']} {row['rows']:,} ({row['first']})" for row in kinds)
        raise UserError(
            f"{dropped:,} of {read:,} {split} rows cannot be used: {said}",
            f"no more than config.task.max_dropped={max_dropped:g} of them",
            "repair them, or allow more",
        )


class RowIssueError(ValueError):
    """A record that no row can be made of.

    Args:
      issue: the reason.
    """

    def __init__(self, issue: RowIssue) -> None:
        super().__init__(issue.detail)
        self.issue = issue


def preview(value: Any) -> str:
    """How a value begins, in one line."""
    return repr(value[:60] if isinstance(value, str) else value)[:60]


def check_rows(
    entries: Iterable[Entry], to_rows: Callable[[Row], Sequence[Row]], split: str, issues: DataIssues,
    held_out: Mapping[str, str],
) -> Iterator[Row]:  # fmt: skip
    """The rows that are kept, in their order; what is found is noted.

    Args:
      entries: what was read.
      to_rows: makes rows of a record, as a form does (`data/forms.py`); none of one that is no case of the task;
        raises RowIssueError.
      split: its name.
      issues: takes the notes.
      held_out: sources that this split may not have → where they are.
    """
    issues.start_split(split)
    earlier: dict[str, set[tuple[str, ...]]] = {}  # source → targets seen with it
    for place, read in entries:
        try:
            rows = [] if isinstance(read, RowIssue) else to_rows(read)
        except RowIssueError as error:
            rows, read = [], error.issue
        issues.rows_read[split] += 1 if isinstance(read, RowIssue) else len(rows)
        if isinstance(read, RowIssue):
            issues.add(split, place, read)
        # a record's rows, one for each of its answers, are not held against each other: they share a source by design
        found = [[*find_issues(row), *_compare_row(row, earlier, held_out)] for row in rows]
        for row, own in zip(rows, found, strict=True):
            worst = next((issue for issue in own if is_dropped(issue.kind, split)), None)
            for issue in [worst] if worst else own:
                issues.add(split, place, issue)
            if worst is None:
                earlier.setdefault(row["source"], set()).add(_identity(row))
                issues.places[split].append(place)
                yield row


def _identity(row: Row) -> tuple[str, ...]:
    """What tells a row from others of the same source."""
    return (*row["references"], *row.get("targets", ()))


def find_issues(row: Row) -> Iterator[RowIssue]:
    """What is wrong with a row's texts: the first reason to drop it, or each oddity once."""
    odd: dict[str, RowIssue] = {}
    for name, texts in (("source", [row["source"]]), ("target", row["references"])):
        for text in texts:
            kind = unusable_text_kind(text)
            for found in [kind] if kind else _suspicious_kinds(text):
                odd.setdefault(found, RowIssue(found, f"the {name} is {preview(text)}"))
    yield from odd.values()


_INVISIBLE = r"\s\x00-\x20\x7f-\xa0\xad\u200b-\u200f\u2028-\u202f\u2060-\u2064\ufeff"
_VISIBLE = re.compile(rf"[^{_INVISIBLE}]")
_SURROGATE = re.compile(r"[\ud800-\udfff]")
_CONTROL = re.compile(r"[\x01-\x08\x0b\x0c\x0e-\x1f\x7f]")
_WORD = re.compile(r"[^\W_]")
_NULL_WORDS = frozenset({"null", "none", "nan", "n/a", "<na>"})


def unusable_text_kind(value: Any) -> str | None:
    """The kind of issue for which a row with this value in place of a text is dropped; None of a usable text."""
    if not isinstance(value, str):
        return "null" if value is None else "not_text"
    if not value:
        return "empty"
    if "\0" in value:
        return "nul_character"
    if not value.isascii() and _SURROGATE.search(value):
        return "surrogate"
    return None if _VISIBLE.search(value) else "blank"


def _suspicious_kinds(text: str) -> Iterator[str]:
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


def _compare_row(
    row: Row, earlier: Mapping[str, set[tuple[str, ...]]], held_out: Mapping[str, str]
) -> Iterator[RowIssue]:
    """What is wrong with a row beside the set of labels, the other splits and the rows before it.

    Short texts to classify repeat themselves: of nine "thanks" eight friendly ones say what two rows would not, so rows
    with labels stay when they come again. A held-out text is no training text there either: what is known of texts seen
    before tells nothing of others.
    """
    source, references = row["source"], row["references"]
    labels = row.get("labels") or references
    outside = [reference for reference in references if reference not in labels]
    if outside:
        yield RowIssue("label_outside_set", f"{preview(outside[0])} is none of {', '.join(map(repr, labels))}")
    if source in held_out:
        yield RowIssue("leaked", f"{preview(source)} is the source of {held_out[source]} too")
    if source in earlier:
        again = "repeated_label" if "labels" in row else "duplicate"
        yield RowIssue(again if _identity(row) in earlier[source] else "repeated_source", preview(source))
    if references == [source]:
        yield RowIssue("source_is_target", preview(source))
