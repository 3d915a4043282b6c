"""The loss of every phase.

A batch is {"input_ids": [B, S], "labels": [B, T]}, int32, padded with the spec's pad id. Losses are sums over
tokens divided by the number of tokens of the *whole* batch, so that a batch computed in parts gives the
gradient of the batch.
"""

import zlib
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp

from nash_jax.config.schema import DistillConfig
from nash_jax.pruning import distill
from nash_jax.pruning.objective import PruningObjective
from nash_jax.spec import ModelSpec

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


def stream(root: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of a named stream at a step: adding a stream leaves the others as they were."""
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def shift_right(labels: jax.Array, spec: ModelSpec) -> jax.Array:
    """Labels [B, T] → decoder inputs [B, T]: the start token, then all labels but the last.

    The start token is the spec's, or in mBART the row's last label that is not padding. Source: `shift_tokens_right` of
    transformers.
    """
    start = jnp.full_like(labels[:, :1], spec.decoder_start_id)
    if spec.wraps_labels:
        last = jnp.sum(labels != spec.pad_id, axis=1, keepdims=True) - 1
        start = jnp.take_along_axis(labels, last, axis=1)
    return jnp.concatenate([start, labels[:, :-1]], axis=1)


def smoothed(losses: jax.Array, logits: jax.Array, epsilon: float) -> jax.Array:
    """Label smoothing (Szegedy et al. 2016): (1 - ε) · loss + ε · mean over the vocabulary of -log p.

    Args:
      losses: cross-entropies, float32 [B, T].
      logits: float32 [B, T, V].
      epsilon: ε, static; 0 returns `losses`.
    """
    if epsilon == 0:
        return losses
    uniform = jax.nn.logsumexp(logits, axis=-1) - jnp.mean(logits, axis=-1)
    return (1 - epsilon) * losses + epsilon * uniform


class StudentLoss:
    """Cross-entropy, plus distillation where weighted, plus the Lagrangian where gates are trained.

    Args:
      model: the module that is trained.
      weights: loss weights.
      teacher: the dense module, needed if a distillation weight is not 0.
      objective: gates and constraints, or None.
      label_smoothing: ε of the cross-entropy, 0 to 1.
      frozen_encoder: the encoder is not trained: no gradient and no dropout passes it.
      shared_encoder: the teacher's encoder is the student's, and frozen: one pass through it serves both.
    """

    def __init__(
        self, model: Any, weights: DistillConfig, teacher: Any | None = None, objective: PruningObjective | None = None,
        label_smoothing: float = 0.0, frozen_encoder: bool = False, shared_encoder: bool = False,
    ) -> None:  # fmt: skip
        self.model, self.weights, self.teacher, self.objective = model, weights, teacher, objective
        self.label_smoothing = label_smoothing
        self.frozen_encoder, self.shared_encoder = frozen_encoder or shared_encoder, shared_encoder

    def __call__(
        self, params: Any, teacher_params: Any, batch: Batch, rngs: Mapping[str, jax.Array], totals: Metrics,
        share: float, step: jax.Array,
    ) -> tuple[jax.Array, Metrics]:  # fmt: skip
        """Loss of one part of a batch.

        Args:
          params: {"model", and when pruning "gates", "multipliers", "projection"}.
          teacher_params: the teacher's parameters, {} without one.
          batch: the part.
          rngs: keys of the streams `dropout` and `gates`.
          totals: number of source and target tokens in the whole batch.
          share: this part's share of the batch, for terms that do not depend on data.
          step: step number.

        Returns:
          The loss, and metrics that add up over the parts.
        """
        from optax import softmax_cross_entropy_with_integer_labels as cross_entropy  # here, as it is slow to import

        spec = self.model.spec
        masks = self.objective.masks(params, rngs["gates"], step) if self.objective else None
        counted = (batch["labels"] != spec.pad_id).astype(jnp.float32)
        encoded = self._encode(self.model, params["model"], batch, masks, rngs["dropout"], self.frozen_encoder)
        outputs = self._decode(self.model, params["model"], batch, encoded, masks, rngs["dropout"])
        logits = outputs["logits"]
        losses = smoothed(cross_entropy(logits, batch["labels"]), logits, self.label_smoothing)
        task = jnp.sum(losses * counted) / totals["target"]
        right = jnp.sum((logits.argmax(-1) == batch["labels"]) * counted) / totals["target"]
        loss, metrics = self.weights.task * task, {"task_loss": task, "token_accuracy": right}
        if self.teacher is not None:
            extra, more = self._distill(params, teacher_params, batch, outputs, masks or {}, totals)
            loss, metrics = loss + extra, metrics | more
        if self.objective:
            constraint, more = self.objective.loss(params, step)
            loss += share * constraint
            metrics |= {name: share * value for name, value in more.items()}
        return loss, {"loss": loss, **metrics}

    def _encode(
        self, model: Any, params: Any, batch: Batch, masks: Any, dropout: jax.Array | None, frozen: bool = False
    ) -> tuple[jax.Array, Any]:
        """The encoder's output and those of its layers."""
        mask = batch["input_ids"] != model.spec.pad_id
        kwargs = _deterministic(model.spec, None if frozen else dropout)
        found = model.apply({"params": params}, batch["input_ids"], mask, masks, method="encode", **kwargs)
        return jax.lax.stop_gradient(found) if frozen else found

    def _decode(
        self, model: Any, params: Any, batch: Batch, encoded: tuple[jax.Array, Any], masks: Any,
        dropout: jax.Array | None,
    ) -> dict[str, Any]:  # fmt: skip
        """`logits`, and the outputs of the layers of `encoder` and `decoder`."""
        output, hidden = encoded
        mask, inputs = batch["input_ids"] != model.spec.pad_id, shift_right(batch["labels"], model.spec)
        kwargs = _deterministic(model.spec, dropout)
        logits, decoded = model.apply({"params": params}, inputs, output, mask, masks, method="decode", **kwargs)
        return {"logits": logits, "encoder": hidden, "decoder": decoded, "encoded": output}

    def _distill(
        self, params: Any, teacher_params: Any, batch: Batch, student: Mapping[str, Any], masks: Mapping[str, Any],
        totals: Metrics,
    ) -> tuple[jax.Array, Metrics]:  # fmt: skip
        """Weighted losses to the teacher: its logits, encoder layers and, where depths are equal, decoder layers."""
        if self.shared_encoder:
            encoded = student["encoded"], student["encoder"]
        else:
            encoded = self._encode(self.teacher, teacher_params, batch, None, None)
        teacher = self._decode(self.teacher, teacher_params, batch, encoded, None, None)
        pad_id, counted = self.model.spec.pad_id, {}
        for name, ids in (("source", "input_ids"), ("target", "labels")):
            counted[name] = (batch[ids] != pad_id).astype(jnp.float32)
        loss, metrics = jnp.zeros(()), {}
        if self.weights.logits:
            kl = distill.logits_loss(
                student["logits"], teacher["logits"], counted["target"], totals["target"], self.weights.temperature
            )
            loss, metrics["logits_loss"] = loss + self.weights.logits * kl, kl
        if self.weights.hidden:
            error = jnp.zeros(())
            for side, tokens in (("encoder", "source"), ("decoder", "target")):
                if side == "encoder" or len(student[side]) == len(teacher[side]):
                    alive = alive_layers(self.model.spec, masks, side)
                    error += distill.hidden_loss(
                        student[side], teacher[side], params["projection"], counted[tokens], totals[tokens], alive
                    )
            loss, metrics["hidden_loss"] = loss + self.weights.hidden * error, error
        return loss, metrics


def _deterministic(spec: ModelSpec, dropout: jax.Array | None) -> dict[str, Any]:
    """Arguments of a module: dropout only with a key and a rate."""
    if dropout is not None and spec.dropout_rate > 0:
        return {"deterministic": False, "rngs": {"dropout": dropout}}
    return {"deterministic": True}


def alive_layers(spec: ModelSpec, masks: Mapping[str, Any], side: str) -> jax.Array:
    """Layers of a side that a teacher's can be matched with, [L]: 0 where self-attention is closed (CoFi) or gone."""
    part = "attention" if side == "encoder" else "self_attention"
    names = [f"{side}.{i}.{part}" for i in range(len(getattr(spec, side)))]
    sizes = spec.axis_sizes()
    return jnp.stack([jnp.float32(sizes.get(f"{name}.heads", 0) > 0) * masks.get(name, 1.0) for name in names])
