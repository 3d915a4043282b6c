"""What cannot be read, and why: model types of `transformers`, and folders of other engines."""

from collections.abc import Iterable
from pathlib import Path
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


_OTHER_FILES = {  # what the folder of another engine has → the engine, and how it is written
    "model.bin": ("CTranslate2", "save_ct2"),
    "onnx/encoder_model.onnx": ("ONNX Runtime", "save_onnx"),
    "onnx/encoder_model_quantized.onnx": ("ONNX Runtime", "save_onnx"),
    "stablehlo/programs.json": ("jax alone", "save_stablehlo"),
}


def refuse_other_engines(folder: Path) -> None:
    """Refuses a folder that another engine reads, and that has no weights for ours.

    Raises:
      UserError: naming that engine.
    """
    if (folder / "spec.json").exists() or any(folder.glob("*.safetensors")) or any(folder.glob("pytorch_model*.bin")):
        return
    for file, (engine, method) in _OTHER_FILES.items():
        if (folder / file).exists():
            raise UserError(
                f"{folder} is a folder for {engine} ({file}), which nash_jax does not read",
                "an export, or a folder in the hub's layout",
                f"name the one that {method} was called on, or serve this folder as docs/serving.md says",
            )
