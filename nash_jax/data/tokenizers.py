"""The tokenizer of a run: loaded from a checkpoint, or built from the task's data."""

import json
from importlib import metadata
from pathlib import Path
from typing import Any

from nash_jax.config.schema import TaskConfig
from nash_jax.data.hub import fetch_repository, first_line
from nash_jax.data.languages import choose_languages, has_languages
from nash_jax.data.mixing import training_targets
from nash_jax.data.special_tokens import check_first_rows, check_special_tokens, end_with_eos, fill_special_tokens
from nash_jax.data.tokenizer_files import SENTENCEPIECE, read_tokenizer
from nash_jax.errors import UserError
from nash_jax.runtime.files import check_not_pointer, find_folder, read_json
from nash_jax.runtime.quiet import quiet_transformers
from nash_jax.spec import ModelSpec

HUB_FILES = ("*.json", "*.txt", "*.model", "*.spm", "*.codes")  # patterns of a tokenizer's files on the hub
PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"


def choose_tokenizer(
    task: TaskConfig, of_checkpoint: Any | None, rows: list[dict[str, Any]], spec: ModelSpec | None = None
) -> Any:
    """Returns the task's tokenizer, or the checkpoint's, or one built from the rows where the task says so.

    Args:
      task: may name a tokenizer.
      of_checkpoint: tokenizer of the checkpoint, or None.
      rows: training rows; for other tasks any rows, used to check that texts end with EOS.
      spec: of the checkpoint, or None; a tokenizer that lacks the padding or EOS token gets it from there.

    Raises:
      UserError: if there is no tokenizer, it does not end texts with EOS, its languages are not known, or the first
        rows have tokens that the checkpoint does not have.
    """
    if task.tokenizer:
        tokenizer = load_tokenizer(task.tokenizer)
    elif of_checkpoint is not None:
        tokenizer = of_checkpoint
    elif task.source == "pronunciation":
        tokenizer = build_pronunciation_tokenizer(rows)
    elif task.vocabulary_size:
        tokenizer = build_tokenizer(rows, task.vocabulary_size)
    else:
        raise UserError(
            "no tokenizer",
            "config.task.tokenizer, a config.model.init with a tokenizer, or config.task.vocabulary_size to make one",
        )
    choose_languages(tokenizer, task)
    if spec is not None:
        fill_special_tokens(tokenizer, spec)
        end_with_eos(tokenizer)
        check_first_rows(tokenizer, spec, rows)
    check_special_tokens(tokenizer, rows[0]["source"])
    return tokenizer


def tokenizer_content(tokenizer: Any) -> dict[str, Any]:
    """Returns JSON that determines a tokenizer's ids: the whole tokenizer, or class and vocabulary of a slow one."""
    languages = {"languages": [tokenizer.src_lang, tokenizer.tgt_lang]} if has_languages(tokenizer) else {}
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:  # slow tokenizers such as ByT5's and Marian's
        return {"class": type(tokenizer).__name__, "vocabulary": sorted(tokenizer.get_vocab().items())} | languages
    # these two depend on the last call
    return json.loads(backend.to_str()) | {"truncation": None, "padding": None} | languages


def load_tokenizer(name: str) -> Any:
    """Loads a `transformers` tokenizer from a folder or a hub name; it may have no padding or EOS token.

    Raises:
      UserError: if there is none, or its files cannot be read.
    """
    folder = find_folder(name) or fetch_repository(name, HUB_FILES, "tokenizer")
    _require_packages(folder)
    files = [path for pattern in HUB_FILES for path in folder.glob(pattern)]
    for path in files:
        check_not_pointer(path)
    with quiet_transformers():
        try:
            return read_tokenizer(folder)
        except Exception as error:  # many types, including plain Exception from the Rust library
            for path in files:
                if path.suffix == ".json" and path.name in _VOCABULARIES:
                    read_json(path)  # raises for a damaged one, which the library does not name
            found = sorted(path.name for path in files if path.name in _VOCABULARIES) or "no such file"
            raise UserError(
                f"no tokenizer could be loaded from {name!r}, which has {found}: {first_line(error)}",
                "tokenizer.json, spiece.model or vocab.json and merges.txt as transformers saves them",
                "set config.task.tokenizer",
            ) from error


def has_tokenizer(folder: Path) -> bool:
    """Whether a model folder contains tokenizer files."""
    return any((folder / name).exists() for name in _VOCABULARIES)


_VOCABULARIES = (
    "tokenizer.json", "tokenizer_config.json", *SENTENCEPIECE, "source.spm", "vocab.json", "vocab.txt",
)  # fmt: skip


def _require_packages(folder: Path) -> None:
    """Checks that the packages needed for a tokenizer's files are installed; `transformers` would name others.

    Marian reads its two SentencePiece files; a single SentencePiece file is converted, unless tokenizer.json exists.

    Raises:
      UserError: naming the packages to install.
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
    """Builds a word-level tokenizer from the letters (lower case) and phonemes (upper case) in the rows.

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


def build_tokenizer(rows: list[dict[str, Any]], vocabulary_size: int) -> Any:
    """Builds a byte-level BPE tokenizer (Sennrich et al. 2016) of sources and targets: it can write every text.

    Args:
      rows: training rows.
      vocabulary_size: tokens at most, bytes and special tokens included.

    Raises:
      UserError: for fewer tokens than bytes and special tokens.
    """
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors, trainers
    from transformers import PreTrainedTokenizerFast

    special, alphabet = [PAD, EOS, UNKNOWN], pre_tokenizers.ByteLevel.alphabet()
    if vocabulary_size < len(special) + len(alphabet):
        least = len(special) + len(alphabet)
        raise UserError(f"config.task.vocabulary_size is {vocabulary_size}", f"{least} or more: every byte is a token")
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocabulary_size, special_tokens=special, initial_alphabet=alphabet, show_progress=False
    )
    texts = (text for row in rows for text in (row["source"], *training_targets(row)))
    tokenizer.train_from_iterator(texts, trainer)
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, special.index(EOS))]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer's files into an existing folder."""
    tokenizer.save_pretrained(folder)
