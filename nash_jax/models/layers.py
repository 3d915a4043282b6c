"""Sub-layers of encoders and decoders.

Letters: B batch, T queries, S keys, D d_model, N heads, H head size, F FFN units, V vocabulary size.
Masks multiply activations as in CoFi (Xia et al. 2022, section 3): head masks the attention context, unit masks the
activated hidden values, sub-layer masks the output of a sub-layer; a d_model mask multiplies embeddings and sub-layer
outputs. A missing mask is equal to ones.
With `apply(…, mutable=["intermediates"])` the values that masks act on are returned too: `heads` and `units` under
their masks, `output` and `embed` before theirs.
"""

from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nash_jax.models.attention import attend_few, attention_context, attention_scores, by_head
from nash_jax.models.dropout import Dropout
from nash_jax.models.positions import RelativePositionBias
from nash_jax.runtime.mesh import split_rows, splits_model
from nash_jax.spec import ModelSpec

Masks = Mapping[str, jax.Array]
Dtype = jnp.dtype | type

MASK_VALUE = -1e9  # added to the scores of masked positions; finite, so a row of padding stays finite

ACTIVATION_FNS: dict[str, Callable[[jax.Array], jax.Array]] = {
    "relu": jax.nn.relu,
    "gelu": lambda x: jax.nn.gelu(x, approximate=False),
    "gelu_tanh": lambda x: jax.nn.gelu(x, approximate=True),
    "silu": jax.nn.silu,
}


def apply_mask(x: jax.Array, masks: Masks | None, name: str) -> jax.Array:
    """Multiplies x [..., M] by the mask of that name ([M] or a scalar), if there is one."""
    if masks is None or name not in masks:
        return x
    return x * jnp.broadcast_to(masks[name].astype(x.dtype), x.shape)


def project(x: jax.Array, weight: jax.Array, bias: jax.Array | None = None) -> jax.Array:
    """Computes x [..., D] · weight [D, ...] + bias [...] → [..., ...] as one matrix product.

    Axes of the weight that the mesh splits are not merged with others, for which each device would need all of them.

    Args:
      x: activations.
      weight: in the dtype of `x`.
      bias: None: none is added.
    """
    if splits_model():
        y = jnp.tensordot(x, weight, 1)
    else:
        y = (x @ weight.reshape(weight.shape[0], -1)).reshape(*x.shape[:-1], *weight.shape[1:])
    return y if bias is None else y + jnp.broadcast_to(bias.astype(y.dtype), y.shape)


def beam_bias(bias: jax.Array, ancestors: jax.Array) -> jax.Array:
    """The bias of the K beams of an input to the positions of all of them, of which each reads those of its ancestors.

    Args:
      bias: float32 [1, N, 1, T].
      ancestors: the beam that has computed each position of a beam, int32 [B, K, T].

    Returns:
      float32 [B, N, K, K·T].
    """
    (count, beams, length), heads = ancestors.shape, bias.shape[1]
    own = ancestors[:, None, :, None] == jnp.arange(beams)[None, None, None, :, None]  # [B, 1, K, K, T]
    shape = (count, heads, beams, beams, length)
    found = jnp.where(jnp.broadcast_to(own, shape), jnp.broadcast_to(bias[:, :, :, None], shape), MASK_VALUE)
    return found.reshape(count, heads, beams, beams * length)


def attention_bias(attention_mask: jax.Array) -> jax.Array:
    """Converts a padding mask [B, S] to an additive bias, float32 [B, 1, 1, S].

    1: a token; 0: padding, which T5 attends to evenly in a row of nothing else; negative: never attended to.
    """
    padding = jnp.where(attention_mask < 0, 2 * MASK_VALUE, MASK_VALUE)
    return jnp.where(attention_mask > 0, 0.0, padding)[:, None, None, :].astype(jnp.float32)


class RMSNorm(nn.Module):
    """T5's layer norm: x / sqrt(mean(x²) + eps) · scale, without mean subtraction and bias, in float32.

    With a d_model mask, the mean is over kept dimensions only, so the result equals that of the compacted model.
    """

    eps: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, masks: Masks | None = None) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        x = x.astype(jnp.float32)
        mean_square = jnp.sum(jnp.square(x), axis=-1, keepdims=True) / _kept(masks, x.shape[-1])
        return (x * jax.lax.rsqrt(mean_square + self.eps) * jnp.broadcast_to(scale, x.shape)).astype(self.dtype)


