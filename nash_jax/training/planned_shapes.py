"""Shapes of a run's models that are known before anything is trained."""

from collections.abc import Mapping
from typing import Any

from nash_jax.config.schema import Config
from nash_jax.errors import UserError
from nash_jax.pruning.layer_selection import Candidates, candidates
from nash_jax.pruning.methods import METHODS
from nash_jax.spec import FAMILIES, SIDES, ModelSpec, dense_spec, preset


def fresh_spec(config: Config, vocab_size: int, pad_id: int = 0, eos_id: int = 1) -> ModelSpec:
    """The shape of a fresh model: a preset, or family and sizes of the config.

    Args:
      config: of the run.
      vocab_size: tokens of its tokenizer.
      pad_id: of the tokenizer.
      eos_id: of the tokenizer.

    Raises:
      UserError: for sizes that fit no model.
    """
    m, task = config.model, config.task
    if m.preset:
        return preset(m.preset)
    # M2M100's padding has no position, and its decoder starts with EOS
    start_id = eos_id if m.family == "m2m_100" else pad_id
    own: dict[str, Any] = {"tied": False, "decoder_start_id": start_id}
    if m.gated:
        own |= {"gated": True, "activation": "gelu_tanh"}
    if FAMILIES[m.family].get("max_positions"):
        own["max_positions"] = max(task.max_source_length, task.max_target_length, task.max_new_tokens)
    return dense_spec(
        vocab_size=vocab_size, d_model=m.d_model, d_ff=m.d_ff, num_heads=m.num_heads,
        head_dim=m.head_dim or None, encoder_layers=m.encoder_layers, decoder_layers=m.decoder_layers,
        decoder_d_ff=m.decoder_d_ff or None, family=m.family, dropout_rate=m.dropout_rate,
        pad_id=pad_id, eos_id=eos_id, **own,
    )  # fmt: skip


def find_candidates(config: Config, depths: Mapping[str, int], stage: str = "shorten") -> dict[str, Candidates]:
    """Layers of each side that may be kept, and how many of them are: all that is known before a loss is measured.

    Args:
      config: of the run.
      depths: side → layers of the model that the stage begins with.
      stage: `shorten` or `halfway`.

    Raises:
      UserError: for layers that the model does not have.
    """
    own = getattr(config, stage)
    method = METHODS[config.method]
    if not method.shortens or method.searches:
        if method.counts_layers and own.decoder_layers > depths["decoder"]:  # what gates are to reach
            raise UserError(
                f"config.{stage}.decoder_layers is {own.decoder_layers}",
                f"no more than the model's {depths['decoder']}",
            )
        return {side: Candidates(tuple(range(depth)), depth) for side, depth in depths.items()}
    return {
        side: candidates(
            depth, getattr(own, f"{side}_layers"), getattr(own, f"{side}_kept", ()), config.shorten.selection
        )
        for side, depth in depths.items()
    }


def depths_of(spec: ModelSpec) -> dict[str, int]:
    """Side → number of layers."""
    return {side: len(getattr(spec, side)) for side in SIDES}
