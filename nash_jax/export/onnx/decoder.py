"""The decoder as an ONNX model with two branches: `decoder_model_merged.onnx`.

The first call has no cache: it computes the keys and values of the encoder's output. Later calls read them. Readers
want the caches of all layers to have one shape, so these are padded to all heads of the original model: kept heads
first, then zeros. Projections and the attention itself have only the kept heads.

Letters: B batch, P positions in the cache, T new positions, S source length, D d_model, N heads, H head size, V
vocabulary size.
"""

import numpy as np
import onnx
from onnx import helper

from nash_jax.axes import sublayer_path
from nash_jax.export.onnx.graph import TYPES, Graph, make_model, value_info
from nash_jax.export.onnx.layers import (
    Parts,
    add_residual,
    any_token,
    attend,
    cross_keys_values,
    cross_query,
    feed_forward,
    norm,
    padding_bias,
    self_projections,
)
from nash_jax.export.onnx.positions import LayerBias, causal_bias, count, embed, relative_positions


def cache_names(parts: Parts, prefix: str) -> list[str]:
    """Returns the names of all keys and values of the cache, in order: `PREFIX.0.decoder.key` …"""
    return [
        f"{prefix}.{layer}.{side}.{kind}"
        for layer in range(len(parts.spec.decoder))
        for side in ("decoder", "encoder")
        for kind in ("key", "value")
    ]


def decoder_model(parts: Parts) -> onnx.ModelProto:
    """Returns the graph of one call: new tokens, the encoder's output and the cache → logits and the new cache."""
    graph, spec = Graph(), parts.spec
    names = ["decoded", *cache_names(parts, "present")]
    branches = {f"{name}_branch": _branch(graph, parts, cached) for name, cached in (("then", True), ("else", False))}
    condition = graph.add("Squeeze", "use_cache_branch", graph.ints(0))
    graph.add_split("If", condition, outputs=len(names), names=names, **branches)
    _logits(graph, parts, "decoded")
    outputs = [value_info("logits", "float32", ("batch_size", "decoder_sequence_length", spec.vocab_size))]
    lengths = {"decoder": "total_sequence_length", "encoder": "encoder_sequence_length_out"}
    outputs += [_cache_info(parts, name, "batch_size_out", lengths) for name in names[1:]]
    return make_model(graph, _inputs(parts), outputs, {"family": spec.family})


def _inputs(parts: Parts) -> list[onnx.ValueInfoProto]:
    source = ("batch_size", "encoder_sequence_length")
    lengths = {"decoder": "past_decoder_sequence_length", "encoder": "past_encoder_sequence_length"}
    return [
        value_info("encoder_attention_mask", "int64", source),
        value_info("input_ids", "int64", ("batch_size", "decoder_sequence_length")),
        value_info("encoder_hidden_states", "float32", (*source, parts.spec.d_model)),
        *(_cache_info(parts, name, "batch_size", lengths) for name in cache_names(parts, "past_key_values")),
        value_info("use_cache_branch", "bool", (1,)),
    ]


def _cache_info(parts: Parts, name: str, batch: str, lengths: dict[str, str]) -> onnx.ValueInfoProto:
    side = name.split(".")[-2]
    heads, head_dim = parts.spec.heads_of("decoder"), parts.spec.head_dim_of("decoder")
    return value_info(name, "float32", (batch, heads, lengths[side], head_dim))


def _branch(whole: Graph, parts: Parts, cached: bool) -> onnx.GraphProto:
    """Returns one branch: what is computed from the last norm on is common to both."""
    name = "cached" if cached else "first"
    graph = whole.branch(name)
    step = _Step(graph, parts, cached)
    x = embed(graph, parts, "input_ids", "decoder", step.start)
    for layer in range(len(parts.spec.decoder)):
        x = step.attend_self(x, layer)
        x = step.attend_cross(x, layer)
        x = feed_forward(graph, parts, x, f"decoder.{layer}.ffn")
    outputs = [graph.add("Identity", x), *step.presents]
    infos = [helper.make_tensor_value_info(output, TYPES["float32"], None) for output in outputs]
    return helper.make_graph(graph.nodes, name, [], infos)


def _logits(graph: Graph, parts: Parts, x: str) -> None:
    """Adds the last norm and the LM head: [B, T, D] → logits [B, T, V]."""
    spec = parts.spec
    x = norm(graph, parts, x, "decoder/final_norm") if spec.pre_norm else x
    if spec.output_scale != 1.0:
        x = graph.add("Mul", x, graph.number(spec.output_scale))
    if spec.tied:
        path = "shared/embedding" if spec.encoder_vocab_size is None else "decoder/embedding"
        logits = parts.tables.logits(graph, x, path, parts[path])
    else:
        logits = parts.linear(graph, x, "lm_head", parts["lm_head"])
    if spec.logits_bias:
        logits = graph.add("Add", logits, graph.weight("logits_bias", parts["logits_bias"]))
    graph.add("Identity", logits, name="logits")


