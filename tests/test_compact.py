import dataclasses

import jax
import jax.numpy as jnp
import ml_dtypes
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from seeds import some

from nash_jax.axes import mask_sites, param_axes
from nash_jax.models.layers import RMSNorm
from nash_jax.models.placement import place_model
from nash_jax.pruning import hard_concrete as hc
from nash_jax.pruning.compact import compact, cut, fold, kept_positions, removed_fraction
from nash_jax.pruning.final_masks import final_masks
from nash_jax.pruning.gates import HardConcreteGates, gate_groups
from nash_jax.pruning.lagrangian import Constraint, expected_size, prunable_size, size_terms
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.sharding import to_host
from nash_jax.runtime.stored import StoredArray
from nash_jax.spec import DecoderLayer, EncoderLayer, dense_spec
from nash_jax.testing import random_batch, random_masks, random_params, random_spec
from nash_jax.tree import count_params, flatten, map_with_path, unflatten

seeds = st.integers(0, 2**32 - 1)
KINDS = ["heads", "units", "sublayers", "embed", "heads units sublayers embed"]
KERNELS = ("/q", "/kv", "/qkv", "/out", "/wi", "/wo")


def assert_same_bits(found, expected):
    found, expected = flatten(found), flatten(expected)
    assert found.keys() == expected.keys()
    for path, leaf in expected.items():
        assert found[path].dtype == leaf.dtype
        np.testing.assert_array_equal(found[path], leaf, err_msg=path)


def assert_same_function(logits, spec, params, masks, seed=0):
    """Masked and compacted models differ by ≤ 1e-5 of the largest logit; returns what compaction gave."""
    batch = random_batch(spec, seed)
    masked = logits(spec, params, batch, masks)
    narrow, small = compact(spec, params, masks)
    compacted = logits(narrow, small, batch)
    assert np.abs(masked).max() > 1e-2
    assert np.abs(compacted - masked).max() <= 1e-5 * np.abs(masked).max()
    return narrow, small


def masked_fraction(masks):
    values = np.concatenate([np.ravel(m) for m in masks.values()])
    return np.mean(values == 0)


def all_ones(spec):
    return {name: np.ones_like(mask) for name, mask in random_masks(spec).items()}


@pytest.mark.parametrize("tied", [True, False])
@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.replace(" ", "+"))
def test_masked_equals_compacted(logits, kind, tied):
    """Soft masks of each kind, then of all kinds at once, over a ragged model."""
    spec = random_spec(
        20 + tied,
        num_heads=4,
        d_model=12,
        tied=tied,
        encoder=(EncoderLayer((1, 2), 7), EncoderLayer((0, 1, 3), 9)),
        decoder=(DecoderLayer((0, 2, 3), (1, 2), 8),),
    )
    masks = random_masks(spec, len(kind), kind)
    assert 0 < masked_fraction(masks) < 1
    assert any(np.any((m > 0) & (m < 1)) for m in masks.values())
    # all other masks are 1, so that the masked model compiles once for all kinds
    narrow, _ = assert_same_function(logits, spec, random_params(spec), all_ones(spec) | masks)
    assert narrow != spec


@pytest.mark.parametrize("family", ["umt5", "bart", "mbart", "marian", "pegasus", "m2m_100"])
def test_masked_equals_compacted_in_every_family(logits, family):
    """All kinds of soft masks over a ragged model with biases, layer norms, position tables, in each family."""
    spec = random_spec(len(family), ragged=True, family=family)
    assert_same_function(logits, spec, random_params(spec), random_masks(spec, 1))


@pytest.mark.parametrize("seed", some(range(8), few=3))
def test_masked_equals_compacted_under_any_flags(logits, seed):
    spec = random_spec(seed, ragged=True, family="custom")
    assert_same_function(logits, spec, random_params(spec, seed), random_masks(spec, seed), seed)


