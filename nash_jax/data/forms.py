"""Forms: pure functions from a data set's record to rows of texts, with the text formats of T5's authors.

A row is {"source": text, "references": [text, …]}, plus the following keys if a metric or
`postprocess.postprocess_output` needs them:

  labels   the label words, in the order of their numbers; of two, the second is the positive class
  group    rows of the same group are scored together
  targets  texts to train on, if they differ from the references

There are two prompt styles. `t5`: the input contains the names of the task and its fields, as T5 was trained (google-
research/text-to-text-transfer-transformer, t5/data/preprocessors.py: `glue`, `stsb`, `squad`, `translate`). `plain`:
only the texts of the fields, for models not trained with such names; fields are separated by `</s></s>`, as in BART.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.data.checks import Row, RowIssue, RowIssueError, preview, unusable_text_kind
from nash_jax.errors import did_you_mean

Record = Mapping[str, Any]
PROMPTS = ("t5", "plain")
SEPARATOR = "</s></s>"  # between the fields of a plain prompt; BART's tokenizer encodes it as two EOS tokens


@dataclasses.dataclass(frozen=True)
class Form:
    """Describes how records of a task are converted to rows.

    Attributes:
      columns: columns that are read; `a.b` is the field b of the column a, or of each element of a.
      to_rows: (record, prompt, whether for training) → rows; raises RowIssueError.
      labels: label words by number; empty for tasks without labels.
    """

    columns: tuple[str, ...]
    to_rows: Callable[[Record, str, bool], list[Row]]
    labels: tuple[str, ...] = ()


def get_nested(record: Any, column: str) -> Any:
    """Returns the value of a column, which may be nested (`a.b`).

    Raises:
      KeyError: if the record does not have the column.
    """
    if isinstance(record, Mapping) and column in record:
        return record[column]
    head, dot, rest = column.partition(".")
    if isinstance(record, list):
        return [get_nested(element, column) for element in record]
    if not isinstance(record, Mapping) or not dot:
        raise KeyError(column)
    return get_nested(record[head], rest)


def missing_column_message(record: Record, column: str) -> str:
    """Returns a message if a record, or a mapping with the same keys, lacks a column; else an empty string."""
    try:
        get_nested(record, column)
    except KeyError:
        return _missing_message(column, tuple(map(str, record)))
    return ""


@functools.lru_cache(maxsize=64)  # the same for every row of a file
def _missing_message(column: str, names: tuple[str, ...]) -> str:
    return f"has {column_names(names)}, not {column!r}{did_you_mean(column, names)}"


def column_names(names: Iterable[Any]) -> str:
    """The names that a message shows: a file without header, or an object by ids, has no end of them."""
    known = sorted(map(str, names))
    return f"columns {[name[:60] for name in known[:20]]}" + f" and {len(known) - 20:,} more" * (len(known) > 20)


def read_column(record: Record, column: str) -> Any:
    """Returns the value of a column of a record, as `get_nested`.

    Raises:
      RowIssueError: if the record does not have the column.
    """
    try:
        return get_nested(record, column)
    except KeyError as error:
        raise RowIssueError(RowIssue("missing_column", missing_column_message(record, column))) from error


def row_issue_error(kind: str, column: str, value: Any, expected: str = "") -> RowIssueError:
    """Returns the error for a value that cannot be used.

    Args:
      kind: key of `checks.ISSUE_KINDS`.
      column: column of the value.
      value: the value found.
      expected: the expected value, if the kind does not imply it.
    """
    return RowIssueError(
        RowIssue(kind, f"column {column!r} holds {preview(value)}" + (expected and f", not {expected}"))
    )


def read_text(record: Record, column: str) -> str:
    """Returns a usable text; raises RowIssueError otherwise."""
    value = read_column(record, column)
    if kind := unusable_text_kind(value):
        raise row_issue_error(kind, column, value)
    return str(value)


def read_texts(record: Record, column: str) -> list[str]:
    """Returns one or several texts without repetitions, in order; raises RowIssueError if one is not usable."""
    value = read_column(record, column)
    several = value if isinstance(value, list) else [value]
    kinds = [unusable_text_kind(each) for each in several] or ["empty"]
    if kind := next(filter(None, kinds), None):
        raise row_issue_error(kind, column, value)
    return list(dict.fromkeys(several))


def read_label(record: Record, column: str, labels: Sequence[str]) -> str:
    """Returns the label word for a number (also as digits, as in CSV), a boolean, or the word itself."""
    value = read_column(record, column)
    words = dict(enumerate(labels)) | {str(i): word for i, word in enumerate(labels)} | {word: word for word in labels}
    if not isinstance(value, str | int) or value not in words:
        known = f"0 to {len(labels) - 1} or one of {', '.join(labels)}"
        raise row_issue_error("null" if value is None else "label_outside_set", column, value, known)
    return words[value]


def join_fields(fields: Mapping[str, str], prompt: str, name: str = "") -> str:
    """Joins texts to one input: "name field: text field: text", or only the texts with `SEPARATOR` between them."""
    if prompt == "plain":
        return SEPARATOR.join(fields.values())
    return " ".join([name] * bool(name) + [f"{field}: {value}" for field, value in fields.items()])


def _field(column: str) -> str:
    """Name of a column in an input; for nested columns the last part."""
    return column.rpartition(".")[2]


def text_pair(source: str, target: str) -> Form:
    """A text and its target, such as a summary. T5's prompt for it is `config.task.prefix`."""

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        return [{"source": read_text(record, source), "references": [read_text(record, target)]}]

    return Form((source, target), to_rows)


