"""Distillation from the dense model: logits and matched encoder layers (CoFi: Xia et al. 2022, section 3.3)."""

from collections.abc import Sequence

import jax
import jax.numpy as jnp


def logits_loss(
    student: jax.Array, teacher: jax.Array, weights: jax.Array, denominator: jax.Array, temperature: float = 2.0
) -> jax.Array:
    """T² · KL(teacher ‖ student) at temperature T, summed over positions that count.

    Args:
      student: logits [B, T, V].
      teacher: logits [B, T, V].
      weights: 1 where a position counts, [B, T].
      denominator: what the sum is divided by: the number of positions that count in the whole batch.
      temperature: T.
    """
    log_p = jax.nn.log_softmax(teacher / temperature, axis=-1)
    log_q = jax.nn.log_softmax(student / temperature, axis=-1)
    divergence = jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)  # [B, T]
    return temperature**2 * jnp.sum(divergence * weights) / denominator


def teacher_layers(num_layers: int) -> list[int]:
    """The ends of four equal groups of layers: 2, 5, 8, 11 of 12; all layers when there are four or fewer."""
    groups = min(4, num_layers)
    return [num_layers * (i + 1) // groups - 1 for i in range(groups)]


def match_layers(distances: jax.Array, alive: jax.Array) -> jax.Array:
    """CoFi's matching "v4": each chosen teacher layer gets its nearest student layer, order kept.

    From the last teacher layer back: the surviving student layer of least distance among those before
    the one matched last; when none is left, that one again.

    Args:
      distances: [M, L], teacher layer against student layer.
      alive: [L], nonzero where the student layer survives.

    Returns:
      int32 [M], student layer of each teacher layer; L where nothing survives.
    """
    num_teacher, num_student = distances.shape
    positions = jnp.arange(num_student)
    last = jnp.asarray(num_student)
    matched = []
    for m in reversed(range(num_teacher)):
        allowed = (alive > 0) & (positions < last)
        nearest = jnp.argmin(jnp.where(allowed, distances[m], jnp.inf))
        last = jnp.where(allowed.any(), nearest, last)
        matched.append(last)
    return jnp.stack(matched[::-1]).astype(jnp.int32)


def hidden_loss(
    student: Sequence[jax.Array],
    teacher: Sequence[jax.Array],
    projection: jax.Array,
    weights: jax.Array,
    denominator: jax.Array,
    alive: jax.Array | None = None,
) -> jax.Array:
    """Mean squared error between chosen teacher layers and matched, projected student layers.

    Args:
      student: hidden states of every student layer, each [B, S, D].
      teacher: hidden states of every teacher layer, each [B, S, D].
      projection: learned [D, D], the identity at the start.
      weights: 1 where a position counts, [B, S].
      denominator: number of positions that count in the whole batch.
      alive: [L], nonzero where a student layer survives; None: all do.
    """
    alive = jnp.ones(len(student)) if alive is None else alive
    projected = [h.astype(jnp.float32) @ projection for h in student]

    def distance(m: int, h: jax.Array) -> jax.Array:
        error = jnp.mean(jnp.square(h - jax.lax.stop_gradient(teacher[m].astype(jnp.float32))), axis=-1)
        return jnp.sum(error * weights) / denominator

    chosen = teacher_layers(len(teacher))
    distances = jnp.stack([jnp.stack([distance(m, h) for h in projected]) for m in chosen])  # [M, L]
    matched = match_layers(jax.lax.stop_gradient(distances), alive)
    picked = jnp.take_along_axis(distances, jnp.minimum(matched, len(student) - 1)[:, None], axis=1)[:, 0]
    return jnp.sum(jnp.where(matched < len(student), picked, 0.0))
