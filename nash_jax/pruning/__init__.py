"""The parts of pruning, to be composed: layer selection, importance, gates, losses, optimizer, masks, compaction.

A model is (`ModelSpec`, params). What is pruned is named by the axes of `nash_jax.axes.param_axes(spec)`; the functions
that take a table of axes work on any model that has one.

Example: gates on a model, and the smaller model that their final masks leave.

>>> import jax
>>> from nash_jax import pruning
>>> from nash_jax.testing import random_params, random_spec
>>> spec = random_spec(3)
>>> params = random_params(spec)
>>> gates, constraints = pruning.make_gates(spec, "nash"), pruning.make_constraints(spec, {"encoder": 0.5})
>>> objective = pruning.PruningObjective(gates, constraints, start_step=0, warmup_steps=10)
>>> trained = objective.initial_params(jax.random.key(0))  # train them beside the model, with `objective.loss`
>>> masks = objective.final_masks(trained["gates"])
>>> small, small_params = pruning.compact(spec, params, masks)
>>> 0 < pruning.removed_fraction(spec, small, "encoder") < 1
True
"""

from nash_jax.pruning.budget import close_least_important, initial_log_alpha
from nash_jax.pruning.compact import compact, cut, fold, masked_fraction, removed_fraction, take_kept
from nash_jax.pruning.distill import hidden_loss, logits_loss
from nash_jax.pruning.final_masks import final_masks
from nash_jax.pruning.gates import GateGroup, HardConcreteGates, gate_groups
from nash_jax.pruning.hard_concrete import clamp
from nash_jax.pruning.importance import (
    activation_importance,
    gradient_importance,
    mask_inputs,
    open_masks,
    row_gradients,
)
from nash_jax.pruning.lagrangian import Constraint, SizeTerm, expected_size, size_terms
from nash_jax.pruning.layer_selection import choose_layers, select_layers
from nash_jax.pruning.least_squares import gram_matrix, reconstruction_error, refit, refit_outputs
from nash_jax.pruning.methods import METHODS, Method, make_constraints, make_gates
from nash_jax.pruning.objective import PruningObjective
from nash_jax.pruning.optimizer import pruning_optimizer

__all__ = [
    "METHODS",
    "Constraint",
    "GateGroup",
    "HardConcreteGates",
    "Method",
    "PruningObjective",
    "SizeTerm",
    "activation_importance",
    "choose_layers",
    "clamp",
    "close_least_important",
    "compact",
    "cut",
    "expected_size",
    "final_masks",
    "fold",
    "gate_groups",
    "gradient_importance",
    "gram_matrix",
    "hidden_loss",
    "initial_log_alpha",
    "logits_loss",
    "make_constraints",
    "make_gates",
    "mask_inputs",
    "masked_fraction",
    "open_masks",
    "pruning_optimizer",
    "reconstruction_error",
    "refit",
    "refit_outputs",
    "removed_fraction",
    "row_gradients",
    "select_layers",
    "size_terms",
    "take_kept",
]