def test_an_emptied_sublayer_leaves_its_bias_and_a_norm_that_comes_after(logits):
    """BART: all heads closed one by one leaves the output bias as it is; a closed sub-layer takes it along."""
    spec = random_spec(
        5, family="bart", num_heads=2, encoder=(EncoderLayer((0, 1), 6),) * 2, decoder=(DecoderLayer((0,), (1,), 6),)
    )
    masks = {"encoder.0.attention.heads": np.zeros(2, np.float32), "encoder.1.ffn": np.float32(0)}
    params = random_params(spec)
    narrow, small = assert_same_function(logits, spec, params, masks)
    assert narrow.encoder == (EncoderLayer((), 6), EncoderLayer((0, 1), 0))
    left, closed = small["encoder"]["layers_0"]["attention"], small["encoder"]["layers_1"]["ffn"]
    assert set(left) == {"out_bias", "norm"}
    np.testing.assert_array_equal(left["out_bias"], params["encoder"]["layers_0"]["attention"]["out_bias"])
    assert set(closed) == {"wo_bias", "norm"}
    assert not closed["wo_bias"].any()


@pytest.mark.parametrize("seed", [0, 6, 9])
def test_masked_equals_compacted_whatever_is_gone(logits, seed):
    spec = random_spec(seed, ragged=True)
    assert_same_function(logits, spec, random_params(spec, seed), random_masks(spec, seed), seed)


def test_final_gates_equal_their_compacted_model(logits):
    """The masks pruning really ends with, gates drawn at random over every axis."""
    spec = random_spec(3, num_heads=4, d_model=16)
    groups = gate_groups(param_axes(spec), spec.axis_sizes(), [".*"])
    log_alpha = hc.clamp(np.random.default_rng(1).normal(0.5, 2, sum(g.size for g in groups)).astype(np.float32))
    rows = HardConcreteGates(groups).apply({"params": {"log_alpha": log_alpha}}, method="rows")
    axes, sizes = param_axes(spec), spec.axis_sizes()
    masks = final_masks(rows, [Constraint(size_terms(axes, sizes), sizes, 0.5)])
    assert 0 < masked_fraction(masks) < 1
    assert_same_function(logits, spec, random_params(spec), masks)


def test_whole_layers_emptied(logits):
    spec = random_spec(
        5, num_heads=2, encoder=(EncoderLayer((0, 1), 6),) * 2, decoder=(DecoderLayer((0, 1), (0,), 6),) * 2
    )
    masks = {
        "encoder.0.attention.heads": np.zeros(2, np.float32),  # gone by its heads
        "encoder.0.ffn": np.float32(0),  # gone by its own mask, though its units stay open
        "encoder.0.ffn.units": np.full(6, 0.5, np.float32),
        "decoder.1.self_attention": np.float32(0),
        "decoder.1.cross_attention": np.float32(0),
        "decoder.1.ffn.units": np.zeros(6, np.float32),
        "decoder.0.self_attention.heads": np.array([0.4, 1], np.float32),
    }
    narrow, small = assert_same_function(logits, spec, random_params(spec), masks)
    assert narrow.encoder == (EncoderLayer((), 0), EncoderLayer((0, 1), 6))
    assert narrow.decoder == (DecoderLayer((0, 1), (0,), 6), DecoderLayer((), (), 0))
    assert set(small["encoder"]) == {"layers_1", "final_norm", "position_bias"}
    assert set(small["decoder"]) == {"layers_0", "final_norm", "position_bias"}


def test_a_stack_without_attention_has_no_bias_table(logits):
    spec = random_spec(6, num_heads=2, encoder=(EncoderLayer((0, 1), 6),), decoder=(DecoderLayer((0,), (0, 1), 6),))
    masks = {"encoder.0.attention": np.float32(0), "decoder.0.self_attention": np.float32(0)}
    _, small = assert_same_function(logits, spec, random_params(spec), masks)
    assert "position_bias" not in small["encoder"]
    assert "position_bias" not in small["decoder"]


def test_bias_columns_follow_head_ids(logits):
    """Head 1 of 3 goes; heads 0 and 2 keep their own columns of a table that differs strongly by head."""
    spec = random_spec(
        7, num_heads=3, encoder=(EncoderLayer((0, 1, 2), 6),), decoder=(DecoderLayer((0, 1, 2), (0, 1, 2), 6),)
    )
    params = random_params(spec)
    for side in ("encoder", "decoder"):
        shape = params[side]["position_bias"]["embedding"].shape
        params[side]["position_bias"]["embedding"] = np.random.default_rng(8).normal(0, 3, shape).astype(np.float32)
    gone = np.array([1, 0, 1], np.float32)
    masks = {
        "encoder.0.attention.heads": gone,
        "decoder.0.self_attention.heads": gone,
        "decoder.0.cross_attention.heads": gone,
    }
    narrow, small = assert_same_function(logits, spec, params, masks)
    assert narrow.encoder[0].heads == narrow.decoder[0].self_heads == (0, 2)
    assert small["encoder"]["position_bias"]["embedding"].shape[1] == 3
    renumbered = dataclasses.replace(
        narrow,
        encoder=(dataclasses.replace(narrow.encoder[0], heads=(0, 1)),),
        decoder=(dataclasses.replace(narrow.decoder[0], self_heads=(0, 1)),),
    )
    batch = random_batch(spec)
    assert np.abs(logits(renumbered, small, batch) - logits(narrow, small, batch)).max() > 1e-2  # so it matters


