"""T5, v1.1, FLAN, ByT5, mT5 and UMT5 in the layout of `transformers`.

* v1.0 scales the decoder's output by d_model**-0.5. transformers 5 stores this as `scale_decoder_outputs`; earlier
  versions derived it from `tie_word_embeddings`. transformers 5 never scales mT5 and always scales UMT5; earlier
  versions scaled both if tied, but the public checkpoints are not tied.
* Block 0 of encoder and decoder stores the position-bias table for all blocks; in UMT5 every block has a table.
"""

from collections.abc import Mapping
from typing import Any

from nash_jax.axes import param_axes
from nash_jax.convert.layout import Layout, Names, check_family_flags, embedding_names, special_ids
from nash_jax.errors import UserError
from nash_jax.spec import FAMILIES, ModelSpec, dense_spec

_ACTIVATIONS = {  # feed_forward_proj → (activation, gated); a gated "gelu" is the tanh form
    "relu": ("relu", False),
    "gelu": ("gelu", False),
    "gelu_new": ("gelu_tanh", False),
    "silu": ("silu", False),
    "gated-relu": ("relu", True),
    "gated-gelu": ("gelu_tanh", True),
    "gated-gelu_new": ("gelu_tanh", True),
    "gated-silu": ("silu", True),
}
_PROJECTIONS = {kind: name for name, kind in reversed(_ACTIVATIONS.items())}
_CLASSES = {
    "t5": "T5ForConditionalGeneration",
    "mt5": "MT5ForConditionalGeneration",
    "umt5": "UMT5ForConditionalGeneration",
}
_SUBLAYER = {  # (side, sub-layer) → index in a block, name of its module
    ("encoder", "attention"): (0, "SelfAttention"),
    ("encoder", "ffn"): (1, "DenseReluDense"),
    ("decoder", "self_attention"): (0, "SelfAttention"),
    ("decoder", "cross_attention"): (1, "EncDecAttention"),
    ("decoder", "ffn"): (2, "DenseReluDense"),
}


def _spec_from_config(config: Mapping[str, Any]) -> ModelSpec:
    family, projection = config["model_type"], config["feed_forward_proj"]
    if projection not in _ACTIVATIONS:
        raise UserError(f"feed_forward_proj is {projection!r}", f"one of {tuple(_ACTIVATIONS)}")
    activation, gated = _ACTIVATIONS[projection]
    layers = config["num_layers"]
    return dense_spec(
        vocab_size=config["vocab_size"],
        d_model=config["d_model"],
        head_dim=config["d_kv"],
        d_ff=config["d_ff"],
        num_heads=config["num_heads"],
        encoder_layers=layers,
        decoder_layers=layers if config.get("num_decoder_layers") is None else config["num_decoder_layers"],
        family=family,
        activation=activation,
        gated=gated,
        tied=True,
        output_scale=config["d_model"] ** -0.5 if _is_scaled(config) else 1.0,
        position_buckets=config["relative_attention_num_buckets"],
        position_max_distance=config["relative_attention_max_distance"],
        norm_eps=config["layer_norm_epsilon"],
        dropout_rate=float(config["dropout_rate"]),
        **special_ids(config, has_bos=False),  # by default T5 starts with the padding token
    )


def _is_scaled(config: Mapping[str, Any]) -> bool:
    if config["model_type"] == "mt5":
        return False
    scaled = config.get("scale_decoder_outputs")
    return config.get("tie_word_embeddings", True) is not False if scaled is None else bool(scaled)


def _config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    check_family_flags(spec, {
        "norm_eps": None, "activation": None, "gated": None, "tied": None, "max_positions": None,
        "position_buckets": None, "position_max_distance": None,
        **dict.fromkeys(("attention_dropout_rate", "activation_dropout_rate"), (None, spec.dropout_rate)),
        "output_scale": _output_scales(spec),
    })  # fmt: skip
    if (spec.activation, spec.gated) not in _PROJECTIONS:
        raise UserError(
            f"the FFN is gated by {spec.activation!r}, which {spec.family} in transformers cannot express",
            f"one of {[kind for kind, gated in _PROJECTIONS if gated]}",
            "save an export instead",
        )
    scaled = spec.output_scale != 1.0
    scale = {"scale_decoder_outputs": scaled} if spec.family != "mt5" else {}
    return scale | {
        "architectures": [_CLASSES[spec.family]],
        "model_type": spec.family,
        "vocab_size": spec.vocab_size,
        "d_model": spec.d_model,
        "d_kv": spec.head_dim,
        "d_ff": max(1, spec.max_ffn_units("encoder"), spec.max_ffn_units("decoder")),
        "num_layers": len(spec.encoder),
        "num_decoder_layers": len(spec.decoder),
        "num_heads": spec.num_heads,
        "feed_forward_proj": _PROJECTIONS[spec.activation, spec.gated],
        "relative_attention_num_buckets": spec.position_buckets,
        "relative_attention_max_distance": spec.position_max_distance,
        "layer_norm_epsilon": spec.norm_eps,
        "dropout_rate": spec.dropout_rate,
        # before version 5 this flag also enabled scaled outputs; a head is stored in any case
        "tie_word_embeddings": scaled,
        "is_encoder_decoder": True,
        "pad_token_id": spec.pad_id,
        "eos_token_id": spec.eos_id,
        "decoder_start_token_id": spec.decoder_start_id,
        "dtype": "float32",
    }


def _output_scales(spec: ModelSpec) -> tuple[float, ...]:
    return {"t5": (1.0, spec.d_model**-0.5), "mt5": (1.0,), "umt5": (spec.d_model**-0.5,)}[spec.family]


def _names(spec: ModelSpec) -> Names:
    names = embedding_names(spec, "")
    for path in param_axes(spec):
        side, *rest = path.split("/")
        if path in names:
            continue
        if rest[0] == "final_norm":
            names[path] = [f"{side}.final_layer_norm.weight"]
        elif rest[0] == "position_bias":
            names[path] = [f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        else:
            names[path] = _layer_names(spec, side, *rest)
    return names


def _layer_names(spec: ModelSpec, side: str, layer: str, sublayer: str, leaf: str, *_: str) -> list[str]:
    place, module = _SUBLAYER[side, sublayer]
    prefix = f"{side}.block.{layer.removeprefix('layers_')}.layer.{place}"
    if leaf == "norm":
        return [f"{prefix}.layer_norm.weight"]
    kernels = {
        "qkv": ["q", "k", "v"],
        "kv": ["k", "v"],
        "q": ["q"],
        "out": ["o"],
        "wo": ["wo"],
        "wi": ["wi_0", "wi_1"] if spec.gated else ["wi"],
        "position_bias": ["relative_attention_bias"],
    }[leaf]
    return [f"{prefix}.{module}.{kernel}.weight" for kernel in kernels]


# old T5 checkpoints store an unused bias table for cross-attention
_IGNORED = ("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight",)
LAYOUT = Layout(_spec_from_config, _config_from_spec, _names, "", _IGNORED, "num_layers", _output_scales)
assert set(_CLASSES) <= set(FAMILIES)