def text_references(source: str, target: str) -> Form:
    """Like `text_pair`, but with one reference or a list of references."""

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        return [{"source": read_text(record, source), "references": read_texts(record, target)}]

    return Form((source, target), to_rows)


def classification(
    name: str, columns: tuple[str, ...], labels: tuple[str, ...], label: str = "label",
    read: Callable[[Record, str, Sequence[str]], str] = read_label,
) -> Form:  # fmt: skip
    """One or several texts → a label word.

    Args:
      name: task name, the first word of T5's prompt; if empty, there is none, and a single field is not named.
      columns: text columns, in the order of the prompt.
      labels: label words.
      label: label column.
      read: (record, column, labels) → label word.
    """
    words = list(labels)  # shared by all rows: there may be hundreds of labels

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        fields = {_field(column): read_text(record, column) for column in columns}
        lone = not name and len(fields) == 1
        source = next(iter(fields.values())) if lone else join_fields(fields, prompt, name)
        return [{"source": source, "references": [read(record, label, labels)], "labels": words}]

    return Form((*columns, label), to_rows, labels)


def similarity(name: str, columns: tuple[str, ...], label: str = "label") -> Form:
    """STS-B: two texts → similarity from 0 to 5, rounded to multiples of 0.2 as in T5 (float32, half to even)."""

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        fields = {column: read_text(record, column) for column in columns}
        value = read_column(record, label)
        try:
            score = float(value)
        except (TypeError, ValueError, OverflowError):
            score = -1.0
        if not 0 <= score <= 5:
            raise row_issue_error(
                "null" if value is None else "label_outside_set", label, value, "a number from 0 to 5"
            )
        fifths = np.round(np.float32(score) * 5) / 5
        return [{"source": join_fields(fields, prompt, name), "references": [f"{fifths:.1f}"]}]

    return Form((*columns, label), to_rows)


def question_answering(question: str, context: str, answers: str, spaced: bool = False) -> Form:
    """A question and a context → an answer; several answers may be correct.

    Args:
      question: question column.
      context: column of the text that contains the answer.
      answers: column with a text or a list of texts.
      spaced: with T5's prompt, put spaces around all characters except ASCII letters, digits and underscores, as T5
        does for SQuAD; also in the answers, since such a model generates them in this format.
    """

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        clean = space_punctuation if spaced and prompt == "t5" else str
        fields = {"question": clean(read_text(record, question)), "context": clean(read_text(record, context))}
        references = [clean(answer) for answer in read_texts(record, answers)]
        return [{"source": join_fields(fields, prompt), "references": list(dict.fromkeys(references))}]

    return Form((question, context, answers), to_rows)


def space_punctuation(content: str) -> str:
    """Puts spaces around all characters that are not ASCII word characters (T5's preprocessor uses RE2: ASCII only)."""
    return re.sub(r"\s+", " ", re.sub(r"(\W)", r" \1 ", content, flags=re.ASCII), flags=re.ASCII).strip()


def instruction(order: str, context: str, response: str) -> Form:
    """Dolly: an instruction, optionally with a context → a response. Both prompt styles use the same markers."""

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        given = read_column(record, context)
        kind = unusable_text_kind(given)
        if kind and kind not in ("null", "empty", "blank"):
            raise row_issue_error(kind, context, given)
        parts = {"Instruction": read_text(record, order), "Input": given or "", "Response": ""}
        texts = [
            f"### {part}:\n{value}".strip() for part, value in parts.items() if part == "Response" or value.strip()
        ]
        return [{"source": "\n\n".join(texts), "references": [read_text(record, response)]}]

    return Form((order, context, response), to_rows)


LANGUAGES = {  # English names as used in T5's prompt; the languages of WMT and others
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "et": "Estonian", "fi": "Finnish", "fr": "French", "gu": "Gujarati",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "kk": "Kazakh", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese",
    "zh": "Chinese",
}  # fmt: skip


def translation(source: str, target: str) -> Form:
    """A text → its translation.

    Args:
      source: column named by its language code, as in `translation.de`.
      target: column of the other language.
    """
    languages = [LANGUAGES[_field(column)] for column in (source, target)]
    order = f"translate {languages[0]} to {languages[1]}: "

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        begin = order if prompt == "t5" else ""
        return [{"source": begin + read_text(record, source), "references": [read_text(record, target)]}]

    return Form((source, target), to_rows)
