"""The entries of a latency table: milliseconds by kind of sub-layer and size, and their sum for a model.

A time is a sum of entries: what is there whatever the shape (the call and the source embeddings; the loop), for each
layer what is left of one without sub-layers (norms and biases; nothing in T5), and for each sub-layer a curve of its
heads or units. A curve is 0 without any, then `knots`, of which the first is one head or one unit: so what a sub-layer
costs because it is there is an entry of its own. Between knots it is linear, and it never falls.
"""

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from nash_jax.spec import ModelSpec

KEYS_VALUES, HEAD = "cross-attention keys, values", "LM head"
ENCODER_KINDS = ("encoder attention", "encoder FFN", KEYS_VALUES)  # run once for a generation
SUBLAYERS = {  # kind → side, field of its layers
    "encoder attention": ("encoder", "heads"),
    "encoder FFN": ("encoder", "ffn"),
    "decoder self-attention": ("decoder", "self_heads"),
    "decoder cross-attention": ("decoder", "cross_heads"),
    "decoder FFN": ("decoder", "ffn"),
}
_KIND = {place: kind for kind, place in SUBLAYERS.items()}
_FIELD = {"attention": "heads", "self_attention": "self_heads", "cross_attention": "cross_heads", "ffn": "ffn"}
KINDS = (*SUBLAYERS, KEYS_VALUES, HEAD)
SOURCE, LOOP = "call, source embeddings", "loop, target embeddings"
LAYERS = {"encoder": "encoder layer without sub-layers", "decoder": "decoder layer without sub-layers"}
FIXED = (SOURCE, LOOP, *LAYERS.values())
GENERATION, ENCODING = "generation", "encoding"  # what is timed: all of it, what precedes the first token


class Curve(NamedTuple):
    """Milliseconds by size.

    Attributes:
      sizes: increasing, from 0.
      ms: for each size, never falling, from 0.
    """

    sizes: tuple[int, ...]
    ms: tuple[float, ...]

    def at(self, size: int) -> float:
        """Milliseconds of a size between the first and the last, linear between neighbours."""
        return float(np.interp(size, self.sizes, self.ms))


def knots(largest: int) -> tuple[int, ...]:
    """Returns the sizes of a curve: 0, 1 and the quarters of the largest."""
    return tuple(sorted({0, min(1, largest), *(round(largest * part / 4) for part in range(1, 5))}))


def curve_sizes(dense: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Returns kind → the sizes of its curve, for models up to the sizes of `dense`."""
    found = {kind: knots(max(sizes, default=0)) for kind, sizes in sizes_of(dense).items()}
    return found | {HEAD: tuple(size for size in found[HEAD] if size != 1)}  # every model has one


def sizes_of(spec: ModelSpec) -> dict[str, list[int]]:
    """Returns kind → the size in each layer, with none for sub-layers that are gone; the vocabulary for the LM head."""
    found: dict[str, list[int]] = {}
    for kind, (side, field) in SUBLAYERS.items():
        values = [getattr(layer, field) for layer in getattr(spec, side)]
        found[kind] = [value if isinstance(value, int) else len(value) for value in values]
    return found | {KEYS_VALUES: found["decoder cross-attention"], HEAD: [spec.vocab_size]}


def counts_of(spec: ModelSpec) -> dict[str, int]:
    """Returns how often a generation has each entry of `FIXED`.

    A pre-norm layer without biases is gone with its sub-layers. Without cross-attention the encoder is not run.
    """
    stays = spec.bias or not spec.pre_norm
    layers = {LAYERS[side]: len(getattr(spec, side)) * stays for side in LAYERS}
    return {SOURCE: 1, LOOP: 1} | (layers if has_encoder(spec) else layers | {LAYERS["encoder"]: 0})


def has_encoder(spec: ModelSpec) -> bool:
    """Whether the outputs depend on the encoder: some layer has cross-attention."""
    return any(layer.cross_heads for layer in spec.decoder)


def sublayer_ms(curves: Mapping[str, Curve], name: str, size: int) -> float:
    """Returns the milliseconds of a sub-layer at a size; of cross-attention with its keys and values.

    Args:
      curves: kind → curve.
      name: of the sub-layer, as in `decoder.3.ffn`.
      size: heads or units.
    """
    side, _, kind = name.split(".")
    ms = curves[_KIND[side, _FIELD[kind]]].at(size)
    return ms + (curves[KEYS_VALUES].at(size) if kind == "cross_attention" else 0.0)


def total_ms(curves: Mapping[str, Curve], fixed: Mapping[str, float], spec: ModelSpec) -> float:
    """Returns the sum of the entries of a model, milliseconds of a generation.

    Args:
      curves: kind → curve.
      fixed: name of `FIXED` → milliseconds.
      spec: the model; a size beyond a curve counts as its last.
    """
    ms = sum(fixed[name] * count for name, count in counts_of(spec).items())
    for kind, sizes in sizes_of(spec).items():
        if has_encoder(spec) or kind not in ENCODER_KINDS:
            ms += sum(curves[kind].at(size) for size in sizes)
    return ms
