"""What a vocabulary costs: bytes of the model, and the LM head among the weights that a generated token reads."""

import dataclasses
import math

from nash_jax.axes import param_axes
from nash_jax.spec import ModelSpec


@dataclasses.dataclass(frozen=True)
class VocabularySize:
    """Size of a model and of its LM head, in float32.

    Attributes:
      tokens: rows of the embedding table.
      model_bytes: bytes of all parameters.
      token_bytes: bytes of the weights that a decoding step reads: decoder without embeddings, and LM head.
      head_bytes: those of the LM head among them.
    """

    tokens: int
    model_bytes: int
    token_bytes: int
    head_bytes: int

    @property
    def head_share(self) -> float:
        """Share of the LM head in the weights that a token reads, from 0 to 1."""
        return self.head_bytes / self.token_bytes


def vocabulary_size(spec: ModelSpec) -> VocabularySize:
    """Returns the sizes of a model.

    Keys and values of the cross-attention are computed once for each input, so a token does not read their weights.

    Args:
      spec: the model.
    """
    sizes = spec.axis_sizes()
    of_path = {path: 4 * math.prod(sizes[axis] for axis in axes) for path, axes in param_axes(spec).items()}
    head = 4 * spec.vocab_size * spec.d_model + of_path.get("logits_bias", 0)
    layers = sum(size for path, size in of_path.items() if _is_read(path))
    return VocabularySize(spec.vocab_size, sum(of_path.values()), layers + head, head)


def _is_read(path: str) -> bool:
    tables = ("decoder/embedding", "decoder/positions", "decoder/position_bias")
    return path.startswith("decoder/") and not path.startswith(tables) and "cross_attention/kv" not in path
