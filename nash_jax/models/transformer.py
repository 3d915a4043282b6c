"""Encoder-decoder models in Flax Linen, built from a `ModelSpec`: T5, BART and similar families, by flags of the spec.

Letters: B batch, S source length, T target length, D d_model, N heads, H head size, V vocabulary size, K beams.
"""

from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from nash_jax.axes import param_axes
from nash_jax.models.dropout import Dropout
from nash_jax.models.layers import (
    MASK_VALUE,
    Attention,
    Dtype,
    FeedForward,
    Masks,
    apply_mask,
    attention_bias,
    make_norm,
)
from nash_jax.models.positions import RelativePositionBias, position_table
from nash_jax.runtime.mesh import gather_table, split_rows
from nash_jax.spec import SINUSOIDS, ModelSpec

KeysValues = tuple[jax.Array, jax.Array]
Bias = Any  # additive attention bias of all layers: one array, or a list with one array (or None) for each layer


class _Block(nn.Module):
    """Common part of encoder and decoder layers: builds sub-layers by their name in the spec."""

    spec: ModelSpec
    index: int
    dtype: Dtype

    def _sublayer(self, kind: Any, place: str) -> Any:
        """Returns the sub-layer's module, or None if it has no effect."""
        size, s = self.spec.sublayers()[place][1], self.spec
        return kind(s, place, self.dtype) if size or s.bias or not s.pre_norm else None

    def _layer_bias(self, bias: Bias, side: str, heads: Sequence[int]) -> jax.Array:
        """Returns this layer's bias, [B, n, T, S] for its n heads or [B, 1, T, S] for all."""
        if isinstance(bias, list):
            return bias[self.index]
        whole = bias.shape[1] == 1 or len(heads) == self.spec.heads_of(side)
        return bias if whole else bias[:, jnp.array(heads)]

    def _transform(self, x: jax.Array, masks: Masks | None, deterministic: bool) -> jax.Array:
        return x if self.ffn is None else self.ffn(x, masks, deterministic=deterministic)

    def _attend_self(
        self, attention: Attention | None, x: jax.Array, bias: Bias, side: str, heads: Sequence[int],
        masks: Masks | None, deterministic: bool,
    ) -> jax.Array:  # fmt: skip
        if attention is None:
            return x
        product = None
        if heads:
            q, k, v = attention.query_keys_values(x, masks)
            layer_bias = self._layer_bias(bias, side, heads)
            product = attention.attend(q, k, v, layer_bias, masks, deterministic=deterministic)
        return attention.add_residual(x, product, masks, deterministic=deterministic)


class EncoderBlock(_Block):
    """Self-attention and FFN, each added to the residual stream."""

    def setup(self) -> None:
        self.attention = self._sublayer(Attention, f"encoder.{self.index}.attention")
        self.ffn = self._sublayer(FeedForward, f"encoder.{self.index}.ffn")

    def __call__(self, x: jax.Array, bias: Bias, masks: Masks | None, deterministic: bool) -> jax.Array:
        """x [B, S, D] and the attention bias of all layers → [B, S, D]."""
        heads = self.spec.encoder[self.index].heads
        x = self._attend_self(self.attention, x, bias, "encoder", heads, masks, deterministic)
        return self._transform(x, masks, deterministic)


