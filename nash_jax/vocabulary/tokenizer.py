"""A tokenizer with fewer tokens: its `tokenizer.json` is rewritten, and read again by its own class."""

import json
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from nash_jax.data.tokenizers import load_tokenizer, save_tokenizer
from nash_jax.errors import UserError
from nash_jax.vocabulary.segmenters import keep_tokens, needed_ids

_OTHER_FILES = ("*.model", "*.spm", "vocab.*", "merges.txt", "added_tokens.json")  # of the same words: all would be old


def tokenizer_needs(tokenizer: Any, used: Collection[int], alphabet: bool = True) -> set[int]:
    """Returns the ids that a tokenizer needs so that texts with the tokens `used` stay as they are.

    These are the ids used, special and other added tokens, bytes, the alphabet, and what its segmenter needs.

    Args:
      tokenizer: a `transformers` tokenizer.
      used: token ids.
      alphabet: keep all tokens of one character; otherwise only those that the tokens used have. Bytes stay anyway.

    Raises:
      UserError: for a tokenizer that is not supported.
    """
    content = _content(tokenizer)
    special = set(tokenizer.all_special_ids) | {token["id"] for token in content["added_tokens"]}
    of_bytes = '"ByteLevel"' in json.dumps([content["pre_tokenizer"], content["decoder"]])
    return special | set(used) | needed_ids(content["model"], special | set(used), alphabet or of_bytes)


def trim_tokenizer(tokenizer: Any, new_ids: Mapping[int, int]) -> Any:
    """Returns a new tokenizer with some of the tokens.

    Args:
      tokenizer: a `transformers` tokenizer; it stays as it is.
      new_ids: id → new id of all tokens that `tokenizer_needs` names, in the same order and without gaps.

    Raises:
      UserError: if its class does not read the new file as it is.
    """
    content = _content(tokenizer)
    expected = {token: new_ids[i] for token, i in tokenizer.get_vocab().items() if i in new_ids}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_tokenizer(tokenizer, folder)
        for path in (path for pattern in _OTHER_FILES for path in folder.glob(pattern)):
            path.unlink()
        (folder / "tokenizer.json").write_text(json.dumps(_trim(content, new_ids)), encoding="utf-8")
        _renumber_settings(folder / "tokenizer_config.json", new_ids)
        found = load_tokenizer(name)
    found.name_or_path = tokenizer.name_or_path  # not that of the folder that is gone
    if found.get_vocab() != expected:
        raise UserError(
            f"{type(tokenizer).__name__} does not keep to the tokens of its tokenizer.json", "a class that reads it"
        )
    return found


def _content(tokenizer: Any) -> dict[str, Any]:
    """What tokenizer.json holds.

    Raises:
      UserError: for a tokenizer without such a file.
    """
    backend = getattr(tokenizer, "backend_tokenizer", None)
    if backend is None:
        raise UserError(
            f"{type(tokenizer).__name__} has no tokenizer.json, so its vocabulary cannot be trimmed",
            "a tokenizer of the library tokenizers, such as T5's, BART's, mBART's or NLLB's",
        )
    found: dict[str, Any] = json.loads(backend.to_str())
    return found


def _trim(content: dict[str, Any], new_ids: Mapping[int, int]) -> dict[str, Any]:
    added = [token | {"id": new_ids[token["id"]]} for token in content["added_tokens"]]
    return content | {
        "truncation": None,
        "padding": None,
        "added_tokens": added,
        "post_processor": _renumber(content["post_processor"], new_ids),
        "model": keep_tokens(content["model"], new_ids),
    }


def _renumber(processor: dict[str, Any] | None, new_ids: Mapping[int, int]) -> dict[str, Any] | None:
    """A post-processor, which adds special tokens, with their new ids."""
    if processor is None:
        return None
    found = dict(processor)
    if "processors" in found:
        found["processors"] = [_renumber(part, new_ids) for part in found["processors"]]
    if isinstance(found.get("special_tokens"), dict):
        found["special_tokens"] = {
            name: token | {"ids": [new_ids[i] for i in token["ids"]]} for name, token in found["special_tokens"].items()
        }
    for name in ("sep", "cls"):
        if name in found:
            token, token_id = found[name]
            found[name] = [token, new_ids[token_id]]
    return found


def _renumber_settings(path: Path, new_ids: Mapping[int, int]) -> None:
    """Older versions of transformers write the ids of added tokens into tokenizer_config.json too."""
    settings = json.loads(path.read_text(encoding="utf-8"))
    added = settings.get("added_tokens_decoder")
    if added:
        settings["added_tokens_decoder"] = {str(new_ids[int(i)]): token for i, token in added.items()}
        path.write_text(json.dumps(settings, indent=2), encoding="utf-8")
