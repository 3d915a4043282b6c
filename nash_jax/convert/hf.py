"""T5 checkpoints in the layout of `transformers`: `config.json` and safetensors, both ways, without torch.

A folder may come from any version of transformers. Facts that matter (REFERENCE, section 8):
  * v1.0 scales the decoder's output by d_model**-0.5. transformers 5 keeps that in
    `scale_decoder_outputs`; before, `tie_word_embeddings` implied it.
  * a checkpoint is untied when it stores an `lm_head.weight` that differs from `shared.weight`.
  * block 0 of a stack owns the position-bias table of the whole stack.
"""

import dataclasses
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import SafetensorError, safe_open
from safetensors.numpy import save_file

from nash_jax.errors import UserError
from nash_jax.models import param_axes
from nash_jax.spec import DecoderLayer, EncoderLayer, ModelSpec, dense_spec
from nash_jax.tree import check_shapes, flatten, unflatten

_ACTIVATIONS = {  # feed_forward_proj → (activation, gated); a gated "gelu" is the tanh form
    "relu": ("relu", False),
    "gelu_new": ("gelu_tanh", False),
    "gated-relu": ("relu", True),
    "gated-gelu": ("gelu_tanh", True),
    "gated-gelu_new": ("gelu_tanh", True),
}
_PROJECTIONS = {kind: name for name, kind in reversed(_ACTIVATIONS.items())}
_BLOCK_SUBLAYER = {  # (side, sub-layer) → place in a block, name of the module there
    ("encoder", "attention"): (0, "SelfAttention"),
    ("encoder", "ffn"): (1, "DenseReluDense"),
    ("decoder", "self_attention"): (0, "SelfAttention"),
    ("decoder", "cross_attention"): (1, "EncDecAttention"),
    ("decoder", "ffn"): (2, "DenseReluDense"),
}
_COPIES = ("encoder.embed_tokens.weight", "decoder.embed_tokens.weight")  # of shared.weight


def spec_from_config(config: Mapping[str, Any]) -> ModelSpec:
    """The dense spec that a T5 `config.json` describes (tied until the weights say otherwise).

    Raises:
      UserError: for another model type, or settings this family does not have.
    """
    kind = config.get("model_type")
    if kind != "t5":
        raise UserError(f"config.json has model_type {kind!r}", "'t5' (T5, T5 v1.1, FLAN-T5)")
    try:
        projection = config.get("feed_forward_proj", "relu")
        if projection not in _ACTIVATIONS:
            raise UserError(f"feed_forward_proj is {projection!r}", f"one of {tuple(_ACTIVATIONS)}")
        activation, gated = _ACTIVATIONS[projection]
        layers = config["num_layers"]
        scaled = config.get("scale_decoder_outputs", config.get("tie_word_embeddings", True) is not False)
        eos = config.get("eos_token_id", 1)
        return dense_spec(
            vocab_size=config["vocab_size"],
            d_model=config["d_model"],
            head_dim=config["d_kv"],
            d_ff=config["d_ff"],
            num_heads=config["num_heads"],
            encoder_layers=layers,
            decoder_layers=layers if config.get("num_decoder_layers") is None else config["num_decoder_layers"],
            activation=activation,
            gated=gated,
            output_scale=config["d_model"] ** -0.5 if scaled else 1.0,
            position_buckets=config.get("relative_attention_num_buckets", 32),
            position_max_distance=config.get("relative_attention_max_distance", 128),
            norm_eps=config.get("layer_norm_epsilon", 1e-6),
            dropout_rate=float(config.get("dropout_rate", 0.1)),
            pad_id=config.get("pad_token_id") or 0,
            eos_id=eos[0] if isinstance(eos, list) else eos,
            decoder_start_id=config.get("decoder_start_token_id") or 0,
        )
    except KeyError as error:
        raise UserError(f"config.json has no {error}", "the config.json of a T5 checkpoint") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"config.json has a value of another type: {error}", "numbers for sizes") from error


def load_hf(folder: str | os.PathLike[str]) -> tuple[ModelSpec, dict[str, Any]]:
    """Reads a folder in the hub's layout.

    Args:
      folder: holds `config.json` and `model.safetensors`, or its shards and `model.safetensors.index.json`.

    Returns:
      The spec, and parameters as float32 NumPy arrays.

    Raises:
      UserError: for missing or broken files, or weights that do not fit the config.
    """
    folder = Path(folder)
    try:
        config = json.loads((folder / "config.json").read_text())
    except FileNotFoundError as error:
        raise UserError(f"{folder} has no config.json", "a folder in the hub's layout") from error
    except ValueError as error:
        raise UserError(f"{folder / 'config.json'} is not JSON: {error}") from error
    if not isinstance(config, dict):
        raise UserError(f"{folder / 'config.json'} holds a {type(config).__name__}", "the settings of a T5")
    return from_hf_state(spec_from_config(config), _read_state(folder), str(folder))


