"""Choice of the form of a task: a form of the task table, or one for user-defined columns."""

from collections.abc import Callable, Sequence

from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import unusable_text_kind
from nash_jax.data.forms import (
    LANGUAGES,
    Form,
    Record,
    classification,
    question_answering,
    read_column,
    row_issue_error,
    text_pair,
    translation,
)
from nash_jax.data.tasks import TASKS
from nash_jax.errors import UserError


def choose_form(task: TaskConfig, collect_labels: Callable[[], tuple[str, ...]] = tuple) -> Form:
    """Returns the form for `config.task`.

    Args:
      task: its name, source, form and columns.
      collect_labels: reads the labels of the user's training rows.

    Raises:
      UserError: for settings that contradict each other.
    """
    if task.form == "auto" and task.name in TASKS:
        entry = TASKS[task.name]
        if task.prefix and not entry.prefix:
            raise UserError(
                f"config.task.prefix is {task.prefix!r}",
                f"no prefix for the task {task.name}, whose inputs already name the task",
                "config.task.prefix=''",
            )
        return entry.form
    if task.source == "hub":
        raise UserError(f"config.task.form is {task.form!r}", "'auto' with config.task.source='hub'")
    columns = tuple(name.strip() for name in task.source_column.split(","))
    if task.form == "classification":
        return classification("", columns, collect_labels(), task.target_column, read_custom_label)
    if task.form == "qa":
        return _question_answering(task, columns)
    if task.form == "translation":
        return _translation(task)
    return text_pair(task.source_column, task.target_column)


def _question_answering(task: TaskConfig, columns: tuple[str, ...]) -> Form:
    if len(columns) != 2:
        raise UserError(
            f"config.task.source_column is {task.source_column!r}", "two columns, as in 'question,context'"
        )  # fmt: skip
    return question_answering(*columns, task.target_column)


def _translation(task: TaskConfig) -> Form:
    """The columns are named by language codes, except with the plain prompt, which does not name languages."""
    for setting in ("source_column", "target_column") if task.prompt == "t5" else ():
        code = getattr(task, setting).rpartition(".")[2]
        if code not in LANGUAGES:
            raise UserError(
                f"config.task.{setting} is {code!r}, which T5's prompt cannot name",
                f"a language's code: {', '.join(LANGUAGES)}",
                "or config.task.form='text' with config.task.prefix",
            )
    if task.prompt == "plain":
        return text_pair(task.source_column, task.target_column)
    return translation(task.source_column, task.target_column)


def custom_label(record: Record, column: str) -> str:
    """Returns a label as text; numbers and booleans are converted with `str`."""
    value = read_column(record, column)
    kind = unusable_text_kind(str(value) if isinstance(value, int) else value)
    if kind:
        raise row_issue_error(kind, column, value)
    return str(value).strip()


def read_custom_label(record: Record, column: str, labels: Sequence[str]) -> str:
    """Returns a label, which must also occur in the training rows."""
    word = custom_label(record, column)
    if word not in labels:
        some = ", ".join(f"{label:.60}" for label in labels[:_SHOWN]) + f" … ({len(labels):,})" * (len(labels) > _SHOWN)
        raise row_issue_error("label_outside_set", column, word, f"a label of the training rows: {some}")
    return word


_SHOWN = 20  # labels shown in a message: if a text column is used as labels by mistake, there are very many
