"""Importances, masks under a budget, and where gates begin: each against a derivation of its own."""

import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from test_layer_importance import token_losses

from nash_jax.config.schema import ModelConfig
from nash_jax.errors import UserError
from nash_jax.models.placement import place_model
from nash_jax.pruning import hard_concrete as hc
from nash_jax.pruning.budget import close_least_important, initial_log_alpha
from nash_jax.pruning.compact import compact, masked_fraction, removed_fraction
from nash_jax.pruning.importance import IMPORTANCES, gradient_importance, open_masks
from nash_jax.pruning.lagrangian import Constraint, SizeTerm
from nash_jax.pruning.methods import METHODS, make_constraints, make_gates, target_sparsities
from nash_jax.pruning.objective import PruningObjective
from nash_jax.ragged import Ragged
from nash_jax.recipe.calibration import Calibration
from nash_jax.recipe.layer_importance import ForcedLoss
from nash_jax.recipe.prune_at_once import fit_outputs
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.sharding import to_host
from nash_jax.spec import DecoderLayer, EncoderLayer, dense_spec
from nash_jax.testing import random_batch, random_params, random_spec
from nash_jax.tree import flatten

ROWS = 4
SPEC = random_spec(  # two kinds of biases, norms after the sub-layers: what T5 has not
    4, family="bart", num_heads=2, d_model=8, encoder=(EncoderLayer((0, 1), 5),), decoder=(DecoderLayer((1,), (0,), 3),)
)
PARAMS, BATCH = random_params(SPEC, 1, scale=0.3), random_batch(SPEC, 1, rows=ROWS)
DEEP = dense_spec(vocab_size=30, d_model=16, d_ff=32, num_heads=4, encoder_layers=3, decoder_layers=4)
seeds = st.integers(0, 2**32 - 1)


@pytest.fixture(scope="module")
def measured():
    """Kind of importance → what was measured on one batch, given in two parts."""
    parts = [{name: rows[part] for name, rows in BATCH.items()} for part in (slice(0, 2), slice(2, 4))]
    whole = Calibration(SPEC, PARAMS, parts, ModelConfig())
    return {kind: whole.importance(kind) for kind in IMPORTANCES}


def slopes(logits, change):
    """Finite differences of each row's loss when the masks that `change` names, (name, position or ()), go together."""
    losses = []
    for step in (0.01, -0.01):
        masks = open_masks(SPEC)
        for name, place in change:
            masks[name][place] += step
        inputs = np.concatenate([np.full((ROWS, 1), SPEC.decoder_start_id), BATCH["labels"][:, :-1]], 1)
        found = logits(SPEC, PARAMS, BATCH | {"labels": inputs.astype(np.int32)}, masks)
        losses.append(np.sum(token_losses(found, BATCH["labels"]) * (BATCH["labels"] != SPEC.pad_id), axis=1))
    return (losses[0] - losses[1]) / 0.02


CHANGES = {
    ("encoder.0.attention.heads", 1): [("encoder.0.attention.heads", 1)],
    ("encoder.0.ffn.units", 3): [("encoder.0.ffn.units", 3)],
    ("decoder.0.self_attention.heads", 0): [("decoder.0.self_attention.heads", 0)],
    ("decoder.0.cross_attention", ()): [("decoder.0.cross_attention", ())],
    ("encoder.0", ()): [("encoder.0.attention", ()), ("encoder.0.ffn", ())],
    ("decoder.0", ()): [(f"decoder.0.{part}", ()) for part in ("self_attention", "cross_attention", "ffn")],
}


@pytest.mark.parametrize("gate", CHANGES, ids=str)
def test_fisher_and_taylor_are_those_of_finite_differences(logits, measured, gate):
    name, place = gate
    slope = slopes(logits, CHANGES[gate])
    assert np.abs(slope).max() > 1e-3
    assert measured["fisher"][name][place] == pytest.approx(np.sum(slope**2), rel=0.02)
    assert measured["taylor"][name][place] == pytest.approx(np.sum(np.abs(slope)), rel=0.02)


def test_all_that_can_be_pruned_is_measured(measured):
    wanted = {name: np.shape(mask) for name, mask in open_masks(SPEC).items()} | {"encoder.0": (), "decoder.0": ()}
    for found in measured.values():
        assert {name: np.shape(value) for name, value in found.items()} == wanted
        assert all(np.isfinite(value).all() and (value >= 0).all() for value in found.values())


