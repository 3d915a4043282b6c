"""An ONNX folder for nash_jax.export.check."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nash_jax.export.onnx.folder import write_onnx
from nash_jax.export.onnx.run import OnnxModel
from nash_jax.spec import ModelSpec


def written(folder: Path, spec: ModelSpec, params: Mapping[str, Any]) -> OnnxModel:
    """Writes a model to an empty folder and loads it in ONNX Runtime."""
    write_onnx(folder, spec, params, {})
    return OnnxModel(folder, threads=1)
