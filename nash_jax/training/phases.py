"""The programs of a phase on a mesh: those that training runs, and that `nash_jax.benchmark.plan` compiles."""

from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nash_jax.axes import frozen_params
from nash_jax.config.schema import Config, PruneConfig, TrainConfig
from nash_jax.models.initialize import param_shapes
from nash_jax.models.placement import model_shardings
from nash_jax.pruning.lagrangian import Constraint
from nash_jax.pruning.methods import make_constraints, make_gates, target_sparsities
from nash_jax.pruning.objective import PruningObjective
from nash_jax.runtime.sharding import place, place_params, state_shardings
from nash_jax.spec import ModelSpec
from nash_jax.training.averaging import make_average
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import State, make_state
from nash_jax.training.steps import build_student, make_step
from nash_jax.training.throughput import StepFlops


def has_teacher(config: TrainConfig, name: str) -> bool:
    """Whether a phase learns from the dense model.

    Args:
      config: of the phase.
      name: of the phase.
    """
    return name != "finetune" and config.distill.has_teacher


def make_objective(
    config: Config, spec: ModelSpec, steps_per_epoch: int, constraints: Mapping[str, Constraint] | None = None
) -> PruningObjective:
    """Gates of the method on a model, and the sparsities that they are to reach.

    Args:
      config: method and settings of the phase.
      spec: the model that is trained.
      steps_per_epoch: batches of an epoch.
      constraints: part of the model → its constraint; None: on parameters, as the settings say.
    """
    own = config.prune
    if constraints is None:
        kept = config.shorten.decoder_layers or len(spec.decoder)
        constraints = make_constraints(spec, target_sparsities(config.method, own.sparsity, kept / len(spec.decoder)))
    gates = make_gates(spec, config.method, own.units_droprate)
    warmup_epochs = own.sparsity_warmup_epochs if own.init == "random" else 0.0
    start, warmup = (round(epochs * steps_per_epoch) for epochs in (own.prepruning_epochs, warmup_epochs))
    return PruningObjective(gates, constraints, start, warmup)


class PhasePrograms:
    """Optimizer, loss and step of a phase, for a state that is split over a mesh.

    Args:
      config: of the run.
      name: of the phase.
      spec: the model that is trained.
      mesh: the devices.
      steps_per_epoch: batches of an epoch.
      teacher: the dense model, where the phase has a teacher.
      objective: gates and constraints, where they are trained.
      shared_encoder: the encoder is frozen, and the teacher's.

    Attributes:
      num_steps: of the phase.
      eval_steps: between evaluations.
      average: of the parameters.
      flops: of a step.
    """

    def __init__(
        self, config: Config, name: str, spec: ModelSpec, mesh: Mesh, steps_per_epoch: int, *,
        teacher: ModelSpec | None = None, objective: PruningObjective | None = None, shared_encoder: bool = False,
    ) -> None:  # fmt: skip
        own: TrainConfig = getattr(config, name)
        joint = own if isinstance(own, PruneConfig) else None
        self.spec, self.mesh, self.config, self.teacher, self.objective = spec, mesh, own, teacher, objective
        self.num_steps = max(1, round(own.epochs * steps_per_epoch))
        self.eval_steps = max(1, round(own.eval_every * steps_per_epoch))
        self.average = make_average(own.average_decay, own.average_last, self.num_steps, self.eval_steps)
        self.flops = StepFlops(spec, teacher, frozen_encoder=own.freeze_encoder, shared_encoder=shared_encoder)
        embeddings = bool(joint and joint.freeze_embeddings)
        self._tx = make_optimizer(
            own, self.num_steps,
            gate_learning_rate=joint.gate_learning_rate if joint else 0.0,
            pruning_starts=objective.start_step if objective else 0,
            frozen=frozen_params(spec, embeddings=embeddings, encoder=own.freeze_encoder),
        )  # fmt: skip
        self._loss = StudentLoss(
            build_student(spec, config.model), own.distill,
            build_student(teacher, config.model) if teacher is not None else None, objective, own.label_smoothing,
            frozen_encoder=own.freeze_encoder, shared_encoder=shared_encoder,
        )  # fmt: skip

    def trained_shapes(self) -> dict[str, Any]:
        """Shapes of what is trained, from the settings alone: what `start` takes."""
        shapes: dict[str, Any] = {"model": param_shapes(self.spec)}
        if self.objective is not None:
            shapes |= jax.eval_shape(self.objective.initial_params, jax.random.key(0))
        if self.teacher is not None and self.config.distill.hidden:
            shapes["projection"] = jax.ShapeDtypeStruct((self.spec.d_model, self.teacher.d_model), jnp.float32)
        return shapes

    def shapes(self, trained: Any) -> State:
        """Shapes, dtypes and shardings of the state.

        Args:
          trained: {"model", and when pruning "gates", "multipliers", "projection"}, or their shapes.
        """
        shapes = jax.eval_shape(lambda params: self._fresh(params, 0), trained)
        model = model_shardings(self.mesh, self.spec)
        return _with_shardings(shapes, state_shardings(shapes, self.mesh, model))

    def teacher_shapes(self) -> Any:
        """Shapes, dtypes and shardings of the teacher's parameters; {} without a teacher."""
        if self.teacher is None:
            return {}
        shapes, own = param_shapes(self.teacher), model_shardings(self.mesh, self.teacher)
        return _with_shardings({"model": shapes}, state_shardings({"model": shapes}, self.mesh, own))["model"]

    def start(self, trained: Mapping[str, Any], seed: int) -> State:
        """The state at step 0, split over the mesh; each process makes only its devices' parts of it.

        Args:
          trained: as of `shapes`, arrays.
          seed: root of all randomness of the phase.
        """
        shapes = self.shapes(trained)
        shardings = jax.tree.map(lambda x: x.sharding, shapes)
        placed = jax.tree.map(place, dict(trained), shardings["params"])
        return jax.jit(lambda params: self._fresh(params, seed), out_shardings=shardings)(placed)

    def place_teacher(self, params: Mapping[str, Any]) -> dict[str, Any]:
        """The teacher's parameters, split over the mesh; {} without a teacher.

        Args:
          params: of the host.
        """
        if self.teacher is None:
            return {}
        return place_params(self.mesh, params, model_shardings(self.mesh, self.teacher))

    def make_step(self, shapes: State) -> Any:
        """The training step.

        Args:
          shapes: of the state, from `shapes`, or a state.
        """
        shardings = jax.tree.map(lambda x: x.sharding, shapes)
        return make_step(self._loss, self._tx, self.config.accumulation, self.average, self.mesh, shardings)

    def _fresh(self, trained: Any, seed: int) -> State:
        return self.average.start(make_state(trained, self._tx, seed))


def _with_shardings(shapes: Any, shardings: Any) -> Any:
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, shardings)
