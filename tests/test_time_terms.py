"""Gates that pay milliseconds: their constraint against the table's own prediction of compact models."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from seeds import some
from test_search import make_table

from nash_jax.benchmark.latency_entries import Curve
from nash_jax.benchmark.latency_table import predict, speedup
from nash_jax.benchmark.time_terms import time_constraint, time_terms
from nash_jax.config.schema import DistillConfig, PruneConfig
from nash_jax.errors import UserError
from nash_jax.models import build
from nash_jax.pruning.compact import compact, kept_positions
from nash_jax.pruning.lagrangian import expected_size, gate_costs, prunable_size
from nash_jax.pruning.methods import make_constraints, make_gates
from nash_jax.pruning.objective import PruningObjective
from nash_jax.spec import dense_spec
from nash_jax.testing import random_batch, random_params
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import make_step

DENSE = dense_spec(
    vocab_size=23, d_model=16, d_ff=32, num_heads=4, encoder_layers=2, decoder_layers=3, dropout_rate=0.0, tied=False
)  # fmt: skip


def straight_table(seed=0):
    """A table whose curves are a cost of being there and a cost for each head or unit, all at random."""
    rng, table = np.random.default_rng(seed), make_table(DENSE)
    curves = {}
    for kind, curve in table.curves.items():
        there, each = rng.uniform(0.1, 1.0, 2)
        curves[kind] = Curve(curve.sizes, tuple(there + each * n / max(curve.sizes) if n else 0.0 for n in curve.sizes))
    return dataclasses.replace(table, curves=curves)


def random_masks(seed):
    """Of heads, units and sub-layers of both sides; some sub-layers lose everything in one way or the other."""
    rng, masks = np.random.default_rng(seed), {}
    for name, (axis, size) in DENSE.sublayers().items():
        masks[axis] = (rng.uniform(size=size) < rng.choice([0.0, 0.5, 0.9])).astype(np.float32)
        masks[name] = np.float32(rng.uniform() < 0.8)
    masks["decoder.0.cross_attention"], masks["decoder.0.cross_attention.heads"] = np.float32(1), np.ones(4, np.float32)
    return masks


@pytest.mark.parametrize("seed", some(range(20), few=5))
def test_what_is_counted_is_what_the_table_says_of_the_compact_model(seed):
    table, masks = straight_table(seed), random_masks(seed)
    constraint = time_constraint(table, DENSE, 1.5)
    kept = {axis: len(positions) for axis, positions in kept_positions(DENSE, masks).items()}
    gone = constraint.counted(kept) * prunable_size(constraint.terms, constraint.sizes)
    narrow, _ = compact(DENSE, random_params(DENSE), masks)
    assert predict(table, DENSE) - gone == pytest.approx(predict(table, narrow))


@pytest.mark.parametrize("seed", some(range(20), few=5))
def test_parameters_are_counted_alike(seed):
    """`counted` of an ordinary constraint is one minus the parameters that are left."""
    masks = random_masks(seed) | {"embed": (np.arange(16) < 12).astype(np.float32)}
    for side in ("encoder", "decoder", ""):
        constraint = make_constraints(DENSE, {side: 0.5})[side]
        kept = {axis: len(positions) for axis, positions in kept_positions(DENSE, masks).items()}
        narrow, _ = compact(DENSE, random_params(DENSE), masks)
        left = make_constraints(narrow, {side: 0.5})[side]
        sizes = [prunable_size(own.terms, own.sizes) for own in (left, constraint)]
        assert constraint.counted(kept) == pytest.approx(1 - sizes[0] / sizes[1])


def test_the_constraint_is_about_the_whole_generation():
    table = straight_table()
    constraint = time_constraint(table, DENSE, 1.5)
    whole, prunable = predict(table, DENSE), prunable_size(constraint.terms, constraint.sizes)
    assert float(expected_size(constraint.terms, constraint.sizes)) == pytest.approx(prunable)
    assert whole - constraint.target * prunable == pytest.approx(whole / 1.5)
    assert set(gate_costs(constraint.terms, constraint.sizes)) == {axis for axis, _ in DENSE.sublayers().values()}
    with pytest.raises(UserError, match=r"config.target_speedup is 99; expected less than \d+\.\d\d, the speedup of"):
        time_constraint(make_table(DENSE, fixed=3.0), DENSE, 99)


@pytest.mark.parametrize(
    ("times", "costs"),  # of 1, 8, 16, 24 and 32 units; of the sub-layer, and of each unit
    [
        ((1.0, 2.0, 3.0, 3.5, 4.1), (1.0 - 0.1, 0.1)),  # the line through the ends
        ((2.0, 2.0, 2.0, 2.0, 2.0), (1.98, 0.02 / 32)),  # units that cost nothing
        ((0.0, 0.0, 0.0, 1.0, 3.2), (0.0, 0.1)),  # a first unit that costs nothing
    ],
)
def test_what_a_sublayer_and_a_unit_cost(times, costs):
    table = straight_table()
    curves = table.curves | {"encoder FFN": Curve((0, 1, 8, 16, 24, 32), (0.0, *times))}
    terms = time_terms(dataclasses.replace(table, curves=curves), DENSE)
    found = {term.axes: term.coefficient for term in terms if term.sublayer == "encoder.1.ffn"}
    assert [found[()], found["encoder.1.ffn.units",]] == pytest.approx(costs)


def test_a_sublayer_that_takes_no_time():
    table = straight_table()
    curves = table.curves | {"decoder FFN": Curve((0, 1, 32), (0.0, 0.0, 0.0))}
    constraint = time_constraint(dataclasses.replace(table, curves=curves), DENSE, 1.5)
    costs = gate_costs(constraint.terms, constraint.sizes)
    assert 0 < costs["decoder.0.ffn.units"] < 1e-5 * costs["encoder.0.ffn.units"]


def test_training_comes_to_the_speed():
    """Gates, multipliers and final masks; the compact model is as fast as asked, by the table, within a fiftieth."""
    steps, table = 250, straight_table(3)
    pruner = PruningObjective(make_gates(DENSE, "latency"), {"": time_constraint(table, DENSE, 1.8)}, 0, 100)
    tx = make_optimizer(PruneConfig(learning_rate=3e-3), steps, gate_learning_rate=0.2)
    step = make_step(StudentLoss(build(DENSE), DistillConfig(), None, pruner), tx)
    trained = {"model": random_params(DENSE, 0, scale=0.2), **pruner.initial_params(jax.random.key(0))}
    state, batch = make_state(jax.tree.map(jnp.array, trained), tx, 0), random_batch(DENSE, rows=16, source=8, target=6)
    for _ in range(steps):
        state, _ = step(state, {}, batch)
    masks = pruner.final_masks(state["params"]["gates"])
    narrow, _ = compact(DENSE, jax.device_get(state["params"]["model"]), masks)
    assert "embed" not in masks and any(masks[name] == 0 for name in DENSE.sublayers())
    assert speedup(table, narrow) == pytest.approx(1.8, rel=0.02)
