"""Position encodings: T5's relative-position bias, and sinusoids."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np

from nash_jax.spec import ModelSpec


def position_table(spec: ModelSpec) -> np.ndarray:
    """Returns the fixed position embeddings of a model with sinusoids, float32 [positions, d_model].

    Args:
      spec: the model; its `positions` choose the formula.
    """
    length = spec.axis_sizes()["positions"]
    if spec.positions == "sinusoidal":
        return sinusoids(length, spec.d_model)
    return token_sinusoids(length, spec.d_model, first=spec.pad_id + 1)


def sinusoids(length: int, width: int) -> np.ndarray:
    """Returns fixed position embeddings, float32 [length, width]: sines in the first half, cosines in the second.

    Feature i of each half has the frequency 10000^(-2i / width) radians per position (Vaswani et al. 2017, section
    3.5); the features are ordered as in Marian and Pegasus.
    """
    sines = (width + 1) // 2
    rates = 10000.0 ** (-2 * np.arange(sines) / width)
    angles = np.arange(length)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles[:, : width - sines])], axis=1).astype(np.float32)


def token_sinusoids(length: int, width: int, first: int) -> np.ndarray:
    """Returns M2M100's fixed position embeddings, float32 [length, width]: sines in the first half, then cosines.

    Feature i of each half has the frequency 10000^(-i / (width // 2 - 1)); an odd width ends with zeros. Exponents,
    frequencies and angles are rounded to float32, as in transformers: at position 1000 this changes the sine by 1e-4.

    Args:
      length: number of positions.
      width: number of features.
      first: number of the first position: padding id + 1.
    """
    half = width // 2
    exponents = np.arange(half, dtype=np.float32) * np.float32(-np.log(10000.0) / max(half - 1, 1))
    rates = np.exp(exponents.astype(np.float64)).astype(np.float32)  # NumPy's exp of float32 is less exact
    angles = np.arange(first, first + length, dtype=np.float32)[:, None] * rates
    return np.concatenate([np.sin(angles), np.cos(angles), np.zeros((length, width % 2), np.float32)], axis=1)


class RelativePositionBias(nn.Module):
    """T5's bucketed relative-position bias, with a column for each head (Raffel et al. 2020, section 2.1)."""

    num_buckets: int
    max_distance: int
    num_heads: int
    bidirectional: bool

    def setup(self) -> None:
        shape = (self.num_buckets, self.num_heads)
        self.embedding = self.param("embedding", nn.initializers.normal(0.1), shape)

    def __call__(self, relative_position: jax.Array) -> jax.Array:
        """Key position minus query position, int [...] → bias [N, ...], float32."""
        buckets = relative_position_bucket(
            relative_position,
            bidirectional=self.bidirectional,
            num_buckets=self.num_buckets,
            max_distance=self.max_distance,
        )
        return jnp.moveaxis(self.embedding[buckets].astype(jnp.float32), -1, 0)


def relative_position_bucket(
    relative_position: jax.Array, *, bidirectional: bool, num_buckets: int, max_distance: int
) -> jax.Array:
    """Returns the bucket of each relative position: exact for small distances, logarithmic up to `max_distance`.

    Args:
      relative_position: key position minus query position, int32 of any shape.
      bidirectional: use separate buckets for keys after the query (encoder); otherwise they share bucket 0.
      num_buckets: total number of buckets.
      max_distance: all distances from here on share the last bucket.

    Returns:
      int32 of the same shape, in [0, num_buckets). Source: T5 (Raffel et al. 2020, section 2.1).
    """
    offset = jnp.zeros_like(relative_position)
    if bidirectional:
        num_buckets //= 2
        offset = jnp.where(relative_position > 0, num_buckets, 0)
        distance = jnp.abs(relative_position)
    else:
        distance = jnp.maximum(-relative_position, 0)
    exact = num_buckets // 2
    ratio = jnp.log(jnp.maximum(distance, 1).astype(jnp.float32) / exact) / jnp.log(max_distance / exact)
    far = exact + (ratio * (num_buckets - exact)).astype(jnp.int32)
    return offset + jnp.where(distance < exact, distance, jnp.minimum(far, num_buckets - 1))