@given(seed=seeds)
def test_everything_kept_is_the_identity(seed):
    spec = random_spec(seed, ragged=True)
    params = random_params(spec, seed)
    for masks in ({}, all_ones(spec)):
        same, kept = compact(spec, params, masks)
        assert same == spec
        assert_same_bits(kept, params)


@given(seed=seeds)
def test_twice_is_once(seed):
    spec = random_spec(seed, ragged=seed % 2 == 0)
    once = compact(spec, random_params(spec, seed), random_masks(spec, seed))
    twice = compact(*once, all_ones(once[0]))
    assert twice[0] == once[0]
    assert_same_bits(twice[1], once[1])


@given(seed=seeds)
def test_compaction_in_stages_is_compaction_at_once(seed):
    """Heads first, then units of the model that is left: the same bits as both together."""
    spec = random_spec(seed)
    params = random_params(spec, seed)
    heads, units = random_masks(spec, seed, "heads"), random_masks(spec, seed + 1, "units")
    staged = compact(*compact(spec, params, heads), units)
    at_once = compact(spec, params, heads | units)
    assert staged[0] == at_once[0]
    assert_same_bits(staged[1], at_once[1])


@given(seed=seeds)
def test_inputs_are_left_alone(seed):
    spec = random_spec(seed)
    params = random_params(spec, seed)
    compact(spec, params, random_masks(spec, seed))
    assert_same_bits(params, random_params(spec, seed))


