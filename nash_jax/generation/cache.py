"""Cached decoding: the state carried from step to step, and values computed once for a batch.

Letters: B inputs, R decoded rows (a multiple of B), S source length, T decoder positions, N heads, H head size, V
vocabulary size.
"""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp

from nash_jax.models.layers import attention_bias
from nash_jax.runtime.mesh import split_heads

KeysValues = tuple[jax.Array, jax.Array]
Cache = list[KeysValues | None]


class BeamCache(NamedTuple):
    """Self-attention keys and values of beams, which read positions from the beams that computed them.

    Attributes:
      layers: keys and values [B·K, N, T, H] of each layer (None: no heads).
      ancestors: the beam of the same input that has each position of a beam, int32 [B, K, T].
    """

    layers: Cache
    ancestors: jax.Array


class Encoded(NamedTuple):
    """Values computed once for a batch.

    Attributes:
      cross: cross-attention keys and values [B, N, S, H] of each decoder layer (None: sub-layer removed).
      cross_bias: additive padding bias, float32 [B, 1, 1, S].
      bias: self-attention bias for T positions, from `decode_bias` of the model.
    """

    cross: Cache
    cross_bias: jax.Array
    bias: Any


class CachedDecoder:
    """A model and an encoded batch.

    Args:
      model: a module of `nash_jax.models`.
      params: its parameters.
      encoded: from `encode`.
    """

    def __init__(self, model: Any, params: Any, encoded: Encoded) -> None:
        self.model, self.params, self.encoded = model, params, encoded

    def step(self, token_ids: jax.Array, position: jax.Array, cache: Any) -> tuple[jax.Array, Any]:
        """Decodes one step: tokens [R] at a position → logits [R, V] float32, and the updated cache."""
        (cross, cross_bias, bias), layers, ancestors = self.encoded, cache, None
        if isinstance(cache, BeamCache):
            layers, own = cache.layers, _own_beams(*cache.ancestors.shape[:2])
            ancestors = set_column(cache.ancestors, own, position)
        given = (token_ids, position, layers, bias, cross, cross_bias, ancestors)
        logits, layers = self.model.apply({"params": self.params}, *given, method="decode_step")
        return logits, layers if ancestors is None else BeamCache(layers, ancestors)

    def start_cache(self, prompt: jax.Array, prompt_length: jax.Array, times: int, long_prompt: bool) -> Any:
        """Returns the cache with all tokens of the prompts except the last.

        Args:
          prompt: int32 [B, T+1].
          prompt_length: number of prompt tokens, int32 scalar.
          times: cache rows for each row of the prompt.
          long_prompt: whether the prompts may have more than one token; static.
        """
        rows, length = prompt.shape
        if not long_prompt:
            return self.empty_cache(rows * times, length - 1)
        # the logits are not used, so XLA removes the LM head from the compiled loop
        cache = jax.lax.fori_loop(
            0,
            prompt_length - 1,
            lambda position, cache: self.step(get_column(prompt, position), position, cache)[1],
            self.empty_cache(rows, length - 1),
        )
        return self.repeat(cache, times)

    def start_beams(self, prompt: jax.Array, prompt_length: jax.Array, num_beams: int, long_prompt: bool) -> Any:
        """As `start_cache`, for so many beams of each prompt."""
        layers = self.start_cache(prompt, prompt_length, num_beams, long_prompt)
        own = _own_beams(len(prompt), num_beams)
        return BeamCache(layers, jnp.broadcast_to(own[..., None], (*own.shape, prompt.shape[1] - 1)))

    def empty_cache(self, rows: int, max_length: int) -> Any:
        """Returns an empty cache: self-attention keys and values [R, N, T, H] for each layer with heads."""
        spec, dtype = self.model.spec, self.model.dtype

        def zeros(heads: int) -> KeysValues | None:
            shape = (rows, heads, max_length, spec.head_dim_of("decoder"))
            return (split_heads(jnp.zeros(shape, dtype)), split_heads(jnp.zeros(shape, dtype))) if heads else None

        return [zeros(len(layer.self_heads)) for layer in spec.decoder]

    def repeat(self, cache: Any, times: int) -> Any:
        """Returns the cache with each row so many times, one after the other."""
        return jax.tree.map(lambda x: jnp.repeat(x, times, axis=0), cache)

    def best_tokens(self, scores: jax.Array) -> jax.Array:
        """Returns the token of each row with the highest of scores [R, V], int32 [R]."""
        return jnp.argmax(scores, axis=-1).astype(jnp.int32)

    def reorder(self, cache: Any, parents: jax.Array) -> Any:
        """Returns the cache of beams that continue those of the given numbers, int32 [B, K], of the same input.

        Indices of each input by itself, so that a mesh which splits the inputs exchanges nothing. Keys and values stay
        where they are, but on CPUs (see `Attention.attend_step`).
        """

        def follow(cache: BeamCache) -> BeamCache:
            return cache._replace(ancestors=pick_beams(cache.ancestors, parents))

        def copy(cache: BeamCache) -> BeamCache:
            by_input = jax.tree.map(lambda x: x.reshape(*parents.shape, *x.shape[1:]), cache.layers)
            picked = pick_beams(by_input, parents)
            return cache._replace(layers=jax.tree.map(lambda x, own: own.reshape(x.shape), cache.layers, picked))

        return jax.lax.platform_dependent(cache, cpu=copy, default=follow)


def _own_beams(inputs: int, num_beams: int) -> jax.Array:
    """The number of each beam, int32 [B, K]."""
    return jnp.broadcast_to(jnp.arange(num_beams, dtype=jnp.int32)[None], (inputs, num_beams))


def pick_beams(tree: Any, index: jax.Array) -> Any:
    """Returns the entries [B, K] along the second axis of arrays [B, M, ...]."""
    return jax.tree.map(
        lambda x: jnp.take_along_axis(x, index.reshape(*index.shape, *[1] * (x.ndim - 2)), axis=1), tree
    )


def encode(model: Any, params: Any, input_ids: jax.Array, attention_mask: jax.Array, max_length: int) -> Encoded:
    """Runs the encoder and computes everything that decoding needs once.

    Args:
      model: a module of `nash_jax.models`.
      params: its parameters.
      input_ids: int [B, S].
      attention_mask: [B, S] of 0/1.
      max_length: T, number of decoder positions.
    """
    variables = {"params": params}
    encoded, _ = model.apply(variables, input_ids, attention_mask, method="encode")
    cross = model.apply(variables, encoded, method="cross_keys_values")
    return Encoded(cross, attention_bias(attention_mask), model.apply(variables, max_length, method="decode_bias"))


def get_column(tokens: jax.Array, position: jax.Array) -> jax.Array:
    """Returns the tokens [R] at a position of [R, L]."""
    return jax.lax.dynamic_index_in_dim(tokens, position, axis=1, keepdims=False)


def set_column(tokens: jax.Array, column: jax.Array, position: jax.Array) -> jax.Array:
    """Returns tokens [..., L] with `column` [...] written at a position of the last axis."""
    return jax.lax.dynamic_update_index_in_dim(tokens, column, position, axis=-1)
