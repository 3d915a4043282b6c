"""Token ids in generation options: which must stay, and what they are called afterwards."""

from collections.abc import Mapping
from typing import Any

from nash_jax.generation.options import GenerationOptions

_GENERATED = (  # what these name is put into outputs, or ends them
    "allowed_sequences", "bos_token_id", "decoder_start_token_id", "eos_token_id", "forced_bos_token_id",
    "forced_eos_token_id", "pad_token_id",
)  # fmt: skip
_FORBIDDEN = ("bad_words_ids", "begin_suppress_tokens", "suppress_tokens")


def generated_ids(options: GenerationOptions) -> set[int]:
    """Returns the ids that options put into outputs or wait for: a model must have them.

    Args:
      options: of a model.
    """
    return {token_id for name in _GENERATED for token_id in _flatten(getattr(options, name))}


def renumber_options(options: GenerationOptions, new_ids: Mapping[int, int]) -> GenerationOptions:
    """Returns options with new ids.

    A rule that forbids a removed token, or a sequence with one, has nothing to forbid any more, and is left out.

    Args:
      options: of the model before.
      new_ids: id → new id of the tokens that stay, among them `generated_ids(options)`.
    """
    changes = {name: _renumber(getattr(options, name), new_ids) for name in _GENERATED}
    changes |= {name: _renumber(_possible(getattr(options, name), new_ids), new_ids) for name in _FORBIDDEN}
    return options.replace(**changes)


def idle_rules(options: GenerationOptions, new_ids: Mapping[int, int]) -> list[str]:
    """Returns the names of the options that forbid something which is not possible any more.

    Args:
      options: of the model before.
      new_ids: id → new id of the tokens that stay.
    """
    return [name for name in _FORBIDDEN if _possible(getattr(options, name), new_ids) != getattr(options, name)]


def _possible(rules: tuple[Any, ...], new_ids: Mapping[int, int]) -> tuple[Any, ...]:
    return tuple(rule for rule in rules if set(_flatten(rule)) <= new_ids.keys())


def _flatten(value: Any) -> list[int]:
    if value is None:
        return []
    return [i for part in value for i in _flatten(part)] if isinstance(value, tuple) else [value]


def _renumber(value: Any, new_ids: Mapping[int, int]) -> Any:
    if value is None:
        return None
    return tuple(_renumber(part, new_ids) for part in value) if isinstance(value, tuple) else new_ids[value]
