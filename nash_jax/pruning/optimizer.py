"""The optimizer of joint training: descent for model and gates, ascent for the multipliers, in one partition."""

import functools
from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import jax

if TYPE_CHECKING:
    import optax

LAMBDA_2_FACTOR = 30.0
"""Learning rate of λ2 over that of λ1 and the gates.

Gates move by about their learning rate a step and so lag behind a rising target, while λ1 adds up the gap: at one rate
for all, as in the released code, it overshoots and swings. λ2 answers the gap of the moment and holds λ1 back.
"""


def pruning_optimizer(
    model: "optax.GradientTransformation",
    *,
    gate_learning_rate: float = 0.01,
    projection: "optax.GradientTransformation | None" = None,
    start_step: int = 0,
    frozen: Collection[str] = (),
) -> "optax.GradientTransformation":
    """Partitions `params` by their top level: {"model", "gates", "multipliers", "projection"}, any of them missing.

    Model parameters by `model`, frozen ones held still; gates by Adam; multipliers by Adam ascent, λ2
    `LAMBDA_2_FACTOR` times as fast as λ1; the projection of hidden states by `projection`. After each update the gates
    are to be clamped (`hard_concrete.clamp`).

    Args:
      model: of the model's parameters.
      gate_learning_rate: of gates and λ1.
      projection: of the projection; when left out, the projection does not change.
      start_step: step from which gates and multipliers are trained. Their Adam begins there: one that had counted
        steps without gradients would think its averages complete, and make its first steps several times too long.
      frozen: paths of model parameters that stay as they are, as in `axes.frozen_params`.
    """
    import optax  # here and below, for it takes a while to import

    def label(path: tuple[Any, ...], _: Any) -> str:
        group, *rest = (key.key for key in path)
        if group == "multipliers":
            return str(rest[-1])
        return "frozen" if group == "model" and "/".join(rest) in frozen else group

    def later(tx: "optax.GradientTransformation") -> "optax.GradientTransformation":
        return optax.conditionally_mask(tx, lambda step: step >= start_step) if start_step else tx

    return optax.partition(
        {
            "model": model,
            "frozen": optax.set_to_zero(),
            "gates": later(optax.adam(gate_learning_rate)),
            "lambda_1": later(_ascent(gate_learning_rate)),
            "lambda_2": later(_ascent(LAMBDA_2_FACTOR * gate_learning_rate)),
            "projection": projection or optax.set_to_zero(),
        },
        functools.partial(jax.tree_util.tree_map_with_path, label),
    )


def _ascent(learning_rate: float) -> "optax.GradientTransformation":
    import optax

    return optax.chain(optax.adam(learning_rate), optax.scale(-1.0))
