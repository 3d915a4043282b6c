import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nash_jax.axes import param_axes
from nash_jax.pruning import hard_concrete as hc
from nash_jax.pruning.compact import kept_positions
from nash_jax.pruning.lagrangian import (
    Constraint,
    expected_size,
    gate_costs,
    initial_multipliers,
    lagrangian,
    prunable_size,
    size_terms,
    target_at,
)
from nash_jax.spec import dense_spec, preset
from nash_jax.testing import random_spec

seeds = st.integers(0, 2**32 - 1)


def terms_of(spec, side=""):
    return size_terms(param_axes(spec), spec.axis_sizes(), side)


def random_probs(spec, seed, names="heads units sublayers embed"):
    rng = np.random.default_rng(seed)
    probs = {}
    for sublayer, (axis, size) in spec.sublayers().items():
        if axis.rpartition(".")[2] in names:
            probs[axis] = rng.random(size).astype(np.float32)
        if "sublayers" in names:
            probs[sublayer] = np.float32(rng.random())
    if "embed" in names:
        probs["embed"] = rng.random(spec.d_model).astype(np.float32)
    return probs


def layer_by_layer(spec, probs, side):
    """REFERENCE: Σ heads p(head)·p(sub-layer)·params/head + Σ units …, times the share of d_model."""
    head = 4 * spec.d_model * spec.head_dim  # q, k, v, o
    unit = (3 if spec.gated else 2) * spec.d_model
    total = 0.0
    for sublayer, (axis, size) in spec.sublayers().items():
        if not sublayer.startswith(side):
            continue
        cost = unit if sublayer.endswith("ffn") else head
        for i in range(size):
            total += cost * float(probs[axis][i] if axis in probs else 1) * float(probs.get(sublayer, 1))
    return total * (float(np.mean(probs["embed"], dtype=np.float64)) if "embed" in probs else 1)


@pytest.mark.parametrize("names", ["heads units", "heads units sublayers", "embed", "heads units sublayers embed"])
@pytest.mark.parametrize("side", ["encoder", "decoder", ""])
@given(seed=seeds)
def test_expected_size(seed, names, side):
    spec = random_spec(seed, ragged=seed % 3 != 0)
    probs = random_probs(spec, seed, names)
    expected = layer_by_layer(spec, probs, side)
    np.testing.assert_allclose(
        expected_size(terms_of(spec, side), spec.axis_sizes(), probs), expected, rtol=1e-5, atol=1e-3
    )


@given(seed=seeds)
def test_prunable_size_counts_attention_and_ffn_matrices(seed):
    spec = random_spec(seed, ragged=seed % 3 != 0)
    sizes = spec.axis_sizes()
    by_side = {side: prunable_size(terms_of(spec, side), sizes) for side in ("encoder", "decoder", "")}
    assert by_side[""] == by_side["encoder"] + by_side["decoder"]
    for side, size in by_side.items():
        assert size == layer_by_layer(spec, {}, side)
        assert size == float(expected_size(terms_of(spec, side), sizes))
    kernels = ("/q", "/kv", "/qkv", "/out", "/wi", "/wo")
    matrices = [axes for path, axes in param_axes(spec).items() if path.endswith(kernels)]
    assert by_side[""] == sum(np.prod([sizes[a] for a in axes]) for axes in matrices)


def test_gradient_of_the_expected_size_is_what_a_gate_carries():
    spec = random_spec(4, num_heads=3)
    probs = random_probs(spec, 0, "heads units sublayers")
    gradient = jax.grad(lambda p: expected_size(terms_of(spec), spec.axis_sizes(), p))(probs)
    for sublayer, (axis, size) in spec.sublayers().items():
        per_gate = (3 if spec.gated else 2) * spec.d_model
        if not sublayer.endswith("ffn"):
            per_gate = 4 * spec.d_model * spec.head_dim
        np.testing.assert_allclose(gradient[axis], np.full(size, per_gate * probs[sublayer]), rtol=1e-5)
        np.testing.assert_allclose(gradient[sublayer], per_gate * probs[axis].sum(), rtol=1e-5)


@pytest.mark.parametrize("seed", range(4))
def test_gate_costs_are_what_a_gate_carries(seed):
    spec = random_spec(seed, ragged=True)
    costs = gate_costs(terms_of(spec, "encoder"), spec.axis_sizes())
    per_head, per_unit = 4 * spec.d_model * spec.head_dim, (3 if spec.gated else 2) * spec.d_model
    assert costs == {
        axis: per_unit if axis.endswith("units") else per_head
        for axis, size in spec.sublayers().values()
        if size and axis.startswith("encoder")
    }


def test_sparsity():
    spec = dense_spec(vocab_size=8, d_model=4, d_ff=6, num_heads=2, encoder_layers=1, decoder_layers=1)
    constraint = Constraint(terms_of(spec, "encoder"), spec.axis_sizes(), 0.5)
    probs = {"encoder.0.attention.heads": jnp.array([0.0, 0.5]), "decoder.0.ffn": jnp.array(0.0)}
    # encoder: 2 heads of 4·4·2 and 6 units of 2·4: 64 + 48; 1.5 heads are gone; the decoder does not count
    np.testing.assert_allclose(constraint.sparsity(probs), 48 / 112, rtol=1e-6)
    np.testing.assert_allclose(constraint.sparsity({}), 0, atol=1e-7)


