"""Model architecture as data, with the sizes of each layer.

A dense model, a shortened model and a compacted model are the same Flax module with different specs. A layer lists the
original heads that it keeps (T5's position bias is indexed by head id) and its number of FFN units. A sub-layer with
zero heads or zero units is removed.
"""

import dataclasses
import json
import typing
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from nash_jax.errors import UserError

SPEC_VERSION = 1
ACTIVATIONS = ("relu", "gelu", "gelu_tanh", "silu")
SIDES = ("encoder", "decoder")
NORMS = ("rms", "layer")
SINUSOIDS = ("sinusoidal", "sinusoidal_tokens")
POSITIONS = ("relative", "relative_per_layer", "learned", *SINUSOIDS)

_BART: dict[str, Any] = {
    "norm": "layer", "norm_eps": 1e-5, "pre_norm": False, "bias": True, "scaled_attention": True, "activation": "gelu",
    "logits_bias": True, "embedding_norm": True, "positions": "learned", "position_offset": 2, "max_positions": 1024,
    "pad_id": 1, "eos_id": 2, "decoder_start_id": 2,
}  # fmt: skip
_SINUSOIDAL: dict[str, Any] = {"positions": "sinusoidal", "position_offset": 0, "embedding_norm": False}
_GATED: dict[str, Any] = {"activation": "gelu_tanh", "gated": True, "tied": False}
# differences of a family from T5 v1.0; the family also selects the layout of transformers in which a model is written
FAMILIES: dict[str, dict[str, Any]] = {
    "t5": {},
    "mt5": _GATED,
    "umt5": {**_GATED, "positions": "relative_per_layer"},
    "bart": _BART,
    "mbart": {**_BART, "pre_norm": True},
    "marian": {**_BART, **_SINUSOIDAL, "activation": "silu", "max_positions": 512},
    "pegasus": {
        **_BART, **_SINUSOIDAL, "pre_norm": True, "activation": "relu", "pad_id": 0, "eos_id": 1, "decoder_start_id": 0,
    },
    "m2m_100": {
        **_BART, "pre_norm": True, "activation": "relu", "embedding_norm": False, "logits_bias": False,
        "positions": "sinusoidal_tokens", "position_offset": 0,
    },
    "custom": {},
}  # fmt: skip


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
    """Everything that defines the function of an encoder-decoder, except its parameters.

    Attributes:
      family: the layout of `transformers`; `custom`: none. Only the flags below define the function.
      vocab_size: rows of the embedding table and number of logits.
      encoder_vocab_size: rows of the encoder's separate embedding table; None: encoder and decoder share one.
      d_model: width of the residual stream.
      head_dim: width of one attention head.
      num_heads: heads of the original model: columns of the position-bias tables, range of head ids.
      decoder_head_dim: width of the decoder's heads; None: `head_dim`.
      decoder_num_heads: heads of the original decoder; None: `num_heads`.
      encoder: encoder layers, first to last.
      decoder: decoder layers, first to last.
      norm: `rms` (no mean subtraction, no bias) or `layer`.
      norm_eps: epsilon of the norms.
      pre_norm: a norm before each sub-layer and one after the last; otherwise one after each residual sum.
      bias: projections of attention and FFN have biases.
      scaled_attention: scores are divided by sqrt(head_dim).
      activation: FFN activation function.
      gated: the FFN has two input projections, one with activation, which are multiplied (T5 v1.1, FLAN).
      tied: the LM head is the decoder's embedding table.
      logits_bias: a bias is added to the logits.
      output_scale: factor on the decoder's output before the LM head (T5 v1.0: d_model**-0.5, with the
        *original* d_model).
      embedding_scale: factor on token embeddings (1, or the square root of the original d_model).
      embedding_norm: a norm after the sum of token and position embeddings.
      positions: `relative` (one bias table each for encoder and decoder), `relative_per_layer` (one for each
        self-attention), or added to the embeddings: `learned`, `sinusoidal`, or `sinusoidal_tokens` (M2M100: of another
        formula, numbered over the tokens other than padding, which gets none).
      position_offset: row of position 0 in a learned table.
      max_positions: number of positions in a learned or sinusoidal table, for sources and for targets.
      position_buckets: number of relative-position buckets.
      position_max_distance: distance from which all positions share the last bucket.
      dropout_rate: dropout in training.
      attention_dropout_rate: dropout of attention weights; None: `dropout_rate`.
      activation_dropout_rate: dropout of activated FFN values; None: `dropout_rate`.
      pad_id: padding token id.
      eos_id: end-of-sequence token id.
      decoder_start_id: first token of the decoder.
    """

    vocab_size: int
    d_model: int
    head_dim: int
    num_heads: int
    encoder: tuple[EncoderLayer, ...]
    decoder: tuple[DecoderLayer, ...]
    family: str = "t5"
    encoder_vocab_size: int | None = None
    decoder_head_dim: int | None = None
    decoder_num_heads: int | None = None
    norm: str = "rms"
    norm_eps: float = 1e-6
    pre_norm: bool = True
    bias: bool = False
    scaled_attention: bool = False
    activation: str = "relu"
    gated: bool = False
    tied: bool = True
    logits_bias: bool = False
    output_scale: float = 1.0
    embedding_scale: float = 1.0
    embedding_norm: bool = False
    positions: str = "relative"
    position_offset: int = 0
    max_positions: int = 0
    position_buckets: int = 32
    position_max_distance: int = 128
    dropout_rate: float = 0.1
    attention_dropout_rate: float | None = None
    activation_dropout_rate: float | None = None
    pad_id: int = 0
    eos_id: int = 1
    decoder_start_id: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            _check_type(field, getattr(self, field.name))
        self._check_sizes()
        for name, allowed in _CHOICES.items():
            if getattr(self, name) not in allowed:
                raise UserError(f"spec.{name} is {getattr(self, name)!r}", f"one of {tuple(allowed)}")
        for name in ("vocab_size", "d_model", "head_dim", "num_heads", "position_buckets"):
            if getattr(self, name) < 1:
                raise UserError(f"spec.{name} is {getattr(self, name)}", "a positive number")
        if self.absolute_positions and self.max_positions < 1:
            raise UserError(f"spec.max_positions is {self.max_positions}", f"rows for {self.positions} positions")
        if any(ffn < 0 for ffn in [e.ffn for e in self.encoder] + [d.ffn for d in self.decoder]):
            raise UserError("spec has a layer of negative FFN units", "0 (no FFN) or more")
        for side, ids in self._head_ids():
            if list(ids) != sorted(set(ids)) or any(not 0 <= i < self.heads_of(side) for i in ids):
                raise UserError(f"spec has {side} head ids {ids}", f"increasing ids below {self.heads_of(side)}")

    def _check_sizes(self) -> None:
        """Refuses sizes that no model has, before anything of such a size is made."""
        sizes = {"encoder": len(self.encoder), "decoder": len(self.decoder)} | {
            name: getattr(self, name) or 0 for name in _LARGEST if name not in SIDES
        }
        for name, size in sizes.items():
            _check_size(name, size)
        if self.max_positions * self.d_model > _LARGEST_TABLE:  # computed where it is not stored
            raise UserError(
                f"spec.max_positions is {self.max_positions:,}", f"a table of up to {_LARGEST_TABLE:,} values"
            )
        widest = max([e.ffn for e in self.encoder] + [d.ffn for d in self.decoder], default=0)
        if widest > _LARGEST_FFN:
            raise UserError(f"spec has a layer of {_number(widest)} FFN units", f"no more than {_LARGEST_FFN:,}")

    def _head_ids(self) -> Iterable[tuple[str, tuple[int, ...]]]:
        yield from (("encoder", layer.heads) for layer in self.encoder)
        for layer in self.decoder:
            yield "decoder", layer.self_heads
            yield "decoder", layer.cross_heads

    @property
    def absolute_positions(self) -> bool:
        """Whether position embeddings are added to the token embeddings."""
        return self.positions in ("learned", *SINUSOIDS)

    @property
    def wraps_labels(self) -> bool:
        """Whether, in training, the decoder begins with a target's last token (a language or EOS), as in mBART."""
        return self.family == "mbart"

    @property
    def source_vocab_size(self) -> int:
        """Rows of the encoder's embedding table."""
        return self.vocab_size if self.encoder_vocab_size is None else self.encoder_vocab_size

    def heads_of(self, side: str) -> int:
        """Number of heads of `encoder` or `decoder` in the original model."""
        decoder_heads = self.decoder_num_heads if side == "decoder" else None
        return self.num_heads if decoder_heads is None else decoder_heads

    def head_dim_of(self, side: str) -> int:
        """Width of a head of `encoder` or `decoder`."""
        decoder_dim = self.decoder_head_dim if side == "decoder" else None
        return self.head_dim if decoder_dim is None else decoder_dim

    def max_ffn_units(self, side: str) -> int:
        """Largest number of FFN units in a layer of `encoder` or `decoder`; 0 without layers."""
        return max((layer.ffn for layer in getattr(self, side)), default=0)

    def with_uniform_layers(self, encoder_units: int, decoder_units: int) -> "ModelSpec":
        """Returns a spec with the same number of layers, each with all original heads and the given FFN units."""
        heads, decoder_heads = (tuple(range(self.heads_of(side))) for side in ("encoder", "decoder"))
        return dataclasses.replace(
            self,
            encoder=(EncoderLayer(heads, encoder_units),) * len(self.encoder),
            decoder=(DecoderLayer(decoder_heads, decoder_heads, decoder_units),) * len(self.decoder),
        )

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
            "encoder_vocab": self.encoder_vocab_size or 0,
            "head_dim": self.head_dim,
            "decoder_head_dim": self.head_dim_of("decoder"),
            "positions": self.max_positions + self.position_offset,
            "qkv": 3,
            "kv": 2,
            "gate": 2,
            "buckets": self.position_buckets,
            "bias_heads": self.num_heads,
        }
        return plain | dict(self.sublayers().values())

    def pruned(self, keep: Mapping[str, Sequence[int]]) -> "ModelSpec":
        """Returns the spec of the model after pruning.

        Args:
          keep: axis name → increasing positions to keep along the axis; other axes are unchanged.

        Returns:
          A spec with the same number of layers and smaller axes. Along `vocab` tokens get new ids, in their old order,
          and so do those of padding, EOS and the decoder's start.

        Raises:
          UserError: if one of these three is not kept.
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
        narrow = dataclasses.replace(self, encoder=encoder, decoder=decoder, d_model=units("embed", self.d_model))
        return narrow._with_vocabulary(keep)

    def _with_vocabulary(self, keep: Mapping[str, Sequence[int]]) -> "ModelSpec":
        """The spec with the tokens that are kept along `vocab` and `encoder_vocab`."""
        changed: dict[str, Any] = {}
        if "encoder_vocab" in keep and self.encoder_vocab_size is not None:
            changed["encoder_vocab_size"] = len(keep["encoder_vocab"])
        if "vocab" in keep:
            new_ids = {int(old): new for new, old in enumerate(keep["vocab"])}
            lost = [name for name in _SPECIAL_IDS if getattr(self, name) not in new_ids]
            if lost:
                raise UserError(f"token {getattr(self, lost[0])}, spec.{lost[0]}, is not kept", "it among the tokens")
            changed |= {name: new_ids[getattr(self, name)] for name in _SPECIAL_IDS}
            changed["vocab_size"] = len(new_ids)
        return dataclasses.replace(self, **changed)

    def to_json(self) -> str:
        """Returns JSON text, which `from_json` reads."""
        return json.dumps({"spec_version": SPEC_VERSION, **dataclasses.asdict(self)}, indent=1)

    @staticmethod
    def from_json(text: str) -> "ModelSpec":
        """Reads the output of `to_json`.

        Raises:
          UserError: for any other text.
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
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise UserError(f"not a model spec: {error!r}", "the spec.json of a nash_jax export") from error


