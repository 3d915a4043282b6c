"""Losses and the one jitted, donated step.

A batch is {"input_ids": [B, S], "labels": [B, T]}, int32, padded with the spec's pad id. Losses are sums over
tokens divided by the number of tokens of the *whole* batch, so that a batch computed in parts gives the
gradient of the batch.
"""

import zlib
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from nash_jax.config import DistillConfig
from nash_jax.models import build
from nash_jax.pruning import distill
from nash_jax.pruning.final_masks import final_masks
from nash_jax.pruning.gates import HardConcreteGates
from nash_jax.pruning.hard_concrete import clamp
from nash_jax.pruning.lagrangian import Constraint, initial_multipliers, lagrangian, target_at
from nash_jax.spec import ModelSpec

WHOLE = "model"  # the part that is both sides, where it needs a name

Batch = Mapping[str, jax.Array]
Metrics = dict[str, jax.Array]


def stream(root: jax.Array, name: str, step: jax.Array | int) -> jax.Array:
    """The key of a named stream at a step: adding a stream leaves the others as they were."""
    return jax.random.fold_in(jax.random.fold_in(root, zlib.crc32(name.encode())), step)


def shift_right(labels: jax.Array, start_id: int) -> jax.Array:
    """Labels [B, T] → decoder inputs [B, T]: the start token, then all labels but the last."""
    return jnp.pad(labels, ((0, 0), (1, 0)), constant_values=start_id)[:, :-1]


class Pruner:
    """What the pruning phase adds to the loss: sampled masks and the Lagrangian.

    Args:
      gates: the gate module.
      constraints: part of the model (`encoder`, `decoder`, or empty for both) → the sparsity it is to reach, each
        with multipliers of its own. (NASH-auto's code has one pair for both sides: its λ1 is content as soon as one
        side is as much too sparse as the other is too dense.)
      start_step: step at which pruning begins; before, all gates are open.
      warmup_steps: steps over which the targets rise from 0.
    """

    def __init__(
        self, gates: HardConcreteGates, constraints: Mapping[str, Constraint], start_step: int, warmup_steps: int
    ) -> None:
        self.gates, self.constraints = gates, constraints
        self.start_step, self.warmup_steps = start_step, warmup_steps

    def masks(self, params: Any, rng: jax.Array, step: jax.Array) -> dict[str, jax.Array]:
        """Masks of this step: samples once pruning has begun, ones before."""
        sampled: Any = self.gates.apply({"params": params["gates"]}, method="sample", rngs={"gates": rng})
        return {name: jnp.where(step >= self.start_step, z, 1.0) for name, z in sampled.items()}

    def initial_params(self, rng: jax.Array) -> dict[str, Any]:
        """What is trained beside the model: the gates, and multipliers of 0 for each constraint."""
        variables: Any = self.gates.init(rng)
        multipliers = {part or WHOLE: initial_multipliers() for part in self.constraints}
        return {"gates": variables["params"], "multipliers": multipliers}

    def loss(self, params: Any, step: jax.Array) -> tuple[jax.Array, Metrics]:
        """The Lagrangian, 0 before pruning begins, and what it is made of."""
        sparsities, metrics = self.sparsities(params["gates"]), dict[str, jax.Array]()
        value = jnp.zeros(())
        for part, constraint in self.constraints.items():
            target = target_at(step - self.start_step, self.warmup_steps, constraint.target)
            multipliers = params["multipliers"][part or WHOLE]
            value += lagrangian(sparsities[part], target, multipliers)
            metrics |= {metric(name, part): multiplier for name, multiplier in multipliers.items()}
            metrics |= {
                metric("expected_sparsity", part): sparsities[part],
                metric("target_sparsity", part): jnp.maximum(target, 0),
            }
        return jnp.where(step >= self.start_step, value, 0.0), metrics

    def sparsities(self, gate_params: Any) -> dict[str, jax.Array]:
        """Expected sparsity of each constrained part."""
        probs: Any = self.gates.apply({"params": gate_params}, method="probs")
        return {part: constraint.sparsity(probs) for part, constraint in self.constraints.items()}

    def final_masks(self, gate_params: Any) -> dict[str, np.ndarray]:
        """Final masks of the gates with these parameters, on the host."""
        rows: Any = self.gates.apply({"params": gate_params}, method="rows")
        return final_masks(jax.device_get(rows), list(self.constraints.values()))


def metric(name: str, part: str) -> str:
    """The name of a metric of a constrained part: plain for the encoder and for the whole model."""
    return f"{name}_{part}" if part == "decoder" else name


