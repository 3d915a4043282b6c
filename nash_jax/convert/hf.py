"""Checkpoints in the layout of `transformers`: reads and writes `config.json` and weights without torch.

Folders of all versions of transformers are supported. The weights override the config: a model is untied if it stores
an `lm_head.weight` that differs from the decoder's table, and has two embedding tables if it stores two that differ.
"""

import dataclasses
import functools
import json
import math
import os
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from nash_jax.axes import check_params, leaf_shapes, param_axes
from nash_jax.convert import bart_layout, t5_layout
from nash_jax.convert.layout import Layout
from nash_jax.convert.refused import check_model_type
from nash_jax.convert.uniform import pad_to_uniform
from nash_jax.convert.weights import check_finite, read_weights, refuse_adapter
from nash_jax.errors import UserError
from nash_jax.models.head import untie_head
from nash_jax.models.positions import position_table
from nash_jax.runtime.files import check_local, read_json
from nash_jax.runtime.quiet import quiet_transformers
from nash_jax.runtime.stored import Index, StoredArray
from nash_jax.spec import SINUSOIDS, ModelSpec
from nash_jax.tree import count_params, flatten, unflatten

LAYOUTS: dict[str, Layout] = {
    **dict.fromkeys(("t5", "mt5", "umt5"), t5_layout.LAYOUT),
    **dict.fromkeys(("bart", "mbart", "marian", "pegasus", "m2m_100"), bart_layout.LAYOUT),
}
_DERIVED = ("num_decoder_layers", "decoder_vocab_size", "tie_word_embeddings", "scale_decoder_outputs")
_AS_STORED = ("embedding", "positions", "logits_bias")  # matrices that are not transposed, unlike [out, in] kernels


def get_layout(spec: ModelSpec) -> Layout:
    """Returns the layout of a spec's family.

    Raises:
      UserError: for a family that `transformers` does not have.
    """
    if spec.family not in LAYOUTS:
        raise UserError(f"no class of transformers for family {spec.family!r}", f"one of {tuple(LAYOUTS)}")
    return LAYOUTS[spec.family]


def spec_from_config(config: Mapping[str, Any]) -> ModelSpec:
    """Returns the dense spec for a `config.json`; tied until the weights are read.

    Missing fields have the defaults of the config's class; sizes are required.

    Raises:
      UserError: for an unknown model type, or settings that the family does not support.
    """
    kind: Any = config.get("model_type")
    check_model_type(kind, LAYOUTS)
    for name in ("vocab_size", "d_model", LAYOUTS[kind].depth_field):
        if name not in config:
            raise UserError(f"config.json has no {name!r}", f"the config.json of a {kind} checkpoint")
    try:
        return LAYOUTS[kind].spec_from_config(_WithDefaults(config))
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError, RecursionError) as error:
        raise UserError(f"config.json has a value of another type: {error}", "numbers for sizes") from error


class _WithDefaults(Mapping[str, Any]):
    """A config.json of a known model type with the defaults of its class in `transformers`.

    Fields that the class derives from others or overrides have none. The class is imported when a field is missing:
    where PyTorch is installed that takes longer than all else in loading a small model.

    Args:
      config: of the file.
    """

    def __init__(self, config: Mapping[str, Any]) -> None:
        self._config = config

    @functools.cached_property
    def _defaults(self) -> dict[str, Any]:
        with quiet_transformers():
            from transformers import CONFIG_MAPPING

        return dict(CONFIG_MAPPING[self._config["model_type"]]().to_dict())

    def __getitem__(self, name: str) -> Any:
        return self._config[name] if name in self._config or name in _DERIVED else self._defaults[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._defaults.keys() - set(_DERIVED) | self._config.keys())

    def __len__(self) -> int:
        return sum(1 for _ in self)


