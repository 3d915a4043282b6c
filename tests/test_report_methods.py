"""What the report says of each method: real final masks, held to the model that compaction makes of them."""

import re

import numpy as np
import pytest
from html_page import Page

from nash_jax.pruning.compact import compact, removed_fraction
from nash_jax.pruning.final_masks import final_masks
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.pruning.methods import METHODS, make_constraints, make_gates, target_sparsities
from nash_jax.report.console import summary
from nash_jax.report.figures import sparsity_curves
from nash_jax.report.kept_structure import count_layers, dense_masks
from nash_jax.report.page import render
from nash_jax.report.quality import removed_layers
from nash_jax.report.result import expected_sparsities
from nash_jax.report.structure_figure import structure_figure
from nash_jax.spec import SIDES, dense_spec
from nash_jax.testing import random_params

SIZES = {"vocab_size": 30, "d_model": 32, "d_ff": 24, "num_heads": 4, "encoder_layers": 3, "decoder_layers": 4}
SPECS = {
    "t5": dense_spec(**SIZES),
    "bart": dense_spec(**SIZES, family="bart", decoder_num_heads=8, max_positions=16),
}
KEPT = {  # layers of the dense model that a method starts from
    "nash": {"encoder": [0, 2], "decoder": [0, 3]},  # of the encoder too, so that gates count other layers
    "drop": {"encoder": [1, 2], "decoder": [3]},
}


def pruned(method, family, seed=0):
    """(dense spec, kept layers, final masks of trained-looking gates, the compacted spec)."""
    dense = SPECS[family]
    kept = KEPT.get(method, {"encoder": [0, 1, 2], "decoder": [0, 1, 2, 3]})
    spec, params = select_layers(dense, random_params(dense), **kept)
    masks = {}
    if METHODS[method].gates:
        gates = make_gates(spec, method)
        constraints = make_constraints(spec, target_sparsities(method, 0.5, 0.5))
        log_alpha = np.random.default_rng(seed).normal(1.0, 2.0, sum(g.size for g in gates.groups))
        rows = gates.apply({"params": {"log_alpha": log_alpha.astype(np.float32)}}, method="rows")
        masks = final_masks(rows, list(constraints.values()))
    small, _ = compact(spec, params, masks)
    return dense, kept, masks, small


def sizes_left(dense, kept, small):
    """Axis of the dense model → how many of it the compacted model has."""
    own = small.axis_sizes()
    left = {axis: 0 for axis, _ in dense.sublayers().values()}
    for side in SIDES:
        for i, layer in enumerate(kept[side]):
            left |= {
                axis: own[axis.replace(f"{side}.{layer}.", f"{side}.{i}.")]
                for axis in left
                if axis.startswith(f"{side}.{layer}.")
            }
    return left


every = pytest.mark.parametrize("family", SPECS)
methods = pytest.mark.parametrize("method", METHODS)


@every
@methods
def test_what_is_left_is_what_compaction_leaves(method, family):
    dense, kept, masks, small = pruned(method, family)
    values = dense_masks(dense, kept, masks)
    left = sizes_left(dense, kept, small)
    sizes = dense.axis_sizes()
    assert {axis: len(values[axis]) for axis in left} == {axis: sizes[axis] for axis in left}
    assert {axis: np.count_nonzero(values[axis]) for axis in left} == left
    assert ("embed" in values) == (method == "cofi")
    assert np.count_nonzero(values.get("embed", np.ones(32))) == small.d_model

    params = count_layers(dense, values)
    for side in SIDES:
        alive = [layer for layer, own in zip(kept[side], getattr(small, side), strict=True) if layer_size(own)]
        assert params[f"kept_{side}_layers"] == alive
        assert params[f"dense_{side}_layers"] == len(getattr(dense, side))
        gone = [axis.rpartition(".")[0] for axis in left if axis.startswith(side) and left[axis] == 0]
        assert params[f"removed_{side}_sublayers"] == gone
        assert params[f"dense_{side}_sublayers"] == {"encoder": 6, "decoder": 12}[side]


