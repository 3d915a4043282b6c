"""The stages that train: `finetune`, `halfway`, `prune`, `retrain`."""

import dataclasses
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from nash_jax.axes import encoder_params
from nash_jax.benchmark.latency_store import LatencyTable
from nash_jax.benchmark.latency_table import predict, speedup
from nash_jax.benchmark.time_terms import time_constraint
from nash_jax.config.schema import TrainConfig
from nash_jax.data.pipeline import Batches
from nash_jax.generation.engine import Engine
from nash_jax.pruning.compact import kept_positions
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.pruning.methods import METHODS
from nash_jax.pruning.objective import PruningObjective
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.layer_importance import ForcedLoss
from nash_jax.recipe.prune_at_once import importance_start, prune_at_once
from nash_jax.recipe.prune_phase import PrunePhase
from nash_jax.recipe.shrink import choose_layers, kept_by_side
from nash_jax.recipe.speed_target import dense_table
from nash_jax.runtime.multihost import barrier, is_host0
from nash_jax.runtime.sharding import describe_split, to_host
from nash_jax.spec import ModelSpec
from nash_jax.training.loop import Evaluation, Phase, train
from nash_jax.training.phases import PhasePrograms, has_teacher
from nash_jax.training.state import State
from nash_jax.training.writers import Writer
from nash_jax.tree import flatten


def finetune(context: RunContext, folder: Path) -> dict[str, Any]:
    """The teacher: the dense model on the task."""
    return _fit(context, "finetune", folder, *context.initial_model())


def halfway(context: RunContext, folder: Path) -> dict[str, Any]:
    """A model between the dense one and the shortened one."""
    spec, params = context.stored("finetune")
    kept, measured = choose_layers(context, folder, spec, params, "halfway")
    shorter = select_layers(spec, params, **kept)
    return _fit(context, "halfway", folder, *shorter) | kept_by_side(kept) | measured


def retrain(context: RunContext, folder: Path) -> dict[str, Any]:
    """The compact model again, with a fresh optimizer."""
    return _fit(context, "retrain", folder, *context.stored("compact"))


def prune(context: RunContext, folder: Path) -> dict[str, Any]:
    """Trains model and gates together, or closes gates at once; saves the dense model and the final masks."""
    spec, params = context.stored("shorten")
    config, method = context.config.prune, METHODS[context.config.method]
    if method.searches:
        return prune_at_once(context, folder)
    target = context.config.target_speedup or config.sparsity
    if not method.gates or target == 0 or (method.trains_gates and config.epochs == 0):
        context.save(folder, spec, params)
        return {"steps": 0, "expected_encoder_sparsity": 0.0}
    if not method.trains_gates:
        return prune_at_once(context, folder)
    batches = context.batches(config, "prune")
    validation, selection = context.validation("prune"), context.selection
    table = dense_table(context, folder) if method.prices_time else None
    constraints = {"": time_constraint(table, spec, context.config.target_speedup)} if table else None
    phase = PrunePhase(
        context.config, spec, params, batches.steps_per_epoch, validation, selection, context.mesh, constraints
    )
    objective, start = phase.objective, None
    if config.init == "importance":
        start = importance_start(context, folder, *context.stored("shorten"), objective.gates, objective.constraints)
    trained = {"model": params} | objective.initial_params(jax.random.key(context.seed("gates")), start)
    best, result = _train(context, "prune", folder, spec, trained, batches, phase.evaluate, objective)
    masks, expected = phase.result(best)
    missed = phase.missed(best, masks)  # on every process: it gathers the gates
    if missed and is_host0():
        print(f"note: {missed}", file=sys.stderr, flush=True)
    context.save(folder, spec, best["params"]["model"])
    if is_host0():
        save_file(masks, folder / "masks.safetensors")
    return result | expected | (_target(context, table, spec, masks) if table else {})


def _target(context: RunContext, table: LatencyTable, spec: ModelSpec, masks: dict[str, np.ndarray]) -> dict[str, Any]:
    """The speedup that was asked, what the table says of the final masks, and its errors for other shapes."""
    kept = {axis: positions.tolist() for axis, positions in kept_positions(spec, masks).items()}
    predicted, errors = speedup(table, spec.pruned(kept)), table.check.errors(predict(table, table.dense))
    asked = context.config.target_speedup
    return {"target": {"asked": asked, "predicted": predicted, "table_errors": list(map(float, errors))}}