def from_hf_state(spec: ModelSpec, state: dict[str, np.ndarray], source: str) -> tuple[ModelSpec, dict[str, Any]]:
    """Turns a `transformers` state dict of NumPy arrays into (spec, parameters).

    The spec comes back untied when the state holds an LM head of its own.
    """
    copies = [state.pop(name) for name in _COPIES if name in state]
    if copies:
        state.setdefault("shared.weight", copies[0])
    state.pop("decoder.block.0.layer.1.EncDecAttention.relative_attention_bias.weight", None)  # unused, old t5
    head = state.get("lm_head.weight")
    tied = head is None or ("shared.weight" in state and np.array_equal(head, state["shared.weight"]))
    spec = dataclasses.replace(spec, tied=tied)
    if tied:
        state.pop("lm_head.weight", None)
    names = hf_names(spec)
    missing = [n for parts in names.values() for n in parts if n not in state]
    unknown = sorted(set(state) - {n for parts in names.values() for n in parts})
    if missing or unknown:
        raise UserError(
            f"{source} does not fit its config.json: missing {missing[:3]}, left over {unknown[:3]}",
            f"{len(names)} parameters of a T5 with {len(spec.encoder)}+{len(spec.decoder)} layers",
        )
    sizes, axes = spec.axis_sizes(), param_axes(spec)
    flat = {}
    for path, parts in names.items():
        try:
            flat[path] = _from_hf(path, [state[n] for n in parts], tuple(sizes[a] for a in axes[path]))
        except ValueError as error:
            shapes = [state[n].shape for n in parts]
            raise UserError(f"{source}: {parts[0]} has shape {shapes[0]}, which does not fit config.json") from error
    params = unflatten(flat)
    check_shapes(params, {p: tuple(sizes[a] for a in ax) for p, ax in axes.items()}, source)
    return spec, params


def hf_names(spec: ModelSpec) -> dict[str, list[str]]:
    """Our parameter path → the names of the `transformers` weights it is made of."""
    names: dict[str, list[str]] = {}
    for path in param_axes(spec):
        side, *rest = path.split("/")
        if path == "shared/embedding":
            names[path] = ["shared.weight"]
        elif path == "lm_head":
            names[path] = ["lm_head.weight"]
        elif rest[0] == "final_norm":
            names[path] = [f"{side}.final_layer_norm.weight"]
        elif rest[0] == "position_bias":
            names[path] = [f"{side}.block.0.layer.0.SelfAttention.relative_attention_bias.weight"]
        else:
            place, module = _BLOCK_SUBLAYER[side, rest[1]]
            prefix = f"{side}.block.{rest[0].removeprefix('layers_')}.layer.{place}"
            if rest[2] == "norm":
                names[path] = [f"{prefix}.layer_norm.weight"]
            else:
                leaves = {"qkv": "qkv", "kv": "kv", "q": "q", "out": "o"}.get(rest[2])
                kernels = list(leaves) if leaves else ["wo"] if rest[2] == "wo" else _wi_names(spec)
                names[path] = [f"{prefix}.{module}.{k}.weight" for k in kernels]
    return names


def _wi_names(spec: ModelSpec) -> list[str]:
    return ["wi_0", "wi_1"] if spec.gated else ["wi"]


def _from_hf(path: str, parts: list[np.ndarray], shape: tuple[int, ...]) -> np.ndarray:
    """Weights [out, in] → one array of our shape: input axis first, fused parts on the second axis."""
    if path.endswith(("embedding", "scale")):
        return np.ascontiguousarray(parts[0].reshape(shape))
    kernels = [p.T for p in parts]  # [in, out]
    fused = kernels[0] if len(kernels) == 1 else np.stack(kernels, axis=1)
    return np.ascontiguousarray(fused.reshape(shape))


