"""BART, mBART, Marian, Pegasus and M2M100 (NLLB too) in the layout of `transformers`.

They differ only in flags: position of the norms, position embeddings, scaling and normalization of embeddings.
`final_logits_bias` is a buffer in transformers and may be missing (M2M100 has none); sinusoids may be stored or
not (never in M2M100).
"""

from collections.abc import Mapping
from typing import Any

from nash_jax.axes import param_axes
from nash_jax.convert.layout import Layout, Names, check_family_flags, embedding_names, special_ids
from nash_jax.errors import UserError
from nash_jax.spec import ModelSpec, dense_spec

_ACTIVATIONS = {
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
    "relu": "relu",
    "silu": "silu",
    "swish": "silu",
}
_ACTIVATION_NAMES = {ours: name for name, ours in reversed(_ACTIVATIONS.items())}
_CLASSES = {
    "bart": "BartForConditionalGeneration",
    "mbart": "MBartForConditionalGeneration",
    "marian": "MarianMTModel",
    "pegasus": "PegasusForConditionalGeneration",
    "m2m_100": "M2M100ForConditionalGeneration",
}
_NORMS = {
    "attention": "self_attn_layer_norm",
    "self_attention": "self_attn_layer_norm",
    "cross_attention": "encoder_attn_layer_norm",
    "ffn": "final_layer_norm",
}
_MODULES = {"attention": "self_attn", "self_attention": "self_attn", "cross_attention": "encoder_attn"}
_PREFIX = "model."


def _spec_from_config(config: Mapping[str, Any]) -> ModelSpec:
    activation = config["activation_function"]
    if activation not in _ACTIVATIONS:
        raise UserError(f"activation_function is {activation!r}", f"one of {tuple(_ACTIVATIONS)}")
    d_model, heads = config["d_model"], config["encoder_attention_heads"]
    for side in ("encoder", "decoder"):
        if d_model % config[f"{side}_attention_heads"]:
            raise UserError(f"{side}_attention_heads is {config[f'{side}_attention_heads']}", f"a divisor of {d_model}")
    separate_table = config["model_type"] == "marian" and not config["share_encoder_decoder_embeddings"]
    return dense_spec(
        vocab_size=(config.get("decoder_vocab_size") if separate_table else None) or config["vocab_size"],
        encoder_vocab_size=config["vocab_size"] if separate_table else None,
        d_model=d_model,
        d_ff=config["encoder_ffn_dim"],
        decoder_d_ff=config["decoder_ffn_dim"],
        num_heads=heads,
        decoder_num_heads=config["decoder_attention_heads"],
        encoder_layers=config["encoder_layers"],
        decoder_layers=config["decoder_layers"],
        family=config["model_type"],
        activation=_ACTIVATIONS[activation],
        embedding_scale=d_model**0.5 if config["scale_embedding"] else 1.0,
        max_positions=config["max_position_embeddings"],
        dropout_rate=float(config["dropout"]),
        attention_dropout_rate=float(config["attention_dropout"]),
        activation_dropout_rate=float(config["activation_dropout"]),
        **special_ids(config),
    )


