"""Folders that CTranslate2 loads, written from a spec and parameters; neither torch nor transformers is needed.

FFN widths stay as they are in each layer. CTranslate2 has one number of heads for all layers of a stack, so a layer
with fewer heads is filled up with heads of zeros (`head_slots`); a sub-layer that is gone has only such heads, or one
unit of zeros.

Letters: D d_model, N heads of a stack, H head size, n kept heads of a layer, F FFN units, V vocabulary size.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.axes import sublayer_path
from nash_jax.errors import UserError, require_packages
from nash_jax.export.head_slots import HeadSlots, head_slots, pad_heads
from nash_jax.export.vocabulary import token_names
from nash_jax.generation.arguments import preview
from nash_jax.models.head import tied_lm_head
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten

QUANTIZATIONS = ("float32", "int8", "int8_float32", "int16", "float16")
_ACTIVATIONS = {"relu": "RELU", "gelu": "GELU", "gelu_tanh": "GELUTanh", "silu": "SWISH"}
Params = Mapping[str, np.ndarray]


def write_ctranslate2(
    folder: Path, spec: ModelSpec, params: Mapping[str, Any], tokenizer: Any | None, quantization: str = "float32"
) -> None:
    """Writes model.bin, config.json and the vocabularies into an existing folder.

    Args:
      folder: an empty folder.
      spec: the model.
      params: its parameters.
      tokenizer: gives the names of the tokens; None: they are called by their ids.
      quantization: type of the stored weights, one of `QUANTIZATIONS`; CTranslate2 computes in this type unless
        another is asked for when it loads the model. `int8` has one scale a row.

    Raises:
      UserError: for an unknown quantization, or if the package ctranslate2 is not installed.
    """
    check_quantization(quantization)
    model = build_spec(spec, params)
    names = token_names(tokenizer, spec.vocab_size)
    model.register_target_vocabulary(names)
    model.register_source_vocabulary(token_names(tokenizer, spec.source_vocab_size))
    _set_config(model.config, spec, names, tokenizer)
    model.validate()
    model.optimize(quantization=quantization)
    model.save(str(folder))


def check_quantization(quantization: str) -> None:
    """Refuses what cannot be written.

    Raises:
      UserError: for an unknown quantization, or if the package ctranslate2 is not installed.
    """
    require_packages("ctranslate2")
    if not isinstance(quantization, str) or quantization not in QUANTIZATIONS:
        raise UserError(f"quantization is {preview(quantization)}", f"one of {', '.join(QUANTIZATIONS)}")


def build_spec(spec: ModelSpec, params: Mapping[str, Any]) -> Any:
    """Returns the `TransformerSpec` of CTranslate2 with all weights, without vocabularies.

    Args:
      spec: the model.
      params: its parameters, which are copied.
    """
    from ctranslate2.specs import transformer_spec

    flat = {path: np.asarray(leaf, np.float32) for path, leaf in flatten(params).items()}
    encoder, decoder = _empty_stack(spec, "encoder"), _empty_stack(spec, "decoder")
    _fill_stack(encoder, spec, "encoder", flat)
    _fill_stack(decoder, spec, "decoder", flat)
    head = tied_lm_head(params) if spec.tied else flat["lm_head"]
    _fill_linear(decoder.projection, head, flat.get("logits_bias"))
    decoder.scale_outputs = np.float32(spec.output_scale)
    return transformer_spec.TransformerSpec(encoder, decoder)


def _empty_stack(spec: ModelSpec, side: str) -> Any:
    """Returns the specification of one stack, without weights."""
    from ctranslate2.specs import common_spec, transformer_spec

    make = {"encoder": transformer_spec.TransformerEncoderSpec, "decoder": transformer_spec.TransformerDecoderSpec}
    return make[side](
        len(getattr(spec, side)),
        head_slots(spec, side).count,
        pre_norm=spec.pre_norm,
        activation=common_spec.Activation[_ACTIVATIONS[spec.activation]],
        layernorm_embedding=spec.embedding_norm,
        relative_attention_bias=not spec.absolute_positions,
        ffn_glu=spec.gated,
        rms_norm=spec.norm == "rms",
        head_dim=spec.head_dim_of(side),
    )


def _fill_stack(stack: Any, spec: ModelSpec, side: str, flat: Params) -> None:
    table = flat["shared/embedding" if spec.encoder_vocab_size is None else f"{side}/embedding"]
    embeddings = stack.embeddings[0] if side == "encoder" else stack.embeddings
    embeddings.weight = table.copy()
    stack.scale_embeddings = np.float32(spec.embedding_scale)
    if spec.absolute_positions:
        stack.position_encodings.encodings = flat[f"{side}/positions"][spec.position_offset :].copy()
    if spec.embedding_norm:
        _fill_norm(stack.layernorm_embedding, spec, f"{side}/embedding_norm", flat)
    if spec.pre_norm:
        _fill_norm(stack.layer_norm, spec, f"{side}/final_norm", flat)
    slots = head_slots(spec, side)
    bias = _shared_bias(spec, side, slots, flat)
    for i, (layer, kept) in enumerate(zip(stack.layer, getattr(spec, side), strict=True)):
        place = f"{side}.{i}"
        if side == "encoder":
            _fill_self_attention(layer.self_attention, spec, f"{place}.attention", kept.heads, slots, bias, flat)
        else:
            name = f"{place}.self_attention"
            _fill_self_attention(layer.self_attention, spec, name, kept.self_heads, slots, bias, flat)
            _fill_cross_attention(layer.attention, spec, f"{place}.cross_attention", kept.cross_heads, slots, flat)
        _fill_ffn(layer.ffn, spec, f"{place}.ffn", flat)


def _shared_bias(spec: ModelSpec, side: str, slots: HeadSlots, flat: Params) -> np.ndarray | None:
    """Returns the table [buckets, N] of all layers of a stack, or None if there is none."""
    if spec.positions != "relative":
        return None
    found = np.zeros((spec.position_buckets, slots.count), np.float32)
    for slot, head in enumerate(slots.columns):
        if head is not None:
            found[:, slot] = flat[f"{side}/position_bias/embedding"][:, head]
    return found


def _fill_self_attention(
    attention: Any, spec: ModelSpec, name: str, heads: Sequence[int], slots: HeadSlots, bias: np.ndarray | None,
    flat: Params,
) -> None:  # fmt: skip
    places = slots.places(heads, by_id=spec.positions == "relative")
    path = _begin_attention(attention, spec, name, places, slots, flat)
    _fill_projection(attention.linear[0], spec, f"{path}/qkv", (3,), places, slots, flat)
    if spec.positions == "relative_per_layer":
        shape = (spec.position_buckets, len(heads))
        own = flat.get(f"{path}/position_bias/embedding", np.zeros(shape, np.float32))
        bias = pad_heads(own, 1, slots.count, places)
    if bias is not None:
        attention.relative_attention_bias = bias
        attention.relative_attention_max_distance = np.int32(spec.position_max_distance)


def _fill_cross_attention(
    attention: Any, spec: ModelSpec, name: str, heads: Sequence[int], slots: HeadSlots, flat: Params
) -> None:
    places = slots.places(heads, by_id=False)
    path = _begin_attention(attention, spec, name, places, slots, flat)
    _fill_projection(attention.linear[0], spec, f"{path}/q", (), places, slots, flat)
    _fill_projection(attention.linear[1], spec, f"{path}/kv", (2,), places, slots, flat)


def _begin_attention(
    attention: Any, spec: ModelSpec, name: str, places: Sequence[int], slots: HeadSlots, flat: Params
) -> str:
    """Fills what self-attention and cross-attention have alike; returns the path of the sub-layer's parameters."""
    path, head_dim = sublayer_path(name), spec.head_dim_of(name.split(".")[0])
    attention.queries_scale = np.float32(head_dim**-0.5 if spec.scaled_attention else 1.0)
    _fill_norm(attention.layer_norm, spec, f"{path}/norm", flat)
    out = flat.get(f"{path}/out", np.zeros((0, head_dim, spec.d_model), np.float32))
    out = pad_heads(out, 0, slots.count, places)
    _fill_linear(attention.linear[-1], out.reshape(-1, spec.d_model), flat.get(f"{path}/out_bias"))
    return path


