"""T5 (v1.0, v1.1, FLAN) in Linen over a `ModelSpec`.

Letters: B batch, S source, T target, D d_model, N heads, H head size, F FFN units, V vocabulary.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nash_jax.models.layers import (
    NEGATIVE,
    Attention,
    Dtype,
    FeedForward,
    Masks,
    RelativePositionBias,
    RMSNorm,
    apply_mask,
    attention_bias,
)
from nash_jax.spec import ModelSpec

KeysValues = tuple[jax.Array, jax.Array]


def param_axes(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Parameter path → names of its axes, for every parameter of `T5(spec)`.

    Plain axes: vocab, embed, head_dim, qkv, kv, gate, buckets, bias_heads. Prunable ones carry their place:
    `encoder.3.attention.heads`, `decoder.0.ffn.units`. The T5 bias table keeps all heads (`bias_heads`).
    """
    axes: dict[str, tuple[str, ...]] = {"shared/embedding": ("vocab", "embed")}
    for name, (axis, size) in spec.sublayers().items():
        side, index, sublayer = name.split(".")
        path = f"{side}/layers_{index}/{sublayer}"
        if size == 0:
            continue
        axes[f"{path}/norm/scale"] = ("embed",)
        if sublayer == "ffn":
            axes[f"{path}/wi"] = ("embed", "gate", axis) if spec.gated else ("embed", axis)
            axes[f"{path}/wo"] = (axis, "embed")
            continue
        if sublayer == "cross_attention":
            axes[f"{path}/q"] = ("embed", axis, "head_dim")
            axes[f"{path}/kv"] = ("embed", "kv", axis, "head_dim")
        else:
            axes[f"{path}/qkv"] = ("embed", "qkv", axis, "head_dim")
            axes[f"{side}/position_bias/embedding"] = ("buckets", "bias_heads")
        axes[f"{path}/out"] = (axis, "head_dim", "embed")
    for side in ("encoder", "decoder"):
        axes[f"{side}/final_norm/scale"] = ("embed",)
    if not spec.tied:
        axes["lm_head"] = ("embed", "vocab")
    return axes


def mask_sites(spec: ModelSpec) -> dict[str, tuple[str, ...]]:
    """Parameter path → names of the masks that are folded into it at compaction.

    A head or unit mask acts right before the output projection and a sub-layer mask right after it, so
    both fold there; a d_model mask acts on embeddings and on sub-layer outputs. A tied LM head reads the
    masked table, masked model and compacted model alike.
    """
    sites: dict[str, tuple[str, ...]] = {"shared/embedding": ("embed",)}
    for name, (axis, size) in spec.sublayers().items():
        side, index, sublayer = name.split(".")
        leaf = "wo" if sublayer == "ffn" else "out"
        if size:
            sites[f"{side}/layers_{index}/{sublayer}/{leaf}"] = (axis, name, "embed")
    return sites


class _Block(nn.Module):
    """What encoder and decoder layers share: building sub-layers by their name in the spec."""

    spec: ModelSpec
    index: int
    dtype: Dtype

    def _attention(self, side: str, sublayer: str) -> Attention | None:
        full = f"{side}.{self.index}.{sublayer}"
        size = self.spec.sublayers()[full][1]
        if size == 0:
            return None
        s = self.spec
        return Attention(
            full, size, s.head_dim, s.d_model, sublayer == "cross_attention", s.norm_eps, s.dropout_rate, self.dtype
        )

    def _feed_forward(self, side: str) -> FeedForward | None:
        full = f"{side}.{self.index}.ffn"
        size = self.spec.sublayers()[full][1]
        if size == 0:
            return None
        s = self.spec
        return FeedForward(full, size, s.activation, s.gated, s.norm_eps, s.dropout_rate, self.dtype)

    def _add(self, x: jax.Array, y: jax.Array, masks: Masks | None, deterministic: bool) -> jax.Array:
        """Residual sum; the d_model mask acts on the sub-layer's output."""
        return x + self.dropout(apply_mask(y, masks, "embed"), deterministic=deterministic)


class EncoderBlock(_Block):
    """Self-attention and FFN, each before-normed and added to the residual stream."""

    def setup(self) -> None:
        self.attention = self._attention("encoder", "attention")
        self.ffn = self._feed_forward("encoder")
        self.dropout = nn.Dropout(self.spec.dropout_rate)

    def __call__(self, x: jax.Array, bias: jax.Array | None, masks: Masks | None, deterministic: bool) -> jax.Array:
        """x [B, S, D], bias [B, N, S, S] over all original heads → [B, S, D]."""
        if self.attention is not None:
            q, k, v = self.attention.query_keys_values(x, masks)
            own = _select_heads(bias, self.spec.encoder[self.index].heads, self.spec.num_heads)
            y = self.attention.attend(q, k, v, own, masks, deterministic=deterministic)
            x = self._add(x, y, masks, deterministic)
        if self.ffn is not None:
            x = self._add(x, self.ffn(x, masks, deterministic=deterministic), masks, deterministic)
        return x


