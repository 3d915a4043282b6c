"""A model of random weights, of the size that the config says and for the vocabulary of the run."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp

from nash_jax.config import Config
from nash_jax.models import build
from nash_jax.spec import FAMILIES, ModelSpec, dense_spec, preset


def fresh_spec(config: Config, tokenizer: Any) -> ModelSpec:
    """The shape of a fresh model: a preset, or family and sizes of the config and vocabulary of the tokenizer.

    Raises:
      UserError: for sizes that fit no model.
    """
    m, task = config.model, config.task
    if m.preset:
        return preset(m.preset)
    own: dict[str, Any] = {"tied": False}
    if m.gated:
        own |= {"gated": True, "activation": "gelu_tanh"}
    if FAMILIES[m.family].get("max_positions"):
        own["max_positions"] = max(task.max_source_length, task.max_target_length, task.max_new_tokens)
    return dense_spec(
        vocab_size=len(tokenizer), d_model=m.d_model, d_ff=m.d_ff, num_heads=m.num_heads,
        head_dim=m.head_dim or None, encoder_layers=m.encoder_layers, decoder_layers=m.decoder_layers,
        decoder_d_ff=m.decoder_d_ff or None, family=m.family, dropout_rate=m.dropout_rate,
        pad_id=tokenizer.pad_token_id, eos_id=tokenizer.eos_token_id, decoder_start_id=tokenizer.pad_token_id,
        **own,
    )  # fmt: skip


def fresh_params(spec: ModelSpec, seed: int) -> dict[str, Any]:
    """Parameters as training starts from them, on the host."""
    return jax.device_get(jax.jit(_init(spec))(jax.random.key(seed)))


def param_shapes(spec: ModelSpec) -> dict[str, Any]:
    """What `fresh_params` would be, as shapes and dtypes."""
    return jax.eval_shape(_init(spec), jax.random.key(0))


def _init(spec: ModelSpec) -> Callable[[jax.Array], Any]:
    ids = jnp.ones((1, 2), jnp.int32)
    return lambda rng: build(spec).init(rng, ids, ids, ids)["params"]
