"""The one training step, of two jitted programs."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from nash_jax.models import build
from nash_jax.pruning.hard_concrete import clamp
from nash_jax.runtime.mesh import use_mesh
from nash_jax.training.averaging import Average
from nash_jax.training.gradient_norm import global_norm
from nash_jax.training.losses import Batch, Metrics, StudentLoss, stream
from nash_jax.training.state import State

if TYPE_CHECKING:
    import optax


class TrainStep:
    """One training step: (state, teacher_params, batch) → (state, metrics); the state is donated.

    Two programs: gradients, compiled for each batch shape, and the update, compiled once. In one program
    the optimizer, which may be the larger part (Muon), would be compiled again for every shape.

    Args:
      gradients: (state, teacher_params, batch) → (gradients, metrics).
      update: (state, gradients) → state.
      mesh: that the state is on; None: one device.
      shardings: of the state on the mesh; gradients are split as the parameters.

    Attributes:
      gradients: the first program, jitted.
      update: the second, jitted.
    """

    def __init__(
        self, gradients: Callable[..., Any], update: Callable[..., Any], mesh: Mesh | None = None,
        shardings: State | None = None,
    ) -> None:  # fmt: skip
        self._mesh = mesh
        if shardings is None:
            self.gradients, self.update = jax.jit(gradients), jax.jit(update, donate_argnums=0)
        else:
            self.gradients = jax.jit(gradients, out_shardings=(shardings["params"], None))
            self.update = jax.jit(update, donate_argnums=0, out_shardings=shardings)

    def __call__(self, state: State, teacher_params: Any, batch: Batch) -> tuple[State, Metrics]:
        with use_mesh(self._mesh):
            grads, metrics = self.gradients(state, teacher_params, batch)
            return self.update(state, grads), metrics

    def lower_gradients(self, state: Any, teacher_params: Any, batch: Any) -> Any:
        """The first program, lowered for arguments of these shapes and shardings.

        Args:
          state: of the phase.
          teacher_params: of the teacher.
          batch: rows.
        """
        with use_mesh(self._mesh):
            return self.gradients.lower(state, teacher_params, batch)

    def lower_update(self, state: Any) -> Any:
        """The second; gradients have the shapes and shardings of the parameters.

        Args:
          state: of the phase, arrays or shapes with shardings.
        """
        with use_mesh(self._mesh):
            return self.update.lower(state, state["params"])


def make_step(
    loss_fn: StudentLoss, tx: "optax.GradientTransformation", accumulation: int = 1, average: Average | None = None,
    mesh: Mesh | None = None, shardings: State | None = None,
) -> TrainStep:  # fmt: skip
    """The training step of a loss.

    Args:
      loss_fn: the loss.
      tx: the optimizer.
      accumulation: parts in which a batch is computed, one after the other.
      average: of the parameters.
      mesh: that the state is on; None: one device.
      shardings: of the state on the mesh.
    """
    import optax  # here, for it takes a while to import

    pad_id = loss_fn.model.spec.pad_id

    def gradients(state: Any, teacher_params: Any, batch: Batch) -> tuple[Any, Metrics]:
        number, root = state["step"], jax.random.wrap_key_data(state["rng"])
        totals = {
            "source": jnp.sum(batch["input_ids"] != pad_id).astype(jnp.float32),
            "target": jnp.maximum(jnp.sum(batch["labels"] != pad_id).astype(jnp.float32), 1),
        }
        gates_rng, dropout_rng = stream(root, "gates", number), stream(root, "dropout", number)

        def part(index: jax.Array | int, rows: Batch) -> tuple[Any, Metrics]:
            rngs = {"gates": gates_rng, "dropout": jax.random.fold_in(dropout_rng, index)}
            grad = jax.grad(loss_fn, has_aux=True)
            return grad(state["params"], teacher_params, rows, rngs, totals, 1 / accumulation, number)

        grads, metrics = part(0, batch) if accumulation == 1 else _accumulate(part, batch, accumulation)
        return grads, metrics | {"grad_norm": global_norm(grads["model"])}

    def update(state: Any, grads: Any) -> Any:
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        if "gates" in params:
            params = params | {"gates": jax.tree.map(clamp, params["gates"])}
        state = state | {"step": state["step"] + 1, "params": params, "opt_state": opt_state}
        return state if average is None else average.after_step(state)

    return TrainStep(gradients, update, mesh, shardings)


def _accumulate(part: Callable[..., tuple[Any, Metrics]], batch: Batch, count: int) -> tuple[Any, Metrics]:
    """Sums `part` over `count` slices of the batch, every count-th row each (so that devices keep their rows)."""
    slices = {k: jnp.swapaxes(v.reshape(-1, count, *v.shape[1:]), 0, 1) for k, v in batch.items()}
    first = jax.tree.map(lambda x: x[0], slices)
    start = jax.tree.map(lambda s: jnp.zeros(s.shape, s.dtype), jax.eval_shape(part, 0, first))

    def body(carry: Any, xs: Any) -> tuple[Any, None]:
        return jax.tree.map(jnp.add, carry, part(*xs)), None

    return jax.lax.scan(body, start, (jnp.arange(count), slices))[0]


def build_student(spec: Any, config: Any) -> Any:
    """The module to train: compute dtype and rematerialisation from a `ModelConfig`."""
    return build(spec, dtype=jnp.dtype(config.dtype), remat=config.remat)
