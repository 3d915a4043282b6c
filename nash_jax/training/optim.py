"""The optimizer that a phase's config names."""

from collections.abc import Collection
from typing import TYPE_CHECKING, Any

import jax

from nash_jax.config.schema import TrainConfig
from nash_jax.pruning.optimizer import pruning_optimizer
from nash_jax.training.gradient_norm import clip_by_global_norm

if TYPE_CHECKING:
    import optax
    from optax.contrib import MuonDimensionNumbers


def make_schedule(config: TrainConfig, num_steps: int) -> "optax.Schedule":
    """Learning rate by step: linear warm-up, then `config.schedule`."""
    import optax  # here and below, for it takes a while to import

    warmup = int(config.warmup_ratio * num_steps)
    rest = max(num_steps - warmup, 1)
    after = {
        "linear": optax.schedules.linear_schedule(config.learning_rate, 0.0, rest),
        "cosine": optax.schedules.cosine_decay_schedule(config.learning_rate, rest),
        "constant": optax.schedules.constant_schedule(config.learning_rate),
    }[config.schedule]
    if warmup == 0:
        return after
    rise = optax.schedules.linear_schedule(0.0, config.learning_rate, warmup)
    return optax.schedules.join_schedules([rise, after], [warmup])


def _model_optimizer(config: TrainConfig, num_steps: int) -> "optax.GradientTransformation":
    """Clipping by global norm, then the optimizer named in the config."""
    import optax
    from optax.contrib import muon

    schedule = make_schedule(config, num_steps)
    if config.optimizer == "adafactor":
        rateless = optax.adafactor(None, weight_decay_rate=config.weight_decay or None)  # it decays after its own rate
        tx = optax.chain(rateless, optax.scale_by_schedule(schedule))
    elif config.optimizer == "muon":
        tx = muon(
            schedule,
            weight_decay=config.weight_decay,
            adam_b2=config.beta2,
            ns_steps=3,  # as good as 5 here, and a third cheaper (docs/pruning.md)
            consistent_rms=0.2,  # updates of AdamW's usual size, so that one learning rate serves both
            muon_weight_dimension_numbers=_matrices,
        )
    else:
        tx = optax.adamw(schedule, b2=config.beta2, weight_decay=config.weight_decay)
    return optax.chain(clip_by_global_norm(config.clip_norm), tx)


def _matrices(params: Any) -> Any:
    """Which parameters Muon sees as matrices, and how: input axes against output axes, fused parts apart."""
    from optax.contrib import MuonDimensionNumbers

    def numbers(path: tuple[Any, ...], leaf: jax.Array) -> "MuonDimensionNumbers | None":
        name = str(path[-1].key)
        kinds = {
            "qkv": ((0,), (2, 3)),
            "kv": ((0,), (2, 3)),
            "q": ((0,), (1, 2)),
            "out": ((0, 1), (2,)),
            "wi": ((0,), (leaf.ndim - 1,)),
            "wo": ((0,), (1,)),
        }
        return MuonDimensionNumbers(*kinds[name]) if name in kinds else None

    return jax.tree_util.tree_map_with_path(numbers, params)


def make_optimizer(
    config: TrainConfig,
    num_steps: int,
    *,
    gate_learning_rate: float = 0.01,
    pruning_starts: int = 0,
    frozen: Collection[str] = (),
) -> "optax.GradientTransformation":
    """The optimizer of a phase: `pruning_optimizer` over the one that the config names.

    Args:
      config: of the phase.
      num_steps: its length, for the schedule.
      gate_learning_rate: of gates and λ1.
      pruning_starts: step from which gates and multipliers are trained.
      frozen: paths of model parameters that stay as they are.
    """
    import optax

    return pruning_optimizer(
        _model_optimizer(config, num_steps),
        gate_learning_rate=gate_learning_rate,
        projection=optax.adam(make_schedule(config, num_steps)),
        start_step=pruning_starts,
        frozen=frozen,
    )