class LayerNorm(nn.Module):
    """(x - mean) / sqrt(variance + eps) · scale + bias, in float32; over kept dimensions only with a d_model mask."""

    eps: float
    dtype: Dtype

    @nn.compact
    def __call__(self, x: jax.Array, masks: Masks | None = None) -> jax.Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        bias = self.param("bias", nn.initializers.zeros, (x.shape[-1],))
        x, count = x.astype(jnp.float32), _kept(masks, x.shape[-1])
        kept = {"embed": masks["embed"] > 0} if masks is not None and "embed" in masks else None
        centred = apply_mask(x - jnp.sum(x, axis=-1, keepdims=True) / count, kept, "embed")
        variance = jnp.sum(jnp.square(centred), axis=-1, keepdims=True) / count
        y = centred * jax.lax.rsqrt(variance + self.eps) * jnp.broadcast_to(scale, x.shape)
        return apply_mask(y + jnp.broadcast_to(bias, x.shape), kept, "embed").astype(self.dtype)


def _kept(masks: Masks | None, width: int) -> jax.Array | int:
    """Number of residual dimensions kept by a d_model mask; activations of removed dimensions are 0."""
    return width if masks is None or "embed" not in masks else jnp.maximum(jnp.sum(masks["embed"] > 0), 1)


def make_norm(spec: ModelSpec, dtype: Dtype) -> RMSNorm | LayerNorm:
    """Returns the normalization layer of a spec."""
    return (RMSNorm if spec.norm == "rms" else LayerNorm)(spec.norm_eps, dtype)


class Sublayer(nn.Module):
    """Common part of attention and FFN: a norm before the sub-layer (pre-norm) or after the residual sum (post-norm).

    A sub-layer without heads or units still adds its output bias and, in post-norm models, still normalizes: this is
    the result of closing all its gates.

    Attributes:
      spec: spec of the whole model.
      place: name of the sub-layer in the spec, such as `decoder.0.cross_attention`.
      dtype: compute dtype.
    """

    spec: ModelSpec
    place: str
    dtype: Dtype

    @property
    def size(self) -> int:
        """Number of heads or units."""
        return self.spec.sublayers()[self.place][1]

    def _build_shared(self, bias_name: str) -> None:
        self.norm = make_norm(self.spec, self.dtype)
        self.dropout = Dropout(self.spec.dropout_rate)
        if self.spec.bias:
            self.output_bias = self.param(bias_name, nn.initializers.zeros, (self.spec.d_model,))

    def pre_norm_input(self, x: jax.Array, masks: Masks | None = None) -> jax.Array:
        """Returns the sub-layer's input from the residual stream [B, T, D]; normalized in pre-norm models."""
        return self.norm(x, masks) if self.spec.pre_norm else x

    def add_residual(
        self, x: jax.Array, product: jax.Array | None, masks: Masks | None = None, *, deterministic: bool = True
    ) -> jax.Array:
        """Adds the sub-layer's output to the residual stream.

        Args:
          x: residual stream before the sub-layer, [B, T, D].
          product: output of the output kernel, [B, T, D]; None if the sub-layer has no heads or units.
          masks: masks by name.
          deterministic: disable dropout.

        Returns:
          The residual stream after the sub-layer, [B, T, D].
        """
        y = jnp.zeros_like(x) if product is None else product
        if self.spec.bias:
            y = y + jnp.broadcast_to(self.output_bias.astype(self.dtype), y.shape)
        self.sow("intermediates", "output", y)
        y = apply_mask(apply_mask(y, masks, self.place), masks, "embed")
        x = split_rows(x + self.dropout(y, deterministic=deterministic))
        return x if self.spec.pre_norm else self.norm(x, masks)