class DecoderBlock(_Block):
    """Causal self-attention, cross-attention and FFN."""

    def setup(self) -> None:
        self.self_attention = self._attention("decoder", "self_attention")
        self.cross_attention = self._attention("decoder", "cross_attention")
        self.ffn = self._feed_forward("decoder")
        self.dropout = nn.Dropout(self.spec.dropout_rate)

    def __call__(
        self,
        x: jax.Array,
        self_bias: jax.Array | None,
        encoded: jax.Array,
        cross_bias: jax.Array,
        masks: Masks | None,
        deterministic: bool,
    ) -> jax.Array:
        """x [B, T, D], self_bias [B, N, T, T], encoded [B, S, D], cross_bias [B, 1, 1, S] → [B, T, D]."""
        if self.self_attention is not None:
            q, k, v = self.self_attention.query_keys_values(x, masks)
            own = _select_heads(self_bias, self.spec.decoder[self.index].self_heads, self.spec.num_heads)
            y = self.self_attention.attend(q, k, v, own, masks, deterministic=deterministic)
            x = self._add(x, y, masks, deterministic)
        cross = self.keys_values(encoded)
        return self._rest(x, cross, cross_bias, masks, deterministic)

    def step(
        self, x: jax.Array, cache: KeysValues | None, position: jax.Array, bias: jax.Array | None,
        cross: KeysValues | None, cross_bias: jax.Array,
    ) -> tuple[jax.Array, KeysValues | None]:  # fmt: skip
        """One token: x [B, 1, D], cache of [B, T, N, H] keys and values, bias [1, N, 1, T]."""
        if self.self_attention is not None and cache is not None:
            q, k, v = self.self_attention.query_keys_values(x)
            start = (0, position, 0, 0)
            cache = (
                jax.lax.dynamic_update_slice(cache[0], k.astype(cache[0].dtype), start),
                jax.lax.dynamic_update_slice(cache[1], v.astype(cache[1].dtype), start),
            )
            own = _select_heads(bias, self.spec.decoder[self.index].self_heads, self.spec.num_heads)
            x = x + self.self_attention.attend(q, *cache, own)
        return self._rest(x, cross, cross_bias, None, True), cache

    def keys_values(self, encoded: jax.Array) -> KeysValues | None:
        """This layer's cross-attention keys and values, or None if that sub-layer is gone."""
        return None if self.cross_attention is None else self.cross_attention.keys_values(encoded)

    def _rest(
        self, x: jax.Array, cross: KeysValues | None, cross_bias: jax.Array, masks: Masks | None, deterministic: bool
    ) -> jax.Array:
        if self.cross_attention is not None and cross is not None:
            q = self.cross_attention.query(x, masks)
            q = q.reshape(cross[0].shape[0], -1, *q.shape[2:])  # rows that share a source are its further queries
            y = self.cross_attention.attend(q, *cross, cross_bias, masks, deterministic=deterministic)
            x = self._add(x, y.reshape(x.shape), masks, deterministic)
        if self.ffn is not None:
            x = self._add(x, self.ffn(x, masks, deterministic=deterministic), masks, deterministic)
        return x


def _select_heads(bias: jax.Array | None, heads: Sequence[int], num_heads: int) -> jax.Array:
    """Columns of kept heads of a bias [B, N, T, S] that covers all original heads."""
    assert bias is not None  # a stack with an attention has a bias table
    return bias if len(heads) == num_heads else bias[:, jnp.array(heads)]


class _Stack(nn.Module):
    """Layers, final norm and, if any layer has self-attention, the shared position-bias table."""

    spec: ModelSpec
    side: str
    dtype: Dtype
    remat: bool

    def setup(self) -> None:
        decoder = self.side == "decoder"
        block: Any = DecoderBlock if decoder else EncoderBlock
        if self.remat:
            block = nn.remat(block, static_argnums=(6,) if decoder else (4,))
        count = len(self.spec.decoder if decoder else self.spec.encoder)
        self.layers = [block(self.spec, i, self.dtype) for i in range(count)]
        self.final_norm = RMSNorm(self.spec.norm_eps, self.dtype)
        self.dropout = nn.Dropout(self.spec.dropout_rate)
        self.has_bias = f"{self.side}/position_bias/embedding" in param_axes(self.spec)
        if self.has_bias:
            s = self.spec
            self.position_bias = RelativePositionBias(
                s.position_buckets, s.position_max_distance, s.num_heads, not decoder
            )

    def bias(self, relative_position: jax.Array) -> jax.Array | None:
        return self.position_bias(relative_position) if self.has_bias else None

    def finish(self, x: jax.Array, masks: Masks | None = None, deterministic: bool = True) -> jax.Array:
        return self.dropout(self.final_norm(x, masks), deterministic=deterministic)


