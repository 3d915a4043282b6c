"""What a family's layout says: how `transformers` names and shapes the parameters of our tree."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import numpy as np

from nash_jax.axes import param_axes
from nash_jax.errors import UserError
from nash_jax.spec import FAMILIES, ModelSpec

Names = dict[str, list[str]]


class Layout(NamedTuple):
    """One way in which `transformers` writes encoder-decoders.

    Attributes:
      spec_from_config: config.json, its class's defaults filled in → the dense spec, tied until the weights say
        otherwise.
      config_from_spec: rectangular spec → config.json.
      names: spec → our parameter path → the weights it is made of, fused parts in order.
      prefix: of all weights but the LM head.
      ignored: last parts of names of stored weights that mean nothing.
      depth_field: the field of config.json that says how many encoder layers there are.
      output_scales: spec → factors on the decoder's output that its class can have, in transformers 5.
    """

    spec_from_config: Callable[[Mapping[str, Any]], ModelSpec]
    config_from_spec: Callable[[ModelSpec], dict[str, Any]]
    names: Callable[[ModelSpec], Names]
    prefix: str
    ignored: tuple[str, ...]
    depth_field: str
    output_scales: Callable[[ModelSpec], tuple[float, ...]]


def embedding_names(spec: ModelSpec, prefix: str) -> Names:
    """Names of embedding tables and LM head, alike in all layouts."""
    names = {
        "shared/embedding": [f"{prefix}shared.weight"],
        "encoder/embedding": [f"{prefix}encoder.embed_tokens.weight"],
        "decoder/embedding": [f"{prefix}decoder.embed_tokens.weight"],
        "lm_head": ["lm_head.weight"],
    }
    axes = param_axes(spec)
    return {path: parts for path, parts in names.items() if path in axes}


def special_ids(config: Mapping[str, Any]) -> dict[str, int]:
    """pad_id, eos_id and decoder_start_id of a config.json; of several EOS ids the first."""

    def first(name: str, default: int) -> int:
        value: Any = config.get(name)
        value = next(iter(value), None) if isinstance(value, list) else value
        return default if value is None else value

    pad_id = first("pad_token_id", 0)
    return {
        "pad_id": pad_id,
        "eos_id": first("eos_token_id", 1),
        "decoder_start_id": first("decoder_start_token_id", first("bos_token_id", pad_id)),
    }


def check_family_flags(spec: ModelSpec, free: Mapping[str, Any]) -> None:
    """Refuses a spec with a flag that its family's class in `transformers` does not have.

    Args:
      spec: what shall be written.
      free: flags that the class leaves open → the values it can take; None: any.

    Raises:
      UserError: naming the flag.
    """
    fields = ModelSpec.__dataclass_fields__
    for name in FAMILY_FLAGS:
        value, own = getattr(spec, name), FAMILIES[spec.family].get(name, fields[name].default)
        allowed = free.get(name, (own,)) if name in free else (own,)
        if allowed is not None and not any(value == a or _close(value, a) for a in allowed):
            raise UserError(
                f"{name} is {value!r}, which {spec.family} in transformers cannot express",
                f"{' or '.join(map(repr, allowed))}",
                "save an export instead",
            )


def _close(value: Any, other: Any) -> bool:
    """Equal numbers but for rounding, as of d_model**0.5."""
    numbers = isinstance(value, float) and isinstance(other, float)
    return numbers and bool(np.isclose(value, other, rtol=1e-6))


_ANY = {  # every class has these; the sizes of layers are made equal by padding
    "family", "vocab_size", "d_model", "head_dim", "num_heads", "encoder", "decoder", "dropout_rate",
    "pad_id", "eos_id", "decoder_start_id",
}  # fmt: skip
FAMILY_FLAGS = tuple(name for name in ModelSpec.__dataclass_fields__ if name not in _ANY)