class DecoderBlock(_Block):
    """Causal self-attention, cross-attention and FFN."""

    def setup(self) -> None:
        self.self_attention = self._sublayer(Attention, f"decoder.{self.index}.self_attention")
        self.cross_attention = self._sublayer(Attention, f"decoder.{self.index}.cross_attention")
        self.ffn = self._sublayer(FeedForward, f"decoder.{self.index}.ffn")

    def __call__(
        self,
        x: jax.Array,
        self_bias: Bias,
        encoded: jax.Array,
        cross_bias: jax.Array,
        masks: Masks | None,
        deterministic: bool,
    ) -> jax.Array:
        """x [B, T, D], causal bias, encoded [B, S, D], cross_bias [B, 1, 1, S] → [B, T, D]."""
        heads = self.spec.decoder[self.index].self_heads
        x = self._attend_self(self.self_attention, x, self_bias, "decoder", heads, masks, deterministic)
        attention, cross = self.cross_attention, self.keys_values(encoded)
        if attention is not None:
            product = None
            if cross is not None:
                query = attention.query(x, masks)
                product = attention.attend(query, *cross, cross_bias, masks, deterministic=deterministic)
            x = attention.add_residual(x, product, masks, deterministic=deterministic)
        return self._transform(x, masks, deterministic)

    def step(
        self, x: jax.Array, cache: KeysValues | None, position: jax.Array, bias: Bias,
        cross: KeysValues | None, cross_bias: jax.Array, ancestors: jax.Array | None,
    ) -> tuple[jax.Array, KeysValues | None]:  # fmt: skip
        """Decodes C tokens of each row: x [R, C, D], cached keys and values [R, N, T, H], cross [B, N, S, H].

        With `ancestors` [B, K, T] rows are beams, and C is 1.
        """
        attention = self.self_attention
        if attention is not None:
            product = None
            if cache is not None:
                q, k, v = attention.query_keys_values(x)
                start = (0, 0, position, 0)
                cache = (
                    jax.lax.dynamic_update_slice(cache[0], k.astype(cache[0].dtype), start),
                    jax.lax.dynamic_update_slice(cache[1], v.astype(cache[1].dtype), start),
                )
                layer_bias = self._layer_bias(bias, "decoder", self.spec.decoder[self.index].self_heads)
                product = attention.attend_step(q, *cache, layer_bias, ancestors)
            x = attention.add_residual(x, product)
        if self.cross_attention is not None:
            product = None
            if cross is not None:
                q = self.cross_attention.query(x)
                q = q.reshape(cross[0].shape[0], -1, *q.shape[2:])  # the K beams of a source are K queries to its keys
                product = self.cross_attention.attend_step(q, *cross, cross_bias).reshape(x.shape)
            x = self.cross_attention.add_residual(x, product)
        return self._transform(x, None, True), cache

    def keys_values(self, encoded: jax.Array) -> KeysValues | None:
        """Returns this layer's cross-attention keys and values, or None if it has no cross-attention heads."""
        return self.cross_attention.keys_values(encoded) if self.spec.decoder[self.index].cross_heads else None


