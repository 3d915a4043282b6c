"""A folder of StableHLO programs for nash_jax.export.check."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.export.stablehlo.folder import write_stablehlo
from nash_jax.export.stablehlo.run import StableHloModel
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import ModelSpec


class _Written(StableHloModel):
    def log_probs(self, ids: np.ndarray, mask: np.ndarray, decoder_ids: np.ndarray) -> np.ndarray:
        logits = self.logits(ids, mask, decoder_ids).astype(np.float64)
        return logits - np.logaddexp.reduce(logits, axis=-1, keepdims=True)


def written(folder: Path, spec: ModelSpec, params: Mapping[str, Any]) -> _Written:
    """Writes a model's programs to an empty folder and loads them in jax."""
    write_stablehlo(folder, spec, params, GenerationOptions(max_new_tokens=64))
    return _Written(folder)