def layer_size(layer):
    return sum(size for _, size in layer.sublayers().values())


def test_masks_that_act_together_are_multiplied():
    dense = SPECS["t5"]
    heads, units = np.array([0.5, 0, 1, 0.8], np.float32), np.full(24, 0.5, np.float32)
    masks = {"encoder.1.attention.heads": heads, "encoder.1.attention": np.float32(0.5), "decoder.0.ffn.units": units}
    masks |= {"decoder.0.ffn": np.float32(0), "decoder.0.cross_attention": np.float32(0.25)}
    values = dense_masks(dense, {"encoder": [0, 2], "decoder": [1]}, masks)
    expected = {
        "encoder.0.attention.heads": [1.0] * 4,
        "encoder.1.attention.heads": [0.0] * 4,
        "encoder.2.attention.heads": [0.25, 0, 0.5, 0.4],
        "encoder.2.ffn.units": [1.0] * 24,
        "decoder.0.ffn.units": [0.0] * 24,
        "decoder.1.ffn.units": [0.0] * 24,
        "decoder.1.cross_attention.heads": [0.25] * 4,
        "decoder.1.self_attention.heads": [1.0] * 4,
        "decoder.3.self_attention.heads": [0.0] * 4,
    }
    for name, row in expected.items():
        np.testing.assert_allclose(values[name], row, rtol=1e-6, err_msg=name)


@every
@methods
def test_the_picture_counts_what_is_left(method, family):
    dense, kept, masks, small = pruned(method, family)
    values = dense_masks(dense, kept, masks)
    page, left = Page(structure_figure(values)), sizes_left(dense, kept, small)
    [spoken] = page.labels()
    assert page.faults == [] and spoken.startswith("What survived. Encoder: kept")
    boxes = {side: not any(name.startswith(side) for name in masks) for side in SIDES}
    for side, boxed in boxes.items():
        if boxed:  # only whole layers went
            depth = len(getattr(dense, side))
            assert f"kept {len(kept[side])} of the dense model's {depth} layers" in page.texts
            if len(kept[side]) < depth:
                assert f"{depth} layers, layers left: {', '.join(map(str, kept[side]))}" in spoken
    found = {label: page.texts.count(label) for label in page.texts if re.fullmatch(r"gone|\d+/\d+ \w+", label)}
    expected = [
        f"{left[axis]}/{size} {axis.rpartition('.')[2]}" if left[axis] else "gone"
        for axis, size in dense.sublayers().values()
        if not boxes[axis.partition(".")[0]]
    ]
    assert found == {label: expected.count(label) for label in expected}
    assert (f"kept {small.d_model} of 32 dimensions" in page.texts) == (method == "cofi")
    assert ("kept, mask 0.1" in page.texts) == bool(masks)


@pytest.mark.parametrize("method", ["drop", "nash_auto"])
def test_the_picture_of_a_deep_model_fits_a_screen(method):
    dense = dense_spec(**SIZES | {"encoder_layers": 24, "decoder_layers": 24, "num_heads": 16})
    kept = {"encoder": list(range(24)), "decoder": list(range(0, 24, 2))}
    masks = {"decoder.0.ffn": np.float32(0)} if method == "nash_auto" else {}
    picture = structure_figure(dense_masks(dense, kept, masks))
    height = float(re.search(r'viewBox="0 0 720 ([\d.]+)"', picture)[1])
    assert height < (650 if masks else 150)
    assert "kept 24 of the dense model's 24 layers" in Page(picture).texts


