"""The tokenizer of a run: the checkpoint's own, or one built from the task's data."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from nash_jax.config.schema import TaskConfig
from nash_jax.data.hub import fetch_repository, first_line
from nash_jax.errors import UserError
from nash_jax.spec import ModelSpec

HUB_FILES = ("*.json", "*.txt", "*.model", "*.spm")  # patterns of a tokenizer's files on the hub
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"


def choose_tokenizer(task: TaskConfig, own: Any | None, rows: list[dict[str, Any]]) -> Any:
    """The task's tokenizer, or the checkpoint's own, or one built from rows of the pronunciation task.

    Args:
      task: may name one.
      own: of the checkpoint, if it brings one.
      rows: training rows; of other tasks, any rows: their text is to end with EOS.

    Raises:
      UserError: when there is none, or it does not end a text with EOS.
    """
    if task.tokenizer:
        tokenizer = load_tokenizer(task.tokenizer)
    elif own is not None:
        tokenizer = own
    elif task.source == "pronunciation":
        tokenizer = build_pronunciation_tokenizer(rows)
    else:
        raise UserError("no tokenizer", "config.task.tokenizer, or a config.model.init that brings one")
    ids = tokenizer(rows[0]["source"])["input_ids"]
    if tokenizer.eos_token_id not in ids[-2:]:  # mBART's first tokenizer puts the language after it
        raise UserError(f"the tokenizer ends a text with id {ids[-1]}", f"EOS, {tokenizer.eos_token_id}")
    return tokenizer


def tokenizer_content(tokenizer: Any) -> dict[str, Any]:
    """What fixes a tokenizer's ids, as JSON: all it does; of those written in Python alone, class and vocabulary."""
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # as those of ByT5 and Marian
        return {"class": type(tokenizer).__name__, "vocabulary": sorted(tokenizer.get_vocab().items())}
    return json.loads(backend.to_str()) | {"truncation": None, "padding": None}  # set by the last call, not by it


def check_vocabulary(tokenizer: Any, spec: ModelSpec) -> None:
    """The model knows all tokens, in its inputs and in its outputs.

    Raises:
      UserError: when it does not.
    """
    known = min(spec.vocab_size, spec.source_vocab_size)
    if len(tokenizer) > known:
        raise UserError(f"the tokenizer has {len(tokenizer)} tokens, the model {known}", "a tokenizer that fits")


def load_tokenizer(name: str) -> Any:
    """A `transformers` tokenizer from a folder or a hub name.

    Raises:
      UserError: when there is none.
    """
    from transformers import AutoTokenizer

    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = fetch_repository(name, HUB_FILES, "tokenizer")
    _require_packages(folder)
    try:
        tokenizer = AutoTokenizer.from_pretrained(str(folder), trust_remote_code=False)
    except Exception as error:  # of many kinds, plain Exception from the Rust library among them
        raise UserError(
            f"no tokenizer could be loaded from {name!r}: {first_line(error)}",
            "a folder with tokenizer.json or spiece.model, or a name on the hub",
            "name one in config.task.tokenizer",
        ) from error
    for token in ("pad_token", "eos_token"):
        if getattr(tokenizer, token) is None:
            raise UserError(f"the tokenizer {name!r} has no {token}", "one made for an encoder-decoder, such as T5's")
    return tokenizer


def has_tokenizer(folder: Path) -> bool:
    """Whether a model's folder holds files that a tokenizer is loaded from."""
    return any((folder / name).exists() for name in _VOCABULARIES)


_VOCABULARIES = (
    "tokenizer.json", "tokenizer_config.json", "spiece.model", "sentencepiece.bpe.model", "source.spm", "vocab.json",
)  # fmt: skip


def _require_packages(folder: Path) -> None:
    """Names the packages that a tokenizer's files need; `transformers` itself would name others.

    Marian reads its two SentencePiece files itself; a single one is converted, unless tokenizer.json is there.

    Raises:
      UserError: when one is not installed.
    """
    needed: tuple[str, ...] = ("sentencepiece",) if any(folder.glob("*.spm")) else ()
    if any(folder.glob("*.model")) and not (folder / "tokenizer.json").exists():
        needed = ("sentencepiece", "protobuf")
    missing = [name for name in needed if not _is_installed(name)]
    if missing:
        raise UserError(
            f"the tokenizer in {folder} is SentencePiece's, and {' and '.join(missing)} is not installed",
            "tokenizer.json, or the packages that read such files",
            f"pip install {' '.join(missing)}",
        )


def _is_installed(package: str) -> bool:
    try:
        return bool(metadata.version(package))
    except metadata.PackageNotFoundError:
        return False


def build_pronunciation_tokenizer(rows: list[dict[str, Any]]) -> Any:
    """A word-level tokenizer over the letters and phonemes that occur: lower case is a letter each, upper
    case a phoneme each.

    Args:
      rows: training rows.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({c for row in rows for c in row["source"]})
    phonemes = sorted({p for row in rows for text in row["references"] for p in text.split()})
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *letters, *phonemes])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    single_letters = pre_tokenizers.Split(Regex("[a-z']"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), single_letters])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer's files into an existing folder."""
    tokenizer.save_pretrained(folder)