def load_hf(folder: str | os.PathLike[str], *, lazy: bool = False) -> tuple[ModelSpec, dict[str, Any]]:
    """Reads a folder in the hub's layout.

    Args:
      folder: contains `config.json`, and `model.safetensors`, or shards with `model.safetensors.index.json`, or the
        same as `pytorch_model.bin` or `flax_model.msgpack`.
      lazy: leave the values in the files; those of `.bin` and `.msgpack` are read nevertheless.

    Returns:
      The spec, and parameters as float32 NumPy arrays, or as `StoredArray`.

    Raises:
      UserError: for missing or broken files, or weights that do not fit the config.
    """
    check_local(folder)
    folder = Path(folder)
    refuse_adapter(folder)
    spec = spec_from_config(read_json(folder / "config.json"))
    state = read_weights(folder, sum(map(math.prod, leaf_shapes(spec).values())))
    spec, params = from_hf_state(spec, state, str(folder))
    if lazy:
        return spec, params
    flat, state, params = flatten(params), {}, {}
    return spec, unflatten({path: np.asarray(flat.pop(path)) for path in list(flat)})  # none is held twice


def from_hf_state(spec: ModelSpec, state: dict[str, np.ndarray], source: str) -> tuple[ModelSpec, dict[str, Any]]:
    """Converts a `transformers` state dict of NumPy arrays to a spec and parameters, which are read later.

    Args:
      spec: from config.json.
      state: weight name → array.
      source: name of the checkpoint, for messages.

    Returns:
      The spec, and parameters as `StoredArray`. The spec is untied if the state has a separate LM head, and has two
      embedding tables if the state has two.

    Raises:
      UserError: for missing or unknown weights, or wrong shapes.
    """
    layout = get_layout(spec)
    state = _with_prefix(layout, _without_owner(layout, state, source))
    spec, state = _settle_tables(spec, state, layout.prefix)
    if spec.positions in SINUSOIDS:
        for name in _position_names(layout.prefix):
            state.setdefault(name, position_table(spec))
    if spec.logits_bias:
        state.setdefault("final_logits_bias", np.zeros((1, spec.vocab_size), np.float32))
    names = layout.names(spec)
    missing = [n for parts in names.values() for n in parts if n not in state]
    unknown = sorted(set(state) - {n for parts in names.values() for n in parts})
    if missing or unknown:
        raise UserError(
            f"{source} does not fit its config.json: missing {missing[:3]}, left over {unknown[:3]}",
            f"{len(names)} parameters of a {spec.family} with {len(spec.encoder)}+{len(spec.decoder)} layers",
        )
    sizes, axes = spec.axis_sizes(), param_axes(spec)
    flat = {}
    for path, parts in names.items():
        weights = [state[name] for name in parts]
        try:
            flat[path] = _from_hf(path, parts, weights, tuple(sizes[a] for a in axes[path]), source)
        except ValueError as error:
            shapes = " ".join(f"{name} has shape {leaf.shape}," for name, leaf in zip(parts, weights, strict=True))
            raise UserError(f"{source}: {shapes} which does not fit config.json") from error
    params = unflatten(flat)
    check_params(spec, params, source)
    return spec, params


def _without_owner(layout: Layout, state: dict[str, np.ndarray], source: str) -> dict[str, np.ndarray]:
    """Removes what names begin with where the model was a part of another module: Lightning's, TRL's, PEFT's.

    Only a beginning that all tables of embeddings share is removed: two models in one file stay two.
    """
    tables = ("shared.weight", "encoder.embed_tokens.weight")
    owners = {name.removesuffix(table) for name in state for table in tables if f".{name}".endswith(f".{table}")}
    owner = owners.pop().removesuffix(layout.prefix) if len(owners) == 1 else ""
    if not owner:
        return state
    print(f"note: {source}: the names of the weights are read without {owner}")
    return {name.removeprefix(owner): leaf for name, leaf in state.items()}