def test_sparsity_of_more_parameters_than_an_int32_holds():
    """T5-11B's encoder has 4.8e9 that can be pruned; half of the units of each layer are a third of them."""
    spec = preset("t5-11b")
    sizes = spec.axis_sizes()
    constraint = Constraint(size_terms(param_axes(spec), sizes, "encoder"), sizes, 0.5)
    assert prunable_size(constraint.terms, sizes) == 24 * 1024 * (4 * 128 * 128 + 2 * 65536)
    units = {
        axis: jnp.full(sizes[axis], 0.5) for axis in sizes if axis.startswith("encoder") and axis.endswith("units")
    }
    for sparsity in (constraint.sparsity, jax.jit(constraint.sparsity)):
        np.testing.assert_allclose(sparsity({}), 0, atol=1e-6)
        np.testing.assert_allclose(sparsity(units), 1 / 3, rtol=1e-6)


@pytest.mark.parametrize(
    ("step", "warmup", "expected"), [(0, 100, 0), (37, 100, 0.111), (100, 100, 0.3), (500, 100, 0.3), (1, 0, 0.3)]
)
def test_target_grows_linearly_then_stays(step, warmup, expected):
    np.testing.assert_allclose(target_at(step, warmup, 0.3), expected, rtol=1e-6)
    np.testing.assert_allclose(jax.jit(target_at, static_argnums=1)(step, warmup, 0.3), expected, rtol=1e-6)


