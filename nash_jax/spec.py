"""Architecture as data: sizes layer by layer.

A dense model, a shortened one and a compacted one are the same Flax module over different specs.
A layer says which of the original heads it kept (T5's position bias is looked up by head id) and how
many FFN units; zero heads or zero units mean that the sub-layer is gone.
"""

import dataclasses
import json
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nash_jax.errors import UserError

SPEC_VERSION = 1
ACTIVATIONS = ("relu", "gelu_tanh")
FAMILIES = ("t5",)


@dataclasses.dataclass(frozen=True)
class EncoderLayer:
    """Kept self-attention head ids and FFN units of one encoder layer."""

    heads: tuple[int, ...]
    ffn: int

    def sublayers(self) -> dict[str, tuple[str, int]]:
        """Sub-layer name → (name of its prunable axis, size)."""
        return {"attention": ("heads", len(self.heads)), "ffn": ("units", self.ffn)}


@dataclasses.dataclass(frozen=True)
class DecoderLayer:
    """Kept self-attention and cross-attention head ids and FFN units of one decoder layer."""

    self_heads: tuple[int, ...]
    cross_heads: tuple[int, ...]
    ffn: int

    def sublayers(self) -> dict[str, tuple[str, int]]:
        """Sub-layer name → (name of its prunable axis, size)."""
        return {
            "self_attention": ("heads", len(self.self_heads)),
            "cross_attention": ("heads", len(self.cross_heads)),
            "ffn": ("units", self.ffn),
        }


@dataclasses.dataclass(frozen=True)
class ModelSpec:
    """Everything that fixes the function of an encoder-decoder but its parameters.

    Attributes:
      family: which module builds it.
      vocab_size: rows of the embedding table.
      d_model: width of the residual stream.
      head_dim: width of one attention head.
      num_heads: heads of the original model: columns of the position-bias tables, range of head ids.
      encoder: encoder layers, first to last.
      decoder: decoder layers, first to last.
      activation: FFN non-linearity.
      gated: FFN has two input projections, one activated, multiplied (T5 v1.1, FLAN).
      tied: the LM head is the embedding table.
      output_scale: factor on the decoder's output before the LM head (T5 v1.0: d_model**-0.5, of the
        *original* d_model).
      position_buckets: relative-position buckets.
      position_max_distance: distance from which all positions share the last bucket.
      norm_eps: epsilon of the norms.
      dropout_rate: dropout used in training.
      pad_id: padding token id.
      eos_id: end-of-sequence token id.
      decoder_start_id: first token given to the decoder.
    """

    vocab_size: int
    d_model: int
    head_dim: int
    num_heads: int
    encoder: tuple[EncoderLayer, ...]
    decoder: tuple[DecoderLayer, ...]
    family: str = "t5"
    activation: str = "relu"
    gated: bool = False
    tied: bool = True
    output_scale: float = 1.0
    position_buckets: int = 32
    position_max_distance: int = 128
    norm_eps: float = 1e-6
    dropout_rate: float = 0.1
    pad_id: int = 0
    eos_id: int = 1
    decoder_start_id: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            kind, value = field.type, getattr(self, field.name)
            if kind in (int, float, str, bool) and type(value) not in ((int, float) if kind is float else (kind,)):
                raise UserError(f"spec.{field.name} is {value!r}", f"a value of type {kind.__name__}")
        if self.family not in FAMILIES:
            raise UserError(f"spec.family is {self.family!r}", f"one of {FAMILIES}")
        if self.activation not in ACTIVATIONS:
            raise UserError(f"spec.activation is {self.activation!r}", f"one of {ACTIVATIONS}")
        for name in ("vocab_size", "d_model", "head_dim", "num_heads", "position_buckets"):
            if getattr(self, name) < 1:
                raise UserError(f"spec.{name} is {getattr(self, name)}", "a positive number")
        if any(layer.ffn < 0 for layer in self.encoder) or any(layer.ffn < 0 for layer in self.decoder):
            raise UserError("spec has a layer of negative FFN units", "0 (no FFN) or more")
        for ids in self._head_ids():
            if list(ids) != sorted(set(ids)) or any(not 0 <= i < self.num_heads for i in ids):
                raise UserError(f"spec has head ids {ids}", f"increasing ids below num_heads={self.num_heads}")

    def _head_ids(self) -> Iterable[tuple[int, ...]]:
        yield from (layer.heads for layer in self.encoder)
        for layer in self.decoder:
            yield layer.self_heads
            yield layer.cross_heads

    def sublayers(self) -> dict[str, tuple[str, int]]:
        """Full sub-layer name (`encoder.3.attention`) → (its prunable axis' full name, size)."""
        found = {}
        sides: dict[str, tuple[EncoderLayer | DecoderLayer, ...]] = {"encoder": self.encoder, "decoder": self.decoder}
        for side, layers in sides.items():
            for i, layer in enumerate(layers):
                for name, (axis, size) in layer.sublayers().items():
                    found[f"{side}.{i}.{name}"] = (f"{side}.{i}.{name}.{axis}", size)
        return found

    def axis_sizes(self) -> dict[str, int]:
        """Size of every logical axis that `param_axes` may name."""
        plain = {
            "vocab": self.vocab_size,
            "embed": self.d_model,
            "head_dim": self.head_dim,
            "qkv": 3,
            "kv": 2,
            "gate": 2,
            "buckets": self.position_buckets,
            "bias_heads": self.num_heads,
        }
        return plain | dict(self.sublayers().values())

    def narrow(self, keep: Mapping[str, Sequence[int]]) -> "ModelSpec":
        """The spec that is left when only `keep[axis]` (positions along the axis) survive.

        Args:
          keep: axis name → increasing positions to keep; axes not named stay whole.

        Returns:
          A spec with the same number of layers, narrower where asked.
        """

        def heads(axis: str, ids: tuple[int, ...]) -> tuple[int, ...]:
            return tuple(ids[int(i)] for i in keep[axis]) if axis in keep else ids

        def units(axis: str, size: int) -> int:
            return len(keep[axis]) if axis in keep else size

        encoder = tuple(
            EncoderLayer(heads(f"encoder.{i}.attention.heads", e.heads), units(f"encoder.{i}.ffn.units", e.ffn))
            for i, e in enumerate(self.encoder)
        )
        decoder = tuple(
            DecoderLayer(
                heads(f"decoder.{i}.self_attention.heads", d.self_heads),
                heads(f"decoder.{i}.cross_attention.heads", d.cross_heads),
                units(f"decoder.{i}.ffn.units", d.ffn),
            )
            for i, d in enumerate(self.decoder)
        )
        return dataclasses.replace(self, encoder=encoder, decoder=decoder, d_model=units("embed", self.d_model))

    def to_json(self) -> str:
        """JSON text that `from_json` turns back into an equal spec."""
        return json.dumps({"spec_version": SPEC_VERSION, **dataclasses.asdict(self)}, indent=1)

    @staticmethod
    def from_json(text: str) -> "ModelSpec":
        """Reads what `to_json` wrote.

        Raises:
          UserError: for text that is not such a spec.
        """
        try:
            fields: dict[str, Any] = json.loads(text)
            version = fields.pop("spec_version")
            if version != SPEC_VERSION:
                raise UserError(f"spec_version is {version}", f"{SPEC_VERSION}", "use the nash_jax that wrote it")
            encoder = tuple(EncoderLayer(tuple(e["heads"]), e["ffn"]) for e in fields.pop("encoder"))
            decoder = tuple(
                DecoderLayer(tuple(d["self_heads"]), tuple(d["cross_heads"]), d["ffn"]) for d in fields.pop("decoder")
            )
            return ModelSpec(encoder=encoder, decoder=decoder, **fields)
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"not a model spec: {error!r}", "the spec.json of a nash_jax export") from error


