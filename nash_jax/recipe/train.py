"""The stages that train: `finetune`, `halfway`, `prune`, `retrain`."""

import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from safetensors.numpy import save_file

from nash_jax.axes import encoder_params, frozen_params, param_axes
from nash_jax.config.schema import PruneConfig, TrainConfig
from nash_jax.data.pipeline import Batches
from nash_jax.generation.engine import Engine
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.pruning.methods import METHODS
from nash_jax.pruning.objective import PruningObjective
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.layer_importance import ForcedLoss
from nash_jax.recipe.prune_at_once import importance_start, prune_at_once
from nash_jax.recipe.prune_phase import PrunePhase
from nash_jax.recipe.shrink import choose_layers, kept_by_side
from nash_jax.runtime.multihost import barrier, is_host0
from nash_jax.runtime.sharding import param_shardings, place_params, to_host
from nash_jax.spec import ModelSpec
from nash_jax.training.averaging import make_average
from nash_jax.training.loop import Evaluation, Phase, train
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import State, make_state, place_state
from nash_jax.training.steps import build_student, make_step
from nash_jax.training.writers import Writer
from nash_jax.tree import flatten


def finetune(context: RunContext, folder: Path) -> dict[str, Any]:
    """The teacher: the dense model on the task."""
    return _fit(context, "finetune", folder, *context.initial_model())


def halfway(context: RunContext, folder: Path) -> dict[str, Any]:
    """A model between the dense one and the shortened one."""
    spec, params = context.model("finetune")
    kept, measured = choose_layers(context, folder, spec, params, "halfway")
    shorter = select_layers(spec, params, **kept)
    return _fit(context, "halfway", folder, *shorter) | kept_by_side(kept) | measured


def retrain(context: RunContext, folder: Path) -> dict[str, Any]:
    """The compact model again, with a fresh optimizer."""
    return _fit(context, "retrain", folder, *context.model("compact"))


def prune(context: RunContext, folder: Path) -> dict[str, Any]:
    """Trains model and gates together, or closes gates at once; saves the dense model and the final masks."""
    spec, params = context.model("shorten")
    config, method = context.config.prune, METHODS[context.config.method]
    untouched = config.sparsity == 0 and not method.searches
    if not method.gates or untouched or (method.trains_gates and config.epochs == 0):
        context.save(folder, spec, params)
        return {"steps": 0, "expected_encoder_sparsity": 0.0}
    if not method.trains_gates:
        return prune_at_once(context, folder)
    batches = context.batches(config, "prune")
    phase = PrunePhase(
        context.config, spec, params, batches.steps_per_epoch, context.validation("prune"), context.selection
    )
    objective, start = phase.objective, None
    if config.init == "importance":
        start = importance_start(context, folder, spec, params, objective.gates, objective.constraints)
    trained = {"model": params} | objective.initial_params(jax.random.key(context.seed("gates")), start)
    best, result = _train(context, "prune", folder, spec, trained, batches, phase.num_steps, phase.evaluate, objective)
    masks, expected = phase.result(best)
    missed = phase.missed(best, masks)  # on every process: it gathers the gates
    if missed and is_host0():
        print(f"note: {missed}", file=sys.stderr, flush=True)
    context.save(folder, spec, to_host(best["params"]["model"]))
    if is_host0():
        save_file(masks, folder / "masks.safetensors")
    return result | expected


def _fit(context: RunContext, name: str, folder: Path, spec: ModelSpec, params: Any) -> dict[str, Any]:
    """Plain fine-tuning, distilled where weighted; saves the best model."""
    config: TrainConfig = getattr(context.config, name)
    if config.epochs == 0:
        context.save(folder, spec, params)
        return {"steps": 0}
    batches = context.batches(config, name)
    engine, validation = Engine(spec, params, context.config.model.dtype), context.validation(name)

    def evaluate(state: State) -> Evaluation:
        engine.update_params(to_host(state["params"]["model"]))
        metrics = validation.evaluate(engine)
        return metrics, (metrics[context.selection],)

    num_steps = max(1, round(config.epochs * batches.steps_per_epoch))
    best, result = _train(context, name, folder, spec, {"model": params}, batches, num_steps, evaluate)
    context.save(folder, spec, to_host(best["params"]["model"]))
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

    num_steps = max(1, round(share * config.epochs * batches.steps_per_epoch))
    best, _ = _train(context, "retrain", folder, spec, {"model": params}, batches, num_steps, evaluate, writers=())
    barrier("brief training")  # all have read the best checkpoint
    if is_host0():
        shutil.rmtree(folder / "checkpoints")
    return to_host(best["params"]["model"])


