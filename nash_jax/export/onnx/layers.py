"""Sub-layers as nodes of a graph, in the order of operations of nash_jax.models.layers.

Letters: B batch, T queries, K keys, D d_model, N heads kept in a layer, H head size, F FFN units, V vocabulary size.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from nash_jax.axes import sublayer_path
from nash_jax.export.onnx.graph import TYPES, Graph
from nash_jax.models.layers import MASK_VALUE
from nash_jax.spec import ModelSpec

Linear = Callable[[Graph, str, str, np.ndarray], str]  # (graph, x, name, kernel [in, out]) → x · kernel


@dataclasses.dataclass(frozen=True)
class Tables:
    """How embedding tables [V, D] are stored and read.

    Attributes:
      rows: (graph, ids, name, table) → rows of the table, [..., D].
      logits: (graph, x, name, table) → x · tableᵀ, [..., V].
    """

    rows: Linear
    logits: Linear


@dataclasses.dataclass(frozen=True)
class Parts:
    """A model, and how its matrices are stored.

    Attributes:
      spec: architecture.
      params: path → array.
      linear: multiplies by a kernel.
      tables: reads embedding tables.
    """

    spec: ModelSpec
    params: Mapping[str, Any]
    linear: Linear
    tables: Tables

    def __getitem__(self, path: str) -> np.ndarray:
        """Returns a parameter, float32."""
        return np.asarray(self.params[path], np.float32)

    def size(self, place: str) -> int:
        """Returns the number of heads or units of a sub-layer."""
        return self.spec.sublayers()[place][1]

    def is_gone(self, place: str) -> bool:
        """Whether a sub-layer has no effect at all: nothing is left of it, not even a bias or a norm."""
        return not (self.size(place) or self.spec.bias or not self.spec.pre_norm)


def project(graph: Graph, parts: Parts, x: str, path: str, factor: np.ndarray | None = None) -> str:
    """Multiplies x [B, T, D] by the kernel of a path [D, ...] and adds its bias: [B, T, product of ...].

    Args:
      graph: to add to.
      parts: the model.
      x: name of the input.
      path: of the kernel; the bias has the same with `_bias`.
      factor: of each output, [outputs], multiplied into kernel and bias.
    """
    kernel = parts[path].reshape(parts[path].shape[0], -1)
    y = parts.linear(graph, x, path, kernel if factor is None else kernel * factor)
    if f"{path}_bias" not in parts.params:
        return y
    bias = parts[f"{path}_bias"].reshape(-1)
    return graph.add("Add", y, graph.weight(f"{path}_bias", bias if factor is None else bias * factor))


def norm(graph: Graph, parts: Parts, x: str, path: str) -> str:
    """Normalizes x [B, T, D] by T5's layer norm or the usual one."""
    scale, eps = graph.weight(f"{path}/scale", parts[f"{path}/scale"]), parts.spec.norm_eps
    if parts.spec.norm == "layer":
        bias = graph.weight(f"{path}/bias", parts[f"{path}/bias"])
        return graph.add("LayerNormalization", x, scale, bias, axis=-1, epsilon=eps)
    # these nodes are what ONNX Runtime replaces by one
    square = graph.add("Pow", x, graph.number(2.0))
    mean = graph.add("ReduceMean", square, graph.ints(-1), keepdims=1)
    root = graph.add("Sqrt", graph.add("Add", mean, graph.number(eps)))
    return graph.add("Mul", graph.add("Div", x, root), scale)


def activate(graph: Graph, x: str, activation: str) -> str:
    """Applies the activation function of an FFN."""
    if activation == "relu":
        return graph.add("Relu", x)
    if activation == "silu":
        return graph.add("Mul", x, graph.add("Sigmoid", x))
    return graph.add("Gelu", x, approximate="tanh" if activation == "gelu_tanh" else "none")


def feed_forward(graph: Graph, parts: Parts, x: str, place: str) -> str:
    """Adds the FFN sub-layer: residual stream [B, T, D] → [B, T, D]."""
    if parts.is_gone(place):
        return x
    path, size, spec = sublayer_path(place), parts.size(place), parts.spec
    if size == 0:
        return add_residual(graph, parts, x, None, "wo_bias", path)
    hidden = project(graph, parts, pre_norm(graph, parts, x, path), f"{path}/wi")
    if spec.gated:
        first, second = graph.add_split("Split", hidden, outputs=2, axis=-1, num_outputs=2)
        hidden = graph.add("Mul", activate(graph, first, spec.activation), second)
    else:
        hidden = activate(graph, hidden, spec.activation)
    product = parts.linear(graph, hidden, f"{path}/wo", parts[f"{path}/wo"])
    return add_residual(graph, parts, x, product, "wo_bias", path)


def pre_norm(graph: Graph, parts: Parts, x: str, path: str) -> str:
    """Returns a sub-layer's input from the residual stream."""
    return norm(graph, parts, x, f"{path}/norm") if parts.spec.pre_norm else x


