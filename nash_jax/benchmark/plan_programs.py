"""The programs of a config, lowered from shapes alone: those that a run of it compiles."""

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nash_jax.config.derived import chosen_stages
from nash_jax.config.schema import PHASES, Config, TrainConfig
from nash_jax.convert.hf import spec_from_config
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import evaluation_options
from nash_jax.generation.engine import generate_program
from nash_jax.generation.inputs import pad_inputs
from nash_jax.generation.mesh_weights import BY_ROW, weight_shardings
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.program_args import make_program_args
from nash_jax.generation.weights import Weights
from nash_jax.models import build
from nash_jax.models.initialize import param_shapes
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.pruning.methods import METHODS
from nash_jax.runtime.files import read_json
from nash_jax.runtime.mesh import ROW_AXES, use_mesh
from nash_jax.runtime.sharding import replicated, rows_sharding
from nash_jax.spec import ModelSpec, preset
from nash_jax.training.phases import PhasePrograms, has_teacher, make_objective
from nash_jax.training.planned_shapes import depths_of, find_candidates, fresh_spec

Lowered = dict[str, Callable[[], Any]]  # program → lowers it
_VOCABULARY = 32_128  # tokens where the tokenizer is made of the rows
_STEPS = 1000  # of an epoch: they change no shape


def planned_spec(config: Config) -> ModelSpec:
    """Returns the shape of the dense model, of which nothing but config.json is read.

    Args:
      config: with `model.preset`, `model.init` (a folder, or a hub name that ends in a preset's), or sizes.

    Raises:
      UserError: for a model whose shape is not known here.
    """
    if not config.model.init:
        return fresh_spec(config, config.task.vocabulary_size or _VOCABULARY)
    folder = Path(config.model.init).expanduser()
    if (folder / "spec.json").exists():
        return ModelSpec.from_json((folder / "spec.json").read_text())
    if (folder / "config.json").exists():
        return spec_from_config(read_json(folder / "config.json"))
    try:
        return preset(folder.name)
    except UserError as error:
        raise UserError(
            f"config.model.init is {config.model.init!r}, whose shape is not here", "a folder with config.json",
            f"{error}, as config.model.preset",
        ) from error  # fmt: skip


def phase_programs(config: Config, spec: ModelSpec, mesh: Mesh) -> Lowered:
    """Returns the programs of the phases that train: name → lowers it.

    `retrain` has the shape that `prune` begins with: what gates remove depends on the data.

    Args:
      config: of the run.
      spec: of the dense model.
      mesh: the devices.
    """
    found: Lowered = {}
    for name in PHASES:
        own: TrainConfig = getattr(config, name)
        method = METHODS[config.method]
        trains = name != "prune" or (method.gates and method.trains_gates and config.prune.sparsity > 0)
        if name not in chosen_stages(config) or not own.epochs or not trains:
            continue
        student, teacher = _student(config, name, spec), spec if has_teacher(own, name) else None
        objective = make_objective(config, student, _STEPS) if name == "prune" else None
        programs = PhasePrograms(config, name, student, mesh, _STEPS, teacher=teacher, objective=objective)
        title = f"{name}, distilled" if teacher is not None else name
        found |= {f"{title}: {part}": lower for part, lower in _step_programs(config, own, programs, mesh).items()}
    return found


def _student(config: Config, name: str, spec: ModelSpec) -> ModelSpec:
    """The shape that a phase trains."""
    if name == "finetune":
        return spec
    sides = find_candidates(config, depths_of(spec), "halfway" if name == "halfway" else "shorten")
    kept = {side: own.layers[: own.keep] for side, own in sides.items()}
    return select_layers(spec, param_shapes(spec), **kept)[0]


def _step_programs(config: Config, own: TrainConfig, programs: PhasePrograms, mesh: Mesh) -> Lowered:
    state, rows = programs.shapes(programs.trained_shapes()), own.batch_size
    lengths = {"input_ids": config.task.max_source_length, "labels": config.task.max_target_length}
    sharding = rows_sharding(mesh, rows)
    batch = {
        name: jax.ShapeDtypeStruct((rows, length), jnp.int32, sharding=sharding) for name, length in lengths.items()
    }
    step = programs.make_step(state)
    return {
        "gradients": lambda: step.lower_gradients(state, programs.teacher_shapes(), batch),
        "update": lambda: step.lower_update(state),
    }


def generation_program(config: Config, spec: ModelSpec, mesh: Mesh) -> Lowered:
    """Returns the program that evaluates the dense model: name → lowers it.

    Args:
      config: of the run.
      spec: of the dense model.
      mesh: the devices.
    """
    own = dataclasses.replace(spec, tied=False)  # as `Engine` has it
    dtype = jnp.dtype(config.model.dtype)
    rows, length = config.evaluate.batch_size, config.task.max_source_length
    inputs = pad_inputs(np.ones((rows, length), int), np.ones((rows, length), int), np.arange(rows), own.pad_id)
    options = evaluation_options(config, GenerationOptions())
    static, traced = make_program_args(own, options, inputs, None, True)
    by_row, whole = rows_sharding(mesh, len(inputs.input_ids)), replicated(mesh)

    def shape(x: Any, sharding: Any) -> Any:
        return jax.ShapeDtypeStruct(np.shape(x), np.asarray(x).dtype, sharding=sharding)

    shapes = {
        name: jax.tree.map(lambda x, s=by_row if name in BY_ROW else whole: shape(x, s), value)
        for name, value in traced._asdict().items()
    }
    weights = jax.tree.map(
        lambda x, s: jax.ShapeDtypeStruct(x.shape, dtype, sharding=s), param_shapes(own), weight_shardings(mesh, own)
    )

    def lower() -> Any:
        program = generate_program(build(own, dtype=dtype), mesh)
        ids, mask = shape(inputs.input_ids, by_row), shape(inputs.attention_mask, by_row)
        with use_mesh(mesh):
            return program.lower(Weights(weights, None, None, False), ids, mask, type(traced)(**shapes), static)

    beams = f", {static.num_beams} beams" if static.num_beams > 1 else ""
    return {f"generate, {rows} rows{beams}": lower}


def fitting_meshes(config: Config, count: int) -> list[str]:
    """Returns the meshes to try on so many devices, simplest first, whose rows divide every batch.

    Args:
      config: of the run.
      count: devices.
    """
    texts = [f"data:{count}"]
    if count > 1:
        texts += [f"fsdp:{count}", *(f"fsdp:{count // n},model:{n}" for n in (2, 4, 8) if count % n == 0 and n < count)]
    phases = [getattr(config, name) for name in PHASES if name in chosen_stages(config)]
    parts = [own.batch_size // own.accumulation for own in phases if own.epochs]
    return [text for text in texts if all(part % _rows_of(text) == 0 for part in parts)]


def _rows_of(text: str) -> int:
    sizes = dict(part.split(":") for part in text.split(","))
    return int(np.prod([int(sizes.get(axis, 1)) for axis in ROW_AXES]))