class FeedForward(Sublayer):
    """The FFN sub-layer: one or two input projections, activation, output projection."""

    def setup(self) -> None:
        s, normal = self.spec, nn.initializers.normal
        self._build_shared("wo_bias")
        rate = s.dropout_rate if s.activation_dropout_rate is None else s.activation_dropout_rate
        self.hidden_dropout = Dropout(rate)
        if self.size == 0:
            return
        inner = (2, self.size) if s.gated else (self.size,)
        self.wi = self.param("wi", normal(s.d_model**-0.5), (s.d_model, *inner))
        self.wo = self.param("wo", normal(self.size**-0.5), (self.size, s.d_model))
        if s.bias:
            self.wi_bias = self.param("wi_bias", nn.initializers.zeros, inner)

    def __call__(self, x: jax.Array, masks: Masks | None = None, *, deterministic: bool = True) -> jax.Array:
        """Returns the residual stream [B, T, D] after the sub-layer."""
        if self.size == 0:
            return self.add_residual(x, None, masks, deterministic=deterministic)
        hidden = self._hidden(self.pre_norm_input(x, masks))
        hidden = apply_mask(hidden, masks, f"{self.place}.units")
        self.sow("intermediates", "units", hidden)
        hidden = self.hidden_dropout(hidden, deterministic=deterministic)
        return self.add_residual(x, hidden @ self.wo.astype(self.dtype), masks, deterministic=deterministic)

    def _hidden(self, x: jax.Array) -> jax.Array:
        act = ACTIVATION_FNS[self.spec.activation]
        hidden = project(x, self.wi.astype(self.dtype), self.wi_bias if self.spec.bias else None)  # [B, T, (2,) F]
        return act(hidden[..., 0, :]) * hidden[..., 1, :] if self.spec.gated else act(hidden)


