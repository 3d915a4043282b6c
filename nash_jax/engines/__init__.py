"""Other engines that generate for a `Seq2Seq`, by name."""

from collections.abc import Callable

from nash_jax.engines.ct2 import CTranslate2Engine
from nash_jax.engines.ort import OnnxRuntimeEngine
from nash_jax.generation.engine import BatchGenerator

OTHER_ENGINES: dict[str, Callable[..., BatchGenerator]] = {
    "ctranslate2": CTranslate2Engine,
    "onnxruntime": OnnxRuntimeEngine,
}