@pytest.mark.parametrize("mesh", ["fsdp:4", "data:2,model:2"])
def test_a_model_that_is_split_over_devices(mesh):
    """Importances, Gram matrices, losses, outputs fitted to a cut: what one device finds."""
    spec = dense_spec(vocab_size=24, d_model=8, d_ff=12, num_heads=2, encoder_layers=1, decoder_layers=1)
    params, batch, config = random_params(spec, 1, scale=0.3), random_batch(spec, 1, rows=ROWS), ModelConfig()
    pairs = tuple(Ragged.from_lists(batch[name].tolist()) for name in ("input_ids", "labels"))
    masks = {axis: np.arange(size) % 2 for axis, size in spec.sublayers().values()}
    found = []
    for own in (None, make_mesh(mesh, jax.devices()[:4])):
        calibration = Calibration(spec, params, [batch], config, mesh=own)
        sums = {f"{kind} {k}": v for kind in IMPORTANCES for k, v in calibration.importance(kind).items()}
        placed, fitted = place_model(spec, params, own), fit_outputs(calibration, spec, params, masks)
        loss = ForcedLoss(pairs, spec.pad_id, config, own)
        found.append(sums | calibration.grams(masks) | flatten(to_host(fitted)) | {"loss": loss(spec, placed)})
    assert len(flatten(placed)["encoder/layers_0/ffn/wo"].sharding.device_set) == 4
    one, split = found
    assert split.keys() == one.keys() and not np.array_equal(
        one["encoder/layers_0/ffn/wo"], flatten(params)["encoder/layers_0/ffn/wo"]
    )
    for name, value in one.items():
        np.testing.assert_allclose(split[name], value, rtol=1e-4, atol=1e-5, err_msg=name)


def test_activations_by_hand():
    """An encoder of one FFN: units after the ReLU, its output, and the two together with the embeddings in d_model."""
    spec = random_spec(
        2, d_model=6, gated=False, activation="relu", encoder=(EncoderLayer((), 7),), decoder=(DecoderLayer((), (), 0),)
    )
    params, batch = random_params(spec), random_batch(spec)
    found = Calibration(spec, params, [batch], ModelConfig()).importance("activation")
    x = params["shared"]["embedding"][batch["input_ids"]].astype(np.float64)
    y = x / np.sqrt(np.mean(x**2, -1, keepdims=True) + spec.norm_eps)
    ffn = params["encoder"]["layers_0"]["ffn"]
    hidden = np.maximum(y * ffn["norm"]["scale"] @ ffn["wi"], 0)
    counted = (batch["input_ids"] != spec.pad_id)[..., None]
    output = np.sum((hidden @ ffn["wo"]) ** 2 * counted, axis=(0, 1))
    np.testing.assert_allclose(found["encoder.0.ffn.units"], np.sum(hidden**2 * counted, (0, 1)), rtol=1e-5)
    np.testing.assert_allclose(found["encoder.0.ffn"], output.sum(), rtol=1e-5)
    inputs = params["shared"]["embedding"][np.pad(batch["labels"], ((0, 0), (1, 0)))[:, :-1]]
    own = np.sum(inputs**2 * (batch["labels"] != spec.pad_id)[..., None], axis=(0, 1))
    np.testing.assert_allclose(found["embed"], np.sum(x**2 * counted, (0, 1)) + output + own, rtol=1e-5)


def test_only_gradients_are_of_these_kinds():
    with pytest.raises(UserError, match="no importance 'activation' by gradients"):
        gradient_importance({}, "activation")


def of_gates(spec, method, seed):
    """Random importances, some equal, some of nothing."""
    rng, shapes = np.random.default_rng(seed), open_masks(spec)
    groups = make_gates(spec, method).groups
    values = {g.name: rng.exponential(1, g.size).round(2) * (rng.random() < 0.9) for g in groups}
    return {name: value.reshape(shapes[name].shape) for name, value in values.items()}


