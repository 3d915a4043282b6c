"""Reads the generation options of a checkpoint."""

from pathlib import Path
from typing import Any

from nash_jax.generation.options import GenerationOptions, options_from_files, unsupported_fields, unusable_fields
from nash_jax.runtime.files import read_json

GENERATION_FILE = "generation_config.json"


_IDS = (  # options that hold ids
    "bad_words_ids", "begin_suppress_tokens", "bos_token_id", "decoder_start_token_id", "eos_token_id",
    "forced_bos_token_id", "forced_eos_token_id", "pad_token_id", "suppress_tokens",
)  # fmt: skip


def load_generation_options(folder: Path, vocab_size: int | None = None) -> GenerationOptions:
    """Returns the generation defaults in a folder of the hub's layout, or in an export.

    Without `generation_config.json`, the fields are read from `config.json`, where old checkpoints have them; as in
    transformers 5, without the defaults of its class. Fields that are not supported and values that cannot be used are
    ignored one by one with a printed note, so that the model can still be pruned and evaluated.

    Args:
      folder: of the model.
      vocab_size: ids from here on are ignored too; None: they are kept.

    Raises:
      UserError: for a file that is not JSON.
    """
    file, fields = _fields(folder)
    refused = unsupported_fields(fields)
    for name, value in refused.items():
        print(f"note: {file} sets {name} to {repr(value)[:200]}: not supported, ignored in generation")
    known = {name: value for name, value in fields.items() if name not in refused}
    wrong = unusable_fields(known)
    for name, reason in wrong.items():
        print(f"note: {file}: {reason[:300]}; {name} is ignored in generation")
    known = {name: value for name, value in known.items() if name not in wrong}
    if vocab_size is not None:
        known |= _ids_of_model(file, known, vocab_size)
    return options_from_files(known, {}) if file.name == GENERATION_FILE else options_from_files(None, known)


def _ids_of_model(file: Path, fields: dict[str, Any], vocab_size: int) -> dict[str, Any]:
    """Returns the options that hold ids which the model does not have, without these; None if nothing is left."""
    usable = {name: _below(fields[name], vocab_size) for name in _IDS if fields.get(name) is not None}
    changed = {name: value for name, value in usable.items() if value != fields[name]}
    for name in changed:
        print(f"note: {file}: {name} holds ids beyond the model's {vocab_size:,} tokens; ignored in generation")
    return changed


def _below(value: Any, vocab_size: int) -> Any:
    """Returns an id, or a list of ids or of such lists, without what has an id that is too large; None: all has."""
    if not isinstance(value, list):
        return value if value < vocab_size else None
    return [item for item in value if item == _below(item, vocab_size)] or (None if value else value)


def _fields(folder: Path) -> tuple[Path, dict[str, Any]]:
    """Returns the file with the generation fields, and the fields."""
    file, old = folder / GENERATION_FILE, folder / "config.json"
    source = file if file.exists() else old
    fields = read_json(source) if source.exists() else {}  # an export may have none of the two
    return source, fields if (folder / "spec.json").exists() else _fill_padding(fields)


def _fill_padding(fields: dict[str, Any]) -> dict[str, Any]:
    """Sets the padding id to the first EOS id if it is missing, as `generate` of transformers does."""
    eos_id = fields.get("eos_token_id")
    if fields.get("pad_token_id") is not None or eos_id in (None, []):
        return fields
    return {**fields, "pad_token_id": eos_id[0] if isinstance(eos_id, list) else eos_id}
