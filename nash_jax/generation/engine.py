"""Generation for inputs of any length with few compilations: lengths are padded up to buckets."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.generation.cache import encode
from nash_jax.generation.greedy import greedy
from nash_jax.models import build
from nash_jax.spec import ModelSpec
from nash_jax.tree import map_with_path


def bucket(length: int) -> int:
    """The least of 8, 12, 16, 24, 32, 48, 64, 96, … that is not below `length`."""
    size = 8
    while size < length:
        size = size * 3 // 2 if size & (size - 1) == 0 else size * 4 // 3
    return size


def batch_bucket(rows: int) -> int:
    """The least power of two that is not below `rows`."""
    return 1 << max(rows - 1, 0).bit_length()


def untie(spec: ModelSpec, params: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """The same function with an LM head of its own, [d_model, vocab]: faster in decoding than the tied table."""
    if not spec.tied:
        return spec, dict(params)
    return dataclasses.replace(spec, tied=False), {**params, "lm_head": _tied_head(params)}


def _tied_head(params: Mapping[str, Any]) -> np.ndarray:
    """The decoder's embedding table as an LM head, [d_model, vocab]."""
    table = params["shared" if "shared" in params else "decoder"]["embedding"]
    return np.ascontiguousarray(np.asarray(table).T)


class Engine:
    """A model ready to generate: parameters on the device in the compute dtype, jitted functions.

    Args:
      spec: the model's shape.
      params: its parameters.
      dtype: compute dtype.
    """

    def __init__(self, spec: ModelSpec, params: Mapping[str, Any], dtype: Any = jnp.float32) -> None:
        self.spec, own = untie(spec, params)
        self.model = build(self.spec, dtype=jnp.dtype(dtype))
        self._encode = jax.jit(self._encode_fn, static_argnums=3)
        self._generate = jax.jit(self._generate_fn, static_argnums=(4, 5))
        self._logits = jax.jit(lambda params, *inputs: self.model.apply({"params": params}, *inputs))
        self.update(own)

    def update(self, params: Mapping[str, Any]) -> None:
        """Takes other parameters of the same shapes (of a tied model too); nothing compiles again."""
        if "lm_head" not in params:
            params = {**params, "lm_head": _tied_head(params)}
        self.params = map_with_path(lambda _, leaf: jnp.asarray(leaf, self.model.dtype), params)

    def _encode_fn(self, params: Any, input_ids: jax.Array, attention_mask: jax.Array, max_length: int) -> Any:
        return encode(self.model, params, input_ids, attention_mask, max_length)

    def _generate_fn(
        self, params: Any, input_ids: jax.Array, attention_mask: jax.Array, limit: jax.Array, max_length: int,
        eos_id: int,
    ) -> jax.Array:  # fmt: skip
        encoded = encode(self.model, params, input_ids, attention_mask, max_length)
        return greedy(self.model, params, encoded, limit, max_length, eos_id)

    def generate(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int, *, stop_at_eos: bool = True
    ) -> np.ndarray:
        """Greedy generation.

        Args:
          input_ids: int [B, S].
          attention_mask: [B, S] of 0/1.
          max_new_tokens: tokens to generate at most.
          stop_at_eos: rows end at EOS; otherwise every row gets `max_new_tokens` tokens.

        Returns:
          int32 [B, 1 + T]: the decoder's start token and what was generated, padded; T is the longest
          row's length, EOS included.
        """
        rows, ids, mask = self.pad(input_ids, attention_mask)
        eos_id = self.spec.eos_id if stop_at_eos else -1
        limit = jnp.asarray(max_new_tokens, jnp.int32)
        tokens = np.asarray(self._generate(self.params, ids, mask, limit, bucket(max_new_tokens), eos_id))
        tokens = tokens[:rows, : max_new_tokens + 1]
        if not stop_at_eos:
            return tokens
        ended = tokens[:, 1:] == eos_id
        lengths = np.where(ended.any(1), ended.argmax(1) + 1, max_new_tokens)
        return tokens[:, : 1 + int(lengths.max(initial=0))]

    def encode_only(self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int) -> Any:
        """What `generate` does before its first token: for timing."""
        _, ids, mask = self.pad(input_ids, attention_mask)
        return jax.block_until_ready(self._encode(self.params, ids, mask, bucket(max_new_tokens)))

    def logits(self, input_ids: np.ndarray, attention_mask: np.ndarray, decoder_input_ids: np.ndarray) -> np.ndarray:
        """Teacher-forced logits, float32 [B, T, V]."""
        inputs = (jnp.asarray(x, jnp.int32) for x in (input_ids, attention_mask, decoder_input_ids))
        return np.asarray(self._logits(self.params, *inputs))

    def pad(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> tuple[int, jax.Array, jax.Array]:
        """(rows, ids, mask) padded to a batch bucket and a length bucket; padding rows attend to one token."""
        rows, length = input_ids.shape
        ids = np.full((batch_bucket(rows), bucket(length)), self.spec.pad_id, np.int32)
        mask = np.zeros(ids.shape, np.int32)
        ids[:rows, :length], mask[:rows, :length] = input_ids, attention_mask
        mask[rows:, 0] = 1
        return rows, jnp.asarray(ids), jnp.asarray(mask)