@given(seed=seeds, family=st.sampled_from(["t5", "bart", "m2m_100", "custom"]), target=st.floats(0, 1))
def test_the_budget_is_met_to_half_a_unit(seed, family, target):
    """Counted in the compacted model, over ragged models; to half of a head where units are missing."""
    spec = random_spec(seed, ragged=True, family=family)
    sizes = {name: size for name, (_, size) in spec.sublayers().items() if name.startswith("encoder") and size}
    if not sizes:
        return
    importance = of_gates(spec, "nash", seed)
    masks = close_least_important(importance, list(make_constraints(spec, {"encoder": target}).values()))
    narrow, _ = compact(spec, random_params(spec), masks)
    has_bias, inner = int(spec.bias), 2 if spec.gated else 1
    unit = spec.d_model * (inner + 1) + has_bias * inner
    head = 4 * spec.d_model * spec.head_dim + 3 * has_bias * spec.head_dim
    head += spec.position_buckets * (spec.positions == "relative_per_layer")
    attention, ffn = (sum(n for name, n in sizes.items() if name.endswith(part)) for part in ("attention", "ffn"))
    total = attention * head + ffn * unit
    most = max(unit, head - ffn * unit) if ffn and attention else head if attention else unit
    assert removed_fraction(spec, narrow, "encoder") == pytest.approx(masked_fraction(spec, masks, "encoder"))
    assert abs(removed_fraction(spec, narrow, "encoder") - target) * total <= most / 2 + 1e-6


@given(seed=seeds, target=st.floats(0, 1))
def test_no_set_of_as_many_parameters_matters_less(seed, target):
    """All sets of four heads and five units, of 4 and 1 parameters."""
    rng = np.random.default_rng(seed)
    sizes = {"a.heads": 2, "b.heads": 2, "c.units": 5}
    terms = tuple(SizeTerm(4 if "heads" in axis else 1, (axis,), axis[0]) for axis in sizes)
    importance = {axis: rng.exponential(4 if "heads" in axis else 1, size) for axis, size in sizes.items()}
    masks = close_least_important(importance, [Constraint(terms, sizes, target)])
    costs = np.array([4, 4, 4, 4, 1, 1, 1, 1, 1])
    closed, values = np.concatenate([masks[a] == 0 for a in sizes]), np.concatenate([importance[a] for a in sizes])
    for other in itertools.product((False, True), repeat=9):
        if costs @ np.array(other) == costs @ closed:
            assert values @ closed <= values @ np.array(other) + 1e-9


def test_sub_layers_alone_go_by_importance_per_parameter():
    importance = of_gates(DEEP, "nash_auto", 3)
    constraints = make_constraints(DEEP, target_sparsities("nash_auto", 0.25, 0.5))
    masks = close_least_important(importance, list(constraints.values()))
    assert masked_fraction(DEEP, masks, "encoder") == pytest.approx(0.25, abs=0.005)
    assert masked_fraction(DEEP, masks, "decoder") == pytest.approx(0.5, abs=1 / 24 + 1e-6)  # twelve of one size
    names = [name for name in importance if name.startswith("decoder")]
    closed = [float(importance[name]) for name in names if masks[name] == 0]
    assert max(closed) <= min(float(importance[name]) for name in names if masks[name] == 1)


@pytest.mark.parametrize("method", [name for name, own in METHODS.items() if own.gates])
@pytest.mark.parametrize("target", [0.1, 0.6])
def test_gates_begin_at_the_target_in_the_order_of_importance(method, target):
    importance = of_gates(DEEP, method, 5)
    constraints = make_constraints(DEEP, target_sparsities(method, target, 0.5))
    start = initial_log_alpha(importance, list(constraints.values()))
    pruner = PruningObjective(make_gates(DEEP, method), constraints, 0, 0)
    trained = pruner.initial_params(jax.random.key(0), start)
    for part, sparsity in pruner.sparsities(trained["gates"]).items():
        assert float(sparsity) == pytest.approx(constraints[part].target, abs=1e-3)
    rows = pruner.gates.apply({"params": trained["gates"]}, method="rows")
    for name, row in rows.items():
        np.testing.assert_array_equal(row, start[name])
        order = np.argsort(np.ravel(importance[name]), kind="stable")
        assert (np.diff(np.ravel(row)[order]) >= 0).all()
        np.testing.assert_array_equal(hc.clamp(row), row)
    loss, found = pruner.loss(trained, jnp.int32(0))
    assert float(loss) == pytest.approx(0, abs=1e-6)
    assert found["target_sparsity"] == pytest.approx(constraints[next(iter(constraints))].target)  # from the first step
