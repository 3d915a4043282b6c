"""A folder of StableHLO programs for nash_jax.export.check."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from nash_jax.export.stablehlo.folder import write_stablehlo
from nash_jax.export.stablehlo.run import StableHloModel
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import ModelSpec


def written(folder: Path, spec: ModelSpec, params: Mapping[str, Any]) -> StableHloModel:
    """Writes a model's programs to an empty folder and loads them in jax."""
    write_stablehlo(folder, spec, params, GenerationOptions(max_new_tokens=64))
    return StableHloModel(folder)
