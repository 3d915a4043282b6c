"""Which files a setting names: one, several with commas between, or a pattern; and of what kind they are."""

import glob
from pathlib import Path

from nash_jax.errors import UserError, did_you_mean
from nash_jax.runtime.files import check_local, check_not_pointer

FILE_KINDS = ".jsonl, .json, .csv, .tsv, .parquet or .arrow, also with .gz, or a folder of datasets.save_to_disk"
_KINDS = {
    "jsonl": "jsonl", "ndjson": "jsonl", "json": "json", "csv": "csv", "tsv": "tsv", "parquet": "arrow",
    "arrow": "arrow", "feather": "arrow",
}  # fmt: skip


def file_kind(path: Path) -> str | None:
    """Returns how a file is read: jsonl, json, csv, tsv or arrow (also Parquet and data set folders); None: unknown."""
    if path.is_dir():
        return "arrow"
    return _KINDS.get(path.name.removesuffix(".gz").rpartition(".")[2].lower())


def find_files(names: str, setting: str, split: str = "", output: Path | None = None) -> list[Path]:
    """Returns the files that a setting names, each once, in the order of the names; those of a pattern sorted.

    Args:
      names: a path, several with commas between, or patterns such as `part-*.jsonl`. A folder is one that
        `datasets.save_to_disk` wrote.
      setting: the setting, for messages; empty: not named.
      split: which split to take of the folder of a `DatasetDict`.
      output: a file that is written; patterns neither match it nor the files beside it, such as OUTPUT.partial.

    Raises:
      UserError: for a URL, a file that does not exist or that is a pointer of Git LFS, a pattern without files, or a
        folder of another kind.
    """
    check_local(names, setting)
    whole = Path(names).expanduser()
    parts = [names] if whole.exists() else [part.strip() for part in names.split(",") if part.strip()]
    found = [path for part in parts or [names] for path in _matches(part, setting, output)]
    for path in found:
        check_not_pointer(path)
    return [_choose_split(path, setting, split) for path in dict.fromkeys(found)]


def _matches(name: str, setting: str, output: Path | None) -> list[Path]:
    path = Path(name).expanduser()
    if _is_data(path):
        return [path]
    matches = sorted(map(Path, glob.glob(str(path), recursive=True))) if glob.has_magic(name) else []
    files = [match for match in matches if _is_data(match) and not (output and _is_beside(match, output))]
    if not files:
        folder = path if path.is_dir() else next((match for match in matches if match.is_dir()), None)
        what, do = f"no file {name}{near_path(path)}", ""
        if folder:
            what, do = f"{folder} is a folder, which datasets.save_to_disk did not write", f"name its files: {folder}/*"
        raise UserError(f"{setting}: {what}".removeprefix(": "), "an existing file", do)
    return files


def near_path(path: Path) -> str:
    """Returns ` (did you mean 'x'?)` with the most similar name that is in the path's folder, or an empty string."""
    try:
        names = [entry.name for entry in path.parent.iterdir()]
    except OSError:
        return ""
    return did_you_mean(path.name, names, cutoff=0.8)


def _is_beside(path: Path, output: Path) -> bool:
    own, other = path.resolve(), output.resolve()
    return own == other or str(own).startswith(f"{other}.")


def _is_data(path: Path) -> bool:
    """Whether a path is a file, or a folder that `datasets` saved."""
    return path.is_file() or (path / "dataset_info.json").is_file() or is_dataset_dict(path)


def is_dataset_dict(path: Path) -> bool:
    """Whether a path is a folder of `datasets.DatasetDict.save_to_disk`, which has a folder for each split."""
    return (path / "dataset_dict.json").is_file()


def _choose_split(path: Path, setting: str, split: str) -> Path:
    if not is_dataset_dict(path):
        return path
    if split and (path / split).is_dir():
        return path / split
    splits = sorted(each.name for each in path.iterdir() if each.is_dir())
    raise UserError(
        f"{setting}: the folder {path} holds the splits {', '.join(splits)}".removeprefix(": "),
        f"one of them, {path / splits[0]}",
    )