class _Step:
    """What the layers of one branch share.

    Attributes:
      start: number of positions in the cache, int64 [1]; None in the first call.
      presents: names of the new cache, in the order of `cache_names`.
    """

    def __init__(self, graph: Graph, parts: Parts, cached: bool) -> None:
        self.graph, self.parts, self.cached = graph, parts, cached
        self.start = graph.size("past_key_values.0.decoder.key", 2) if cached else None
        queries = count(graph, self.start, "input_ids")
        keys = self._all_positions(queries)
        relative = relative_positions(graph, queries, keys)
        self.bias = LayerBias(graph, parts, "decoder", relative, causal_bias(graph, relative))
        self.cross_bias = padding_bias(graph, "encoder_attention_mask")
        self.tokens = any_token(graph, parts, "encoder_attention_mask")
        self.presents: list[str] = []

    def _all_positions(self, queries: str) -> str:
        if self.start is None:
            return queries
        earlier = self.graph.add("Range", *self._limits())
        return self.graph.add("Concat", earlier, queries, axis=0)

    def _limits(self) -> tuple[str, str, str]:
        end = self.graph.add("Squeeze", str(self.start), self.graph.ints(0))
        return self.graph.weight("zero", np.int64(0)), end, self.graph.weight("one", np.int64(1))

    def attend_self(self, x: str, layer: int) -> str:
        """Adds the self-attention of a layer, and its keys and values to the cache."""
        place, heads = f"decoder.{layer}.self_attention", self.parts.spec.decoder[layer].self_heads
        if not heads:
            self.presents += [self._grown(self._zeros("input_ids"), layer, kind) for kind in ("key", "value")]
        if self.parts.is_gone(place):
            return x
        product = None
        if heads:
            query, *new = self_projections(self.graph, self.parts, x, place)
            kept = self._extend(new, len(heads), layer)
            product = attend(self.graph, self.parts, query, kept, self.bias.at(layer, heads), place, None)
        return add_residual(self.graph, self.parts, x, product, "out_bias", sublayer_path(place))

    def _extend(self, new: list[str], heads: int, layer: int) -> list[str]:
        """Adds new keys and values [B, N, T, H] to the cache; returns those of all positions, of kept heads."""
        grown = [
            self._grown(self._padded(part, heads), layer, kind)
            for part, kind in zip(new, ("key", "value"), strict=True)
        ]
        self.presents += grown
        return [self._kept(part, heads) for part in grown] if self.cached else new

    def attend_cross(self, x: str, layer: int) -> str:
        """Adds the cross-attention of a layer."""
        place, heads = f"decoder.{layer}.cross_attention", len(self.parts.spec.decoder[layer].cross_heads)
        keys_values = self._cross(place, heads, layer)
        if self.parts.is_gone(place):
            return x
        product = None
        if heads:
            query = cross_query(self.graph, self.parts, x, place)
            product = attend(self.graph, self.parts, query, keys_values, self.cross_bias, place, self.tokens)
        return add_residual(self.graph, self.parts, x, product, "out_bias", sublayer_path(place))

    def _cross(self, place: str, heads: int, layer: int) -> list[str]:
        """Returns keys and values of the encoder's output; after the first call, those of the cache."""
        if self.cached:
            self.presents += [self._nothing() for _ in range(2)]
            names = [f"past_key_values.{layer}.encoder.{kind}" for kind in ("key", "value")]
            return [self._kept(name, heads) for name in names] if heads else []
        if not heads:
            self.presents += [self._zeros("encoder_attention_mask") for _ in range(2)]
            return []
        found = cross_keys_values(self.graph, self.parts, "encoder_hidden_states", place)
        self.presents += [self._padded(part, heads) for part in found]
        return found

    def _all_heads(self) -> int:
        return self.parts.spec.heads_of("decoder")

    def _padded(self, value: str, heads: int) -> str:
        """[B, N, T, H] of the kept heads → of all heads."""
        missing = self._all_heads() - heads
        return self.graph.add("Pad", value, self.graph.ints(0, 0, 0, 0, 0, missing, 0, 0)) if missing else value

    def _kept(self, value: str, heads: int) -> str:
        if heads == self._all_heads():
            return value
        return self.graph.add("Slice", value, self.graph.ints(0), self.graph.ints(heads), self.graph.ints(1))

    def _grown(self, new: str, layer: int, kind: str) -> str:
        """The cache with new positions, [B, N, P + T, H]; a new value even without cache, since it is an output."""
        past = f"past_key_values.{layer}.decoder.{kind}"
        return self.graph.add("Concat", past, new, axis=2) if self.cached else self.graph.add("Identity", new)

    def _zeros(self, ids: str) -> str:
        """Zeros [B, N, T, H] for ids [B, T]: the cache of a sub-layer that is gone."""
        graph, sizes = self.graph, (self._all_heads(), self.parts.spec.head_dim_of("decoder"))
        batch, length = graph.size(ids, 0), graph.size(ids, 1)
        shape = graph.add("Concat", batch, graph.ints(sizes[0]), length, graph.ints(sizes[1]), axis=0)
        return graph.add("Expand", graph.number(0.0), shape)

    def _nothing(self) -> str:
        """An empty output: readers keep the encoder's keys and values of the first call."""
        shape = (0, self._all_heads(), 1, self.parts.spec.head_dim_of("decoder"))
        empty = self.graph.weight("nothing", np.zeros(shape, np.float32))
        return self.graph.add("Identity", empty)
