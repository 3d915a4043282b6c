"""Layouts of model families: how `transformers` names and shapes the parameters of our tree."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nash_jax.axes import param_axes
from nash_jax.errors import UserError
from nash_jax.spec import FAMILIES, ModelSpec

Names = dict[str, list[str]]


class Layout(NamedTuple):
    """Describes how `transformers` stores a group of encoder-decoder families.

    Attributes:
      spec_from_config: config.json, with the defaults of its class → dense spec; tied until the weights are read.
      config_from_spec: spec with uniform layers → config.json.
      names: spec → our parameter path → names of the weights that it is made of, fused parts in order.
      prefix: prefix of all weights except the LM head.
      ignored: name endings of stored weights that are not used.
      depth_field: field of config.json with the number of encoder layers.
      output_scales: spec → factors on the decoder's output that its class supports in transformers 5.
    """

    spec_from_config: Callable[[Mapping[str, Any]], ModelSpec]
    config_from_spec: Callable[[ModelSpec], dict[str, Any]]
    names: Callable[[ModelSpec], Names]
    prefix: str
    ignored: tuple[str, ...]
    depth_field: str
    output_scales: Callable[[ModelSpec], tuple[float, ...]]


def embedding_names(spec: ModelSpec, prefix: str) -> Names:
    """Returns the names of embedding tables and LM head, which are the same in all layouts."""
    names = {
        "shared/embedding": [f"{prefix}shared.weight"],
        "encoder/embedding": [f"{prefix}encoder.embed_tokens.weight"],
        "decoder/embedding": [f"{prefix}decoder.embed_tokens.weight"],
        "lm_head": ["lm_head.weight"],
    }
    axes = param_axes(spec)
    return {path: parts for path, parts in names.items() if path in axes}


def special_ids(config: Mapping[str, Any], *, has_bos: bool = True) -> dict[str, int]:
    """Returns pad_id, eos_id and decoder_start_id of a config.json; the first EOS id if there are several.

    Args:
      config: the fields.
      has_bos: a decoder whose start is not said starts with BOS, if there is one; if not, with padding.
    """

    def first(name: str) -> Any:
        value: Any = config.get(name)
        return next(iter(value), None) if isinstance(value, list) else value

    def or_else(value: Any, default: Any) -> Any:
        return default if value is None else value

    pad_id, start_id = or_else(first("pad_token_id"), 0), first("decoder_start_token_id")
    if start_id is None:
        start_id = or_else(first("bos_token_id") if has_bos else None, pad_id)
    return {"pad_id": pad_id, "eos_id": or_else(first("eos_token_id"), 1), "decoder_start_id": start_id}


def check_family_flags(spec: ModelSpec, free: Mapping[str, Any]) -> None:
    """Checks that a family's class in `transformers` can express all flags of a spec.

    Args:
      spec: the spec to write.
      free: flags that the class can vary → allowed values; None: any value.

    Raises:
      UserError: naming the flag.
    """
    fields = ModelSpec.__dataclass_fields__
    for name in FAMILY_FLAGS:
        value, default = getattr(spec, name), FAMILIES[spec.family].get(name, fields[name].default)
        allowed = free.get(name, (default,)) if name in free else (default,)
        if allowed is not None and not any(value == a or _close(value, a) for a in allowed):
            raise UserError(
                f"{name} is {value!r}, which {spec.family} in transformers cannot express",
                f"{' or '.join(map(repr, allowed))}",
                "save an export instead",
            )


def _close(value: Any, other: Any) -> bool:
    """Whether two numbers are equal except for rounding, as in d_model**0.5."""
    numbers = isinstance(value, float) and isinstance(other, float)
    return numbers and bool(np.isclose(value, other, rtol=1e-6))


_ANY = {  # variable in every class; layer sizes are made uniform by padding
    "family", "vocab_size", "d_model", "head_dim", "num_heads", "encoder", "decoder", "dropout_rate",
    "pad_id", "eos_id", "decoder_start_id",
}  # fmt: skip
FAMILY_FLAGS = tuple(name for name in ModelSpec.__dataclass_fields__ if name not in _ANY)
