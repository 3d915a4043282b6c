"""A folder with StableHLO programs, the weights beside them, and what a reader has to know.

FOLDER/stablehlo/encode.bin, logits.bin, generate.bin   programs of `jax.export`, without weights
FOLDER/stablehlo/weights.safetensors                    path → array, float32
FOLDER/stablehlo/programs.json                          inputs, outputs, special ids, platforms, version of jax
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import numpy as np
from safetensors.numpy import save_file

from nash_jax.errors import UserError
from nash_jax.export.stablehlo.programs import check_options, make_programs
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten

PLATFORMS = ("cpu", "cuda", "tpu")


def check_settings(options: GenerationOptions, platforms: Any, dtype: Any) -> None:
    """Checks options of generation, names of platforms and the compute dtype.

    Raises:
      UserError: for options other than greedy search, another platform than those of `PLATFORMS` and rocm, or none, and
        for int8.
    """
    if dtype == "int8":
        raise UserError("dtype is int8", "float32 or bfloat16 for StableHLO", "load the model with one of them")
    check_options(options)
    known = (*PLATFORMS, "rocm")
    listed = isinstance(platforms, list | tuple) and all(isinstance(name, str) for name in platforms)
    if not listed or not platforms or any(name not in known for name in platforms):
        raise UserError(f"platforms is {str(platforms)[:60]!r}", f"a list of {', '.join(known)}")


def write_stablehlo(
    folder: Path, spec: ModelSpec, params: Mapping[str, Any], options: GenerationOptions, dtype: Any = "float32",
    platforms: Sequence[str] = PLATFORMS,
) -> None:  # fmt: skip
    """Writes the programs and the weights.

    Args:
      folder: an empty folder.
      spec: the model's architecture.
      params: its parameters.
      options: of generation.
      dtype: compute dtype.
      platforms: that the programs run on.

    Raises:
      UserError: for options other than greedy search, other platforms, or int8.
    """
    check_settings(options, platforms, dtype)
    programs = make_programs(spec, options, jax.numpy.dtype(dtype), platforms)
    place = folder / "stablehlo"
    place.mkdir()
    for name, program in programs.items():
        (place / f"{name}.bin").write_bytes(program.serialize())
    weights = {path: np.ascontiguousarray(leaf, np.float32) for path, leaf in flatten(params).items()}
    save_file(weights, place / "weights.safetensors")
    (place / "programs.json").write_text(json.dumps(_facts(spec, options, platforms, programs), indent=1), "utf-8")


def _facts(
    spec: ModelSpec, options: GenerationOptions, platforms: Sequence[str], programs: Mapping[str, Any]
) -> dict[str, Any]:
    return {
        "programs": {name: [str(aval) for aval in _inputs(program)] for name, program in programs.items()},
        "max_new_tokens": programs["generate"].out_avals[0].shape[1] - 1,
        "max_positions": spec.max_positions if spec.absolute_positions else None,
        "pad_token_id": spec.pad_id if options.pad_token_id is None else options.pad_token_id,
        "eos_token_id": options.eos_token_id or [spec.eos_id],
        "platforms": list(platforms),
        "jax_version": jax.__version__,
        "calling_convention_version": programs["generate"].calling_convention_version,
    }


def _inputs(program: Any) -> Sequence[Any]:
    """What a program takes after the weights."""
    (_, *inputs), _ = jax.tree.unflatten(program.in_tree, program.in_avals)
    return inputs
