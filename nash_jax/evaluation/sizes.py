"""Where the parameters of a model are, and how many a denser one had."""

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
    """Component, of `COMPONENTS` in their order → number of parameters; those without any are left out."""
    totals = dict.fromkeys(COMPONENTS, 0)
    for path, leaf in flatten(params).items():
        totals[_component(path)] += int(leaf.size)
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
    """What a model lacks of its dense form: shares of attention and FFN parameters, counted.

    Args:
      spec: the model.
      reference: its dense form, where that is known.

    Returns:
      `encoder_sparsity` and `decoder_sparsity`: against the reference, None without one;
      `encoder_sparsity_at_least` and `decoder_sparsity_at_least`: against a model of as many layers, all with
      all the heads of the original and with as many FFN units as the side's widest layer has. The dense form
      had no less, as long as all its layers were alike.

    Raises:
      UserError: when the reference cannot be the dense form.
    """
    if reference is not None:
        _check_reference(spec, reference)
    least = spec.with_uniform_layers(
        spec.max_ffn_units("encoder"), spec.max_ffn_units("decoder")
    )  # that this one can have been cut from
    found: dict[str, float | None] = {}
    for side in SIDES:
        found[f"{side}_sparsity"] = None if reference is None else _missing(reference, spec, side)
        found[f"{side}_sparsity_at_least"] = _missing(least, spec, side)
    return found


def _missing(dense: ModelSpec, spec: ModelSpec, side: str) -> float | None:
    """`removed_fraction`; None where there was nothing to remove."""
    there = any(size for name, (_, size) in dense.sublayers().items() if name.startswith(side))
    return removed_fraction(dense, spec, side) if there else None


def _check_reference(spec: ModelSpec, reference: ModelSpec) -> None:
    """The reference has all that the model has."""
    for field in ("family", "num_heads", "head_dim", "decoder_num_heads", "decoder_head_dim", "gated"):
        own, other = getattr(spec, field), getattr(reference, field)
        if own != other:
            raise UserError(f"config.evaluate.reference has {field}={other}", f"that of the model, {own}")
    for side in SIDES:
        missing = _missing(reference, spec, side)
        if missing is not None and missing < 0:
            raise UserError(
                f"the {side} of config.evaluate.reference is smaller than the model's", "the model it was cut from"
            )
