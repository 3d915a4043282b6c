"""Forms: pure functions from a data set's record to rows of texts, the way T5's authors cast each task.

A row is {"source": text, "references": [text, …]} and, where a metric or `outputs.read_output` needs them,

  labels   the label words in the order of their numbers; of two, the second is the positive one
  group    rows of one group are scored together
  targets  what is learnt, where it is not what is scored

Two prompts. `t5`: names of task and fields stand in the input, as T5 saw them (google-research/
text-to-text-transfer-transformer, t5/data/preprocessors.py: `glue`, `stsb`, `squad`, `translate`). `plain`: the fields'
texts alone, for models that never saw such names; BART marks their ends as it does for pairs, with `</s></s>`.
"""

import dataclasses
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.data.checks import Row, RowIssue, RowIssueError, preview, unusable_text_kind

Record = Mapping[str, Any]
PROMPTS = ("t5", "plain")
SEPARATOR = "</s></s>"  # between the fields of a plain prompt; BART's tokenizer reads it as two EOS tokens


@dataclasses.dataclass(frozen=True)
class Form:
    """How the records of a task become rows.

    Attributes:
      columns: what it reads; `a.b` is the field b of the column a, or of each element of it.
      to_rows: (record, prompt, whether for training) → rows; raises RowIssueError.
      labels: words of the labels, by number; empty for tasks that have none.
    """

    columns: tuple[str, ...]
    to_rows: Callable[[Record, str, bool], list[Row]]
    labels: tuple[str, ...] = ()


def get_nested(record: Any, column: str) -> Any:
    """The value of a column, also of a nested one.

    Raises:
      KeyError: when there is none.
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
    """What to say of a record, or of anything with its keys, that has not the column; empty where it has."""
    try:
        get_nested(record, column)
    except KeyError:
        return f"has columns {sorted(map(str, record))}, not {column!r}"
    return ""


def read_column(record: Record, column: str) -> Any:
    """`get_nested` in a record of a data set.

    Raises:
      RowIssueError: when it has no such column.
    """
    try:
        return get_nested(record, column)
    except KeyError as error:
        raise RowIssueError(RowIssue("missing_column", missing_column_message(record, column))) from error


def row_issue_error(kind: str, column: str, value: Any, expected: str = "") -> RowIssueError:
    """The error for a value that cannot be used.

    Args:
      kind: of `checks.ISSUE_KINDS`.
      column: where it is.
      value: what is there.
      expected: what should be, where the kind does not say it.
    """
    return RowIssueError(
        RowIssue(kind, f"column {column!r} holds {preview(value)}" + (expected and f", not {expected}"))
    )


def read_text(record: Record, column: str) -> str:
    """A text that can be used."""
    value = read_column(record, column)
    if kind := unusable_text_kind(value):
        raise row_issue_error(kind, column, value)
    return str(value)


def read_texts(record: Record, column: str) -> list[str]:
    """One text or several, each once, in their order."""
    value = read_column(record, column)
    several = value if isinstance(value, list) else [value]
    kinds = [unusable_text_kind(each) for each in several] or ["empty"]
    if kind := next(filter(None, kinds), None):
        raise row_issue_error(kind, column, value)
    return list(dict.fromkeys(several))


def read_label(record: Record, column: str, labels: Sequence[str]) -> str:
    """The word of a label given by number (also in digits, as CSV has it), as a truth value, or by the word itself."""
    value = read_column(record, column)
    words = dict(enumerate(labels)) | {str(i): word for i, word in enumerate(labels)} | {word: word for word in labels}
    if not isinstance(value, str | int) or value not in words:
        known = f"0 to {len(labels) - 1} or one of {', '.join(labels)}"
        raise row_issue_error("null" if value is None else "label_outside_set", column, value, known)
    return words[value]


def join_fields(fields: Mapping[str, str], prompt: str, name: str = "") -> str:
    """Texts as one input: "name field: text field: text", or the texts alone with `SEPARATOR` between."""
    if prompt == "plain":
        return SEPARATOR.join(fields.values())
    return " ".join([name] * bool(name) + [f"{field}: {value}" for field, value in fields.items()])


def _field(column: str) -> str:
    """Name of a column in an input: of a nested one, the last part."""
    return column.rpartition(".")[2]


def text_pair(source: str, target: str) -> Form:
    """A text and what is to be made of it: summaries. What T5 puts before it is `config.task.prefix`."""

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        return [{"source": read_text(record, source), "references": [read_text(record, target)]}]

    return Form((source, target), to_rows)


def text_references(source: str, target: str) -> Form:
    """As `text_pair`, with one reference or a list of them."""

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        return [{"source": read_text(record, source), "references": read_texts(record, target)}]

    return Form((source, target), to_rows)


def classification(
    name: str, columns: tuple[str, ...], labels: tuple[str, ...], label: str = "label",
    read: Callable[[Record, str, Sequence[str]], str] = read_label,
) -> Form:  # fmt: skip
    """One or several texts → a word.

    Args:
      name: of the task, first in T5's prompt; empty: none, and a lone field goes unnamed.
      columns: of the texts, in the prompt's order.
      labels: words.
      label: column of the label.
      read: (record, column, labels) → word.
    """
    words = list(labels)  # one list for all rows: there may be hundreds of labels

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        fields = {_field(column): read_text(record, column) for column in columns}
        lone = not name and len(fields) == 1
        source = next(iter(fields.values())) if lone else join_fields(fields, prompt, name)
        return [{"source": source, "references": [read(record, label, labels)], "labels": words}]

    return Form((*columns, label), to_rows, labels)


def similarity(name: str, columns: tuple[str, ...], label: str = "label") -> Form:
    """STS-B: texts → their likeness from 0 to 5, rounded to fifths as T5 does: in float32, half to even."""

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
    """A question and a text → an answer, with several right ones.

    Args:
      question: column.
      context: column of the text that the answer is in.
      answers: column of a text or a list of texts.
      spaced: T5's prompt puts spaces around all that is no ASCII letter, digit or underscore, as T5 does for SQuAD; in
        answers too, for that is what such a model puts out.
    """

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        clean = space_punctuation if spaced and prompt == "t5" else str
        fields = {"question": clean(read_text(record, question)), "context": clean(read_text(record, context))}
        references = [clean(answer) for answer in read_texts(record, answers)]
        return [{"source": join_fields(fields, prompt), "references": list(dict.fromkeys(references))}]

    return Form((question, context, answers), to_rows)


def space_punctuation(content: str) -> str:
    """Spaces around all that is no ASCII word character: T5's authors match with RE2, which knows no others."""
    return re.sub(r"\s+", " ", re.sub(r"(\W)", r" \1 ", content, flags=re.ASCII), flags=re.ASCII).strip()