def _train(
    context: RunContext, name: str, folder: Path, spec: ModelSpec, params: dict[str, Any], batches: Batches,
    num_steps: int, evaluate: Any, objective: PruningObjective | None = None, writers: Sequence[Writer] | None = None,
) -> tuple[State, dict[str, Any]]:  # fmt: skip
    """Builds the phase and runs the loop; (the best state, what the phase reports)."""
    config: TrainConfig = getattr(context.config, name)
    joint = config if isinstance(config, PruneConfig) else None
    embeddings = bool(joint and joint.freeze_embeddings)
    tx = make_optimizer(
        config, num_steps,
        gate_learning_rate=joint.gate_learning_rate if joint else 0.0,
        pruning_starts=objective.start_step if objective else 0,
        frozen=frozen_params(spec, embeddings=embeddings, encoder=config.freeze_encoder),
    )  # fmt: skip
    shared = _shares_encoder(context, name, spec, params["model"])
    if config.distill.hidden and name != "finetune":
        params = params | {"projection": _projection(context, name, spec)}
    eval_steps = max(1, round(config.eval_every * batches.steps_per_epoch))
    average = make_average(config.average_decay, config.average_last, num_steps, eval_steps)
    shardings = param_shardings(context.mesh, param_axes(spec), spec.axis_sizes())
    fresh = average.start(make_state(params, tx, context.seed(f"{name} rng")))
    teacher, teacher_params = _teacher(context, name) if _has_teacher(config, name) else (None, {})
    loss = StudentLoss(
        build_student(spec, context.config.model), config.distill, teacher, objective, config.label_smoothing,
        frozen_encoder=config.freeze_encoder, shared_encoder=shared,
    )  # fmt: skip
    phase = Phase(
        name, place_state(fresh, context.mesh, shardings), make_step(loss, tx, config.accumulation, average),
        teacher_params, batches, num_steps, eval_steps, evaluate, folder / "checkpoints",
        context.writers if writers is None else writers, average,
    )  # fmt: skip
    return train(phase, context.mesh)


def _has_teacher(config: TrainConfig, name: str) -> bool:
    return name != "finetune" and config.distill.has_teacher


def _shares_encoder(context: RunContext, name: str, spec: ModelSpec, params: Any) -> bool:
    """Whether a phase has a teacher, and its own encoder is frozen and the teacher's, number by number."""
    config: TrainConfig = getattr(context.config, name)
    if not (config.freeze_encoder and _has_teacher(config, name)):
        return False
    own, (teacher_spec, teacher) = flatten(params), context.teacher(name)
    paths, theirs = encoder_params(spec), flatten(teacher)
    if paths != encoder_params(teacher_spec):
        return False
    return all(np.array_equal(np.asarray(own[path]), np.asarray(theirs[path])) for path in sorted(paths))


def _teacher(context: RunContext, name: str) -> tuple[Any, dict[str, Any]]:
    """The dense module and its parameters on the mesh."""
    spec, params = context.teacher(name)
    shardings = param_shardings(context.mesh, param_axes(spec), spec.axis_sizes())
    return build_student(spec, context.config.model), place_params(context.mesh, params, shardings)


def _projection(context: RunContext, name: str, spec: ModelSpec) -> jax.Array:
    """Hidden states of the student → the teacher's, [D, D of the teacher]: at the start each dimension to its own."""
    masks = context.masks() if name == "retrain" else {}
    kept = np.flatnonzero(masks["embed"]) if "embed" in masks else np.arange(spec.d_model)
    return jnp.eye(context.model("finetune")[0].d_model)[kept]
