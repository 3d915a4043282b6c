"""ONNX graphs written node by node: names, weights, branches."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

OPSET, IR_VERSION = 20, 10  # opset 20 has Gelu; both are read by ONNX Runtime since 1.18
TYPES = {"int64": TensorProto.INT64, "float32": TensorProto.FLOAT, "bool": TensorProto.BOOL}
Shape = Sequence[int | str]  # a text is the name of a size that is known at run time


class Graph:
    """The nodes of a graph, or of one branch of it; branches see the weights and values of the whole graph.

    Attributes:
      nodes: in the order of their computation.
      weights: name → array, of the whole graph.
    """

    def __init__(self, prefix: str = "", weights: dict[str, np.ndarray] | None = None) -> None:
        self.prefix = prefix
        self.nodes: list[onnx.NodeProto] = []
        self.weights: dict[str, np.ndarray] = {} if weights is None else weights

    def branch(self, prefix: str) -> "Graph":
        """Returns a graph for one branch of an `If`; its names begin with `prefix`."""
        return Graph(f"{self.prefix}{prefix}/", self.weights)

    def add(self, op: str, *inputs: str, domain: str = "", name: str = "", **attributes: Any) -> str:
        """Adds a node with one output and returns the name of its output."""
        return self.add_split(op, *inputs, outputs=1, domain=domain, names=[name] if name else None, **attributes)[0]

    def add_split(
        self, op: str, *inputs: str, outputs: int, domain: str = "", names: Sequence[str] | None = None,
        **attributes: Any,
    ) -> list[str]:  # fmt: skip
        """Adds a node with several outputs and returns their names."""
        number = len(self.nodes)
        found = list(names or [f"{self.prefix}{op}_{number}" + (f"_{i}" if i else "") for i in range(outputs)])
        self.nodes.append(
            helper.make_node(op, inputs, found, f"{self.prefix}{op}_{number}", domain=domain, **attributes)
        )
        return found

    def weight(self, name: str, array: Any) -> str:
        """Stores an array under a name, once, and returns the name."""
        if name not in self.weights:
            self.weights[name] = np.ascontiguousarray(array)
        return name

    def ints(self, *values: int) -> str:
        """Returns the name of a constant, int64 [number of values]."""
        return self.weight(f"ints/{'_'.join(map(str, values))}", np.array(values, np.int64))

    def number(self, value: float) -> str:
        """Returns the name of a constant, float32 without axes."""
        return self.weight(f"number/{value!r}", np.float32(value))

    def size(self, value: str, axis: int) -> str:
        """Returns one size of an array, int64 [1]."""
        return self.add("Shape", value, start=axis, end=axis + 1)

    def reshape(self, value: str, *shape: int) -> str:
        """Reshapes; 0 keeps a size, -1 is what is left."""
        return self.add("Reshape", value, self.ints(*shape))


def value_info(name: str, kind: str, shape: Shape) -> onnx.ValueInfoProto:
    """Describes an input or output of a graph."""
    return helper.make_tensor_value_info(name, TYPES[kind], list(shape))


def make_model(
    graph: Graph, inputs: Sequence[onnx.ValueInfoProto], outputs: Sequence[onnx.ValueInfoProto],
    metadata: Mapping[str, str],
) -> onnx.ModelProto:  # fmt: skip
    """Returns the model of a graph with its weights."""
    weights = [numpy_helper.from_array(array, name) for name, array in graph.weights.items()]
    model = helper.make_model(
        helper.make_graph(graph.nodes, "model", inputs, outputs, weights),
        opset_imports=[helper.make_opsetid("", OPSET), helper.make_opsetid("com.microsoft", 1)],
        ir_version=IR_VERSION,
        producer_name="nash_jax",
    )
    helper.set_model_props(model, dict(metadata))
    return model
