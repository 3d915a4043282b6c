"""Forms of the SuperGLUE tasks that need more than fields and a label: MultiRC, ReCoRD, WSC.

Sources as in `forms`: `glue`, `record` and `wsc_simple` of T5's preprocessors; `wsc_simple` of its postprocessors.
"""

import re

from nash_jax.data.checks import Row
from nash_jax.data.forms import (
    Form,
    Record,
    join_fields,
    read_column,
    read_label,
    read_text,
    read_texts,
    row_issue_error,
)

BOOLEANS = ("False", "True")


def multirc() -> Form:
    """A paragraph, a question and one answer → whether it is correct. All answers to a question are one group."""
    columns = ("question", "answer", "paragraph")
    groups = ("idx.paragraph", "idx.question")

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        fields = {column: read_text(record, column) for column in columns}
        source = re.sub(r"</?b>", "", join_fields(fields, prompt, "multirc").replace("<br>", " "))
        word = read_label(record, "label", BOOLEANS)
        group = "-".join(str(read_column(record, column)) for column in groups)
        return [{"source": source, "references": [word], "labels": list(BOOLEANS), "group": group}]

    return Form((*columns, *groups, "label"), to_rows, BOOLEANS)


def record() -> Form:
    """A passage and a query with a gap → the entity that fills it; for training, one row per answer."""

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        passage = re.sub(r"([.?!\"'])\n@highlight\n", r"\1 ", read_text(record, "passage"))
        fields = {
            "query": read_text(record, "query"),
            "entities": ", ".join(read_texts(record, "entities")),
            "passage": passage.replace("\n@highlight\n", ". "),
        }
        source, answers = join_fields(fields, prompt, "record"), read_texts(record, "answers")
        if training:
            return [{"source": source, "references": [answer]} for answer in answers]
        return [{"source": source, "references": answers}]

    return Form(("query", "entities", "passage", "answers"), to_rows)


def wsc() -> Form:
    """A text with a pronoun marked by asterisks → the noun that the pronoun refers to, as free text.

    A record asks whether one given noun is correct. Training uses the records where it is. The score counts whether the
    model names the noun if and only if it is correct (`postprocess.postprocess_output`).
    """
    columns = ("text", "span1_text", "span2_text", "span2_index", "label")

    def to_rows(record: Record, prompt: str, training: bool) -> list[Row]:
        noun, word = read_text(record, "span1_text"), read_label(record, "label", BOOLEANS)
        marked = mark_pronoun(
            read_text(record, "text"), read_text(record, "span2_text"), read_column(record, "span2_index")
        )
        source = f"wsc: {marked}" if prompt == "t5" else marked
        if training:
            return [{"source": source, "references": [noun]}] if word == "True" else []
        return [{"source": source, "references": [word], "labels": list(BOOLEANS), "targets": [noun]}]

    return Form(columns, to_rows, BOOLEANS)


def mark_pronoun(content: str, pronoun: str, index: int | str) -> str:
    """Puts asterisks around a pronoun, separated by spaces from attached characters.

    Some indices in the data are off by one, so the nearest word equal to the pronoun is marked. T5's authors correct
    these texts one by one, with the same result.

    Args:
      content: the text.
      pronoun: one of its words.
      index: index of the pronoun among the words, separated by single spaces.

    Raises:
      RowIssueError: if the text does not contain the word.
    """
    words, wanted = content.strip().split(" "), pronoun.strip().lower()
    places = [i for i, word in enumerate(words) if wanted in (word.lower(), word.strip(".,;:!?\"'()").lower())]
    if not places or not str(index).isdecimal():
        raise row_issue_error("contradiction", "span2_index", index, f"the number of {pronoun!r} in {content!r:.60}")
    place = min(places, key=lambda i: abs(i - int(index)))
    before, found, after = re.split(f"({re.escape(wanted)})", words[place], maxsplit=1, flags=re.IGNORECASE)
    words[place] = " ".join(part for part in (before, f"*{found}*", after) if part)
    return " ".join(words)
