"""How matrices are stored and multiplied: float32, or int8 in two ways of ONNX Runtime.

`blocks` stores 8 bits a weight with a scale for each 32 inputs of an output, multiplied by the node MatMulNBits.
`dynamic` stores 8 bits a weight with a scale for each output, and rounds the inputs to 8 bits as they come: the
standard nodes DynamicQuantizeLinear and MatMulInteger. Weights are unsigned: with signed ones, processors with AVX2 and
without VNNI lose the highest bits of sums.

Letters: I inputs, O outputs, K blocks, V vocabulary size, D d_model.
"""

import dataclasses

import numpy as np

from nash_jax.export.onnx.graph import TYPES, Graph
from nash_jax.export.onnx.layers import Linear, Tables

BLOCK = 32
_CENTRE = 128  # values are stored unsigned, and this is 0


@dataclasses.dataclass(frozen=True)
class Storage:
    """How a graph stores kernels and tables."""

    linear: Linear
    tables: Tables


def _float_linear(graph: Graph, x: str, name: str, kernel: np.ndarray) -> str:
    return graph.add("MatMul", x, graph.weight(name, kernel))


def _float_rows(graph: Graph, ids: str, name: str, table: np.ndarray) -> str:
    return graph.add("Gather", graph.weight(name, table), ids)


def _float_logits(graph: Graph, x: str, name: str, table: np.ndarray) -> str:
    return graph.add("MatMul", x, graph.add("Transpose", graph.weight(name, table), perm=[1, 0]))


def block_quantize(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds rows [O, I] to 8 bits with a scale for each block.

    Returns:
      uint8 [O, K, 32], zero at 128, the last block filled with zeros; scales, float32 [O, K].
    """
    blocks = -(-rows.shape[1] // BLOCK)
    padded = np.zeros((len(rows), blocks * BLOCK), np.float32)
    padded[:, : rows.shape[1]] = rows
    padded = padded.reshape(len(rows), blocks, BLOCK)
    scales = np.abs(padded).max(axis=2) / 127
    rounded = np.rint(padded / np.where(scales == 0, 1, scales)[..., None])
    return (rounded + _CENTRE).astype(np.uint8), scales.astype(np.float32)


def _stored_blocks(graph: Graph, name: str, rows: np.ndarray) -> tuple[str, str]:
    if f"{name}/blocks" not in graph.weights:
        values, scales = block_quantize(rows)
        graph.weight(f"{name}/blocks", values)
        graph.weight(f"{name}/scales", scales)
    return f"{name}/blocks", f"{name}/scales"


def _blocks_product(graph: Graph, x: str, name: str, rows: np.ndarray) -> str:
    """X · rowsᵀ for rows [O, I]."""
    outputs, inputs = rows.shape
    return graph.add(
        "MatMulNBits", x, *_stored_blocks(graph, name, rows), domain="com.microsoft",
        K=inputs, N=outputs, bits=8, block_size=BLOCK, accuracy_level=4,
    )  # fmt: skip


def _blocks_linear(graph: Graph, x: str, name: str, kernel: np.ndarray) -> str:
    return _blocks_product(graph, x, name, kernel.T)


def _blocks_rows(graph: Graph, ids: str, name: str, table: np.ndarray) -> str:
    values, scales = _stored_blocks(graph, name, table)
    found = _centred(graph, graph.add("Gather", values, ids))  # [..., K, 32]
    scale = graph.add("Unsqueeze", graph.add("Gather", scales, ids), graph.ints(-1))
    rows = graph.reshape(graph.add("Mul", found, scale), 0, 0, -1)
    if table.shape[1] % BLOCK == 0:
        return rows
    return graph.add("Slice", rows, graph.ints(0), graph.ints(table.shape[1]), graph.ints(2))


def row_quantize(rows: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Rounds rows [O, I] to 8 bits with a scale for each row: uint8 [O, I], zero at 128, and scales, float32 [O]."""
    scales = np.abs(rows).max(axis=1) / 127
    rounded = np.rint(rows / np.where(scales == 0, 1, scales)[:, None])
    return (rounded + _CENTRE).astype(np.uint8), scales.astype(np.float32)


def _stored_rows(graph: Graph, name: str, rows: np.ndarray, *, transposed: bool) -> tuple[str, str]:
    if f"{name}/uint8" not in graph.weights:
        values, scales = row_quantize(rows)
        graph.weight(f"{name}/uint8", values.T if transposed else values)
        graph.weight(f"{name}/scales", scales)
    return f"{name}/uint8", f"{name}/scales"


def _dynamic_product(graph: Graph, x: str, kernel: str, scales: str) -> str:
    """X · kernel for a uint8 kernel [I, O] with scales [O]."""
    values, scale, zero = graph.add_split("DynamicQuantizeLinear", x, outputs=3)
    product = graph.add("MatMulInteger", values, kernel, zero, graph.weight("centre", np.uint8(_CENTRE)))
    return graph.add("Mul", graph.add("Cast", product, to=TYPES["float32"]), graph.add("Mul", scale, scales))


def _dynamic_linear(graph: Graph, x: str, name: str, kernel: np.ndarray) -> str:
    return _dynamic_product(graph, x, *_stored_rows(graph, name, kernel.T, transposed=True))


def _dynamic_logits(graph: Graph, x: str, name: str, table: np.ndarray) -> str:
    values, scales = _stored_rows(graph, name, table, transposed=False)
    return _dynamic_product(graph, x, graph.add("Transpose", values, perm=[1, 0]), scales)


def _dynamic_rows(graph: Graph, ids: str, name: str, table: np.ndarray) -> str:
    values, scales = _stored_rows(graph, name, table, transposed=False)
    scale = graph.add("Unsqueeze", graph.add("Gather", scales, ids), graph.ints(-1))
    return graph.add("Mul", _centred(graph, graph.add("Gather", values, ids)), scale)


def _centred(graph: Graph, values: str) -> str:
    return graph.add("Sub", graph.add("Cast", values, to=TYPES["float32"]), graph.number(float(_CENTRE)))


STORAGES = {
    "float32": Storage(_float_linear, Tables(_float_rows, _float_logits)),
    "blocks": Storage(_blocks_linear, Tables(_blocks_rows, _blocks_product)),
    "dynamic": Storage(_dynamic_linear, Tables(_dynamic_rows, _dynamic_logits)),
}
