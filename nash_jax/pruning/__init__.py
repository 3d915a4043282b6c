"""The parts of pruning, to be composed: layer selection, gates, constraints, losses, optimizer, masks, compaction.

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

from nash_jax.pruning.compact import compact, cut, fold, masked_fraction, removed_fraction, take_kept
from nash_jax.pruning.distill import hidden_loss, logits_loss
from nash_jax.pruning.final_masks import final_masks
from nash_jax.pruning.gates import GateGroup, HardConcreteGates, gate_groups
from nash_jax.pruning.hard_concrete import clamp
from nash_jax.pruning.lagrangian import Constraint, SizeTerm, expected_size, size_terms
from nash_jax.pruning.layer_selection import choose_layers, select_layers
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
    "choose_layers",
    "clamp",
    "compact",
    "cut",
    "expected_size",
    "final_masks",
    "fold",
    "gate_groups",
    "hidden_loss",
    "logits_loss",
    "make_constraints",
    "make_gates",
    "masked_fraction",
    "pruning_optimizer",
    "removed_fraction",
    "select_layers",
    "size_terms",
    "take_kept",
]