def _fill_projection(
    linear: Any, spec: ModelSpec, path: str, parts: tuple[int, ...], places: Sequence[int], slots: HeadSlots,
    flat: Params,
) -> None:  # fmt: skip
    """Fills a projection from D to the parts (query, key, value) of all slots, [D, parts · N · H]."""
    heads = (*parts, 0, spec.head_dim_of(path.split("/")[0]))
    kernel = flat.get(path, np.zeros((spec.d_model, *heads), np.float32))
    kernel = pad_heads(kernel, 1 + len(parts), slots.count, places)
    bias = None
    if spec.bias:
        bias = pad_heads(flat.get(f"{path}_bias", np.zeros(heads, np.float32)), len(parts), slots.count, places)
    _fill_linear(linear, kernel.reshape(spec.d_model, -1), bias)


def _fill_ffn(ffn: Any, spec: ModelSpec, name: str, flat: Params) -> None:
    path, parts = sublayer_path(name), 2 if spec.gated else 1
    wi = flat.get(f"{path}/wi", np.zeros((spec.d_model, parts, 1), np.float32)).reshape(spec.d_model, parts, -1)
    bias = flat.get(f"{path}/wi_bias", np.zeros(wi.shape[1:], np.float32)).reshape(parts, -1) if spec.bias else None
    for i, linear in enumerate([ffn.linear_0, ffn.linear_0_noact] if spec.gated else [ffn.linear_0]):
        _fill_linear(linear, wi[:, i], None if bias is None else bias[i])
    wo = flat.get(f"{path}/wo", np.zeros((1, spec.d_model), np.float32))
    _fill_linear(ffn.linear_1, wo, flat.get(f"{path}/wo_bias"))
    _fill_norm(ffn.layer_norm, spec, f"{path}/norm", flat)


def _fill_linear(linear: Any, kernel: np.ndarray, bias: np.ndarray | None) -> None:
    """Sets a kernel [in, out], stored as [out, in], and a bias of any shape, both copied: quantizing changes them."""
    linear.weight = np.array(kernel.T, np.float32, order="C")
    if bias is not None:
        linear.bias = bias.reshape(-1).copy()


def _fill_norm(norm: Any, spec: ModelSpec, path: str, flat: Params) -> None:
    """Sets a norm; that of a sub-layer that is gone, whose output is 0, may be any."""
    norm.gamma = flat.get(f"{path}/scale", np.ones(spec.d_model, np.float32)).copy()
    if spec.norm == "layer":
        norm.beta = flat.get(f"{path}/bias", np.zeros(spec.d_model, np.float32)).copy()


def _set_config(config: Any, spec: ModelSpec, names: Sequence[str], tokenizer: Any | None) -> None:
    unknown = getattr(tokenizer, "unk_token_id", None)
    config.unk_token = names[unknown if unknown is not None and unknown < len(names) else spec.pad_id]
    config.bos_token = names[spec.decoder_start_id]
    config.eos_token = names[spec.eos_id]
    config.decoder_start_token = names[spec.decoder_start_id]
    config.layer_norm_epsilon = spec.norm_eps
