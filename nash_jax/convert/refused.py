"""Model types of `transformers` that cannot be read, and why."""

from collections.abc import Iterable
from typing import Any

from nash_jax.errors import UserError, did_you_mean

_EXPERTS = "layers of several experts are not implemented"
_OTHER_CLASS = "its class differs from BART's and is not implemented"
_SPARSE = "sparse attention is not implemented"
REASONS = {
    "bigbird_pegasus": _SPARSE,
    "blenderbot": _OTHER_CLASS,
    "blenderbot-small": _OTHER_CLASS,
    "encoder-decoder": "pairs of other models are not implemented",
    "fsmt": _OTHER_CLASS,
    "led": _SPARSE,
    "longt5": _SPARSE,
    "mvp": _OTHER_CLASS,
    "nllb-moe": _EXPERTS,
    "pegasus_x": _SPARSE,
    "plbart": _OTHER_CLASS,
    "prophetnet": "prediction of several tokens at a time is not implemented",
    "switch_transformers": _EXPERTS,
    "t5gemma": "Gemma's layers are not implemented",
    "xlm-prophetnet": "prediction of several tokens at a time is not implemented",
}


def check_model_type(kind: Any, known: Iterable[str]) -> None:
    """Checks that a model type is supported.

    Args:
      kind: `model_type` of config.json, None if there is none.
      known: supported types.

    Raises:
      UserError: with the reason, for other encoder-decoders of `transformers`; or the most similar supported name.
    """
    known = list(known)
    if kind in known:
        return
    expected = f"one of {', '.join(known)}"
    if kind is None:
        raise UserError("config.json has no 'model_type'", expected)
    if reason := REASONS.get(str(kind)):
        raise UserError(f"config.json has model_type {kind!r}: {reason}", expected)
    raise UserError(f"config.json has model_type {kind!r}{did_you_mean(str(kind), known)}", expected)