def test_stored_arrays_stay_stored_and_parts_are_those_of_the_whole():
    spec = random_spec(3, ragged=True)
    params, masks, asked = random_params(spec), random_masks(spec, 2), []

    def stored(path, leaf):
        def read(index):
            asked.append(path)
            return leaf[index]

        return StoredArray(leaf.shape, read, leaf.dtype)

    narrow, small = compact(spec, map_with_path(stored, params), masks)
    folded = fold(map_with_path(stored, params), masks, param_axes(spec), mask_sites(spec))
    kept = {"vocab": np.arange(spec.vocab_size - 3)}
    _, fewer = cut(spec, flatten(map_with_path(stored, params)), kept)
    assert not asked
    whole_spec, whole = compact(spec, params, masks)
    assert narrow == whole_spec
    for path, leaf in flatten(small).items():
        assert leaf.shape == flatten(whole)[path].shape
        part = tuple(slice(0, max(1, size // 2)) for size in leaf.shape)
        np.testing.assert_array_equal(leaf[part], flatten(whole)[path][part])
    assert_same_bits(to_host(small), whole)
    assert_same_bits(to_host(unflatten(folded)), unflatten(fold(params, masks, param_axes(spec), mask_sites(spec))))
    assert_same_bits(to_host(fewer), cut(spec, flatten(params), kept)[1])


@pytest.mark.parametrize("mesh", ["fsdp:4", "data:2,model:2"])
def test_arrays_that_are_split_over_devices_stay_there(mesh):
    """Folded and cut on the devices that have their parts: the numbers of the host, bit for bit."""
    mesh = make_mesh(mesh, jax.devices()[:4])
    spec = dense_spec(vocab_size=24, d_model=8, d_ff=12, num_heads=4, encoder_layers=1, decoder_layers=1)
    params, masks = random_params(spec), random_masks(spec, 3)
    placed, axes, sites = place_model(spec, params, mesh), param_axes(spec), mask_sites(spec)
    folded = fold(placed, masks, axes, sites)
    assert_same_bits(to_host(unflatten(folded)), unflatten(fold(params, masks, axes, sites)))
    (narrow, small), (expected_spec, expected) = compact(spec, placed, masks), compact(spec, params, masks)
    assert narrow == expected_spec != spec
    assert_same_bits(to_host(small), expected)
    kept = {"vocab": np.arange(spec.vocab_size - 3)}
    assert_same_bits(to_host(cut(spec, flatten(placed), kept)[1]), cut(spec, flatten(params), kept)[1])
    for path, leaf in folded.items():
        assert leaf.sharding.is_equivalent_to(flatten(placed)[path].sharding, leaf.ndim), path
    assert all(len(leaf.sharding.device_set) == 4 for leaf in flatten(small).values())


def test_dtypes_are_kept():
    spec = random_spec(2)
    params = random_params(spec)
    params["shared"]["embedding"] = params["shared"]["embedding"].astype(ml_dtypes.bfloat16)
    params["encoder"]["layers_0"]["ffn"]["wo"] = params["encoder"]["layers_0"]["ffn"]["wo"].astype(np.float16)
    _, small = compact(spec, params, random_masks(spec, 0, "heads embed"))
    assert small["shared"]["embedding"].shape[1] < spec.d_model
    assert small["shared"]["embedding"].dtype == ml_dtypes.bfloat16
    assert small["encoder"]["layers_0"]["ffn"]["wo"].dtype == np.float16
    assert small["encoder"]["layers_0"]["ffn"]["wi"].dtype == np.float32


@given(seed=seeds, soft=st.booleans())
def test_expected_size_at_saturated_gates_is_the_size_after_compaction(seed, soft):
    spec = random_spec(seed, ragged=seed % 2 == 0)
    masks = random_masks(spec, seed, soft=soft)
    probs = {name: jnp.asarray(mask > 0, jnp.float32) for name, mask in masks.items()}
    narrow, small = compact(spec, random_params(spec, seed), masks)
    for side in ("encoder", "decoder", ""):
        counted = sum(leaf.size for p, leaf in flatten(small).items() if p.startswith(side) and p.endswith(KERNELS))
        terms = size_terms(param_axes(spec), spec.axis_sizes(), side)
        assert float(expected_size(terms, spec.axis_sizes(), probs)) == counted
        assert prunable_size(size_terms(param_axes(narrow), narrow.axis_sizes(), side), narrow.axis_sizes()) == counted
        whole = prunable_size(terms, spec.axis_sizes())
        if whole:
            assert removed_fraction(spec, narrow, side) == 1 - counted / whole
    sizes = narrow.axis_sizes()
    assert count_params(small) == sum(int(np.prod([sizes[a] for a in axes])) for axes in param_axes(narrow).values())


def test_kept_positions():
    spec = random_spec(0, num_heads=3, encoder=(EncoderLayer((0, 2), 3),), decoder=(DecoderLayer((1,), (0,), 2),))
    keep = kept_positions(
        spec,
        {
            "encoder.0.attention.heads": np.array([0, 0.3]),
            "encoder.0.ffn.units": np.ones(3),
            "encoder.0.ffn": 0.0,
            "decoder.0.ffn.units": np.array([0.2, 0]),
            "decoder.0.ffn": 0.5,
            "decoder.0.self_attention": 1.0,
        },
    )
    assert {axis: positions.tolist() for axis, positions in keep.items()} == {
        "encoder.0.attention.heads": [1],
        "encoder.0.ffn.units": [],
        "decoder.0.ffn.units": [0],
    }


@given(seed=seeds)
def test_norm_under_a_mask_averages_over_kept_dimensions(seed):
    rng = np.random.default_rng(seed)
    size = 12
    mask = np.where(rng.random(size) < 0.5, rng.uniform(0.1, 1, size), 0)
    mask[rng.integers(size)] = 0.7
    kept = np.flatnonzero(mask)
    x, scale = rng.normal(0, 3, (2, 3, size)) * mask, rng.normal(1, 0.2, size)
    narrow = x[..., kept]
    expected = narrow / np.sqrt(np.mean(narrow**2, -1, keepdims=True) + 1e-6) * scale[kept]
    found = RMSNorm(1e-6, jnp.float32).apply(
        {"params": {"scale": np.float32(scale)}}, np.float32(x), {"embed": np.float32(mask)}
    )
    np.testing.assert_allclose(np.asarray(found)[..., kept], expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(np.delete(np.asarray(found), kept, -1), 0)
