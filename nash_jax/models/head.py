"""Conversion of a tied LM head to a separate parameter."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from nash_jax.spec import ModelSpec


def tied_lm_head(params: Mapping[str, Any]) -> np.ndarray:
    """Returns the decoder's embedding table as an LM head, [d_model, vocab]."""
    table = params["shared" if "shared" in params else "decoder"]["embedding"]
    return np.ascontiguousarray(np.asarray(table).T)


def untie_head(spec: ModelSpec, params: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """Returns an equivalent model with a separate LM head [d_model, vocab], which decodes faster than a tied table.

    Args:
      spec: the model's architecture.
      params: its parameters.

    Returns:
      The spec with `tied=False` and the parameters; unchanged if the model is not tied.
    """
    if not spec.tied:
        return spec, dict(params)
    return dataclasses.replace(spec, tied=False), {**params, "lm_head": tied_lm_head(params)}
