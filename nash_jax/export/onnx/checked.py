"""An ONNX folder for nash_jax.export.check."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.export.onnx.folder import write_onnx
from nash_jax.export.onnx.run import OnnxModel
from nash_jax.spec import ModelSpec


class _Written(OnnxModel):
    def log_probs(self, ids: np.ndarray, mask: np.ndarray, decoder_ids: np.ndarray) -> np.ndarray:
        logits = self.logits(ids, mask, decoder_ids).astype(np.float64)
        return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def written(folder: Path, spec: ModelSpec, params: Mapping[str, Any]) -> _Written:
    """Writes a model to an empty folder and loads it in ONNX Runtime."""
    write_onnx(folder, spec, params, {})
    return _Written(folder, threads=1)