class _Stack(nn.Module):
    """Embeddings, layers and final norm of the encoder or the decoder."""

    spec: ModelSpec
    side: str
    dtype: Dtype
    remat: bool

    def setup(self) -> None:
        s, axes, decoder = self.spec, param_axes(self.spec), self.side == "decoder"
        sizes = s.axis_sizes()
        table = axes.get(f"{self.side}/embedding")
        if table:
            self.embedding = self.param("embedding", embedding_init(s), tuple(sizes[a] for a in table))
        if s.absolute_positions:
            self.positions = self.param("positions", _position_init(s), (sizes["positions"], s.d_model))
        if s.embedding_norm:
            self.embedding_norm = make_norm(s, self.dtype)
        block: Any = DecoderBlock if decoder else EncoderBlock
        if self.remat:
            block = nn.remat(block, static_argnums=(6,) if decoder else (4,))
        self.layers = [block(s, i, self.dtype) for i in range(len(s.decoder if decoder else s.encoder))]
        if s.pre_norm:
            self.final_norm = make_norm(s, self.dtype)
        self.dropout = Dropout(s.dropout_rate)
        if f"{self.side}/position_bias/embedding" in axes:
            self.position_bias = RelativePositionBias(
                s.position_buckets, s.position_max_distance, s.num_heads, not decoder
            )

    def embed(
        self, shared: jax.Array | None, ids: jax.Array, positions: jax.Array, masks: Masks | None, deterministic: bool
    ) -> jax.Array:
        """Token ids [B, T] at positions [T] → [B, T, D]; `shared` is the table if encoder and decoder share it."""
        s = self.spec
        x = jnp.take(gather_table(self.embedding if shared is None else shared), ids, axis=0) * s.embedding_scale
        if s.absolute_positions:
            x = x + self._embed_positions(ids, positions)
        self.sow("intermediates", "embed", x)
        x = apply_mask(split_rows(x.astype(self.dtype)), masks, "embed")
        if s.embedding_norm:
            x = self.embedding_norm(x, masks)
        return self.dropout(x, deterministic=deterministic)

    def _embed_positions(self, ids: jax.Array, positions: jax.Array) -> jax.Array:
        """Position embeddings of token ids [B, T] at positions [T]: [1, T, D], or [B, T, D] where padding has none."""
        s, table = self.spec, self.positions
        if s.positions in SINUSOIDS:  # a parameter that is pruned and stored like others, but not trained
            table = jax.lax.stop_gradient(table)
        is_token, numbers = jnp.ones_like(ids[:1]), positions[None]
        if s.positions == "sinusoidal_tokens":
            is_token = (ids != s.pad_id).astype(jnp.int32)
            numbers = jnp.cumsum(is_token, axis=1) - 1 + positions[0]
        # a bucket may be longer than the position table; positions after its end are padding
        rows = jnp.take(table, numbers + s.position_offset, axis=0, mode="clip")
        return rows * is_token[..., None].astype(rows.dtype)

    def bias(self, relative_position: jax.Array) -> Bias:
        """Relative-position bias of key - query positions [...]: [N, ...], a list with one per layer, or None."""
        if self.spec.positions == "relative_per_layer":
            attentions = [getattr(x, "self_attention" if self.side == "decoder" else "attention") for x in self.layers]
            return [a.position_bias(relative_position) if a is not None and a.size else None for a in attentions]
        has_table = f"{self.side}/position_bias/embedding" in param_axes(self.spec)
        return self.position_bias(relative_position) if has_table else None

    def final_output(self, x: jax.Array, masks: Masks | None = None, deterministic: bool = True) -> jax.Array:
        """Returns the output of the stack, [B, T, D]."""
        if not self.spec.pre_norm:
            return x
        x = self.final_norm(x, masks)
        return self.dropout(x, deterministic=deterministic) if self.spec.norm == "rms" else x  # dropout only in T5


def embedding_init(spec: ModelSpec) -> Any:
    """Initializer of token embeddings: standard deviation 1 for T5, d_model**-0.5 for others."""
    return nn.initializers.normal(1.0 if spec.norm == "rms" else spec.d_model**-0.5)


def _position_init(spec: ModelSpec) -> Any:
    if spec.positions == "learned":
        return nn.initializers.normal(spec.d_model**-0.5)
    return lambda *_: jnp.asarray(position_table(spec))


def _plus(bias: Bias, other: jax.Array, *, expand: bool) -> Bias:
    """Adds `other` to each layer's bias [N, ...] (with a new batch axis if `expand`); `other` if there is none."""
    return other if bias is None else jax.tree.map(lambda b: (b[None] if expand else b) + other, bias)