def _with_prefix(layout: Layout, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes unused weights, and adds the prefix if the state is that of a model without LM head."""
    kept = {name: leaf for name, leaf in state.items() if not name.endswith(layout.ignored)}
    if any(name.startswith(layout.prefix) for name in kept):
        return kept
    outside = ("lm_head.weight", "final_logits_bias")
    return {name if name in outside else layout.prefix + name: leaf for name, leaf in kept.items()}


def _settle_tables(
    spec: ModelSpec, state: dict[str, np.ndarray], prefix: str
) -> tuple[ModelSpec, dict[str, np.ndarray]]:
    """Makes spec and state agree on the number of embedding tables, and removes stored copies."""
    shared, encoder, decoder = (
        f"{prefix}{n}.weight" for n in ("shared", "encoder.embed_tokens", "decoder.embed_tokens")
    )
    rest = {name: leaf for name, leaf in state.items() if name not in (shared, encoder, decoder)}
    stored = [state[name] for name in (shared, encoder, decoder) if name in state]
    tables = {
        "encoder": state.get(encoder, stored[0] if stored else None),
        "decoder": state.get(decoder, state.get(shared, stored[-1] if stored else None)),
    }
    if tables["encoder"] is None or tables["decoder"] is None:
        return spec, rest  # no tables stored: reported later as missing
    if _are_equal(tables["encoder"], tables["decoder"]):
        spec, rest[shared] = dataclasses.replace(spec, encoder_vocab_size=None), tables["decoder"]
    else:
        spec = dataclasses.replace(spec, encoder_vocab_size=len(tables["encoder"]))
        rest[encoder], rest[decoder] = tables["encoder"], tables["decoder"]
    head = rest.get("lm_head.weight")
    spec = dataclasses.replace(spec, tied=head is None or _are_equal(head, tables["decoder"]))
    if spec.tied:
        rest.pop("lm_head.weight", None)
    return spec, rest


def _are_equal(one: np.ndarray, other: np.ndarray) -> bool:
    """Whether two tables are the same; of different ones, little is read."""
    if one is other or one.shape != other.shape or one.ndim == 0:
        return one is other
    parts = (slice(start, start + _ROWS) for start in range(0, len(one), _ROWS))
    return all(np.array_equal(one[part], other[part]) for part in parts)


_ROWS = 1024  # of tables that are compared at a time


def _from_hf(
    path: str, names: Sequence[str], parts: Sequence[np.ndarray], shape: tuple[int, ...], source: str
) -> StoredArray:
    """Weights [out, in] → one array of our shape: input axis first, fused parts along the second axis.

    Views are turned and split, so that nothing is read before a part of the array is.
    """
    leaves = parts if path.endswith(_AS_STORED) else [p.T for p in parts]  # kernels become [in, out]; biases: no change
    if any(leaf.ndim > 1 and leaf.shape[0] != shape[0] and leaf.shape[-1] != shape[-1] for leaf in leaves):
        raise ValueError("a transposed kernel has as many values, but another first and last size")
    fused = None if len(parts) == 1 else 0 if parts[0].ndim == 1 else 1  # the axis that counts parts
    views = [leaf.reshape(shape if fused is None else shape[:fused] + shape[fused + 1 :]) for leaf in leaves]

    def read(index: Index) -> np.ndarray:
        chosen = [0] if fused is None else range(len(parts))[index[fused]]
        rest = index if fused is None else index[:fused] + index[fused + 1 :]
        found = [(names[i], views[i][rest]) for i in chosen]
        if fused is None:
            return _read_view(*found[0], np.empty(found[0][1].shape, np.float32), source)
        kept = views[0][rest].shape
        values = np.empty((*kept[:fused], len(found), *kept[fused:]), np.float32)
        for own, target in zip(found, np.moveaxis(values, fused, 0), strict=True):
            _read_view(*own, target, source)
        return values

    return StoredArray(shape, read)


_BLOCK = 16  # rows that make up a line of the cache once they are transposed


def _read_view(name: str, view: np.ndarray, target: np.ndarray, source: str) -> np.ndarray:
    """Copies a part of a weight into an array; a transposed one some rows of the file at a time.

    NumPy's own copy of a transposed matrix writes each line of the cache sixteen times, and with 1,024 or 4,096 inputs
    all of a column falls on the same few places of the cache: that was most of the time of loading a T5-large.
    """
    if view.ndim > 1 and view.strides[0] == view.itemsize:
        for place in np.ndindex(*view.shape[1:-1]):
            own, new = view[(slice(None), *place)], target[(slice(None), *place)]
            for start in range(0, view.shape[-1], _BLOCK):
                new[:, start : start + _BLOCK] = own[:, start : start + _BLOCK]
    else:
        target[...] = view
    check_finite(name, target, source)
    return target


def _to_hf(path: str, leaf: np.ndarray, num_parts: int) -> list[np.ndarray]:
    """The inverse of `_from_hf`."""
    name = path.rpartition("/")[2]
    if path.endswith("logits_bias"):
        return [leaf[None]]
    if path.endswith(_AS_STORED):
        return [leaf]
    if name.endswith("bias") or name == "scale":
        return [np.ascontiguousarray(part.reshape(-1)) for part in (leaf if num_parts > 1 else [leaf])]
    if name == "out":
        return [np.ascontiguousarray(leaf.reshape(-1, leaf.shape[-1]).T)]
    parts = [leaf] if num_parts == 1 else [leaf[:, i] for i in range(num_parts)]
    return [np.ascontiguousarray(part.reshape(len(part), -1).T) for part in parts]


def to_hf_state(spec: ModelSpec, params: Mapping[str, Any]) -> dict[str, np.ndarray]:
    """Returns the `transformers` state dict of a model with uniform layers, float32; tied tables are stored once."""
    flat, layout = flatten(params), get_layout(spec)
    state: dict[str, np.ndarray] = {}
    for path, names in layout.names(spec).items():
        state.update(zip(names, _to_hf(path, np.asarray(flat[path]), len(names)), strict=True))
    if spec.positions == "sinusoidal_tokens":
        return _without_positions(spec, state)
    if spec.absolute_positions:
        state.setdefault("final_logits_bias", np.zeros((1, spec.vocab_size), np.float32))
    return state


def weight_shapes(spec: ModelSpec) -> dict[str, tuple[int, ...]]:
    """Returns name → shape of each weight in the `transformers` state dict of a model with uniform layers."""
    shapes, found = leaf_shapes(spec), dict[str, tuple[int, ...]]()
    for path, names in get_layout(spec).names(spec).items():
        parts = _to_hf(path, np.zeros(shapes[path], np.int8), len(names))
        found.update(zip(names, (part.shape for part in parts), strict=True))
    return found


def _without_positions(spec: ModelSpec, state: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes M2M100's position tables, which `transformers` computes and does not read.

    Raises:
      UserError: for tables that differ from the computed ones: a d_model mask between 0 and 1 was multiplied into them.
    """
    names, computed = _position_names(get_layout(spec).prefix), position_table(spec)
    if not all(np.allclose(state[name], computed, atol=1e-6) for name in names):
        raise UserError(
            f"the position table is not the one that {spec.family} in transformers computes",
            "sinusoids as they are",
            "save an export instead",
        )
    return {name: leaf for name, leaf in state.items() if name not in names}


def _position_names(prefix: str) -> list[str]:
    return [f"{prefix}{side}.embed_positions.weight" for side in ("encoder", "decoder")]


def _copies(spec: ModelSpec, state: Mapping[str, np.ndarray], prefix: str) -> dict[str, np.ndarray]:
    """Returns tables that `transformers` expects to be stored again, because it does not tie them.

    T5's config ties the LM head only if outputs are scaled (version 4 derives both from the same flag).
    """
    decoder = state.get(f"{prefix}shared.weight", state.get(f"{prefix}decoder.embed_tokens.weight"))
    assert decoder is not None  # every model has an embedding table
    separate = spec.encoder_vocab_size is not None
    copies = {}
    tied_by_config = spec.absolute_positions or spec.output_scale != 1.0
    if spec.tied and (separate or not tied_by_config):
        copies["lm_head.weight"] = decoder.copy()
    if spec.absolute_positions and not spec.tied and not separate:
        copies |= {f"{prefix}{side}.embed_tokens.weight": decoder.copy() for side in ("encoder", "decoder")}
    if separate and spec.family != "marian":
        copies[f"{prefix}shared.weight"] = state[f"{prefix}encoder.embed_tokens.weight"].copy()
    return copies


def hf_config(spec: ModelSpec) -> dict[str, Any]:
    """Returns the `config.json` of a model with uniform layers, for transformers 4 and 5.

    Raises:
      UserError: naming the flag that the family's class in transformers cannot express.
    """
    return get_layout(spec).config_from_spec(spec)


def check_expressible(spec: ModelSpec) -> None:
    """Checks that `write_hf` can write a model; any output scale is allowed, since the LM head can include it.

    Raises:
      UserError: naming the flag that the family's class in transformers cannot express.
    """
    layout = get_layout(spec)
    layout.config_from_spec(dataclasses.replace(spec, output_scale=layout.output_scales(spec)[0]))


def _expressible(spec: ModelSpec, params: Mapping[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """Returns an equivalent model with an output scale of the family's class; a separate LM head includes the rest."""
    allowed = get_layout(spec).output_scales(spec)
    if any(np.isclose(spec.output_scale, scale, rtol=1e-6) for scale in allowed):
        return spec, dict(params)
    spec, params = untie_head(spec, params)
    factor = np.float32(spec.output_scale / allowed[0])
    head = np.asarray(params["lm_head"]) * factor
    return dataclasses.replace(spec, output_scale=allowed[0]), {**params, "lm_head": head}


def write_hf(
    folder: str | os.PathLike[str],
    spec: ModelSpec,
    params: Mapping[str, Any],
    generation: Mapping[str, Any] | None = None,
) -> None:
    """Writes `config.json`, `generation_config.json` and `model.safetensors`, which `transformers` loads.

    A ragged model is padded with zeros to uniform layers; the number of added parameters is printed. For a T5 whose
    decoder is deeper than its encoder, the cache of transformers is switched off, and a note says so.

    Args:
      folder: an empty folder.
      spec: the model's architecture.
      params: its parameters.
      generation: fields of its generation config.

    Raises:
      UserError: if the family's class in transformers cannot express the model.
    """
    folder = Path(folder)
    check_expressible(spec)
    full, padded = pad_to_uniform(*_expressible(spec, params))
    config, state = hf_config(full), to_hf_state(full, padded)
    state |= _copies(full, state, get_layout(full).prefix)
    extra = count_params(padded) / count_params(params) - 1
    if full.encoder != spec.encoder or full.decoder != spec.decoder:
        print(f"note: padded with zeros for transformers, {extra:.0%} more parameters; the export has none of them")
    if full.output_scale != 1.0 and not full.tied:
        print("note: a separate LM head and a scaled output: transformers before version 5 reads another model")
    save_file(state, folder / "model.safetensors", metadata={"format": "pt"})
    fields = {name: config[name] for name in ("pad_token_id", "eos_token_id", "decoder_start_token_id")}
    if not spec.absolute_positions and len(spec.decoder) > len(spec.encoder):
        # the cache of its `generate` has as many layers as a T5's encoder, and fails beyond them
        print("note: the decoder is deeper than the encoder: transformers generates with this T5 without cache, slowly")
        fields["use_cache"] = False
    (folder / "generation_config.json").write_text(json.dumps({**fields, **(generation or {})}, indent=1))
    (folder / "config.json").write_text(json.dumps(config, indent=1))
