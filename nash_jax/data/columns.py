"""Columns of data sets, including nested ones: checks that they exist, and selection of the columns a form reads."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nash_jax.config.schema import TaskConfig
from nash_jax.data.forms import Form, column_names, missing_column_message
from nash_jax.data.tasks import TASKS
from nash_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RequiredColumns:
    """The columns that a form reads, and the error message for missing ones.

    Attributes:
      names: column names; `a.b` is a nested column.
      expected: what the error message says is expected.
      do: what the error message says to do.
      one_of: whether one of them is enough.
    """

    names: tuple[str, ...]
    expected: str = "the columns named in config.task.source_column and target_column"
    do: str = ""
    one_of: bool = False

    def missing(self, record: Mapping[str, Any]) -> str:
        """Returns a message if a record (or the result of `schema_fields`) lacks a column, else an empty string."""
        messages = [missing_column_message(record, column) for column in self.names]
        if self.one_of:
            return f"has {column_names(record)}" if all(messages) else ""
        return next(filter(None, messages), "")

    def error(self, found: str) -> UserError:
        """Returns the error for what was found."""
        return UserError(found, self.expected, self.do)

    def check(self, record: Mapping[str, Any], place: str) -> None:
        """Checks that all columns exist.

        Raises:
          UserError: naming the first missing column.
        """
        if message := self.missing(record):
            raise self.error(f"{place} {message}")

    def check_unique(self, header: Sequence[str], place: str) -> None:
        """Checks that no required column occurs twice in a header: it would be ambiguous.

        Raises:
          UserError: naming the first repeated column.
        """
        for name in header:
            if header.count(name) > 1 and is_required(self.names, name):
                raise UserError(f"{place} has the column {name!r} twice", "each column that is read once")


def required_columns(form: Form, task: TaskConfig) -> RequiredColumns:
    """Returns the columns that the form of a task reads."""
    if task.form != "auto" or task.name not in TASKS:
        return RequiredColumns(form.columns)
    do = "or config.task.form='text' with your columns" if task.source == "files" else ""
    return RequiredColumns(form.columns, f"the columns of the task {task.name}: {', '.join(form.columns)}", do)


def check_label_names(features: Mapping[str, Any], form: Form, place: str) -> None:
    """Checks that the label names of a data set are those of the form, in the same order.

    Otherwise label numbers would be mapped to the wrong words without any error.

    Args:
      features: of a `datasets` table.
      form: its last column is the label column, if it has labels.
      place: name of the data set, for the message.

    Raises:
      UserError: if the names or their order differ.
    """
    names = getattr(features.get(form.columns[-1]), "names", None)
    if form.labels and names and tuple(names) != form.labels:
        raise UserError(f"{place} has the labels {', '.join(names)}", f"{', '.join(form.labels)}, in this order")


def schema_fields(schema: Any) -> dict[str, Any]:
    """Returns the column names of an Arrow schema as nested dicts, structured as a record; leaves are None."""
    from pyarrow import types

    def inner(kind: Any) -> Any:
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            return inner(kind.value_type)
        return {field.name: inner(field.type) for field in kind} if types.is_struct(kind) else None

    return {field.name: inner(field.type) for field in schema}


def is_required(columns: Sequence[str], name: str) -> bool:
    """Returns whether a column, or a field nested in it, is one of `columns`."""
    return any(column == name or column.startswith(f"{name}.") for column in columns)


def select_columns(table: Any, columns: Sequence[str]) -> Any:
    """Returns a `datasets` table with only the given columns: NarrativeQA stores a whole book with every question."""
    flat = table.flatten()
    return flat.select_columns([name for name in flat.column_names if is_required(columns, name)])