@given(seed=seeds)
def test_lagrangian(seed):
    sparsity, target, first, second = np.random.default_rng(seed).uniform(-1, 1, 4)
    multipliers = {"lambda_1": jnp.float32(first), "lambda_2": jnp.float32(second)}
    (value, gradient) = jax.value_and_grad(lagrangian, argnums=(0, 2))(jnp.float32(sparsity), target, multipliers)
    gap = sparsity - target
    np.testing.assert_allclose(value, first * gap + second * gap**2, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient[0], first + 2 * second * gap, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient[1]["lambda_1"], gap, rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(gradient[1]["lambda_2"], gap**2, rtol=1e-4, atol=1e-6)


def test_multipliers_start_at_zero():
    multipliers = initial_multipliers()
    assert set(multipliers) == {"lambda_1", "lambda_2"}
    assert all(m.shape == () and m.dtype == np.float32 and m == 0 for m in multipliers.values())


# The authors' modules, run on NumPy-seeded inputs ----------------------------------------------------------

AXES = {  # their gate name → our mask name
    "head": "encoder.{}.attention.heads",
    "intermediate": "encoder.{}.ffn.units",
    "head_layer": "encoder.{}.attention",
    "mlp": "encoder.{}.ffn",
    "hidden": "embed",
    "dec_self_head": "decoder.{}.self_attention.heads",
    "dec_cross_head": "decoder.{}.cross_attention.heads",
    "dec_intermediate": "decoder.{}.ffn.units",
    "dec_self_head_layer": "decoder.{}.self_attention",
    "dec_cross_head_layer": "decoder.{}.cross_attention",
    "dec_mlp": "decoder.{}.ffn",
}
COUNTED = {  # case → gates that its sizes read as they are, and gates held at log_alpha 10
    "t5_nash": ({"head", "intermediate"}, {"dec_intermediate"}),
    "t5_cofi": (set(AXES), set()),
    "t5_nash_auto": (
        {"head", "intermediate", "dec_self_head_layer", "dec_cross_head_layer", "dec_mlp"},
        {"mlp", "dec_intermediate"},
    ),
    "bart_nash": ({"head", "intermediate"}, {"dec_intermediate"}),
}
OPEN = 10.0


def golden_spec(case):
    d = case["dims"]
    return dense_spec(
        vocab_size=32,
        d_model=d["d_model"],
        d_ff=d["d_ff"],
        num_heads=d["heads"],
        encoder_layers=d["encoder_layers"],
        decoder_layers=d["decoder_layers"],
    )


def golden_axes(case):
    """Our table; for BART with the biases the authors count, the output projection's shared out to heads."""
    spec = golden_spec(case)
    axes = dict(param_axes(spec))
    if case["kind"] == "bart":
        for sublayer, (axis, _) in spec.sublayers().items():
            if sublayer.endswith("ffn"):
                axes[f"{sublayer}/wi_bias"] = (axis,)
            else:
                axes |= {f"{sublayer}/{name}_bias": (axis, "head_dim") for name in ("q", "k", "v", "out")}
    return axes, spec.axis_sizes()


def unsized_biases(case, side):
    """FFN output biases of BART: the authors count them as prunable, but not in the expected size."""
    layers = case["dims"][f"{side}_layers"]
    return layers * case["dims"]["d_model"] if case["kind"] == "bart" else 0


def golden_probs(case, log_alphas):
    read, held = COUNTED[case["name"]]
    probs = {}
    for gate in read | held:
        rows = log_alphas[gate]
        # held open: the value of log_alpha is 10, the gradient that of log_alpha
        rows = rows if gate in read else rows - jax.lax.stop_gradient(rows) + OPEN
        p = hc.prob_nonzero(rows)
        names = [AXES[gate].format(i) for i in range(len(rows))] if gate != "hidden" else ["embed"]
        probs |= dict(zip(names, p if gate != "hidden" else [p], strict=True))
    return probs


def golden_sparsity(case, side, log_alphas):
    axes, sizes = golden_axes(case)
    sides = [side] if side else ["encoder", "decoder"]
    terms = size_terms(axes, sizes, side)
    whole = prunable_size(terms, sizes) + sum(unsized_biases(case, s) for s in sides)
    return 1 - expected_size(terms, sizes, golden_probs(case, log_alphas)) / whole


def golden_loss(case, log_alphas, multipliers):
    """CoFi: one constraint on all. NASH: the encoder's, and in T5's code the decoder's with target 0.

    NASH-auto: the encoder's, and the decoder's with a target of its own; the multipliers are shared.
    """
    targets = {
        "t5_nash": {"encoder": case["target_sparsity"], "decoder": 0.0},
        "t5_cofi": {"": case["target_sparsity"]},
        "t5_nash_auto": {
            "encoder": case["target_sparsity"],
            "decoder": case["auto_target_decoder_sparsity"],
        },
        "bart_nash": {"encoder": case["target_sparsity"]},
    }[case["name"]]
    return sum(
        lagrangian(
            golden_sparsity(case, side, log_alphas),
            target_at(case["step"], case["warmup_steps"], 1.0) * target,
            multipliers,
        )
        for side, target in targets.items()
    )


@pytest.mark.parametrize("name", COUNTED)
def test_golden_prunable_sizes(golden, name):
    case, _ = golden(name)
    axes, sizes = golden_axes(case)
    found = {
        s: prunable_size(size_terms(axes, sizes, s), sizes) + unsized_biases(case, s) for s in ("encoder", "decoder")
    }
    assert found | {"total": sum(found.values())} == case["prunable_params"]


@pytest.mark.parametrize("name", COUNTED)
def test_golden_expected_sizes(golden, name):
    case, arrays = golden(name)
    axes, sizes = golden_axes(case)
    probs = golden_probs(case, arrays["log_alpha"])
    found = {s: float(expected_size(size_terms(axes, sizes, s), sizes, probs)) for s in ("encoder", "decoder")}
    found["total"] = float(expected_size(size_terms(axes, sizes), sizes, probs))
    assert found == pytest.approx(case["expected_params"], rel=1e-5)
    assert float(golden_sparsity(case, "", arrays["log_alpha"])) == pytest.approx(case["expected_sparsity"], rel=1e-5)


@pytest.mark.parametrize("name", COUNTED)
def test_golden_loss_and_gradients(golden, name):
    case, arrays = golden(name)
    multipliers = {key: jnp.float32(case[key]) for key in ("lambda_1", "lambda_2")}
    log_alphas = {gate: jnp.asarray(rows) for gate, rows in arrays["log_alpha"].items()}
    loss, (gates, ascent) = jax.value_and_grad(golden_loss, argnums=(1, 2))(case, log_alphas, multipliers)
    assert float(loss) == pytest.approx(case["lagrangian_loss"], rel=1e-5)
    for key in multipliers:
        assert float(ascent[key]) == pytest.approx(case[f"grad_{key}"], rel=1e-5)
    for gate, gradient in gates.items():
        if gate not in arrays["grad"]:
            assert not np.any(gradient), gate
            continue
        expected = arrays["grad"][gate]
        np.testing.assert_allclose(gradient, expected, rtol=1e-5, atol=1e-5 * np.abs(expected).max(), err_msg=gate)


def test_golden_cofi_counts(golden):
    """What is left under the final masks, counted from our narrower spec."""
    case, arrays = golden("t5_cofi")
    spec, masks = golden_spec(case), {}
    for gate, rows in arrays["log_alpha"].items():
        if gate == "hidden":
            masks["embed"] = hc.final_mask(rows)
            continue
        lone = gate.endswith(("layer", "mlp"))
        for i, row in enumerate(rows):
            mask = hc.final_mask(jnp.atleast_1d(row))
            masks[AXES[gate].format(i)] = mask[0] if lone else mask
    narrow = spec.pruned(kept_positions(spec, masks))
    found = {}
    for side, name in (("", ""), ("encoder", "enc_"), ("decoder", "dec_")):
        left = prunable_size(terms_of(narrow, side), narrow.axis_sizes())
        whole = prunable_size(terms_of(spec, side), spec.axis_sizes())
        found[f"remaining_{name}params"] = left
        found[f"pruned_{side or 'model'}_sparsity"] = 1 - left / whole
    assert found == pytest.approx(case["counted"], rel=1e-12)