_SPECIAL_IDS = ("pad_id", "eos_id", "decoder_start_id")
_LARGEST = {  # far beyond any model
    "encoder": 1024, "decoder": 1024, "vocab_size": 2**24, "encoder_vocab_size": 2**24, "d_model": 2**17,
    "head_dim": 2**14, "decoder_head_dim": 2**14, "num_heads": 2**12, "decoder_num_heads": 2**12,
    "max_positions": 2**22, "position_offset": 2**10, "position_buckets": 2**14,
}  # fmt: skip
_LARGEST_FFN = 2**20
_LARGEST_TABLE = 2**27  # values of position embeddings
_CHOICES: dict[str, Iterable[str]] = {
    "family": FAMILIES,
    "activation": ACTIVATIONS,
    "norm": NORMS,
    "positions": POSITIONS,
}


def _check_type(field: "dataclasses.Field[Any]", value: Any) -> None:
    """Checks that a number, text or boolean has the field's type; an int is allowed for a float."""
    kinds = typing.get_args(field.type) or (field.type,)
    allowed = (*kinds, int) if float in kinds else kinds
    if kinds[0] in (int, float, str, bool) and type(value) not in allowed:
        raise UserError(f"spec.{field.name} is {value!r}", f"a value of type {kinds[0].__name__}")


