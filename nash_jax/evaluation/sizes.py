"""Number of parameters by component, and sparsity relative to a dense model."""

import math
from collections.abc import Mapping
from typing import Any

from nash_jax.errors import UserError
from nash_jax.pruning.compact import removed_fraction
from nash_jax.spec import SIDES, ModelSpec
from nash_jax.tree import flatten

_SUBLAYERS = {
    "attention": "attention",
    "self_attention": "self-attention",
    "cross_attention": "cross-attention",
    "ffn": "FFN",
}
COMPONENTS = (
    "embeddings",
    "position tables",
    *(f"encoder {part}" for part in ("attention", "FFN", "norms")),
    *(f"decoder {part}" for part in ("self-attention", "cross-attention", "FFN", "norms")),
    "LM head",
    "other",
)


def component_sizes(params: Mapping[str, Any]) -> dict[str, int]:
    """Returns component → number of parameters, in the order of `COMPONENTS`, without empty components."""
    totals = dict.fromkeys(COMPONENTS, 0)
    for path, leaf in flatten(params).items():
        totals[_component(path)] += math.prod(leaf.shape)
    return {name: total for name, total in totals.items() if total}


def _component(path: str) -> str:
    side, *parts = path.split("/")
    if "position" in path:
        return "position tables"
    if side in SIDES and any("norm" in part for part in parts):
        return f"{side} norms"
    if path.endswith("embedding"):
        return "embeddings"
    if side in ("lm_head", "logits_bias"):
        return "LM head"
    found = [f"{side} {_SUBLAYERS[part]}" for part in parts if part in _SUBLAYERS]
    return found[0] if found else "other"


def sparsities(spec: ModelSpec, reference: ModelSpec | None = None) -> dict[str, float | None]:
    """Computes the sparsity of a model: the share of attention and FFN parameters that its dense model has in addition.

    Args:
      spec: the model.
      reference: its dense model, if known.

    Returns:
      `encoder_sparsity` and `decoder_sparsity`: relative to the reference; None without one.
      `encoder_sparsity_at_least` and `decoder_sparsity_at_least`: relative to a model with the same number of layers,
      in which each layer has all original heads and as many FFN units as the side's widest layer. This is a lower bound
      if all layers of the dense model had the same size.

    Raises:
      UserError: if the model cannot have been cut from the reference.
    """
    if reference is not None:
        _check_reference(spec, reference)
    # the smallest dense model with equal layers from which this one can have been cut
    smallest = spec.with_uniform_layers(spec.max_ffn_units("encoder"), spec.max_ffn_units("decoder"))
    found: dict[str, float | None] = {}
    for side in SIDES:
        found[f"{side}_sparsity"] = None if reference is None else _missing(reference, spec, side)
        found[f"{side}_sparsity_at_least"] = _missing(smallest, spec, side)
    return found


def _missing(dense: ModelSpec, spec: ModelSpec, side: str) -> float | None:
    """`removed_fraction`, or None if the dense model has nothing to remove."""
    there = any(size for name, (_, size) in dense.sublayers().items() if name.startswith(side))
    return removed_fraction(dense, spec, side) if there else None


def _check_reference(spec: ModelSpec, reference: ModelSpec) -> None:
    """Checks that the model can have been cut from the reference."""
    for field in ("family", "num_heads", "head_dim", "decoder_num_heads", "decoder_head_dim", "gated"):
        value, other = getattr(spec, field), getattr(reference, field)
        if value != other:
            raise UserError(f"config.evaluate.reference has {field}={other}", f"that of the model, {value}")
    for side in SIDES:
        missing = _missing(reference, spec, side)
        if missing is not None and missing < 0:
            raise UserError(
                f"the {side} of config.evaluate.reference is smaller than the model's", "the model it was cut from"
            )
