"""Final masks close as many parameters as the gates are expected to, for every method."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nash_jax.axes import param_axes
from nash_jax.pruning import hard_concrete as hc
from nash_jax.pruning.compact import compact, masked_fraction
from nash_jax.pruning.final_masks import allocate_zeros, final_masks, shifted
from nash_jax.pruning.gates import gate_groups
from nash_jax.pruning.lagrangian import prunable_size, size_terms
from nash_jax.pruning.methods import METHODS, make_constraints, target_sparsities
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.tree import count_params

SIZES = {"vocab_size": 30, "d_model": 32, "d_ff": 64, "num_heads": 4, "encoder_layers": 3, "decoder_layers": 4}
SPEC = dense_spec(**SIZES)
seeds = st.integers(0, 2**32 - 1)


def random_rows(spec, method, seed, mean=0.0, spread=2.0):
    """Trained-looking gates: most far from the middle, some near it."""
    rng = np.random.default_rng(seed)
    groups = gate_groups(param_axes(spec), spec.axis_sizes(), METHODS[method].gates)
    rows = {g.name: np.clip(rng.normal(mean, spread, g.size), -4.6, 4.6).astype(np.float32) for g in groups}
    return {n: row if n == "embed" or n.endswith(("heads", "units")) else row[0] for n, row in rows.items()}


def constraints_of(spec, method):
    return make_constraints(spec, target_sparsities(method, 0.4, 0.5))


def expected_share(spec, rows, part):
    """By hand: each parameter survives with the product of the probabilities of what it needs."""
    probs = {name: np.asarray(hc.prob_nonzero(row), np.float64) for name, row in rows.items()}
    embed = np.mean(probs["embed"]) if "embed" in probs else 1.0
    alive = whole = 0.0
    for sublayer, (axis, size) in spec.sublayers().items():
        if sublayer.startswith(part):
            one = (2 if sublayer.endswith("ffn") else 4 * spec.head_dim) * spec.d_model
            alive += one * np.sum(probs.get(axis, np.ones(size))) * probs.get(sublayer, 1.0) * embed
            whole += one * size
    return 1 - alive / whole


@pytest.mark.parametrize("method", ["nash", "cofi"])
@given(seed=seeds)
def test_as_many_parameters_as_expected(method, seed):
    """To a fraction of a unit where units are left to make up for heads, sub-layers and d_model."""
    rows = random_rows(SPEC, method, seed, mean=2.0)
    masks = final_masks(rows, list(constraints_of(SPEC, method).values()))
    part = "" if method == "cofi" else "encoder"
    units = [n for n, row in rows.items() if n.endswith(".units") and masks.get(n.rpartition(".")[0], 1) != 0]
    room = all(0 < np.sum(masks[n] == 0) < masks[n].size for n in units)
    if units and room:
        assert masked_fraction(SPEC, masks, part) == pytest.approx(expected_share(SPEC, rows, part), abs=0.002)


@given(seed=seeds)
def test_sublayers_alone_come_as_near_to_the_target_as_they_can(seed):
    rows = random_rows(SPEC, "nash_auto", seed)
    masks = final_masks(rows, list(constraints_of(SPEC, "nash_auto").values()))
    wanted = target_sparsities("nash_auto", 0.4, 0.5)["decoder"]
    largest = 4 * SPEC.d_model**2 / (4 * (8 * SPEC.d_model**2 + 2 * SPEC.d_model * 64))
    assert abs(masked_fraction(SPEC, masks, "decoder") - wanted) <= largest / 2 + 1e-6
    lone = {n: float(row) for n, row in rows.items() if n.startswith("decoder")}
    closed = [a for n, a in lone.items() if masks[n] == 0]
    kept = [a for n, a in lone.items() if masks[n] != 0]
    assert not closed or not kept or max(closed) <= min(kept)  # the least likely ones go


@pytest.mark.parametrize("method", [m for m, own in METHODS.items() if own.gates])
@given(seed=seeds)
def test_open_gates_stay_and_scores_stay_soft(method, seed):
    rows = random_rows(SPEC, method, seed)
    masks = final_masks(rows, list(constraints_of(SPEC, method).values()))
    assert masks.keys() == rows.keys()
    for name, mask in masks.items():
        assert mask.shape == np.shape(rows[name]) and mask.dtype == np.float32
        score = 1 / (1 + np.exp(-0.8 * np.asarray(rows[name], np.float64) / (2 / 3)))
        np.testing.assert_allclose(mask[mask != 0], score[mask != 0], rtol=1e-5)
    everything = {name: np.full(np.shape(row), 10.0, np.float32) for name, row in rows.items()}
    for name, mask in final_masks(everything, list(constraints_of(SPEC, method).values())).items():
        assert (mask > 0.99).all() or (method == "nash_auto" and name.startswith("decoder"))  # whose number is fixed


@pytest.mark.parametrize("method", [m for m, own in METHODS.items() if own.gates])
def test_counted_share_is_that_of_the_compacted_model(method):
    rows = random_rows(SPEC, method, 5)
    masks = final_masks(rows, list(constraints_of(SPEC, method).values()))
    spec, params = compact(SPEC, random_params(SPEC), masks)
    sizes = [prunable_size(size_terms(param_axes(s), s.axis_sizes()), s.axis_sizes()) for s in (SPEC, spec)]
    assert masked_fraction(SPEC, masks, "") == pytest.approx(1 - sizes[1] / sizes[0])
    assert count_params(params) < count_params(random_params(SPEC))


def test_rows_under_no_constraint_are_rounded_on_their_own():
    rows = random_rows(SPEC, "nash", 0)
    masks = final_masks(rows, [])
    for name, row in rows.items():
        np.testing.assert_allclose(masks[name], hc.final_mask(row), rtol=1e-6)


def test_balanced_zeros_by_hand():
    """1.4 heads expected: 1 closed, 0.4 left over; then 1.8: 2, -0.2 left, which is two units fewer than 4.2."""
    probs = {"a.heads": np.full(4, 0.65), "b.heads": np.full(4, 0.65), "a.units": np.full(7, 0.4)}
    costs = {"a.units": 10.0, "b.heads": 100.0, "a.heads": 100.0}
    assert allocate_zeros(probs, costs) == {"a.heads": 1, "b.heads": 2, "a.units": 2}
    assert allocate_zeros({}, {}) == {}


@given(seed=st.integers(0, 2**32 - 1))
def test_balanced_zeros_close_as_many_parameters_as_expected(seed):
    rng = np.random.default_rng(seed)
    probs = {f"{i}.heads": rng.uniform(0.05, 0.95, rng.integers(1, 5)) for i in range(rng.integers(0, 5))}
    probs |= {f"{i}.units": rng.uniform(0.3, 0.7, 60) for i in range(rng.integers(1, 4))}  # enough to take up the rest
    costs = {name: 64.0 if name.endswith("heads") else float(rng.integers(2, 9)) for name in probs}
    zeros = allocate_zeros(probs, costs)
    assert all(0 <= zeros[name] <= len(p) for name, p in probs.items())
    expected = sum(costs[name] * np.sum(1 - p) for name, p in probs.items())
    closed = sum(costs[name] * zeros[name] for name in probs)
    assert abs(closed - expected) <= min(costs.values()) / 2 + 1e-9


@given(seed=seeds, share=st.floats(-0.9, 0.9))
def test_what_is_left_over_is_closed_elsewhere(seed, share):
    """So many parameters more (or less) are expected to be closed, and all log-odds have moved alike."""
    rng = np.random.default_rng(seed)
    probs = {f"{i}.{kind}": rng.uniform(0.02, 0.98, 6) for i in range(3) for kind in ("heads", "units")}
    costs = {name: 64.0 if name.endswith("heads") else 5.0 for name in probs}
    closed = sum(costs[name] * np.sum(1 - p) for name, p in probs.items())
    open_ = sum(costs[name] * np.sum(p) for name, p in probs.items())
    left = share * (open_ if share > 0 else closed)
    moved = shifted(probs, costs, left)
    assert sum(costs[name] * np.sum(1 - p) for name, p in moved.items()) == pytest.approx(closed + left)
    shifts = [np.log(moved[n] / (1 - moved[n])) - np.log(p / (1 - p)) for n, p in probs.items()]
    np.testing.assert_allclose(shifts, shifts[0][0], atol=1e-9)


def test_more_left_over_than_there_is():
    probs, costs = {"a.heads": np.full(4, 0.65)}, {"a.heads": 100.0}
    for left, zeros in ((1e6, 4), (-1e6, 0), (0.0, 1)):
        assert allocate_zeros(shifted(probs, costs, left), costs) == {"a.heads": zeros}
    assert allocate_zeros(shifted({}, {}, 60.0), {}) == {}


def test_undecided_gates_make_up_for_sublayers():
    """Two sub-layers near the middle leave heads' worth of parameters: heads that are surely open stay."""
    groups = gate_groups(param_axes(SPEC), SPEC.axis_sizes(), METHODS["cofi"].gates)
    rows = {g.name: np.full(g.size, 9.0, np.float32) for g in groups}
    rows = {n: row if n == "embed" or n.endswith(("heads", "units")) else row[0] for n, row in rows.items()}
    rows["encoder.1.attention"], rows["decoder.3.ffn"] = np.float32(-0.5), np.float32(-0.5)  # open with P = 0.75
    undecided = ("encoder.2.ffn.units", "decoder.2.ffn.units")
    for name in undecided:
        rows[name][:] = -1.6  # open with P = 0.5
    masks = final_masks(rows, list(constraints_of(SPEC, "cofi").values()))
    for name, mask in masks.items():
        assert np.sum(mask == 0) > 40 if name in undecided else np.all(mask != 0)
