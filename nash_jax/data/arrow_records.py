"""Reads records of Parquet and Arrow files, and of folders that `datasets` saved, one record batch at a time."""

import gzip
import itertools
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Any

from nash_jax.data.checks import Entry, RowIssue
from nash_jax.data.columns import RequiredColumns, is_required, schema_fields
from nash_jax.data.hub import first_line
from nash_jax.data.lines import READ_ERRORS, open_file
from nash_jax.errors import UserError

BATCH_ROWS = 1024  # rows in memory at a time
_Batches = Callable[[list[str]], Iterable[Any]]  # columns to read → tables or record batches


def read_arrow(path: Path, columns: RequiredColumns, all_columns: bool = False) -> Iterator[Entry]:
    """Yields (file and row number, record or `RowIssue`) for each row.

    Args:
      path: a .parquet file, also .gz; an .arrow file; or a folder of `datasets.Dataset.save_to_disk`.
      columns: columns that the table must have.
      all_columns: whether records have all columns, not only these.

    Raises:
      UserError: for a table without the columns, or one that cannot be read.
    """
    import pyarrow

    try:
        schema, batches = _open(path)
        columns.check(schema_fields(schema), str(path))
        columns.check_unique(schema.names, str(path))
        names = [name for name in schema.names if all_columns or is_required(columns.names, name)]
        numbers = itertools.count(1)
        for batch in batches(names):
            for row in _rows(batch):
                yield f"{path} row {next(numbers)}", row
    except (pyarrow.ArrowException, *READ_ERRORS) as error:
        kind = "data set" if path.is_dir() else f"{_kind(path).title()} file"
        raise UserError(f"{path} cannot be read: {first_line(error)}", f"a complete {kind}") from error


def _kind(path: Path) -> str:
    return path.name.removesuffix(".gz").rpartition(".")[2].lower()


def _open(path: Path) -> tuple[Any, _Batches]:
    """Returns the schema, and a function that reads columns."""
    if path.is_dir():
        return _open_folder(path)
    return _open_parquet(path) if _kind(path) == "parquet" else _open_ipc(path)


def _open_parquet(path: Path) -> tuple[Any, _Batches]:
    import pyarrow.parquet

    file = pyarrow.parquet.ParquetFile(_source(path))
    return file.schema_arrow, lambda names: file.iter_batches(BATCH_ROWS, columns=names)


def _open_ipc(path: Path) -> tuple[Any, _Batches]:
    """An Arrow file has batches by number; what `datasets` writes is a stream of them."""
    import pyarrow

    source = _source(path)
    if source.read(6) == b"ARROW1":
        file = pyarrow.ipc.open_file(source)
        batches: Iterable[Any] = map(file.get_batch, range(file.num_record_batches))
        return file.schema, lambda names: (batch.select(names) for batch in batches)
    source.seek(0)
    stream = pyarrow.ipc.open_stream(source)
    return stream.schema, lambda names: (batch.select(names) for batch in stream)


def _source(path: Path) -> Any:
    """The bytes of a file: mapped, or in memory where they must be decompressed."""
    import pyarrow

    with open_file(path) as file:
        if isinstance(file, gzip.GzipFile):
            return pyarrow.BufferReader(file.read())
    return pyarrow.memory_map(str(path))


def _open_folder(path: Path) -> tuple[Any, _Batches]:
    import datasets

    table = datasets.load_from_disk(str(path)).with_format("arrow")  # memory-mapped
    return table.data.schema, lambda names: table.select_columns(names).iter(BATCH_ROWS)


def _rows(batch: Any) -> Iterator[dict[str, Any] | RowIssue]:
    names = batch.schema.names
    for start in range(0, batch.num_rows, BATCH_ROWS):
        part = batch.slice(start, BATCH_ROWS)
        for row in zip(*map(_values, part.columns), strict=True):
            issue = next((value for value in row if isinstance(value, RowIssue)), None)
            yield issue or dict(zip(names, row, strict=True))


def _values(column: Any) -> list[Any]:
    """Values of a column, with `RowIssue` for bytes that are not UTF-8: Parquet readers accept them."""
    try:
        return list(column.to_pylist())
    except UnicodeDecodeError:
        return [_value(scalar) for scalar in column]


def _value(scalar: Any) -> Any:
    try:
        return scalar.as_py()
    except UnicodeDecodeError as error:
        return RowIssue("not_utf8", f"byte {error.object[error.start]:#x} is not UTF-8")
