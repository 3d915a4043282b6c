"""Places of kept heads in formats that give all layers of a stack as many heads.

Letters: D d_model, N heads of the stack in the format, H head size, n kept heads of a layer.
"""

import dataclasses
from collections.abc import Sequence

import numpy as np

from nash_jax.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class HeadSlots:
    """Where the heads of one stack go.

    Attributes:
      count: N.
      columns: original head id of each slot in a shared position-bias table, or None where no layer has one.
    """

    count: int
    columns: tuple[int | None, ...]

    def places(self, heads: Sequence[int], by_id: bool) -> list[int]:
        """Returns the slot of each kept head of a layer.

        Args:
          heads: kept head ids.
          by_id: whether the slot has to have the head's column of the position-bias table.
        """
        return [self.columns.index(head) for head in heads] if by_id else list(range(len(heads)))


def head_slots(spec: ModelSpec, side: str) -> HeadSlots:
    """Returns the smallest number of slots that holds every layer of a stack.

    With a position-bias table that layers share, a head's slot is that of its column, so heads that no layer keeps
    have none; otherwise the kept heads of a layer stand at the front.

    Args:
      spec: the model.
      side: `encoder` or `decoder`.
    """
    layers = spec.encoder if side == "encoder" else spec.decoder
    own = [layer.heads if hasattr(layer, "heads") else layer.self_heads for layer in layers]
    cross = [layer.cross_heads for layer in layers if hasattr(layer, "cross_heads")]
    shared = sorted({head for heads in own for head in heads}) if spec.positions == "relative" else []
    count = max([1, len(shared), *map(len, own), *map(len, cross)])
    return HeadSlots(count, (*shared, *[None] * (count - len(shared))))


def pad_heads(weight: np.ndarray, axis: int, count: int, places: Sequence[int]) -> np.ndarray:
    """Returns a weight whose axis of n kept heads has `count` slots, zeros in the others.

    Args:
      weight: float array with n entries along the axis.
      axis: of the heads.
      count: N.
      places: slot of each kept head.
    """
    shape = (*weight.shape[:axis], count, *weight.shape[axis + 1 :])
    padded = np.zeros(shape, np.float32)
    padded[(slice(None),) * axis + (list(places),)] = weight
    return padded
