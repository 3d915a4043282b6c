"""Blocks that T5's encoder and decoder are made of.

Letters: B batch, T queries, S keys, D d_model, N heads, H head size, F FFN units, V vocabulary.
Masks multiply in three places (REFERENCE: CoFi, section 3): heads on the attention context, units on the
activated hidden values, sub-layers on the sub-layer's output; a d_model mask multiplies embeddings and
sub-layer outputs. A mask left out is all ones.
"""

from collections.abc import Callable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

Masks = Mapping[str, jax.Array]
Dtype = jnp.dtype | type

NEGATIVE = -1e9  # added to scores that must not be attended to; finite, so a row of padding stays finite

ACTIVATION_FNS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
}


def apply_mask(x: jax.Array, masks: Masks | None, name: str) -> jax.Array:
    """x [..., M] times the mask of that name ([M] or a scalar), if there is one."""
    if masks is None or name not in masks:
        return x
    return x * jnp.broadcast_to(masks[name].astype(x.dtype), x.shape)


def attention_bias(attention_mask: jax.Array) -> jax.Array:
    """Padding mask [B, S] of 0/1 → additive bias [B, 1, 1, S], float32."""
    return jnp.where(attention_mask[:, None, None, :] > 0, 0.0, NEGATIVE).astype(jnp.float32)


class RMSNorm(nn.Module):
    """x / sqrt(mean(x²) + eps) · scale, no centring, no bias (T5's layer norm), in float32.

    Under a d_model mask the mean is over kept dimensions only, so that the norm equals the norm of the
    narrower model.
    """

    eps: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, masks: Masks | None = None) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        total = jnp.sum(jnp.square(x), axis=-1, keepdims=True)
        if masks is None or "embed" not in masks:
            count: jax.Array | int = x.shape[-1]
        else:
            count = jnp.maximum(jnp.sum(masks["embed"] > 0), 1)
        return (x * jax.lax.rsqrt(total / count + self.eps) * jnp.broadcast_to(scale, x.shape)).astype(self.dtype)


class FeedForward(nn.Module):
    """The FFN sub-layer: norm, one or two input projections, activation, output projection."""

    name_in_spec: str
    units: int
    activation: str
    gated: bool
    eps: float
    dropout_rate: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, masks: Masks | None = None, *, deterministic: bool = True) -> jax.Array:
        d_model, dense = x.shape[-1], nn.initializers.normal
        act = ACTIVATION_FNS[self.activation]
        x = RMSNorm(self.eps, self.dtype, name="norm")(x, masks)
        wi_shape = (d_model, 2, self.units) if self.gated else (d_model, self.units)
        wi = self.param("wi", dense(d_model**-0.5), wi_shape).astype(self.dtype)
        if self.gated:
            hidden = x @ wi.reshape(d_model, -1)  # [B, T, 2F]: the activated half, then the linear half
            hidden = act(hidden[..., : self.units]) * hidden[..., self.units :]
        else:
            hidden = act(x @ wi)  # [B, T, F]
        hidden = apply_mask(hidden, masks, f"{self.name_in_spec}.units")
        hidden = nn.Dropout(self.dropout_rate)(hidden, deterministic=deterministic)
        wo = self.param("wo", dense(self.units**-0.5), (self.units, d_model)).astype(self.dtype)
        return apply_mask(hidden @ wo, masks, self.name_in_spec)


class Attention(nn.Module):
    """An attention sub-layer without scaling of the scores (T5), over the kept heads only.

    Self-attention owns one fused kernel for query, key and value, cross-attention one for the query and a
    fused one for key and value, so that a step reads few, large arrays.
    """

    name_in_spec: str
    num_heads: int
    head_dim: int
    d_model: int
    cross: bool
    eps: float
    dropout_rate: float
    dtype: Dtype

    def setup(self) -> None:
        self.norm = RMSNorm(self.eps, self.dtype)
        shape, normal = (self.num_heads, self.head_dim), nn.initializers.normal
        if self.cross:
            query_std = (self.d_model * self.head_dim) ** -0.5
            self.q = self.param("q", normal(query_std), (self.d_model, *shape))
            self.kv = self.param("kv", normal(self.d_model**-0.5), (self.d_model, 2, *shape))
        else:
            self.qkv = self.param("qkv", _fused_init, (self.d_model, 3, *shape))
        self.out = self.param("out", normal((self.num_heads * self.head_dim) ** -0.5), (*shape, self.d_model))
        self.dropout = nn.Dropout(self.dropout_rate)

    def _project(self, x: jax.Array, kernel: jax.Array) -> jax.Array:
        """x [B, T, D] · kernel [D, ...] → [B, T, ...] as one matrix product."""
        y = x @ kernel.astype(self.dtype).reshape(self.d_model, -1)
        return y.reshape(*x.shape[:-1], *kernel.shape[1:])

    def keys_values(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Cross-attention keys and values, each [B, S, N, H], of encoder output [B, S, D]."""
        kv = self._project(encoded.astype(self.dtype), self.kv)  # [B, S, 2, N, H]
        return kv[:, :, 0], kv[:, :, 1]

    def query_keys_values(self, x: jax.Array, masks: Masks | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Self-attention query, key and value, each [B, T, N, H], of the sub-layer's input [B, T, D]."""
        qkv = self._project(self.norm(x, masks), self.qkv)  # [B, T, 3, N, H]
        return qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]

    def query(self, x: jax.Array, masks: Masks | None = None) -> jax.Array:
        """Cross-attention query [B, T, N, H] of the sub-layer's input [B, T, D]."""
        return self._project(self.norm(x, masks), self.q)

    def attend(
        self,
        query: jax.Array,
        key: jax.Array,
        value: jax.Array,
        bias: jax.Array,
        masks: Masks | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Softmax attention and output projection.

        Args:
          query: [B, T, N, H].
          key: [B, S, N, H].
          value: [B, S, N, H].
          bias: added to the scores, broadcastable to [B, N, T, S], float32.
          masks: masks by name.
          deterministic: no dropout.

        Returns:
          The sub-layer's output, [B, T, D].
        """
        scores = jnp.einsum("BTNH,BSNH->BNTS", query, key, preferred_element_type=jnp.float32)
        weights = jax.nn.softmax(scores + bias, axis=-1).astype(self.dtype)
        weights = self.dropout(weights, deterministic=deterministic)
        context = jnp.einsum("BNTS,BSNH->BTNH", weights, value)
        heads = f"{self.name_in_spec}.heads"
        if masks is not None and heads in masks:
            context = context * masks[heads].astype(context.dtype)[None, None, :, None]
        context = context.reshape(*context.shape[:2], -1)  # [B, T, N·H]
        out = context @ self.out.astype(self.dtype).reshape(-1, self.d_model)
        return apply_mask(out, masks, self.name_in_spec)


def _fused_init(rng: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
    """T5's initial values for a fused [D, 3, N, H] kernel: D**-0.5, the query's divided by sqrt(H)."""
    std = jnp.array([shape[-1] ** -0.5, 1.0, 1.0])[:, None, None] * shape[0] ** -0.5
    return jax.random.normal(rng, shape, dtype) * std[None]


class RelativePositionBias(nn.Module):
    """T5's bucketed relative-position bias: one table for a stack, a column for each original head."""

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
    """Bucket of each relative position: exact for small distances, logarithmic up to `max_distance`.

    Args:
      relative_position: key position minus query position, int32 of any shape.
      bidirectional: separate buckets for keys after the query (encoder); otherwise they share bucket 0.
      num_buckets: buckets in all.
      max_distance: from here on everything shares the last bucket.

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