class Attention(Sublayer):
    """An attention sub-layer with the kept heads.

    Self-attention has one fused kernel for query, key and value; cross-attention has one for the query and a fused one
    for key and value. So a decoding step reads few, large arrays.
    """

    def setup(self) -> None:
        s, side = self.spec, self.place.partition(".")[0]
        self._build_shared("out_bias")
        self.weight_dropout = Dropout(s.dropout_rate if s.attention_dropout_rate is None else s.attention_dropout_rate)
        if self.size == 0:
            return
        self.head_dim = s.head_dim_of(side)
        shape, normal = (self.size, self.head_dim), nn.initializers.normal
        # scores are not scaled in T5, so the query's initial values are smaller
        query_std = (1.0 if s.scaled_attention else self.head_dim**-0.5) * s.d_model**-0.5
        if self.place.endswith("cross_attention"):
            self.q = self._kernel("q", normal(query_std), shape)
            self.kv = self._kernel("kv", normal(s.d_model**-0.5), (2, *shape))
        else:
            self.qkv = self._kernel("qkv", _fused_init(query_std), (3, *shape))
            if s.positions == "relative_per_layer":
                self.position_bias = RelativePositionBias(
                    s.position_buckets, s.position_max_distance, self.size, side == "encoder"
                )
        self.out = self.param("out", normal((self.size * self.head_dim) ** -0.5), (*shape, s.d_model))

    def _kernel(self, name: str, init: Any, shape: tuple[int, ...]) -> tuple[jax.Array, jax.Array | None]:
        kernel = self.param(name, init, (self.spec.d_model, *shape))
        return kernel, self.param(f"{name}_bias", nn.initializers.zeros, shape) if self.spec.bias else None

    def _project(self, x: jax.Array, kernel: tuple[jax.Array, jax.Array | None]) -> jax.Array:
        """Computes x [B, T, D] · kernel [D, ...] + bias [...] → [B, T, ...] as one matrix product."""
        weight, bias = kernel
        return project(x, weight.astype(self.dtype), bias)

    def keys_values(self, encoded: jax.Array) -> tuple[jax.Array, jax.Array]:
        """Returns cross-attention keys and values, each [B, N, S, H], from the encoder output [B, S, D]."""
        kv = self._project(encoded.astype(self.dtype), self.kv)  # [B, S, 2, N, H]
        return by_head(kv[:, :, 0]), by_head(kv[:, :, 1])

    def query_keys_values(self, x: jax.Array, masks: Masks | None = None) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Returns self-attention query [B, T, N, H], key and value [B, N, T, H], from the residual stream [B, T, D]."""
        qkv = self._project(self.pre_norm_input(x, masks), self.qkv)  # [B, T, 3, N, H]
        return qkv[:, :, 0], by_head(qkv[:, :, 1]), by_head(qkv[:, :, 2])

    def query(self, x: jax.Array, masks: Masks | None = None) -> jax.Array:
        """Returns the cross-attention query [B, T, N, H] from the residual stream [B, T, D]."""
        return self._project(self.pre_norm_input(x, masks), self.q)

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
        """Computes softmax attention and applies the output kernel.

        Args:
          query: [B, T, N, H].
          key: [B, N, S, H].
          value: [B, N, S, H].
          bias: added to the scores, broadcastable to [B, N, T, S], float32.
          masks: masks by name.
          deterministic: disable dropout.

        Returns:
          The `product` argument of `add_residual`, [B, T, D].
        """
        weights = self._weigh(attention_scores(self._scaled(query), key), bias)
        weights = self.weight_dropout(weights, deterministic=deterministic)
        context = attention_context(weights, value)
        heads = f"{self.place}.heads"
        if masks is not None and heads in masks:
            context = context * masks[heads].astype(context.dtype)[None, None, :, None]
        self.sow("intermediates", "heads", context)
        return self._output(context)

    def attend_step(
        self, query: jax.Array, key: jax.Array, value: jax.Array, bias: jax.Array, ancestors: jax.Array | None = None
    ) -> jax.Array:
        """As `attend`, without masks and dropout, for the few queries of a decoding step.

        With `ancestors` the rows are the K beams of each input, and their positions lie with the beams that computed
        them. Accelerators read those of all beams, and a mask chooses. On CPUs each beam has its own:
        `CachedDecoder.reorder` copies them there, which takes XLA less time.

        Args:
          query: [R, T, N, H].
          key: [R, N, S, H].
          value: [R, N, S, H].
          bias: float32, broadcastable to [R, N, T, S]; with `ancestors` [1, N, 1, S] or [1, 1, 1, S].
          ancestors: of beams, the beam that has computed each position of a beam, int32 [B, K, S]; T is 1.

        Returns:
          The `product` argument of `add_residual`, [R, T, D].
        """

        def of_own(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            return attend_few(query, key, value, lambda scores: self._weigh(scores, bias))

        def of_all(query: jax.Array, key: jax.Array, value: jax.Array) -> jax.Array:
            assert ancestors is not None
            by_beam = (x.reshape(*ancestors.shape[:2], *x.shape[1:]) for x in (key, value))  # [B, K, N, S, H]
            keys, values = (by_head(x).reshape(len(x), x.shape[2], -1, x.shape[-1]) for x in by_beam)  # [B, N, K·S, H]
            queries = query.reshape(*ancestors.shape[:2], *query.shape[2:])
            whole = beam_bias(bias, ancestors)
            return attend_few(queries, keys, values, lambda scores: self._weigh(scores, whole)).reshape(query.shape)

        given = self._scaled(query), key, value
        if ancestors is None:
            return self._output(of_own(*given))
        found: jax.Array = jax.lax.platform_dependent(*given, cpu=of_own, default=of_all)
        return self._output(found)

    def _scaled(self, query: jax.Array) -> jax.Array:
        return query * jnp.asarray(self.head_dim**-0.5, query.dtype) if self.spec.scaled_attention else query

    def _weigh(self, scores: jax.Array, bias: jax.Array) -> jax.Array:
        """Weights [B, N, T, S] from scores and a bias that is broadcast to them, both float32."""
        weights = jax.nn.softmax(scores + bias, axis=-1)
        if self.spec.absolute_positions and not self.place.endswith("self_attention"):
            # a row of nothing but padding attends to nothing, as in transformers (to all of it in T5's families)
            weights = weights * (jnp.max(bias, axis=-1, keepdims=True) > MASK_VALUE / 2)
        return weights.astype(self.dtype)

    def _output(self, context: jax.Array) -> jax.Array:
        context = context.reshape(*context.shape[:2], -1)  # [B, T, N·H]
        return context @ self.out.astype(self.dtype).reshape(-1, self.spec.d_model)


def _fused_init(query_std: float) -> Any:
    """Initializer of a fused [D, 3, N, H] kernel: std `query_std` for the query, D**-0.5 for keys and values."""

    def init(rng: jax.Array, shape: tuple[int, ...], dtype: Dtype = jnp.float32) -> jax.Array:
        std = jnp.array([query_std, shape[0] ** -0.5, shape[0] ** -0.5])[None, :, None, None]
        return jax.random.normal(rng, shape, dtype) * jnp.broadcast_to(std, shape)

    return init