class StudentLoss:
    """Cross-entropy, plus distillation where weighted, plus the Lagrangian where gates are trained.

    Args:
      model: the module that is trained.
      weights: loss weights.
      teacher: the dense module, needed if a distillation weight is not 0.
      pruner: gates and constraint, or None.
    """

    def __init__(
        self, model: Any, weights: DistillConfig, teacher: Any | None = None, pruner: Pruner | None = None
    ) -> None:
        self.model, self.weights, self.teacher, self.pruner = model, weights, teacher, pruner

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
        spec = self.model.spec
        masks = self.pruner.masks(params, rngs["gates"], step) if self.pruner else None
        counted = (batch["labels"] != spec.pad_id).astype(jnp.float32)
        outputs = self._forward(self.model, params["model"], batch, masks, rngs["dropout"])
        logits = outputs["logits"]
        losses = optax.softmax_cross_entropy_with_integer_labels(logits, batch["labels"])
        task = jnp.sum(losses * counted) / totals["target"]
        right = jnp.sum((logits.argmax(-1) == batch["labels"]) * counted) / totals["target"]
        loss, metrics = self.weights.task * task, {"task_loss": task, "token_accuracy": right}
        if self.teacher is not None:
            extra, more = self._distill(params, teacher_params, batch, outputs, masks or {}, totals)
            loss, metrics = loss + extra, metrics | more
        if self.pruner:
            constraint, more = self.pruner.loss(params, step)
            loss += share * constraint
            metrics |= {name: share * value for name, value in more.items()}
        return loss, {"loss": loss, **metrics}

    def _forward(self, model: Any, params: Any, batch: Batch, masks: Any, dropout: jax.Array | None) -> dict[str, Any]:
        """`logits`, and the outputs of the layers of `encoder` and `decoder`; dropout only with a key and a rate."""
        spec, variables = model.spec, {"params": params}
        kwargs: dict[str, Any] = {"deterministic": True}
        if dropout is not None and spec.dropout_rate > 0:
            kwargs = {"deterministic": False, "rngs": {"dropout": dropout}}
        mask = batch["input_ids"] != spec.pad_id
        encoded, hidden = model.apply(variables, batch["input_ids"], mask, masks, method="encode", **kwargs)
        inputs = shift_right(batch["labels"], spec.decoder_start_id)
        logits, decoded = model.apply(variables, inputs, encoded, mask, masks, method="decode", **kwargs)
        return {"logits": logits, "encoder": hidden, "decoder": decoded}

    def _distill(
        self, params: Any, teacher_params: Any, batch: Batch, student: Mapping[str, Any], masks: Mapping[str, Any],
        totals: Metrics,
    ) -> tuple[jax.Array, Metrics]:  # fmt: skip
        """Weighted losses to the teacher: its logits, encoder layers and, where depths are equal, decoder layers."""
        teacher = self._forward(self.teacher, teacher_params, batch, None, None)
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


def alive_layers(spec: ModelSpec, masks: Mapping[str, Any], side: str) -> jax.Array:
    """Layers of a side that a teacher's can be matched with, [L]: 0 where self-attention is closed (CoFi) or gone."""
    part = "attention" if side == "encoder" else "self_attention"
    names = [f"{side}.{i}.{part}" for i in range(len(getattr(spec, side)))]
    sizes = spec.axis_sizes()
    return jnp.stack([jnp.float32(sizes.get(f"{name}.heads", 0) > 0) * masks.get(name, 1.0) for name in names])


def make_step(
    loss_fn: StudentLoss, tx: optax.GradientTransformation, accumulation: int = 1
) -> Callable[[Any, Any, Batch], tuple[Any, Metrics]]:
    """One training step: (state, teacher_params, batch) → (state, metrics); the state is donated.

    Two programs: gradients, compiled for each batch shape, and the update, compiled once. In one program
    the optimizer, which may be the larger part (Muon), would be compiled again for every shape.

    Args:
      loss_fn: the loss.
      tx: the optimizer.
      accumulation: parts in which a batch is computed, one after the other.
    """
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
        return grads, metrics | {"grad_norm": optax.tree.norm(grads["model"])}

    def update(state: Any, grads: Any) -> Any:
        updates, opt_state = tx.update(grads, state["opt_state"], state["params"])
        params = optax.apply_updates(state["params"], updates)
        if "gates" in params:
            params = params | {"gates": jax.tree.map(clamp, params["gates"])}
        return state | {"step": state["step"] + 1, "params": params, "opt_state": opt_state}

    compute, apply = jax.jit(gradients), jax.jit(update, donate_argnums=0)

    def step(state: Any, teacher_params: Any, batch: Batch) -> tuple[Any, Metrics]:
        grads, metrics = compute(state, teacher_params, batch)
        return apply(state, grads), metrics

    return step


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