def _config_from_spec(spec: ModelSpec) -> dict[str, Any]:
    check_family_flags(spec, {
        "activation": None, "tied": None, "max_positions": None, "encoder_vocab_size": None,
        "decoder_head_dim": None, "decoder_num_heads": None,
        **({} if spec.family == "m2m_100" else {"logits_bias": None}),
        "embedding_scale": (1.0, spec.d_model**0.5), "position_buckets": None, "position_max_distance": None,
        "attention_dropout_rate": None, "activation_dropout_rate": None,
    })  # fmt: skip
    for side in ("encoder", "decoder"):
        width = spec.heads_of(side) * spec.head_dim_of(side)
        if width != spec.d_model:
            raise UserError(
                f"{side} heads have a total width of {width}, d_model is {spec.d_model}",
                f"equal widths, as {spec.family} in transformers has them",
                "save an export instead",
            )
    unused = {"attention": spec.attention_dropout_rate, "activation": spec.activation_dropout_rate}
    dropout = {f"{k}_dropout": spec.dropout_rate if rate is None else rate for k, rate in unused.items()}
    return _vocabularies(spec) | dropout | {
        "architectures": [_CLASSES[spec.family]],
        "model_type": spec.family,
        "d_model": spec.d_model,
        "encoder_layers": len(spec.encoder),
        "decoder_layers": len(spec.decoder),
        "num_hidden_layers": len(spec.encoder),
        "encoder_attention_heads": spec.num_heads,
        "decoder_attention_heads": spec.heads_of("decoder"),
        "encoder_ffn_dim": max(1, spec.max_ffn_units("encoder")),
        "decoder_ffn_dim": max(1, spec.max_ffn_units("decoder")),
        "activation_function": _ACTIVATION_NAMES[spec.activation],
        "scale_embedding": spec.embedding_scale != 1.0,
        "max_position_embeddings": spec.max_positions,
        "dropout": spec.dropout_rate,
        "is_encoder_decoder": True,
        "pad_token_id": spec.pad_id,
        "eos_token_id": spec.eos_id,
        "decoder_start_token_id": spec.decoder_start_id,
        "dtype": "float32",
    }  # fmt: skip


def _vocabularies(spec: ModelSpec) -> dict[str, Any]:
    """Sizes and sharing of embedding tables; only Marian's class supports two vocabularies."""
    separate = spec.encoder_vocab_size is not None
    if spec.family == "marian":
        return {
            "vocab_size": spec.encoder_vocab_size if separate else spec.vocab_size,
            "decoder_vocab_size": spec.vocab_size,
            "share_encoder_decoder_embeddings": not separate,
            "tie_word_embeddings": spec.tied,
        }
    if separate and spec.encoder_vocab_size != spec.vocab_size:
        raise UserError(
            f"the encoder has {spec.encoder_vocab_size} tokens, the decoder {spec.vocab_size}",
            f"one vocabulary, as {spec.family} in transformers has it",
            "save an export instead",
        )
    return {"vocab_size": spec.vocab_size, "tie_word_embeddings": spec.tied and not separate}


def _names(spec: ModelSpec) -> Names:
    names = embedding_names(spec, _PREFIX)
    for path in param_axes(spec):
        side, *rest = path.split("/")
        if path in names:
            continue
        if path == "logits_bias":
            names[path] = ["final_logits_bias"]
        elif rest[0] == "positions":
            names[path] = [f"{_PREFIX}{side}.embed_positions.weight"]
        elif rest[0] in ("embedding_norm", "final_norm"):
            module = {"embedding_norm": "layernorm_embedding", "final_norm": "layer_norm"}[rest[0]]
            names[path] = [f"{_PREFIX}{side}.{module}.{_norm_leaf(rest[1])}"]
        else:
            names[path] = _layer_names(f"{_PREFIX}{side}.layers.{rest[0].removeprefix('layers_')}", *rest[1:])
    return names


def _norm_leaf(leaf: str) -> str:
    return {"scale": "weight", "bias": "bias"}[leaf]


def _layer_names(prefix: str, sublayer: str, leaf: str, norm_leaf: str = "") -> list[str]:
    if leaf == "norm":
        return [f"{prefix}.{_NORMS[sublayer]}.{_norm_leaf(norm_leaf)}"]
    kernel, _, bias = leaf.partition("_")
    kind = bias or "weight"
    if sublayer == "ffn":
        return [f"{prefix}.{ {'wi': 'fc1', 'wo': 'fc2'}[kernel] }.{kind}"]
    parts = ["out"] if kernel == "out" else list(kernel)
    return [f"{prefix}.{_MODULES[sublayer]}.{part}_proj.{kind}" for part in parts]


# M2M100's sinusoids, which old checkpoints store, do not depend on training
_IGNORED = ("encoder.version", "decoder.version", "embed_positions.weights")
LAYOUT = Layout(_spec_from_config, _config_from_spec, _names, _PREFIX, _IGNORED, "encoder_layers", lambda _: (1.0,))
