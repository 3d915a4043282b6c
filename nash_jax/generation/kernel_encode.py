"""The encoder on a CPU: attention by a kernel, and products of 8 bits where the weights are rounded to these.

Letters: B inputs, S source length, R = B · S rows, D d_model, N heads, H head size.
"""

from typing import Any

import jax
import jax.numpy as jnp

from nash_jax.generation.cache import Encoded, KeysValues
from nash_jax.generation.kernel_layers import KernelLayers, Packed, as_matrix, layer_bias
from nash_jax.kernels.attention import attend_sequence, attend_sequence_by_xla
from nash_jax.kernels.matrices import quantized_product, round_rows
from nash_jax.models.attention import by_head
from nash_jax.models.layers import attention_bias


class KernelEncoder(KernelLayers):
    """The encoder of a model, and the keys and values of cross-attention.

    Args:
      model: a module of `nash_jax.models`, float32.
      params: its parameters; in int8 rounded, those that are packed are not read.
      packed: its matrices of 8 bits, path → matrix; in float32 none. None: nothing is computed by kernels.
      int8: the rows that are multiplied by a matrix are rounded to 8 bits too, with a factor for each row.
    """

    def __init__(self, model: Any, params: Any, packed: Packed | None, *, int8: bool) -> None:
        super().__init__(model, params, "encoder")
        self.packed, self.int8 = packed, int8
        self._attend = attend_sequence_by_xla if packed is None else attend_sequence

    def encode(self, input_ids: jax.Array, attention_mask: jax.Array, max_length: int) -> Encoded:
        """As `nash_jax.generation.cache.encode`; what lies after the last token of a source may differ."""
        padding, length = attention_bias(attention_mask), input_ids.shape[1]
        bias = self._apply(length, method="source_bias")
        bias = jnp.zeros((1, 2 * length - 1)) if bias is None else bias
        embedded = self._apply(input_ids, method="embed_source")
        x = embedded.reshape(-1, embedded.shape[2])  # [R, D]
        for i, layer in enumerate(self.layers):
            x = self._attend_self(i, x, layer_bias(bias, i, layer.heads), padding[:, 0, 0])
            x = self.transform(i, x)
        x = self._apply(x, method="encoder_output")
        cross = [self._cross(i, x, len(input_ids)) for i in range(len(self.model.spec.decoder))]
        return Encoded(cross, padding, self._apply(max_length, method="decode_bias"))

    def multiply(self, path: str, x: jax.Array) -> jax.Array:
        """As `KernelLayers.multiply`."""
        if self.packed and path in self.packed:
            return quantized_product(x, self.packed[path])
        return (round_rows(x) if self.int8 else x) @ as_matrix(path, self.flat[path])

    def _apply(self, *args: Any, method: str) -> Any:
        return self.model.apply({"params": self.params}, *args, method=method)

    def _attend_self(self, index: int, x: jax.Array, bias: jax.Array | None, padding: jax.Array) -> jax.Array:
        """Residual stream x [R, D], bias [N, 2S-1] (None: no heads), padding bias [B, S] → [R, D]."""
        path = f"encoder/layers_{index}/attention"
        if bias is None:
            return self.add(path, "out", x, None)
        qkv, even = self.project(f"{path}/qkv", self.sublayer_input(path, x)), not self.model.spec.absolute_positions
        context = self._attend(qkv, bias, padding, self.scale, attends_padding=even)
        return self.add(path, "out", x, context)

    def _cross(self, index: int, x: jax.Array, rows: int) -> KeysValues | None:
        """Keys and values [B, N, S, H] of a decoder layer from the encoder's output [R, D]."""
        heads = len(self.model.spec.decoder[index].cross_heads)
        if not heads:
            return None
        found = self.project(f"decoder/layers_{index}/cross_attention/kv", x)
        found = found.reshape(rows, x.shape[0] // rows, 2, heads, -1)
        return by_head(found[:, :, 0]), by_head(found[:, :, 1])
