"""A folder with ONNX graphs, in the names that transformers.js and optimum read.

FOLDER/onnx/encoder_model.onnx, decoder_model_merged.onnx   or, with int8, `…_quantized.onnx`
FOLDER/onnx/….onnx_data                                     weights that are too large for a file of protobuf
FOLDER/config.json, generation_config.json
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import onnx

from nash_jax.errors import UserError
from nash_jax.export.onnx.decoder import decoder_model
from nash_jax.export.onnx.encoder import encoder_model
from nash_jax.export.onnx.layers import Parts
from nash_jax.export.onnx.quantize import STORAGES
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten

QUANTIZATIONS = {"float32": ("float32", ""), "int8": ("dynamic", "_quantized")}  # → storage, ending of the file names
GRAPHS: dict[str, Callable[[Parts], onnx.ModelProto]] = {
    "encoder_model": encoder_model,
    "decoder_model_merged": decoder_model,
}
LARGEST = (1 << 31) - (1 << 24)  # bytes of weights in one file; protobuf ends at 2 GiB
# families that transformers.js does not know → one whose sizes and cache have the same names there
_NEAREST = {"umt5": "mt5", "pegasus": "bart", "custom": "t5"}


def check_quantization(value: Any) -> None:
    """Checks how weights should be stored.

    Raises:
      UserError: for another value than "float32" or "int8".
    """
    if not isinstance(value, str) or value not in QUANTIZATIONS:
        raise UserError(f"quantization is {str(value)[:60]!r}", "'float32' or 'int8'")


def write_onnx(
    folder: Path, spec: ModelSpec, params: Mapping[str, Any], generation: Mapping[str, Any],
    quantization: str = "float32",
) -> None:  # fmt: skip
    """Writes the graphs and the two files of settings.

    Args:
      folder: an empty folder.
      spec: the model's architecture.
      params: its parameters.
      generation: fields of its generation config.
      quantization: "float32" or "int8".

    Raises:
      UserError: for another quantization, or a model without decoder layers.
    """
    check_quantization(quantization)
    if not spec.decoder:
        raise UserError("the decoder has no layers", "one or more, for the cache of an ONNX graph")
    write_graphs(folder, spec, params, generation, *QUANTIZATIONS[quantization])


def write_graphs(
    folder: Path, spec: ModelSpec, params: Mapping[str, Any], generation: Mapping[str, Any], storage: str, ending: str
) -> None:
    """Writes the folder with matrices stored in any way.

    Args:
      folder: an empty folder.
      spec: the model's architecture.
      params: its parameters.
      generation: fields of its generation config.
      storage: a key of `STORAGES`.
      ending: of the names of the graphs.
    """
    parts = make_parts(spec, params, storage)
    (folder / "onnx").mkdir()
    config = onnx_config(spec)
    split = [name for name, build in GRAPHS.items() if _write(build(parts), folder / "onnx" / f"{name}{ending}.onnx")]
    if split:
        config["transformers.js_config"] = {"use_external_data_format": {f"{name}{ending}.onnx": 1 for name in split}}
    for name, fields in {"config": config, "generation_config": _generation(config, generation)}.items():
        (folder / f"{name}.json").write_text(json.dumps(fields, indent=1), encoding="utf-8")


def _generation(config: Mapping[str, Any], given: Mapping[str, Any]) -> dict[str, Any]:
    """Fields of generation_config.json: ids of special tokens, and our greatest length where none was set."""
    fields = {name: config[name] for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id")}
    if not {"max_new_tokens", "max_length"} & set(given):
        fields["max_new_tokens"] = GenerationOptions().length_limits(1)[1] - 1
    return {**fields, **given}


def make_parts(spec: ModelSpec, params: Mapping[str, Any], storage: str = "float32") -> Parts:
    """Returns a model ready for its graphs.

    Args:
      spec: architecture.
      params: nested dict of arrays.
      storage: a key of `STORAGES`.
    """
    return Parts(spec, flatten(params), STORAGES[storage].linear, STORAGES[storage].tables)


def _write(model: onnx.ModelProto, path: Path) -> bool:
    """Writes a model; whether its weights are in a file beside it."""
    split = sum(len(weight.raw_data) for weight in model.graph.initializer) > LARGEST
    onnx.save_model(
        model, path, save_as_external_data=split, all_tensors_to_one_file=True, location=f"{path.name}_data",
        size_threshold=1024,
    )  # fmt: skip
    return split


def onnx_config(spec: ModelSpec) -> dict[str, Any]:
    """Returns the config.json that readers of ONNX need: the function is in the graphs, here are sizes and ids.

    `model_type` is the family, or the nearest one that transformers.js knows; `nash_jax_family` is the family.
    """
    kind, heads, layers = _NEAREST.get(spec.family, spec.family), spec.heads_of("decoder"), len(spec.encoder)
    units = {side: spec.max_ffn_units(side) for side in ("encoder", "decoder")}
    fields = {
        "model_type": kind, "nash_jax_family": spec.family, "is_encoder_decoder": True, "vocab_size": spec.vocab_size,
        "d_model": spec.d_model, "pad_token_id": spec.pad_id, "eos_token_id": spec.eos_id,
        "decoder_start_token_id": spec.decoder_start_id,
    }  # fmt: skip
    if kind in ("t5", "mt5"):
        return fields | {
            "num_layers": layers, "num_decoder_layers": len(spec.decoder), "num_heads": heads,
            "d_kv": spec.head_dim_of("decoder"), "d_ff": max(units.values()),
        }  # fmt: skip
    return fields | {
        "encoder_layers": layers, "decoder_layers": len(spec.decoder), "num_hidden_layers": layers,
        "encoder_attention_heads": spec.num_heads, "decoder_attention_heads": heads,
        "encoder_ffn_dim": units["encoder"], "decoder_ffn_dim": units["decoder"],
        "max_position_embeddings": spec.max_positions,
    }  # fmt: skip