class T5(nn.Module):
    """An encoder-decoder of T5's kind.

    Attributes:
      spec: its shape.
      dtype: compute dtype; parameters are float32, and so are softmax, norms and logits.
      remat: recompute activations of each layer in the backward pass.
    """

    spec: ModelSpec
    dtype: Dtype = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        s = self.spec
        self.shared = nn.Embed(s.vocab_size, s.d_model, embedding_init=nn.initializers.normal(1.0))
        self.encoder = _Stack(s, "encoder", self.dtype, self.remat)
        self.decoder = _Stack(s, "decoder", self.dtype, self.remat)
        if not s.tied:
            self.lm_head = self.param("lm_head", nn.initializers.normal(s.d_model**-0.5), (s.d_model, s.vocab_size))
        self.dropout = nn.Dropout(s.dropout_rate)

    def _embed(self, ids: jax.Array, masks: Masks | None, deterministic: bool) -> jax.Array:
        x = jnp.take(self.shared.embedding, ids, axis=0).astype(self.dtype)
        return self.dropout(apply_mask(x, masks, "embed"), deterministic=deterministic)

    def encode(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        masks: Masks | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Source ids [B, S] and padding mask [B, S] → encoder output [B, S, D], each layer's output."""
        positions = jnp.arange(input_ids.shape[1])
        bias = self.encoder.bias(positions[None, :] - positions[:, None])  # [N, S, S]
        if bias is not None:
            bias = bias[None] + attention_bias(attention_mask)
        x = self._embed(input_ids, masks, deterministic)
        hidden = []
        for layer in self.encoder.layers:
            x = layer(x, bias, masks, deterministic)
            hidden.append(x)
        return self.encoder.finish(x, masks, deterministic), hidden

    def decode(
        self,
        decoder_input_ids: jax.Array,
        encoded: jax.Array,
        attention_mask: jax.Array,
        masks: Masks | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Target ids [B, T] and encoder output [B, S, D] → logits [B, T, V] float32, each layer's output."""
        positions = jnp.arange(decoder_input_ids.shape[1])
        relative = positions[None, :] - positions[:, None]
        bias = self.decoder.bias(relative)
        if bias is not None:
            bias = (bias + jnp.where(relative > 0, NEGATIVE, 0.0)[None])[None]
        cross_bias = attention_bias(attention_mask)
        x = self._embed(decoder_input_ids, masks, deterministic)
        hidden = []
        for layer in self.decoder.layers:
            x = layer(x, bias, encoded, cross_bias, masks, deterministic)
            hidden.append(x)
        return self._logits(self.decoder.finish(x, masks, deterministic), masks), hidden

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        decoder_input_ids: jax.Array,
        masks: Masks | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Teacher-forced logits [B, T, V], float32."""
        encoded, _ = self.encode(input_ids, attention_mask, masks, deterministic=deterministic)
        return self.decode(decoder_input_ids, encoded, attention_mask, masks, deterministic=deterministic)[0]

    def cross_keys_values(self, encoded: jax.Array) -> list[KeysValues | None]:
        """Cross-attention keys and values of every decoder layer: computed once a sequence."""
        return [layer.keys_values(encoded) for layer in self.decoder.layers]

    def decode_bias(self, max_length: int) -> jax.Array | None:
        """Causal self-attention bias by distance, [N, 2T-1]: the row of step t is `[:, T-1-t : 2T-1-t]`."""
        distance = jnp.arange(2 * max_length - 1) - (max_length - 1)  # key position minus query position
        bias = self.decoder.bias(distance)
        return None if bias is None else bias + jnp.where(distance > 0, NEGATIVE, 0.0)[None]

    def decode_step(
        self,
        token_ids: jax.Array,
        position: jax.Array,
        cache: list[KeysValues | None],
        bias: jax.Array | None,
        cross: list[KeysValues | None],
        cross_bias: jax.Array,
    ) -> tuple[jax.Array, list[KeysValues | None]]:
        """One cached decoding step.

        Args:
          token_ids: the last token of each row, [B].
          position: its position, int32 scalar.
          cache: for each layer, keys and values [B, T, N, H] of the positions before.
          bias: `decode_bias(T)`.
          cross: `cross_keys_values(encoded)`.
          cross_bias: `attention_bias(attention_mask)`.

        Returns:
          Logits [B, V] float32, and the cache with this position written.
        """
        if bias is not None:
            length = (bias.shape[1] + 1) // 2
            bias = jax.lax.dynamic_slice_in_dim(bias, length - 1 - position, length, axis=1)[None, :, None, :]
        x = self._embed(token_ids[:, None], None, True)
        updated = []
        for layer, own, keys_values in zip(self.decoder.layers, cache, cross, strict=True):
            x, own = layer.step(x, own, position, bias, keys_values, cross_bias)
            updated.append(own)
        return self._logits(self.decoder.finish(x))[:, 0], updated

    def _logits(self, x: jax.Array, masks: Masks | None = None) -> jax.Array:
        x = x * self.spec.output_scale
        if not self.spec.tied:
            return jnp.asarray(x @ self.lm_head.astype(self.dtype), jnp.float32)
        table = apply_mask(self.shared.embedding, masks, "embed").astype(self.dtype)
        return jnp.einsum("BTD,VD->BTV", x, table).astype(jnp.float32)
