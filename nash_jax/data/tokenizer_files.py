"""Reads a tokenizer with the class that its files are made for, which is not always the one that transformers takes.

transformers 5 has fewer classes than version 4. Where a folder names none, it takes that of the model's family, and a
class that finds no file of its own is left without words: all texts become empty or unknown, without an error.
"""

import json
from pathlib import Path
from typing import Any

from nash_jax.runtime.files import read_json

SENTENCEPIECE = ("spiece.model", "sentencepiece.bpe.model")
_ANY_FILES = ("PreTrainedTokenizerFast", "TokenizersBackend")  # classes for whatever is in tokenizer.json


def read_tokenizer(folder: Path) -> Any:
    """Returns the tokenizer in a folder.

    Raises:
      Exception: of many types, if no class can read the files.
    """
    if _is_of_any_files(folder):
        from transformers import PreTrainedTokenizerFast  # AutoTokenizer imports PyTorch where it is: two seconds

        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    from transformers import AutoTokenizer

    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:
        return _read_by_files(folder, error)
    if _fits(tokenizer, folder):
        return tokenizer
    return _read_by_files(folder, ValueError(f"{type(tokenizer).__name__} does not read these files"))


def _is_of_any_files(folder: Path) -> bool:
    """Whether tokenizer.json says it all, as of a tokenizer that a run made, or that was trimmed."""
    settings = folder / "tokenizer_config.json"
    own_class = _setting(settings, "tokenizer_class") not in _ANY_FILES or _setting(settings, "auto_map")
    return (folder / "tokenizer.json").exists() and not own_class


def _fits(tokenizer: Any, folder: Path) -> bool:
    """Whether the class has read the words: the model of tokenizer.json, or any word at all of other files."""
    file, backend = folder / "tokenizer.json", getattr(tokenizer, "backend_tokenizer", None)
    if file.exists():
        kind = _model_type(file)
        return backend is None or kind is None or json.loads(backend.to_str())["model"]["type"] == kind
    return len(set(tokenizer.get_vocab()) - set(tokenizer.all_special_tokens)) > 1  # T5's class has ▁ of its own


def _model_type(file: Path) -> Any:
    """BPE, Unigram, WordPiece or WordLevel; None: an old file does not say it."""
    return read_json(file)["model"].get("type")


def _read_by_files(folder: Path, error: Exception) -> Any:
    """Reads a tokenizer of a class that the names of the files tell.

    Args:
      folder: of the tokenizer.
      error: why the class that the folder names did not; raised if there is no other.
    """
    from transformers import AutoTokenizer, PreTrainedTokenizerFast

    if (folder / "tokenizer.json").exists():
        return PreTrainedTokenizerFast.from_pretrained(str(folder))
    kind = _kind_of_files(folder)
    if kind is None or _has_own_class(folder, kind):
        raise error
    return AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False, tokenizer_type=kind)


def _kind_of_files(folder: Path) -> str | None:
    """Returns the model type whose tokenizer has files of these names."""

    def has(*names: str) -> bool:
        return all((folder / name).exists() for name in names)

    if any(map(has, SENTENCEPIECE)):
        kind = _setting(folder / "config.json", "model_type")
        return "t5" if kind in (None, "umt5") else str(kind)  # UMT5's files are T5's, and it has no class
    if has("vocab.json", "merges.txt"):
        return "roberta"  # BART's and CodeT5's too
    return "bert" if has("vocab.txt") and not has("bpe.codes") else None


def _has_own_class(folder: Path, kind: str) -> bool:
    """Whether the folder's class has other rules for the same files: one in transformers, or code of the repository."""
    from transformers.models.auto.tokenization_auto import tokenizer_class_from_name

    if _setting(folder / "tokenizer_config.json", "auto_map"):
        return True
    name = _setting(folder / "tokenizer_config.json", "tokenizer_class") or _setting(
        folder / "config.json", "tokenizer_class"
    )
    if name is None or name in _ANY_FILES:
        return False
    return kind == "bert" or tokenizer_class_from_name(str(name)) is not None


def _setting(file: Path, name: str) -> Any:
    return read_json(file).get(name) if file.exists() else None