def dense_spec(
    *,
    vocab_size: int,
    d_model: int,
    d_ff: int,
    num_heads: int,
    encoder_layers: int,
    decoder_layers: int,
    head_dim: int | None = None,
    **flags: Any,
) -> ModelSpec:
    """A spec whose layers are all alike.

    Args:
      vocab_size: rows of the embedding table.
      d_model: residual width.
      d_ff: FFN units of every layer.
      num_heads: heads of every attention.
      encoder_layers: number of encoder layers.
      decoder_layers: number of decoder layers.
      head_dim: width of a head; d_model / num_heads when left out.
      **flags: other fields of `ModelSpec`.
    """
    heads = tuple(range(num_heads))
    return ModelSpec(
        vocab_size=vocab_size,
        d_model=d_model,
        head_dim=head_dim if head_dim is not None else d_model // num_heads,
        num_heads=num_heads,
        encoder=(EncoderLayer(heads, d_ff),) * encoder_layers,
        decoder=(DecoderLayer(heads, heads, d_ff),) * decoder_layers,
        **flags,
    )


_T5_SIZES = {  # name: d_model, d_ff of v1.0, d_ff of v1.1, heads of v1.0, heads of v1.1, layers of v1.0, of v1.1
    "small": (512, 2048, 1024, 8, 6, 6, 8),
    "base": (768, 3072, 2048, 12, 12, 12, 12),
    "large": (1024, 4096, 2816, 16, 16, 24, 24),
}


def preset(name: str) -> ModelSpec:
    """Shapes of the public T5 checkpoints, for random-weight runs: `t5-small` … `flan-t5-large`.

    Raises:
      UserError: for an unknown name, listing the known ones.
    """
    version, _, size = name.rpartition("t5-")
    if size not in _T5_SIZES or version not in ("", "flan-"):
        known = [f"{v}t5-{s}" for v in ("", "flan-") for s in _T5_SIZES]
        raise UserError(f"unknown preset {name!r}", f"one of {', '.join(known)}")
    d_model, ff_v0, ff_v1, heads_v0, heads_v1, layers_v0, layers_v1 = _T5_SIZES[size]
    common = {"vocab_size": 32128, "d_model": d_model, "head_dim": 64}
    if version:
        return dense_spec(
            **common, d_ff=ff_v1, num_heads=heads_v1, encoder_layers=layers_v1, decoder_layers=layers_v1,
            activation="gelu_tanh", gated=True, tied=False,
        )  # fmt: skip
    return dense_spec(
        **common, d_ff=ff_v0, num_heads=heads_v0, encoder_layers=layers_v0, decoder_layers=layers_v0,
        output_scale=d_model**-0.5,
    )  # fmt: skip