def _to_hf(path: str, leaf: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """The inverse of `_from_hf`."""
    if path.endswith(("embedding", "scale")):
        return [leaf]
    if path.endswith("out"):
        return [np.ascontiguousarray(leaf.reshape(-1, leaf.shape[-1]).T)]
    if num_parts == 1:
        return [np.ascontiguousarray(leaf.reshape(leaf.shape[0], -1).T)]
    return [np.ascontiguousarray(leaf[:, i].reshape(leaf.shape[0], -1).T) for i in range(num_parts)]


def _read_state(folder: Path) -> dict[str, np.ndarray]:
    """All tensors of a safetensors checkpoint, single or sharded, as float32."""
    index = folder / "model.safetensors.index.json"
    if (folder / "model.safetensors").exists():
        files = [folder / "model.safetensors"]
    elif index.exists():
        try:
            files = sorted({folder / name for name in json.loads(index.read_text())["weight_map"].values()})
        except (ValueError, KeyError, TypeError, AttributeError) as error:
            raise UserError(f"{index} is no index of shards: {error!r}", "the file as it was saved") from error
    else:
        have = sorted(p.name for p in folder.iterdir())
        raise UserError(f"{folder} has no model.safetensors (it has {have})", "safetensors weights or their index")
    state = {}
    for file in files:
        try:
            with safe_open(file, framework="np") as tensors:
                for name in tensors.keys():  # noqa: SIM118 (not a dict)
                    state[name] = tensors.get_tensor(name).astype(np.float32)
        except FileNotFoundError as error:
            raise UserError(f"{file} is missing", "every shard that the index names") from error
        except SafetensorError as error:
            raise UserError(f"{file} cannot be read: {error}", "a whole safetensors file", "fetch it again") from error
    return state


def rectangular(spec: ModelSpec, params: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """Pads a ragged model with zeros to equal heads and units in every layer: the same function.

    Kept heads go back to their old places, so that T5's shared position bias stays right. A padded head's
    value and output are zero, a padded unit's output row is zero, a padded sub-layer's norm scale is one.

    Returns:
      The rectangular spec and its parameters.
    """
    widest = max([1, *(size for axis, size in spec.sublayers().values() if axis.endswith(".units"))])
    heads = tuple(range(spec.num_heads))
    full = dataclasses.replace(
        spec,
        encoder=(EncoderLayer(heads, widest),) * len(spec.encoder),
        decoder=(DecoderLayer(heads, heads, widest),) * len(spec.decoder),
    )
    ids = _kept_ids(spec)
    sizes, flat, new = full.axis_sizes(), flatten(params), {}
    for path, names in param_axes(full).items():
        target = np.zeros([sizes[a] for a in names], np.float32)
        if path in flat:
            target[np.ix_(*[ids.get(a, range(sizes[a])) for a in names])] = np.asarray(flat[path])
        elif path.endswith("scale"):
            target[:] = 1
        new[path] = target
    return full, unflatten(new)


def _kept_ids(spec: ModelSpec) -> dict[str, list[int]]:
    """Prunable axis → original positions of what it kept (units have lost theirs: the first ones)."""
    ids: dict[str, list[int]] = {}
    for i, e in enumerate(spec.encoder):
        ids[f"encoder.{i}.attention.heads"] = list(e.heads)
        ids[f"encoder.{i}.ffn.units"] = list(range(e.ffn))
    for i, d in enumerate(spec.decoder):
        ids[f"decoder.{i}.self_attention.heads"] = list(d.self_heads)
        ids[f"decoder.{i}.cross_attention.heads"] = list(d.cross_heads)
        ids[f"decoder.{i}.ffn.units"] = list(range(d.ffn))
    return ids


def to_hf_state(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """A rectangular model's `transformers` state dict, float32 NumPy arrays."""
    flat = flatten(params)
    state: dict[str, np.ndarray] = {}
    for path, names in hf_names(spec).items():
        state.update(zip(names, _to_hf(path, np.asarray(flat[path]), len(names)), strict=True))
    return state


def hf_config(spec: ModelSpec) -> dict[str, Any]:
    """The `config.json` of a rectangular model, for transformers 4 and 5.

    Raises:
      UserError: when transformers' T5 cannot express the spec.
    """
    scaled = spec.output_scale != 1.0
    if scaled and not np.isclose(spec.output_scale, spec.d_model**-0.5, rtol=1e-6):
        raise UserError(
            f"output_scale {spec.output_scale} is not d_model**-0.5",
            "an unpruned d_model (transformers' T5 cannot express another scale)",
        )
    if scaled != spec.tied:
        note = "tied without scaling" if spec.tied else "untied with scaling"
        print(f"note: this T5 is {note}; transformers before version 5 cannot express that")
    return {
        "architectures": ["T5ForConditionalGeneration"],
        "model_type": "t5",
        "vocab_size": spec.vocab_size,
        "d_model": spec.d_model,
        "d_kv": spec.head_dim,
        "d_ff": spec.encoder[0].ffn,
        "num_layers": len(spec.encoder),
        "num_decoder_layers": len(spec.decoder),
        "num_heads": spec.num_heads,
        "feed_forward_proj": _PROJECTIONS[spec.activation, spec.gated],
        "relative_attention_num_buckets": spec.position_buckets,
        "relative_attention_max_distance": spec.position_max_distance,
        "layer_norm_epsilon": spec.norm_eps,
        "dropout_rate": spec.dropout_rate,
        "tie_word_embeddings": scaled,
        "scale_decoder_outputs": scaled,
        "is_encoder_decoder": True,
        "pad_token_id": spec.pad_id,
        "eos_token_id": spec.eos_id,
        "decoder_start_token_id": spec.decoder_start_id,
        "torch_dtype": "float32",
    }


def save_hf(folder: str | os.PathLike[str], spec: ModelSpec, params: Mapping[str, Any]) -> None:
    """Writes a folder that `transformers` loads as T5ForConditionalGeneration.

    A ragged model is padded with zeros to a rectangle. The folder appears whole or not at all.
    """
    folder = Path(folder)
    full, padded = rectangular(spec, params)
    config, state = hf_config(full), to_hf_state(full, padded)
    if full.tied:  # stored twice, as transformers 4 expects of an untied config
        state["lm_head.weight"] = state["shared.weight"].copy()
    partial = folder.with_name(folder.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file(state, partial / "model.safetensors", metadata={"format": "pt"})
    (partial / "config.json").write_text(json.dumps(config, indent=1))
    if folder.exists():
        shutil.rmtree(folder)
    partial.rename(folder)
