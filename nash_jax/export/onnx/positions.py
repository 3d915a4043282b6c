"""Positions as nodes of a graph: embeddings of tokens at positions, and T5's relative-position bias.

Letters: B batch, T queries, K keys, D d_model, N heads.
"""

from collections.abc import Sequence

import numpy as np

from nash_jax.axes import sublayer_path
from nash_jax.export.onnx.graph import TYPES, Graph
from nash_jax.export.onnx.layers import Parts, norm
from nash_jax.models.layers import MASK_VALUE
from nash_jax.models.positions import relative_position_bucket
from nash_jax.spec import ModelSpec


def embed(graph: Graph, parts: Parts, ids: str, side: str, start: str | None) -> str:
    """Embeds token ids, int64 [B, T] → [B, T, D].

    Args:
      graph: to add to.
      parts: the model.
      ids: name of the ids.
      side: encoder or decoder.
      start: number of positions before these, int64 [1]; None: 0.
    """
    spec = parts.spec
    path = "shared/embedding" if spec.encoder_vocab_size is None else f"{side}/embedding"
    x = parts.tables.rows(graph, ids, path, parts[path])
    if spec.embedding_scale != 1.0:
        x = graph.add("Mul", x, graph.number(spec.embedding_scale))
    if spec.absolute_positions:
        x = graph.add("Add", x, _position_rows(graph, parts, ids, side, start))
    return norm(graph, parts, x, f"{side}/embedding_norm") if spec.embedding_norm else x


def _position_rows(graph: Graph, parts: Parts, ids: str, side: str, start: str | None) -> str:
    """Position embeddings, [T, D], or [B, T, D] where padding has none."""
    spec, path = parts.spec, f"{side}/positions"
    table = graph.weight(path, parts[path])
    if spec.positions != "sinusoidal_tokens":
        first = graph.ints(spec.position_offset) if start is None else _shifted(graph, start, spec.position_offset)
        return graph.add("Slice", table, first, graph.add("Add", first, graph.size(ids, 1)), graph.ints(0))
    is_token = graph.add("Not", graph.add("Equal", ids, graph.ints(spec.pad_id)))
    numbers = graph.add("CumSum", graph.add("Cast", is_token, to=TYPES["int64"]), graph.weight("axis/1", np.int64(1)))
    numbers = graph.add("Add", numbers, start) if start else numbers
    rows = graph.add("Gather", table, _shifted(graph, numbers, spec.position_offset - 1))
    return graph.add(
        "Mul", rows, graph.add("Unsqueeze", graph.add("Cast", is_token, to=TYPES["float32"]), graph.ints(2))
    )


def _shifted(graph: Graph, numbers: str, by: int) -> str:
    return graph.add("Add", numbers, graph.ints(by)) if by else numbers


def count(graph: Graph, start: str | None, ids: str) -> str:
    """Returns the positions of ids [B, T] after `start` others, int64 [T]."""
    first = graph.weight("zero", np.int64(0)) if start is None else _scalar(graph, start)
    length = _scalar(graph, graph.size(ids, 1))
    end = length if start is None else graph.add("Add", first, length)
    return graph.add("Range", first, end, graph.weight("one", np.int64(1)))


def _scalar(graph: Graph, value: str) -> str:
    return graph.add("Squeeze", value, graph.ints(0))


def relative_positions(graph: Graph, queries: str, keys: str) -> str:
    """Positions [T] and [K] → key position minus query position, int64 [T, K]."""
    return graph.add("Sub", graph.add("Unsqueeze", keys, graph.ints(0)), graph.add("Unsqueeze", queries, graph.ints(1)))


def causal_bias(graph: Graph, relative: str) -> str:
    """Returns what hides later positions, float32 [T, K]."""
    later = graph.add("Greater", relative, graph.ints(0))
    return graph.add("Where", later, graph.number(MASK_VALUE), graph.number(0.0))


class LayerBias:
    """The bias of each self-attention of a stack; layers with the same heads share its nodes."""

    def __init__(self, graph: Graph, parts: Parts, side: str, relative: str | None, mask: str) -> None:
        self.graph, self.parts, self.side, self.mask = graph, parts, side, mask
        self._known: dict[str, str] = {}
        self.reach = max(parts.spec.position_max_distance, parts.spec.position_buckets)
        self._relative, self._index = relative, ""

    def at(self, layer: int, heads: Sequence[int]) -> str:
        """Returns the bias of a layer, broadcastable to [B, N, T, K]."""
        spec = self.parts.spec
        if spec.absolute_positions:
            return self.mask
        per_layer = spec.positions == "relative_per_layer"
        kind = "attention" if self.side == "encoder" else "self_attention"
        owner = sublayer_path(f"{self.side}.{layer}.{kind}") if per_layer else self.side
        name = f"{owner}/position_bias/{'all' if per_layer else '_'.join(map(str, heads))}"
        if name not in self._known:
            columns = self.parts[f"{owner}/position_bias/embedding"]
            self._known[name] = self._gather(name, columns if per_layer else columns[:, list(heads)])
        return self._known[name]

    def _gather(self, name: str, columns: np.ndarray) -> str:
        """Bias [N, T, K] of a table [buckets, N], plus the mask."""
        graph = self.graph
        if not self._index:
            assert self._relative is not None
            limits = graph.weight("reach/low", np.int64(-self.reach)), graph.weight("reach/high", np.int64(self.reach))
            self._index = graph.add("Add", graph.add("Clip", self._relative, *limits), graph.ints(self.reach))
        by_distance = columns[_buckets(self.parts.spec, self.side, self.reach)].T  # [N, 2 · reach + 1]
        bias = graph.add("Gather", graph.weight(name, by_distance), self._index, axis=1)
        return graph.add("Add", bias, self.mask)


def _buckets(spec: ModelSpec, side: str, reach: int) -> np.ndarray:
    """Buckets of the distances -reach to reach; all distances beyond are in the last ones."""
    distances = np.arange(-reach, reach + 1, dtype=np.int32)
    found = relative_position_bucket(
        distances,  # type: ignore[arg-type]
        bidirectional=side == "encoder", num_buckets=spec.position_buckets, max_distance=spec.position_max_distance,
    )  # fmt: skip
    return np.asarray(found)