@methods
def test_words_for_removed_layers(method):
    dense, kept, masks, small = pruned(method, "t5")
    values = dense_masks(dense, kept, masks)
    sparsity = {f"{side}_sparsity": removed_fraction(dense, small, side) for side in SIDES}
    params = {"dense": 10, "pruned": 5, **sparsity, **count_layers(dense, values), "expected_encoder_sparsity": 0.0}
    params |= {"expected_encoder_sparsity": 0.25} if masks else {}
    report = {"method": method, "params": params, "metrics": {"dense": {}, "pruned": {}}, "benchmark": []}
    report |= {"speedup": {}}
    texts = Page(render(report, masks=values)).texts
    said = summary(report).splitlines()[-2:]
    assert ("25.0 % expected" in said[0]) == bool(masks) == any("the gates expected 25.0 %" in text for text in texts)
    for side, line in zip(SIDES, said, strict=True):
        assert line.startswith(f"{side} sparsity {100 * sparsity[f'{side}_sparsity']:.1f} % counted")
        assert line.endswith(removed_layers(params, side))
    for side in SIDES:
        gone, depth = len(getattr(dense, side)) - len(kept[side]), len(getattr(dense, side))
        own = [size for axis, size in sizes_left(dense, kept, small).items() if axis.startswith(side)]
        if gone:
            assert removed_layers(params, side) == f"{gone} of {depth} {side} layers gone"
        elif all(own):
            assert removed_layers(params, side) == ""
        else:
            assert removed_layers(params, side).startswith(f"{own.count(0)} of {len(own)} {side} sub-layers gone")


def test_layers_that_went_sub_layer_by_sub_layer():
    values = dense_masks(SPECS["t5"], {"encoder": [0, 1, 2], "decoder": [0, 1, 2, 3]}, {})
    gone = ["0.self_attention.heads", "0.cross_attention.heads", "0.ffn.units"]
    whole = values | {f"decoder.{name}": np.zeros_like(values[f"decoder.{name}"]) for name in gone}
    assert removed_layers(count_layers(SPECS["t5"], whole), "decoder") == "1 of 4 decoder layers gone"
    more = whole | {"decoder.2.ffn.units": np.zeros(24)}
    assert (
        removed_layers(count_layers(SPECS["t5"], more), "decoder")
        == "4 of 12 decoder sub-layers gone, with them 1 of 4 layers"
    )
    assert removed_layers({}, "decoder") == ""


def test_expected_sparsity_is_that_of_the_dense_model():
    """Gates over two of three layers that expect a quarter gone: half of the dense encoder is."""
    dense = SPECS["t5"]
    short, _ = select_layers(dense, random_params(dense), encoder=[0, 2], decoder=[0, 3])
    found = expected_sparsities(dense, short, {"expected_encoder_sparsity": 0.25})
    assert found == {"expected_encoder_sparsity": pytest.approx(0.5)}
    assert expected_sparsities(dense, short, {"expected_encoder_sparsity": 0.0}) == {"expected_encoder_sparsity": 0.0}
    both = {"expected_encoder_sparsity": 0.25, "expected_decoder_sparsity": 0.4}
    assert expected_sparsities(dense, dense, both) == pytest.approx(both)


def history(parts):
    rows = []
    for step in range(5):
        row = {"phase": "prune", "step": step}
        for i, part in enumerate(parts):
            row |= {f"target_sparsity{part}": 0.5, f"expected_sparsity{part}": step / 10, f"lambda_1{part}": -step}
            row |= {f"lambda_2{part}": step, f"validation/counted_sparsity{part}": step / 10 + i / 100}
        rows.append(row)
    return rows


def test_curves_of_each_constraint():
    texts = Page(sparsity_curves(history(["", "_decoder"]), 3)).texts
    assert [text for text in texts if text.startswith("counted")] == ["counted 30.0 %", "counted 31.0 %"]
    assert texts.count("λ₁") == texts.count("λ₂") == texts.count("target") == texts.count("expected") == 2
    assert texts.index("Encoder sparsity") < texts.index("Decoder sparsity")
    alone = Page(sparsity_curves(history([""]), 3)).texts
    assert alone.count("λ₁") == 1 and "Sparsity" in alone and "Decoder sparsity" not in alone


@pytest.mark.parametrize(
    ("method", "said"), [("nash", "of the encoder"), ("nash_auto", "of each side"), ("cofi", "of the whole model")]
)
def test_the_page_says_what_is_constrained(method, said):
    page = Page(render({"method": method, "stages": {"prune": {"best_step": 4}}}, history=history([""])))
    assert f"The multipliers push the expected sparsity {said} to its target." in page.texts
    assert "counted 40.0 %" in page.texts
