"""The encoder as an ONNX model: `encoder_model.onnx`.

Letters: B batch, S source length, D d_model.
"""

import onnx

from nash_jax.axes import sublayer_path
from nash_jax.export.onnx.graph import Graph, make_model, value_info
from nash_jax.export.onnx.layers import (
    Parts,
    add_residual,
    any_token,
    attend,
    feed_forward,
    norm,
    padding_bias,
    self_projections,
)
from nash_jax.export.onnx.positions import LayerBias, count, embed, relative_positions


def encoder_model(parts: Parts) -> onnx.ModelProto:
    """Returns the graph input_ids, attention_mask [B, S] → last_hidden_state [B, S, D]."""
    graph, shape = Graph(), ("batch_size", "encoder_sequence_length")
    x = embed(graph, parts, "input_ids", "encoder", None)
    positions = count(graph, None, "input_ids")
    relative = None if parts.spec.absolute_positions else relative_positions(graph, positions, positions)
    bias = LayerBias(graph, parts, "encoder", relative, padding_bias(graph, "attention_mask"))
    tokens = any_token(graph, parts, "attention_mask")
    for layer in range(len(parts.spec.encoder)):
        x = _attention(graph, parts, x, bias, layer, tokens)
        x = feed_forward(graph, parts, x, f"encoder.{layer}.ffn")
    x = norm(graph, parts, x, "encoder/final_norm") if parts.spec.pre_norm else x
    graph.add("Identity", x, name="last_hidden_state")
    inputs = [value_info(name, "int64", shape) for name in ("input_ids", "attention_mask")]
    outputs = [value_info("last_hidden_state", "float32", (*shape, parts.spec.d_model))]
    return make_model(graph, inputs, outputs, {"family": parts.spec.family})


def _attention(graph: Graph, parts: Parts, x: str, bias: LayerBias, layer: int, tokens: str | None) -> str:
    place = f"encoder.{layer}.attention"
    if parts.is_gone(place):
        return x
    product = None
    if heads := parts.spec.encoder[layer].heads:
        query, *keys_values = self_projections(graph, parts, x, place)
        product = attend(graph, parts, query, keys_values, bias.at(layer, heads), place, tokens)
    return add_residual(graph, parts, x, product, "out_bias", sublayer_path(place))
