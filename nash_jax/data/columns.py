"""Columns of data sets, also nested ones: which are there, and leaving out what no form reads."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nash_jax.config.schema import TaskConfig
from nash_jax.data.forms import Form, missing_column_message
from nash_jax.data.tasks import TASKS
from nash_jax.errors import UserError


@dataclasses.dataclass(frozen=True)
class RequiredColumns:
    """What a form reads of records, and how a user is told of what is missing.

    Attributes:
      names: columns; of nested ones `a.b`.
      expected: in words.
      do: what else could be done.
    """

    names: tuple[str, ...]
    expected: str = "the columns named in config.task.source_column and target_column"
    do: str = ""

    def missing(self, record: Mapping[str, Any]) -> str:
        """What is wrong with a record, or the `schema_fields` of all, that has not all columns; else empty."""
        return next(filter(None, (missing_column_message(record, column) for column in self.names)), "")

    def error(self, found: str) -> UserError:
        """The error for what was found."""
        return UserError(found, self.expected, self.do)

    def check(self, record: Mapping[str, Any], place: str) -> None:
        """All columns are there.

        Raises:
          UserError: naming the first that is missing.
        """
        if lacking := self.missing(record):
            raise self.error(f"{place} {lacking}")

    def check_unique(self, header: Sequence[str], place: str) -> None:
        """No column that is read is there twice, for then which one is meant is not known.

        Raises:
          UserError: naming the first that is.
        """
        for name in header:
            if header.count(name) > 1 and is_required(self.names, name):
                raise UserError(f"{place} has the column {name!r} twice", "each column that is read once")


def required_columns(form: Form, task: TaskConfig) -> RequiredColumns:
    """The columns of a task's form."""
    if task.form != "auto" or task.name not in TASKS:
        return RequiredColumns(form.columns)
    do = "or config.task.form='text' with columns of your own" if task.source == "files" else ""
    return RequiredColumns(form.columns, f"the columns of the task {task.name}: {', '.join(form.columns)}", do)


def check_label_names(features: Mapping[str, Any], form: Form, place: str) -> None:
    """Where a data set names its labels, they are the form's, in its order: numbers would be read wrong without a sign.

    Args:
      features: of a `datasets` table.
      form: whose last column is the label's, if it has labels.
      place: for the message.

    Raises:
      UserError: when they are others.
    """
    names = getattr(features.get(form.columns[-1]), "names", None)
    if form.labels and names and tuple(names) != form.labels:
        raise UserError(f"{place} has the labels {', '.join(names)}", f"{', '.join(form.labels)}, in this order")


def schema_fields(schema: Any) -> dict[str, Any]:
    """Names of an Arrow schema's columns, in those of structs their fields' names, as a record would hold them."""
    from pyarrow import types

    def inner(kind: Any) -> Any:
        if types.is_list(kind) or types.is_large_list(kind) or types.is_fixed_size_list(kind):
            return inner(kind.value_type)
        return {field.name: inner(field.type) for field in kind} if types.is_struct(kind) else None

    return {field.name: inner(field.type) for field in schema}


def is_required(columns: Sequence[str], name: str) -> bool:
    """Whether a column, or one of the fields in it, is among those read."""
    return any(column == name or column.startswith(f"{name}.") for column in columns)


def select_columns(table: Any, columns: Sequence[str]) -> Any:
    """A `datasets` table of what is read alone: NarrativeQA has a whole book beside every question."""
    flat = table.flatten()
    return flat.select_columns([name for name in flat.column_names if is_required(columns, name)])
