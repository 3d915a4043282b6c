"""Reads the generation options of a checkpoint."""

from pathlib import Path
from typing import Any

from nash_jax.generation.options import GenerationOptions, options_from_files, unsupported_fields, unusable_fields
from nash_jax.runtime.files import read_json

GENERATION_FILE = "generation_config.json"


def load_generation_options(folder: Path) -> GenerationOptions:
    """Returns the generation defaults in a folder of the hub's layout, or in an export.

    Without `generation_config.json`, the fields are read from `config.json`, where old checkpoints have them; as in
    transformers 5, without the defaults of its class. Fields that are not supported and values that cannot be used are
    ignored one by one with a printed note, so that the model can still be pruned and evaluated.

    Raises:
      UserError: for a file that is not JSON.
    """
    file, fields = _fields(folder)
    refused = unsupported_fields(fields)
    for name, value in refused.items():
        print(f"note: {file} sets {name} to {value!r}: not supported, ignored in generation")
    known = {name: value for name, value in fields.items() if name not in refused}
    wrong = unusable_fields(known)
    for name, reason in wrong.items():
        print(f"note: {file}: {reason}; {name} is ignored in generation")
    known = {name: value for name, value in known.items() if name not in wrong}
    return options_from_files(known, {}) if file.name == GENERATION_FILE else options_from_files(None, known)


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