def add_residual(graph: Graph, parts: Parts, x: str, product: str | None, bias: str, path: str) -> str:
    """Adds a sub-layer's output to the residual stream; None: nothing but its bias is left of it.

    Args:
      graph: to add to.
      parts: the model.
      x: residual stream before the sub-layer, [B, T, D].
      product: output of the output kernel, [B, T, D].
      bias: name of the output bias.
      path: of the sub-layer's parameters.
    """
    if parts.spec.bias:
        name = f"{path}/{bias}"
        stored = graph.weight(name, parts[name])
        product = stored if product is None else graph.add("Add", product, stored)
    if product is not None:
        x = graph.add("Add", x, product)
    return x if parts.spec.pre_norm else norm(graph, parts, x, f"{path}/norm")


def split_heads(graph: Graph, x: str, heads: int, head_dim: int) -> str:
    """[B, T, N·H] → [B, N, T, H]."""
    return graph.add("Transpose", graph.reshape(x, 0, 0, heads, head_dim), perm=[0, 2, 1, 3])


def query_factor(parts: Parts, place: str, kernels: int) -> np.ndarray | None:
    """Returns 1/sqrt(H) for the query and 1 for what is stored beside it, [kernels · N · H]; None in T5."""
    if not parts.spec.scaled_attention:
        return None
    head_dim = parts.spec.head_dim_of(place.partition(".")[0])
    factor = np.ones((kernels, parts.size(place) * head_dim), np.float32)
    factor[0] = head_dim**-0.5
    return factor.reshape(-1)


def self_projections(graph: Graph, parts: Parts, x: str, place: str) -> list[str]:
    """Returns query, key and value of a self-attention, each [B, N, T, H], from the residual stream."""
    path, heads, head_dim = sublayer_path(place), parts.size(place), parts.spec.head_dim_of(place.partition(".")[0])
    fused = project(graph, parts, pre_norm(graph, parts, x, path), f"{path}/qkv", query_factor(parts, place, 3))
    found = graph.add_split("Split", fused, outputs=3, axis=-1, num_outputs=3)
    return [split_heads(graph, part, heads, head_dim) for part in found]


def cross_query(graph: Graph, parts: Parts, x: str, place: str) -> str:
    """Returns the query of a cross-attention, [B, N, T, H]."""
    path, head_dim = sublayer_path(place), parts.spec.head_dim_of("decoder")
    query = project(graph, parts, pre_norm(graph, parts, x, path), f"{path}/q", query_factor(parts, place, 1))
    return split_heads(graph, query, parts.size(place), head_dim)


def cross_keys_values(graph: Graph, parts: Parts, encoded: str, place: str) -> list[str]:
    """Returns key and value of a cross-attention, each [B, N, S, H], from the encoder's output [B, S, D]."""
    fused = project(graph, parts, encoded, f"{sublayer_path(place)}/kv")
    found = graph.add_split("Split", fused, outputs=2, axis=-1, num_outputs=2)
    return [split_heads(graph, part, parts.size(place), parts.spec.head_dim_of("decoder")) for part in found]


def attend(
    graph: Graph, parts: Parts, query: str, keys_values: Sequence[str], bias: str, place: str, any_token: str | None
) -> str:
    """Computes softmax attention and applies the output kernel.

    Args:
      graph: to add to.
      parts: the model.
      query: [B, N, T, H].
      keys_values: keys and values, each [B, N, K, H].
      bias: added to the scores, broadcastable to [B, N, T, K].
      place: of the sub-layer.
      any_token: 0 for rows of nothing but padding, 1 for others, [B, 1, 1]; None: there is none, or it does not matter.

    Returns:
      [B, T, D].
    """
    key, value = keys_values
    scores = graph.add("MatMul", query, graph.add("Transpose", key, perm=[0, 1, 3, 2]))
    weights = graph.add("Softmax", graph.add("Add", scores, bias), axis=-1)
    context = graph.add("Transpose", graph.add("MatMul", weights, value), perm=[0, 2, 1, 3])
    heads, head_dim = parts.size(place), parts.spec.head_dim_of(place.partition(".")[0])
    context = graph.reshape(context, 0, 0, heads * head_dim)
    if any_token is not None:
        context = graph.add("Mul", context, any_token)
    path = f"{sublayer_path(place)}/out"
    return parts.linear(graph, context, path, parts[path].reshape(heads * head_dim, -1))


def padding_bias(graph: Graph, mask: str) -> str:
    """Attention mask, int64 [B, S] of 0/1 → what is added to the scores, float32 [B, 1, 1, S]."""
    token = graph.add("Cast", mask, to=TYPES["bool"])
    bias = graph.add("Where", token, graph.number(0.0), graph.number(MASK_VALUE))
    return graph.add("Unsqueeze", bias, graph.ints(1, 2))


def any_token(graph: Graph, parts: Parts, mask: str) -> str | None:
    """[B, S] of 0/1 → [B, 1, 1]: 0 for a row of nothing but padding, which attends to nothing outside T5's families."""
    if not parts.spec.absolute_positions:
        return None
    found = graph.add("ReduceMax", graph.add("Cast", mask, to=TYPES["float32"]), graph.ints(1), keepdims=1)
    return graph.add("Unsqueeze", found, graph.ints(2))