def _fit(context: RunContext, name: str, folder: Path, spec: ModelSpec, params: Any) -> dict[str, Any]:
    """Plain fine-tuning, distilled where weighted; saves the best model."""
    config: TrainConfig = getattr(context.config, name)
    if config.epochs == 0:
        context.save(folder, spec, params)
        return {"steps": 0}
    batches = context.batches(config, name)
    engine = Engine(spec, params, context.config.model.dtype, mesh=context.mesh)
    validation = context.validation(name)

    def evaluate(state: State) -> Evaluation:
        engine.update_params(state["params"]["model"])
        metrics = validation.evaluate(engine)
        return metrics, (metrics[context.selection],)

    best, result = _train(context, name, folder, spec, {"model": params}, batches, evaluate)
    context.save(folder, spec, best["params"]["model"])
    return result


def train_briefly(
    context: RunContext, folder: Path, spec: ModelSpec, params: Any, share: float, loss: ForcedLoss
) -> dict[str, Any]:
    """A share of the steps of `retrain`, with a learning rate that falls in as many; writes no metrics.

    Args:
      context: of the run.
      folder: for its checkpoints, which are deleted when it is done.
      spec: the model.
      params: its parameters.
      share: of the steps.
      loss: the checkpoint with the least is the best.

    Returns:
      The parameters of the best checkpoint, NumPy.
    """
    config = context.config.retrain
    if config.epochs == 0:
        return dict(params)
    batches = context.batches(config, "retrain")

    def evaluate(state: State) -> Evaluation:
        value = loss(spec, jax.device_put(to_host(state["params"]["model"])))
        return {"loss": value}, (-value,)

    best, _ = _train(context, "retrain", folder, spec, {"model": params}, batches, evaluate, share=share, writers=())
    barrier("brief training")  # all have read the best checkpoint
    if is_host0():
        shutil.rmtree(folder / "checkpoints")
    return to_host(best["params"]["model"])


def _train(
    context: RunContext, name: str, folder: Path, spec: ModelSpec, params: dict[str, Any], batches: Batches,
    evaluate: Any, objective: PruningObjective | None = None, share: float = 1.0,
    writers: Sequence[Writer] | None = None,
) -> tuple[State, dict[str, Any]]:  # fmt: skip
    """Builds the phase, or one of a share of its steps, and runs the loop; (the best state, what the phase reports)."""
    config: TrainConfig = getattr(context.config, name)
    shorter: dict[str, Any] = {name: dataclasses.replace(config, epochs=share * config.epochs)}
    teacher, teacher_params = context.teacher(name) if has_teacher(config, name) else (None, {})
    programs = PhasePrograms(
        dataclasses.replace(context.config, **shorter), name, spec, context.mesh, batches.steps_per_epoch,
        teacher=teacher, objective=objective, shared_encoder=_shares_encoder(context, name, spec, params["model"]),
    )  # fmt: skip
    if config.distill.hidden and name != "finetune":
        params = params | {"projection": _projection(context, name, spec)}
    state = programs.start(params, context.seed(f"{name} rng"))
    if context.mesh.size > 1 and is_host0():
        shardings = jax.tree.map(lambda x: x.sharding, state)
        print(f"{name} on {describe_split(state, shardings, context.mesh)}", file=sys.stderr, flush=True)
    phase = Phase(
        name, state, programs.make_step(state), programs.place_teacher(teacher_params), batches, programs.num_steps,
        programs.eval_steps, evaluate, folder / "checkpoints",
        context.writers if writers is None else writers, programs.average, programs.flops,
        config.keep_last,
    )  # fmt: skip
    return train(phase, context.mesh)


def _shares_encoder(context: RunContext, name: str, spec: ModelSpec, params: Any) -> bool:
    """Whether a phase has a teacher, and its own encoder is frozen and the teacher's, number by number."""
    config: TrainConfig = getattr(context.config, name)
    if not (config.freeze_encoder and has_teacher(config, name)):
        return False
    own, (teacher_spec, teacher) = flatten(params), context.teacher(name)
    paths, theirs = encoder_params(spec), flatten(teacher)
    if paths != encoder_params(teacher_spec):
        return False
    return all(np.array_equal(np.asarray(own[path]), np.asarray(theirs[path])) for path in sorted(paths))


def _projection(context: RunContext, name: str, spec: ModelSpec) -> jax.Array:
    """Hidden states of the student → the teacher's, [D, D of the teacher]: at the start each dimension to its own."""
    masks = context.masks() if name == "retrain" else {}
    kept = np.flatnonzero(masks["embed"]) if "embed" in masks else np.arange(spec.d_model)
    return jnp.eye(context.stored("finetune")[0].d_model)[kept]
