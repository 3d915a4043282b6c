"""Checks of data rows: the kinds of issues, what happens to such rows, and a record of the issues found.

Rows are never repaired. A row is dropped if its intended content is unknown. A row is kept, but counted, if the
unusual content may be intended. If too many rows of a split are dropped, the data set is refused.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from nash_jax.errors import UserError

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")
DROP, KEEP, DROP_TRAIN = "drop", "keep", "drop from train"


class IssueKind(NamedTuple):
    """A kind of issue that a row can have.

    Attributes:
      rule: `drop`, `keep` (the row is counted) or `drop from train` (in other splits: kept and counted).
      meaning: description of the issue.
      why: reason for the rule.
    """

    rule: str
    meaning: str
    why: str


_SHIFTED = "it is unknown which text belongs to which column"
_HALF_PAIR = "a row needs both source and target"
ISSUE_KINDS = {
    "not_utf8": IssueKind(DROP, "bytes that are not UTF-8", "the intended encoding is unknown"),
    "not_json": IssueKind(DROP, "a line that is not JSON", "none of its content can be trusted"),
    "not_object": IssueKind(DROP, "JSON, but not an object", "it has no column names"),
    "missing_column": IssueKind(DROP, "a required column is missing in this row", _HALF_PAIR),
    "too_few_fields": IssueKind(DROP, "fewer CSV fields than the header", _SHIFTED),
    "too_many_fields": IssueKind(DROP, "more CSV fields than the header, e.g. an unquoted comma", _SHIFTED),
    "header_again": IssueKind(DROP, "the CSV header among the rows", "files were concatenated; it is not data"),
    "null": IssueKind(DROP, "null instead of a text", _HALF_PAIR),
    "not_text": IssueKind(DROP, "a number, boolean, list, object or bytes", "its intended text form is unknown"),
    "empty": IssueKind(DROP, "an empty text or an empty list of texts", _HALF_PAIR),
    "blank": IssueKind(DROP, "only white space and invisible characters", "it is empty after tokenization"),
    "nul_character": IssueKind(DROP, "a NUL character", "binary data, or a gap left in the file by a crash"),
    "surrogate": IssueKind(DROP, "half of a surrogate pair", "it is not a character, and tokenizers fail on it"),
    "contradiction": IssueKind(
        DROP, "a word index that does not match the text", "it is unknown which of the two is wrong"
    ),
    "label_outside_set": IssueKind(DROP, "a target that is not one of the labels", "the class cannot be predicted"),
    "duplicate": IssueKind(
        DROP_TRAIN, "source and targets of an earlier row", "it would count twice; scores use all given rows"
    ),
    "leaked": IssueKind(DROP_TRAIN, "a source of the validation or test split", "scores would reward memorization"),
    "same_file": IssueKind(
        KEEP, "rows of a file that is also the validation or test file", "a trial run may do this on purpose"
    ),
    "repeated_label": IssueKind(
        KEEP, "source and label of an earlier row", "label frequencies per text are part of the training signal"
    ),
    "repeated_source": IssueKind(KEEP, "the source of an earlier row, with other targets", "several may be correct"),
    "source_is_target": IssueKind(KEEP, "source and target are the same text", "the correct output may be a copy"),
    "control_character": IssueKind(
        KEEP, "control characters except tab and line ends", "tokenizers ignore or replace them"
    ),
    "replacement_character": IssueKind(
        KEEP, "U+FFFD, left by a program that could not decode a byte", "the rest of the text is readable"
    ),
    "mojibake": IssueKind(KEEP, "UTF-8 decoded as Windows-1252, such as Ã©", "user inputs may contain it too"),
    "null_word": IssueKind(
        KEEP, "null, None, NaN or N/A as the whole text", "usually a missing value, but it may be intended"
    ),
    "no_word": IssueKind(KEEP, "no letter and no digit", "emoji or punctuation may be the correct answer"),
    "source_too_long": IssueKind(KEEP, "more tokens than max_source_length", "truncated; the first tokens are used"),
    "target_too_long": IssueKind(
        KEEP, "more tokens than max_target_length", "truncated; the model does not learn to stop there"
    ),
    "unknown_token": IssueKind(
        KEEP, "characters of a target that the tokenizer does not know", "the model cannot learn to write them"
    ),
    "control_token": IssueKind(
        KEEP, "a special token, such as </s>, within a text", "outputs end there or lack it, unless keep_tokens has it"
    ),
    "lost_line_end": IssueKind(
        KEEP, "line ends in a target, and a tokenizer that loses them", "outputs will have spaces instead"
    ),
}


def is_dropped(kind: str, split: str) -> bool:
    """Returns whether rows with an issue of this kind are dropped from a split."""
    rule = ISSUE_KINDS[kind].rule
    return rule == DROP or (rule == DROP_TRAIN and split == "train")


class RowIssue(NamedTuple):
    """An issue of one row.

    Attributes:
      kind: key of `ISSUE_KINDS`.
      detail: what was found.
    """

    kind: str
    detail: str


Entry = tuple[str, Row | RowIssue]  # (file and line or row number, the record or the issue found there)


class DataIssues:
    """Issues of the rows that were read: for each split and kind, the number of rows and the first occurrence.

    Attributes:
      rows_read: split → number of rows.
      places: split → file and line (or row number) of each kept row.
      by_task: task name → its issues, for a mixture.
      origins: split → where its rows were taken from, for a split without a file of its own.
    """

    def __init__(self) -> None:
        self.rows_read: dict[str, int] = {}
        self.places: dict[str, list[str]] = {}
        self.by_task: dict[str, DataIssues] = {}
        self.origins: dict[str, str] = {}
        self._counts: dict[tuple[str, str], int] = {}
        self._first: dict[tuple[str, str], str] = {}

    def start_split(self, split: str) -> None:
        """Starts counting the rows of a split."""
        self.rows_read[split], self.places[split] = 0, []

    def add(self, split: str, place: str, issue: RowIssue, count: int = 1) -> None:
        """Adds an issue of one row, or of `count` rows of which this is the first."""
        key = split, issue.kind
        self._counts[key] = self._counts.get(key, 0) + count
        self._first.setdefault(key, f"{place}: {issue.detail}")

    def num_dropped(self, split: str) -> int:
        """Number of dropped rows of a split, over all tasks."""
        here = sum(n for (where, kind), n in self._counts.items() if where == split and is_dropped(kind, split))
        return here + sum(issues.num_dropped(split) for issues in self.by_task.values())

    def to_json(self) -> list[dict[str, Any]]:
        """Returns one object for each (split, kind): {"split", "kind", "rule": "dropped" or "kept", "rows", "first"}.

        Objects of a mixture's tasks also have "task".
        """
        kinds = list(ISSUE_KINDS)
        found = sorted(self._counts, key=lambda key: (SPLITS.index(key[0]), kinds.index(key[1])))
        rows = [
            {
                "split": split,
                "kind": kind,
                "rule": "dropped" if is_dropped(kind, split) else "kept",
                "rows": self._counts[split, kind],
                "first": self._first[split, kind],
            }
            for split, kind in found
        ]
        return rows + [row | {"task": name} for name, issues in self.by_task.items() for row in issues.to_json()]

    def check_limit(self, split: str, max_dropped: float) -> None:
        """Checks that not too many rows of a split were dropped.

        Args:
          split: name of the split.
          max_dropped: largest allowed share of its rows, 0 to 1.

        Raises:
          UserError: if more were dropped; lists the kinds, each with its number of rows and first occurrence.
        """
        read, dropped = self.rows_read[split], self.num_dropped(split)
        if dropped <= max_dropped * read:
            return
        kinds = [row for row in self.to_json() if row["split"] == split and row["rule"] == "dropped"]
        listed = ", ".join(f"{row['kind']} {row['rows']:,} ({row['first']})" for row in kinds)
        raise UserError(
            f"{dropped:,} of {read:,} {split} rows cannot be used: {listed}",
            f"no more than config.task.max_dropped={max_dropped:g} of them",
            "correct them, or allow more" if dropped < read else "correct them",
        )


class RowIssueError(ValueError):
    """A record cannot be turned into rows.

    Args:
      issue: the reason.
    """

    def __init__(self, issue: RowIssue) -> None:
        super().__init__(issue.detail)
        self.issue = issue


def preview(value: Any) -> str:
    """Returns the start of a value as one line of at most 60 characters."""
    return repr(value[:60] if isinstance(value, str) else value)[:60]


def check_rows(
    entries: Iterable[Entry], to_rows: Callable[[Row], Sequence[Row]], split: str, issues: DataIssues,
    held_out: Mapping[str, str],
) -> Iterator[Row]:  # fmt: skip
    """Yields the rows that are kept, in order, and records the issues of all rows.

    Args:
      entries: records, or issues found while reading them.
      to_rows: turns a record into rows, as a form does (`data/forms.py`); returns no rows for a record that is not an
        example of the task; raises RowIssueError.
      split: name of the split.
      issues: the issues found are added to it.
      held_out: sources that this split must not contain → where they are.

    Yields:
      Rows without an issue for which they are dropped.
    """
    issues.start_split(split)
    earlier: dict[str, set[tuple[str, ...]]] = {}  # source → targets seen with it
    for place, read in entries:
        try:
            rows = [] if isinstance(read, RowIssue) else to_rows(read)
        except RowIssueError as error:
            rows, read = [], error.issue
        if isinstance(read, RowIssue):
            issues.rows_read[split] += 1
            issues.add(split, place, read)
        # rows of one record (one row per answer) share the source on purpose, so they are not compared to each other
        found = [[*find_issues(row), *_compare_row(row, earlier, held_out)] for row in rows]
        for row, row_issues in zip(rows, found, strict=True):
            issues.rows_read[split] += 1  # one by one, for a limit may end the reading between two of them
            worst = next((issue for issue in row_issues if is_dropped(issue.kind, split)), None)
            for issue in [worst] if worst else row_issues:
                issues.add(split, place, issue)
            if worst is None:
                earlier.setdefault(row["source"], set()).add(_identity(row))
                issues.places[split].append(place)
                yield row


def _identity(row: Row) -> tuple[str, ...]:
    """Returns what distinguishes a row from other rows with the same source."""
    return (*row["references"], *row.get("targets", ()))


def find_issues(row: Row) -> Iterator[RowIssue]:
    """Yields the issues of a row's texts: the first one for which it is dropped, or each other kind once."""
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
    """Returns the kind of issue for which a row with this text is dropped, or None if the text is usable."""
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
    """Yields the kinds of unusual content in a text that may be intended."""
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
    """Whether a non-ASCII text is UTF-8 bytes decoded as Windows-1252; correct text is almost never valid that way."""
    try:
        text.encode("cp1252").decode("utf-8")
    except UnicodeError:
        return False
    return True


def _compare_row(
    row: Row, earlier: Mapping[str, set[tuple[str, ...]]], held_out: Mapping[str, str]
) -> Iterator[RowIssue]:
    """Yields the issues that a row has in relation to the label set, the other splits and the earlier rows.

    In classification, short texts repeat, and their label frequencies carry information, so repeated labelled rows
    are kept. Labelled rows with a held-out source are dropped from training like all others: scores must not reward
    memorization.
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
