"""Which layers stay: those that the settings name or choose, or those that matter most to the validation loss."""

import functools
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nash_jax.config.schema import Config, DistillConfig, ModelConfig, TaskConfig
from nash_jax.data.pipeline import assign_buckets, choose_shapes, tokenize
from nash_jax.models.placement import place_model
from nash_jax.pruning.layer_selection import Candidates, Loss, drop_least_important, select_layers
from nash_jax.ragged import Ragged
from nash_jax.runtime.mesh import use_mesh
from nash_jax.runtime.multihost import barrier, broadcast_from_host0, is_host0
from nash_jax.runtime.progress import Progress
from nash_jax.runtime.sharding import place_batches
from nash_jax.spec import ModelSpec
from nash_jax.training.losses import Batch, StudentLoss
from nash_jax.training.planned_shapes import depths_of, find_candidates
from nash_jax.training.steps import build_student

NUM_ROWS = 512  # rows that a loss is measured on: a stack of 12 layers cut to 3 takes 72 losses
BATCH_SIZE = 16  # the logits of large vocabularies are large


def check_candidates(config: Config, spec: ModelSpec) -> None:
    """Checks, before anything is trained, that the layers to keep are there.

    Args:
      config: of the run.
      spec: of the dense model.

    Raises:
      UserError: as `find_candidates`.
    """
    depths = depths_of(spec)
    if config.halfway.is_on:
        depths = {side: own.keep for side, own in find_candidates(config, depths, "halfway").items()}
    find_candidates(config, depths)


def tokenize_first(
    rows: Sequence[dict[str, Any]], tokenizer: Any, task: TaskConfig, cache: Path
) -> tuple[Ragged, Ragged]:
    """Source and target ids of the pairs of the first `NUM_ROWS` rows; processes of one run all call this.

    Args:
      rows: {"source", "references"}.
      tokenizer: a `transformers` tokenizer.
      task: maximal lengths.
      cache: folder for tokenised splits.
    """
    first = list(rows[:NUM_ROWS])
    if is_host0():
        tokenize(first, tokenizer, task, cache)
    barrier("first rows tokenized")  # the other processes read what the main one wrote
    return tokenize(first, tokenizer, task, cache)


def make_batches(sources: Ragged, targets: Ragged, pad_id: int) -> list[dict[str, np.ndarray]]:
    """Every pair once, in batches of few shapes; where pairs are too few, rows without labels fill the last one."""
    shapes = choose_shapes(sources, targets)
    bucket, batches = assign_buckets(sources.lengths, targets.lengths, shapes), []
    for number, (source, target) in enumerate(shapes):
        pairs = np.flatnonzero(bucket == number)
        for start in range(0, len(pairs), BATCH_SIZE):
            own = pairs[start : start + BATCH_SIZE]
            labels = np.full((BATCH_SIZE, target), pad_id, np.int32)
            labels[: len(own)] = targets.pad(own, target, pad_id)
            batches.append({"input_ids": sources.pad(np.resize(own, BATCH_SIZE), source, pad_id), "labels": labels})
    return batches


@functools.partial(jax.jit, static_argnums=(0, 1))
def sum_losses(spec: ModelSpec, config: ModelConfig, params: Any, batch: Batch) -> jax.Array:
    """The loss of training, without dropout, summed over the tokens of a batch: a float32 scalar."""
    loss, one = StudentLoss(build_student(spec, config), DistillConfig()), jnp.ones(())
    off: dict[str, Any] = {"dropout": None}
    return loss({"model": params}, {}, batch, off, {"target": one}, 1.0, one)[1]["task_loss"]


class ForcedLoss:
    """Cross-entropy per target token, teacher-forced and without dropout.

    Args:
      pairs: source and target ids to measure on.
      pad_id: padding token id.
      config: compute dtype.
      mesh: the devices that models are split over; None: one device.
    """

    def __init__(
        self, pairs: tuple[Ragged, Ragged], pad_id: int, config: ModelConfig, mesh: Mesh | None = None
    ) -> None:
        batches = make_batches(*pairs, pad_id)
        self._config, self._num_tokens = config, sum(int(np.sum(batch["labels"] != pad_id)) for batch in batches)
        self._batches, self._mesh = place_batches(mesh, batches), mesh

    def __call__(self, spec: ModelSpec, params: Any) -> float:
        """The loss of a model whose parameters are on the devices, as `place_model` places them."""
        with use_mesh(self._mesh):
            sums = [sum_losses(spec, self._config, params, batch) for batch in self._batches]
        return math.fsum(map(float, jax.device_get(sums))) / self._num_tokens


class ShortenedLoss:
    """`ForcedLoss` of a model that keeps some of its layers.

    `sum_losses` is compiled once for each shape of batches and each shorter spec: where layers are alike, for each pair
    of depths.

    Args:
      spec: the deep model.
      params: its parameters.
      pairs: source and target ids to measure on.
      config: its compute dtype.
      mesh: the devices that it is split over; None: one device, on which every process computes the whole.
    """

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, Any], pairs: tuple[Ragged, Ragged], config: ModelConfig,
        mesh: Mesh | None = None,
    ) -> None:  # fmt: skip
        self._spec, self._params = spec, place_model(spec, params, mesh)
        self._loss = ForcedLoss(pairs, spec.pad_id, config, mesh)

    def __call__(self, encoder: Sequence[int], decoder: Sequence[int]) -> float:
        """The loss with these layers alone."""
        return self._loss(*select_layers(self._spec, self._params, encoder=encoder, decoder=decoder))


def measure_layers(sides: Mapping[str, Candidates], loss: Loss) -> tuple[dict[str, list[int]], list[dict[str, Any]]]:
    """`drop_least_important` with a progress line; in a run of several processes by the losses of the main one."""
    first = sum(len(side.layers) for side in sides.values())
    total = first - sum(side.keep for side in sides.values())
    progress = Progress("shorten", total, 0, unit="layer")

    def measured(encoder: Sequence[int], decoder: Sequence[int]) -> float:
        value: float = broadcast_from_host0(loss(encoder, decoder))
        left = len(encoder) + len(decoder)  # one less than is kept so far
        progress.update(first - left - 1, lambda: f"loss {value:.4f} with {left} of {first}")
        return value

    found = drop_least_important(sides, measured)
    progress.update(total)
    progress.close()
    return found