def _check_given(**sizes: int | None) -> None:
    """Refuses what would be much too large, or no number, before layers and heads are listed."""
    for name, size in sizes.items():
        if size is None and name in ("decoder_num_heads", "head_dim", "decoder_d_ff"):
            continue
        if type(size) is not int:
            raise UserError(f"spec.{name} is {str(size)[:40]!r}", "a value of type int")
        least = int(name in ("d_model", "num_heads", "decoder_num_heads"))  # of which others are shares
        if size < least:
            raise UserError(f"spec.{name} is {size}", "a positive number" if least else "0 or more")
        if "d_ff" not in name:
            _check_size(name, size)
        elif size > _LARGEST_FFN:
            raise UserError(f"spec has a layer of {_number(size)} FFN units", f"no more than {_LARGEST_FFN:,}")


def _check_size(name: str, size: int) -> None:
    if size > _LARGEST[name]:
        what = "layers" if name in SIDES else ""
        raise UserError(f"spec.{name} is {_number(size)} {what}".strip(), f"no more than {_LARGEST[name]:,}")


def _number(size: int) -> str:
    """A number for a message; Python writes none of more than some thousand digits."""
    return f"{size:,}" if size < 10**30 else "a number of more than 30 digits"


def dense_spec(
    *,
    vocab_size: int,
    d_model: int,
    d_ff: int,
    num_heads: int,
    encoder_layers: int,
    decoder_layers: int,
    head_dim: int | None = None,
    decoder_d_ff: int | None = None,
    decoder_num_heads: int | None = None,
    family: str = "t5",
    **flags: Any,
) -> ModelSpec:
    """Returns a spec with equal layers and the flags of its family.

    Args:
      vocab_size: rows of the embedding table.
      d_model: width of the residual stream.
      d_ff: FFN units of every layer.
      num_heads: heads of every attention.
      encoder_layers: number of encoder layers.
      decoder_layers: number of decoder layers.
      head_dim: width of a head; None: d_model / num_heads.
      decoder_d_ff: FFN units of the decoder's layers; None: `d_ff`.
      decoder_num_heads: heads of the decoder's attentions, with the same total width; None: `num_heads`.
      family: defines the other flags.
      **flags: other fields of `ModelSpec`.

    Raises:
      UserError: for a size that is no whole number, or that no model has.
    """
    _check_given(
        vocab_size=vocab_size, d_model=d_model, num_heads=num_heads, decoder_num_heads=decoder_num_heads,
        encoder=encoder_layers, decoder=decoder_layers, head_dim=head_dim, d_ff=d_ff, decoder_d_ff=decoder_d_ff,
    )  # fmt: skip
    heads = tuple(range(num_heads))
    head_dim = head_dim if head_dim is not None else d_model // num_heads
    if decoder_num_heads is not None and decoder_num_heads != num_heads:
        flags |= {"decoder_num_heads": decoder_num_heads, "decoder_head_dim": head_dim * num_heads // decoder_num_heads}
    decoder_heads = tuple(range(decoder_num_heads or num_heads))
    return ModelSpec(
        vocab_size=vocab_size,
        d_model=d_model,
        head_dim=head_dim,
        num_heads=num_heads,
        encoder=(EncoderLayer(heads, d_ff),) * encoder_layers,
        decoder=(DecoderLayer(decoder_heads, decoder_heads, decoder_d_ff or d_ff),) * decoder_layers,
        family=family,
        **(FAMILIES[family] | flags),
    )


_T5_SIZES = {  # name: d_model, d_ff of v1.0, d_ff of v1.1, heads of v1.0, heads of v1.1, layers of v1.0, of v1.1
    "small": (512, 2048, 1024, 8, 6, 6, 8),
    "base": (768, 3072, 2048, 12, 12, 12, 12),
    "large": (1024, 4096, 2816, 16, 16, 24, 24),
}
_T5_LARGEST = {"t5-3b": (16384, 32), "t5-11b": (65536, 128)}  # name: d_ff, heads of 128; the rest is as in t5-large


_BART_SIZES = {"base": (768, 3072, 12, 6), "large": (1024, 4096, 16, 12)}  # name: d_model, d_ff, heads, layers


def preset(name: str) -> ModelSpec:
    """Returns the spec of a public checkpoint: `t5-small` … `t5-11b`, … `flan-t5-large`, `bart-base`, `bart-large`.

    Args:
      name: one of these.

    Raises:
      UserError: for an unknown name, listing the known ones.
    """
    family, _, size = name.rpartition("-")
    if family == "bart" and size in _BART_SIZES:
        d_model, d_ff, heads, layers = _BART_SIZES[size]
        return dense_spec(
            vocab_size=50265, d_model=d_model, d_ff=d_ff, num_heads=heads, encoder_layers=layers, decoder_layers=layers,
            family="bart",
        )  # fmt: skip
    if name in _T5_LARGEST:
        d_ff, heads = _T5_LARGEST[name]
        return dense_spec(
            vocab_size=32128, d_model=1024, head_dim=128, d_ff=d_ff, num_heads=heads, encoder_layers=24,
            decoder_layers=24, output_scale=1024**-0.5,
        )  # fmt: skip
    if family not in ("t5", "flan-t5") or size not in _T5_SIZES:
        known = [f"{f}-{s}" for f in ("t5", "flan-t5") for s in _T5_SIZES] + [f"bart-{s}" for s in _BART_SIZES]
        known += _T5_LARGEST
        raise UserError(f"unknown preset {name!r}", f"one of {', '.join(known)}")
    d_model, ff_v0, ff_v1, heads_v0, heads_v1, layers_v0, layers_v1 = _T5_SIZES[size]
    common: dict[str, Any] = {"vocab_size": 32128, "d_model": d_model, "head_dim": 64}
    if family == "flan-t5":
        return dense_spec(
            **common, d_ff=ff_v1, num_heads=heads_v1, encoder_layers=layers_v1, decoder_layers=layers_v1, **_GATED
        )
    return dense_spec(
        **common, d_ff=ff_v0, num_heads=heads_v0, encoder_layers=layers_v0, decoder_layers=layers_v0,
        output_scale=d_model**-0.5,
    )  # fmt: skip
