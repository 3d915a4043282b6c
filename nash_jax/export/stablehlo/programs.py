"""The programs: jitted functions of weights and inputs, exported by `jax.export` for several platforms.

Letters: B inputs, S source length, T target length, L output length with the start token, D d_model, V vocabulary size.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import export

from nash_jax.axes import leaf_shapes
from nash_jax.errors import UserError
from nash_jax.generation.cache import CachedDecoder, encode
from nash_jax.generation.greedy import greedy
from nash_jax.generation.inputs import pad_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.program_args import make_program_args
from nash_jax.models import build
from nash_jax.spec import ModelSpec
from nash_jax.tree import unflatten

Weights = Mapping[str, Any]  # path → array


def check_options(options: GenerationOptions) -> None:
    """Checks that generation is greedy.

    Raises:
      UserError: for beams, sampling or several outputs for an input.
    """
    asked = {"num_beams": options.num_beams, "do_sample": options.do_sample}
    asked["num_return_sequences"] = options.num_return_sequences
    wrong = [f"{name}={value}" for name, value in asked.items() if value not in (1, False)]
    if wrong:
        raise UserError(
            f"{', '.join(wrong)} in a StableHLO program", "greedy search", "pass num_beams=1, do_sample=False"
        )


def make_programs(
    spec: ModelSpec, options: GenerationOptions, dtype: Any, platforms: Sequence[str]
) -> dict[str, export.Exported]:
    """Returns the exported programs by name.

    Args:
      spec: the model's architecture.
      options: of `generate`; they cannot be changed later.
      dtype: compute dtype.
      platforms: such as cpu, cuda, tpu.

    Raises:
      UserError: for options other than greedy search.
    """
    check_options(options)
    weights = {path: jax.ShapeDtypeStruct(shape, jnp.float32) for path, shape in leaf_shapes(spec).items()}
    functions: dict[str, tuple[Callable[..., Any], list[str]]] = {
        "encode": (_encode(spec, dtype), ["source", "source"]),
        "logits": (_logits(spec, dtype), ["source", "source", "target"]),
        "generate": (_generate(spec, options, dtype), ["source", "source", "scalar"]),
    }
    return {
        name: export.export(jax.jit(function), platforms=list(platforms))(weights, *_shapes(spec, kinds))
        for name, (function, kinds) in functions.items()
    }


def _shapes(spec: ModelSpec, kinds: Sequence[str]) -> list[jax.ShapeDtypeStruct]:
    """Inputs of any batch and length; jax checks at each call that the model has positions for that length."""
    names = [name for name in ("s", "t") if {"s": "source", "t": "target"}[name] in kinds]
    limits = [f"{name} <= {spec.max_positions}" for name in names] if spec.absolute_positions else []
    batch, *lengths = export.symbolic_shape(", ".join(["b", *names]), constraints=limits)
    sizes = {"source": (batch, lengths[0]), "target": (batch, lengths[-1]), "scalar": ()}
    return [jax.ShapeDtypeStruct(sizes[kind], jnp.int32) for kind in kinds]


def _tree(weights: Weights, dtype: Any) -> dict[str, Any]:
    return unflatten({path: leaf.astype(dtype) for path, leaf in weights.items()})


def _encode(spec: ModelSpec, dtype: Any) -> Callable[..., Any]:
    model = build(spec, dtype=dtype)

    def run(weights: Weights, input_ids: jax.Array, attention_mask: jax.Array) -> jax.Array:
        found = model.apply({"params": _tree(weights, dtype)}, input_ids, attention_mask, method="encode")[0]
        return found.astype(jnp.float32)

    return run


def _logits(spec: ModelSpec, dtype: Any) -> Callable[..., Any]:
    model = build(spec, dtype=dtype)

    def run(weights: Weights, input_ids: jax.Array, attention_mask: jax.Array, decoder_ids: jax.Array) -> jax.Array:
        found: Any = model.apply({"params": _tree(weights, dtype)}, input_ids, attention_mask, decoder_ids)
        return found

    return run


def _generate(spec: ModelSpec, options: GenerationOptions, dtype: Any) -> Callable[..., Any]:
    """Greedy search to the length of the options, or to `new_tokens` if these are fewer; int32 [B, L]."""
    example = np.full((1, 1), spec.eos_id, np.int32)
    padded = pad_inputs(example, np.ones_like(example), np.zeros(1), spec.pad_id)
    static, traced = make_program_args(spec, options, padded, None, True)
    start, length = int(traced.prompt[0, 0]), int(traced.max_length)

    def run(weights: Weights, input_ids: jax.Array, attention_mask: jax.Array, new_tokens: jax.Array) -> jax.Array:
        untied, params = _untied(spec, _tree(weights, dtype))
        rows = input_ids.shape[0]
        prompt = jnp.full((rows, length), traced.pad_id, jnp.int32).at[:, 0].set(start)
        limit = jnp.minimum(new_tokens + 1, length)
        values = {name: limit if name == "max_length" else value for name, value in traced.values.items()}
        args = traced._replace(prompt=prompt, source=input_ids, num_rows=rows, max_length=limit, values=values)
        model = build(untied, dtype=dtype)
        encoded = encode(model, params, input_ids, attention_mask, length - 1)
        return greedy(CachedDecoder(model, params, encoded), static, args).tokens

    return run


def _untied(spec: ModelSpec, params: dict[str, Any]) -> tuple[ModelSpec, dict[str, Any]]:
    """A tied table is transposed once a call, as in our engine once a model."""
    if not spec.tied:
        return spec, params
    table = params["shared" if "shared" in params else "decoder"]["embedding"]
    return dataclasses.replace(spec, tied=False), {**params, "lm_head": table.T}