class EncoderDecoder(nn.Module):
    """An encoder-decoder language model.

    Attributes:
      spec: architecture.
      dtype: compute dtype; parameters, softmax, norms and logits are float32.
      remat: recompute the activations of each layer in the backward pass.
    """

    spec: ModelSpec
    dtype: Dtype = jnp.float32
    remat: bool = False

    def setup(self) -> None:
        s = self.spec
        if s.encoder_vocab_size is None:
            self.shared = nn.Embed(s.vocab_size, s.d_model, embedding_init=embedding_init(s))
        self.encoder = _Stack(s, "encoder", self.dtype, self.remat)
        self.decoder = _Stack(s, "decoder", self.dtype, self.remat)
        if not s.tied:
            self.lm_head = self.param("lm_head", nn.initializers.normal(s.d_model**-0.5), (s.d_model, s.vocab_size))
        if s.logits_bias:
            self.logits_bias = self.param("logits_bias", nn.initializers.zeros, (s.vocab_size,))

    def _table(self) -> jax.Array | None:
        return self.shared.embedding if self.spec.encoder_vocab_size is None else None

    def encode(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        masks: Masks | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Source ids [B, S] and padding mask [B, S] → encoder output [B, S, D], and the output of each layer."""
        positions = jnp.arange(input_ids.shape[1])
        relative = self.encoder.bias(positions[None, :] - positions[:, None])  # [N, S, S]
        bias = _plus(relative, attention_bias(attention_mask), expand=True)
        x = self.encoder.embed(self._table(), input_ids, positions, masks, deterministic)
        hidden = []
        for layer in self.encoder.layers:
            x = layer(x, bias, masks, deterministic)
            hidden.append(x)
        return self.encoder.final_output(x, masks, deterministic), hidden

    def decode(
        self,
        decoder_input_ids: jax.Array,
        encoded: jax.Array,
        attention_mask: jax.Array,
        masks: Masks | None = None,
        *,
        deterministic: bool = True,
    ) -> tuple[jax.Array, list[jax.Array]]:
        """Target ids [B, T] and encoder output [B, S, D] → logits [B, T, V] float32, and the output of each layer."""
        positions = jnp.arange(decoder_input_ids.shape[1])
        relative = positions[None, :] - positions[:, None]
        causal = jnp.where(relative > 0, MASK_VALUE, 0.0)[None, None]  # [1, 1, T, T]
        bias = _plus(self.decoder.bias(relative), causal, expand=True)
        cross_bias = attention_bias(attention_mask)
        x = self.decoder.embed(self._table(), decoder_input_ids, positions, masks, deterministic)
        hidden = []
        for layer in self.decoder.layers:
            x = layer(x, bias, encoded, cross_bias, masks, deterministic)
            hidden.append(x)
        return self._logits(self.decoder_output(x, masks, deterministic), masks), hidden

    def __call__(
        self,
        input_ids: jax.Array,
        attention_mask: jax.Array,
        decoder_input_ids: jax.Array,
        masks: Masks | None = None,
        *,
        deterministic: bool = True,
    ) -> jax.Array:
        """Returns teacher-forced logits [B, T, V], float32."""
        encoded, _ = self.encode(input_ids, attention_mask, masks, deterministic=deterministic)
        return self.decode(decoder_input_ids, encoded, attention_mask, masks, deterministic=deterministic)[0]

    def cross_keys_values(self, encoded: jax.Array) -> list[KeysValues | None]:
        """Returns cross-attention keys and values of every decoder layer; computed once per sequence."""
        return [layer.keys_values(encoded) for layer in self.decoder.layers]

    def embed_source(self, input_ids: jax.Array) -> jax.Array:
        """Source ids [B, S] → what the first layer of the encoder reads, [B, S, D]."""
        return self.encoder.embed(self._table(), input_ids, jnp.arange(input_ids.shape[1]), None, True)

    def source_bias(self, length: int) -> Bias:
        """Returns the encoder's bias by key position minus query position: [N, 2S-1], a list of them, or None."""
        return self.encoder.bias(jnp.arange(2 * length - 1) - (length - 1))

    def encoder_output(self, x: jax.Array) -> jax.Array:
        """Output of the last encoder layer [B, S, D] → what the decoder attends to, [B, S, D]."""
        return self.encoder.final_output(x)

    def decode_bias(self, max_length: int) -> Bias:
        """Returns the causal self-attention bias by distance: [N, 2T-1] (or a list of them), or [1, 2T-1].

        The bias of step t is `[:, T-1-t : 2T-1-t]`.
        """
        distance = jnp.arange(2 * max_length - 1) - (max_length - 1)  # key position minus query position
        causal = jnp.where(distance > 0, MASK_VALUE, 0.0)[None]
        return _plus(self.decoder.bias(distance), causal, expand=False)

    def embed_token(self, token_ids: jax.Array, position: jax.Array) -> jax.Array:
        """Token ids [R] at a position of the decoder, int32 scalar → [R, 1, D]."""
        return self.decoder.embed(self._table(), token_ids[:, None], position[None], None, True)

    def decoder_output(self, x: jax.Array, masks: Masks | None = None, deterministic: bool = True) -> jax.Array:
        """Output of the last decoder layer [B, T, D] → what the LM head multiplies, [B, T, D]."""
        return self.decoder.final_output(x, masks, deterministic) * self.spec.output_scale

    def early_logits(self, hidden: jax.Array) -> jax.Array:
        """Output of any decoder layer [B, T, D] → logits [B, T, V], as if it were the last one's; float32."""
        return self._logits(self.decoder_output(hidden))

    def decode_step(
        self,
        token_ids: jax.Array,
        position: jax.Array,
        cache: list[KeysValues | None],
        bias: Bias,
        cross: list[KeysValues | None],
        cross_bias: jax.Array,
        ancestors: jax.Array | None = None,
    ) -> tuple[jax.Array, list[KeysValues | None]]:
        """Decodes one step of B·K rows with a cache; the K rows of a source are consecutive.

        Args:
          token_ids: last token of each row, int [B·K].
          position: its position, int32 scalar.
          cache: for each layer, keys and values [B·K, N, T, H] of the earlier positions.
          bias: `decode_bias(T)`.
          cross: `cross_keys_values(encoded)` for B sources.
          cross_bias: `attention_bias(attention_mask)` for B sources.
          ancestors: of beams: the beam of the same source that has computed each position of a beam, this one
            included, int32 [B, K, T]. None: rows have computed all positions themselves.

        Returns:
          Logits [B·K, V] float32, and the cache with this position added.
        """
        logits, updated = self.decode_block(token_ids[:, None], position, cache, bias, cross, cross_bias, ancestors)
        return logits[:, 0], updated

    def decode_block(
        self,
        token_ids: jax.Array,
        position: jax.Array,
        cache: list[KeysValues | None],
        bias: Bias,
        cross: list[KeysValues | None],
        cross_bias: jax.Array,
        ancestors: jax.Array | None = None,
    ) -> tuple[jax.Array, list[KeysValues | None]]:
        """Decodes several consecutive known tokens of each row at once, with a cache; rows may be beams.

        Args:
          token_ids: int [R, K]; without beams R = B, with beams K is 1.
          position: of the first, int32 scalar; K positions must be left in the cache.
          cache: as of `decode_step`.
          bias: as of `decode_step`.
          cross: as of `decode_step`.
          cross_bias: as of `decode_step`.
          ancestors: as of `decode_step`.

        Returns:
          Logits [R, K, V] float32, and the cache with these positions added.
        """
        count = token_ids.shape[1]

        def at_positions(by_distance: jax.Array) -> jax.Array:  # [N, 2T-1] → [1, N, K, T]
            length = (by_distance.shape[1] + 1) // 2
            first = length - 1 - position
            rows = [jax.lax.dynamic_slice_in_dim(by_distance, first - i, length, axis=1) for i in range(count)]
            return jnp.stack(rows, axis=1)[None]

        block_bias = jax.tree.map(at_positions, bias)
        x = jnp.concatenate([self.embed_token(token_ids[:, i], position + i) for i in range(count)], axis=1)
        updated = []
        for layer, layer_cache, keys_values in zip(self.decoder.layers, cache, cross, strict=True):
            x, new_cache = layer.step(x, layer_cache, position, block_bias, keys_values, cross_bias, ancestors)
            updated.append(new_cache)
        return self._logits(self.decoder_output(x)), updated

    def _logits(self, x: jax.Array, masks: Masks | None = None) -> jax.Array:
        if not self.spec.tied:
            logits = jnp.asarray(x @ self.lm_head.astype(self.dtype), jnp.float32)
        else:
            shared = self._table()
            table = apply_mask(self.decoder.embedding if shared is None else shared, masks, "embed")
            logits = jnp.einsum("BTD,VD->BTV", x, table.astype(self.dtype)).astype(jnp.float32)
        if self.spec.logits_bias:
            logits = logits + jnp.broadcast_to(self.logits_bias.astype(jnp.float32), logits.shape)
        return logits
