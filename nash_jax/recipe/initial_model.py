"""The shape of a model that starts from random weights."""

from typing import Any

from nash_jax.config.schema import Config
from nash_jax.data.languages import has_languages, target_options
from nash_jax.spec import FAMILIES, ModelSpec, dense_spec, preset


def output_start(spec: ModelSpec, tokenizer: Any) -> dict[str, Any]:
    """Returns the generation options with which outputs begin as targets do in training.

    Args:
      spec: the model to train.
      tokenizer: the run's tokenizer, with its languages.
    """
    options = target_options(tokenizer, spec.wraps_labels) if has_languages(tokenizer) else {}
    if spec.wraps_labels:
        options["decoder_start_token_id"] = tokenizer(text_target="")["input_ids"][-1]
    return options


def fresh_spec(config: Config, tokenizer: Any) -> ModelSpec:
    """The shape of a fresh model: a preset, or family and sizes of the config and vocabulary of the tokenizer.

    Raises:
      UserError: for sizes that fit no model.
    """
    m, task = config.model, config.task
    if m.preset:
        return preset(m.preset)
    # M2M100's padding has no position, and its decoder starts with EOS
    start_id = tokenizer.eos_token_id if m.family == "m2m_100" else tokenizer.pad_token_id
    own: dict[str, Any] = {"tied": False, "decoder_start_id": start_id}
    if m.gated:
        own |= {"gated": True, "activation": "gelu_tanh"}
    if FAMILIES[m.family].get("max_positions"):
        own["max_positions"] = max(task.max_source_length, task.max_target_length, task.max_new_tokens)
    return dense_spec(
        vocab_size=len(tokenizer), d_model=m.d_model, d_ff=m.d_ff, num_heads=m.num_heads,
        head_dim=m.head_dim or None, encoder_layers=m.encoder_layers, decoder_layers=m.decoder_layers,
        decoder_d_ff=m.decoder_d_ff or None, family=m.family, dropout_rate=m.dropout_rate,
        pad_id=tokenizer.pad_token_id, eos_id=tokenizer.eos_token_id, **own,
    )  # fmt: skip