def instruction(order: str, context: str, response: str) -> Form:
    """Dolly: an instruction, often with a text to go with it → a response. Both prompts mark the parts the same way."""

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        given = read_column(record, context)
        kind = unusable_text_kind(given)
        if kind and kind not in ("null", "empty", "blank"):
            raise row_issue_error(kind, context, given)
        parts = {"Instruction": read_text(record, order), "Input": given or "", "Response": ""}
        said = [f"### {part}:\n{value}".strip() for part, value in parts.items() if part == "Response" or value.strip()]
        return [{"source": "\n\n".join(said), "references": [read_text(record, response)]}]

    return Form((order, context, response), to_rows)


LANGUAGES = {  # English names, which T5's prompt has; of the languages of WMT and more
    "ar": "Arabic", "bg": "Bulgarian", "bn": "Bengali", "cs": "Czech", "da": "Danish", "de": "German", "el": "Greek",
    "en": "English", "es": "Spanish", "et": "Estonian", "fi": "Finnish", "fr": "French", "gu": "Gujarati",
    "he": "Hebrew", "hi": "Hindi", "hr": "Croatian", "hu": "Hungarian", "id": "Indonesian", "it": "Italian",
    "ja": "Japanese", "kk": "Kazakh", "ko": "Korean", "lt": "Lithuanian", "lv": "Latvian", "nl": "Dutch",
    "no": "Norwegian", "pl": "Polish", "pt": "Portuguese", "ro": "Romanian", "ru": "Russian", "sk": "Slovak",
    "sl": "Slovenian", "sr": "Serbian", "sv": "Swedish", "tr": "Turkish", "uk": "Ukrainian", "vi": "Vietnamese",
    "zh": "Chinese",
}  # fmt: skip


def translation(source: str, target: str) -> Form:
    """A text → the same in another language.

    Args:
      source: column, named by its language's code, as in `translation.de`.
      target: the other.
    """
    languages = [LANGUAGES[_field(column)] for column in (source, target)]
    order = f"translate {languages[0]} to {languages[1]}: "

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        begin = order if prompt == "t5" else ""
        return [{"source": begin + read_text(record, source), "references": [read_text(record, target)]}]

    return Form((source, target), to_rows)
