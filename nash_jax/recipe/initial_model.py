"""How the outputs of a run's models begin."""

from typing import Any

from nash_jax.data.languages import has_languages, target_options
from nash_jax.spec import ModelSpec


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
