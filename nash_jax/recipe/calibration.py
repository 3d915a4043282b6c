"""What is measured on some training rows before anything is trained: importances, Gram matrices, losses."""

import functools
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nash_jax.config.schema import ModelConfig
from nash_jax.data.pipeline import Batches
from nash_jax.models.placement import place_model
from nash_jax.pruning.importance import (
    activation_importance,
    gradient_importance,
    mask_inputs,
    open_masks,
    row_gradients,
)
from nash_jax.pruning.least_squares import gram_matrix
from nash_jax.recipe.layer_importance import BATCH_SIZE
from nash_jax.runtime.mesh import use_mesh
from nash_jax.runtime.progress import Progress
from nash_jax.runtime.sharding import place_batches, to_host
from nash_jax.spec import ModelSpec
from nash_jax.training.losses import Batch, shift_right
from nash_jax.training.steps import build_student

Sums = dict[str, np.ndarray]
_MOST_GRAM = 2**27  # numbers of Gram matrices that are measured together: a GiB in float64


def first_batches(batches: Batches, num_rows: int) -> list[dict[str, np.ndarray]]:
    """The first rows that a phase trains on, no more than an epoch has, in parts that fit one device.

    Args:
      batches: of the phase.
      num_rows: how many; the last batch is taken whole.
    """
    size = batches.batch_size
    part = max(n for n in range(1, BATCH_SIZE + 1) if size % n == 0)
    count = min(-(-num_rows // size), batches.steps_per_epoch)
    whole = [batches[step] for step in range(count)]
    return [{k: v[at : at + part] for k, v in batch.items()} for batch in whole for at in range(0, size, part)]


class Calibration:
    """A model and some rows.

    Args:
      spec: the model.
      params: its parameters.
      batches: rows, from `first_batches`.
      config: compute dtype, and whether activations are computed again in the backward pass.
      stage: whose progress it is.
      mesh: the devices that the model is split over; None: one device, on which every process computes the whole.

    Attributes:
      mesh: the same.
    """

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, Any], batches: Sequence[Mapping[str, np.ndarray]],
        config: ModelConfig, stage: str = "prune", mesh: Mesh | None = None,
    ) -> None:  # fmt: skip
        self._spec, self._config, self._stage, self.mesh = spec, config, stage, mesh
        self._params, self._batches = place_model(spec, params, mesh), place_batches(mesh, batches)

    def importance(self, kind: str) -> Sums:
        """Importance of all that can be pruned, and of whole layers, float64.

        Args:
          kind: of `IMPORTANCES`.
        """
        return self._sum(f"importance ({kind})", functools.partial(_importance, self._spec, self._config, kind))

    def grams(self, axes: Collection[str]) -> Sums:
        """Gram matrices of what the heads and units of these axes give to their output projections, float64."""
        return self._sum("inputs", functools.partial(_grams, self._spec, self._config, tuple(sorted(axes))))

    def _sum(self, name: str, measure: Callable[[Any, Any], Mapping[str, jax.Array]]) -> Sums:
        """The sum over all batches, in float64."""
        progress, sums = Progress(self._stage, len(self._batches), 0, unit="batch"), Sums()
        for number, batch in enumerate(self._batches, 1):
            with use_mesh(self.mesh):
                found = measure(self._params, batch)
            for key, value in to_host(found).items():
                sums[key] = np.asarray(value, np.float64) + sums.get(key, 0.0)
            progress.update(number, lambda: name)
        progress.close()
        return sums


def gram_groups(spec: ModelSpec, axes: Collection[str]) -> Iterator[list[str]]:
    """Axes of heads and units, in groups whose Gram matrices fit into memory together.

    Args:
      spec: the model.
      axes: of sub-layers that are not empty.
    """
    sizes, group, total = spec.axis_sizes(), list[str](), 0
    for axis in axes:
        width = sizes[axis] * (1 if axis.endswith(".units") else spec.head_dim_of(axis.partition(".")[0]))
        if group and total + width**2 > _MOST_GRAM:
            yield group
            group, total = [], 0
        group.append(axis)
        total += width**2
    if group:
        yield group


def _run(spec: ModelSpec, config: ModelConfig, params: Any, batch: Batch, masks: Any, **options: Any) -> Any:
    """Teacher-forced, without dropout."""
    model = build_student(spec, config)
    ids, inputs = batch["input_ids"], shift_right(batch["labels"], spec)
    return model.apply({"params": params}, ids, ids != spec.pad_id, inputs, masks, **options)


def _inputs(spec: ModelSpec, config: ModelConfig, params: Any, batch: Batch) -> dict[str, jax.Array]:
    """What masks act on."""
    return mask_inputs(_run(spec, config, params, batch, None, mutable=["intermediates"])[1]["intermediates"])


def _counted(spec: ModelSpec, batch: Batch) -> dict[str, jax.Array]:
    return {"encoder": batch["input_ids"] != spec.pad_id, "decoder": batch["labels"] != spec.pad_id}


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _importance(spec: ModelSpec, config: ModelConfig, kind: str, params: Any, batch: Batch) -> dict[str, jax.Array]:
    from optax import softmax_cross_entropy_with_integer_labels as cross_entropy  # here, as it is slow to import

    if kind == "activation":
        return activation_importance(_inputs(spec, config, params, batch), _counted(spec, batch))

    def loss(masks: Any, row: Batch) -> jax.Array:
        alone = {name: ids[None] for name, ids in row.items()}
        losses = cross_entropy(_run(spec, config, params, alone, masks), alone["labels"])
        return jnp.sum(losses * (alone["labels"] != spec.pad_id))

    return gradient_importance(row_gradients(loss, jax.tree.map(jnp.asarray, open_masks(spec)), batch), kind)


@functools.partial(jax.jit, static_argnums=(0, 1, 2))
def _grams(
    spec: ModelSpec, config: ModelConfig, axes: tuple[str, ...], params: Any, batch: Batch
) -> dict[str, jax.Array]:
    inputs, counted = _inputs(spec, config, params, batch), _counted(spec, batch)
    return {axis: gram_matrix(inputs[axis], counted[axis.partition(".")[0]]) for axis in axes}
