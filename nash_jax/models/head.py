"""The LM head of a tied model as one of its own."""

import dataclasses
from collections.abc import Mapping
from typing import Any

import numpy as np

from nash_jax.spec import ModelSpec


def tied_lm_head(params: Mapping[str, Any]) -> np.ndarray:
    """The decoder's embedding table as an LM head, [d_model, vocab]."""
    table = params["shared" if "shared" in params else "decoder"]["embedding"]
    return np.ascontiguousarray(np.asarray(table).T)


def untie_head(spec: ModelSpec, params: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """The same function with an LM head of its own, [d_model, vocab]: faster in decoding than the tied table."""
    if not spec.tied:
        return spec, dict(params)
    return dataclasses.replace(spec, tied=False), {**params, "lm_head": tied_lm_head(params)}
