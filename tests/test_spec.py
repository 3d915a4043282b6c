import dataclasses
import json

import jax
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nash_jax.axes import mask_sites, param_axes
from nash_jax.errors import UserError
from nash_jax.models import build
from nash_jax.spec import DecoderLayer, EncoderLayer, ModelSpec, dense_spec, preset
from nash_jax.testing import random_batch, random_spec
from nash_jax.tree import flatten

seeds = st.integers(0, 2**32 - 1)


def initial_shapes(spec, **options):
    ids = jax.ShapeDtypeStruct((1, 3), np.int32)
    variables = jax.eval_shape(build(spec, **options).init, jax.random.key(0), ids, ids, ids)
    assert set(variables) == {"params"}
    return flatten(variables["params"])


@given(seed=seeds, ragged=st.booleans())
def test_json_round_trip(seed, ragged):
    spec = random_spec(seed, ragged=ragged)
    again = ModelSpec.from_json(spec.to_json())
    assert again == spec
    assert hash(again) == hash(spec)
    assert again.to_json() == spec.to_json()


def test_json_keeps_every_field():
    spec = random_spec(0)
    stored = json.loads(spec.to_json())
    assert set(stored) == {"spec_version"} | {field.name for field in dataclasses.fields(ModelSpec)}
    changed = dataclasses.replace(spec, norm_eps=1e-5, dropout_rate=0.25, pad_id=3, eos_id=4, decoder_start_id=5)
    assert ModelSpec.from_json(changed.to_json()) == changed


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda d: d.update(spec_version=99), "spec_version is 99; expected 1; use the nash_jax that wrote it"),
        (lambda d: d.pop("spec_version"), "not a model spec"),
        (lambda d: d.pop("vocab_size"), "not a model spec: .*vocab_size"),
        (lambda d: d.pop("encoder"), "not a model spec: .*encoder"),
        (lambda d: d.update(colour="red"), "not a model spec: .*colour"),
        (lambda d: d.update(d_model="wide"), "spec.d_model is 'wide'; expected a value of type int"),
        (lambda d: d.update(encoder=[{"heads": 3, "ffn": 1}]), "not a model spec"),
    ],
)
def test_json_errors(edit, message):
    stored = json.loads(random_spec(0).to_json())
    edit(stored)
    with pytest.raises(UserError, match=message):
        ModelSpec.from_json(json.dumps(stored))


@pytest.mark.parametrize("text", ["", "{", "[]", "3", "null", '"t5"'])
def test_json_errors_on_other_text(text):
    with pytest.raises(UserError, match=r"not a model spec: .*expected the spec\.json of a nash_jax export"):
        ModelSpec.from_json(text)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"family": "gpt"}, "spec.family is 'gpt'; expected one of"),
        ({"activation": "swish"}, "spec.activation is 'swish'; expected one of"),
        ({"vocab_size": 0}, "spec.vocab_size is 0; expected a positive number"),
        ({"d_model": -4}, "spec.d_model is -4"),
        ({"head_dim": 0}, "spec.head_dim is 0"),
        ({"num_heads": 0}, "spec.num_heads is 0"),
        ({"position_buckets": 0}, "spec.position_buckets is 0"),
        ({"encoder": (EncoderLayer((1, 0), 4),)}, r"encoder head ids \(1, 0\); expected increasing ids below 2"),
        ({"encoder": (EncoderLayer((0, 2), 4),)}, r"head ids \(0, 2\)"),
        ({"encoder": (EncoderLayer((-1,), 4),)}, r"head ids \(-1,\)"),
        ({"decoder": (DecoderLayer((0, 0), (), 4),)}, r"head ids \(0, 0\)"),
        ({"decoder": (DecoderLayer((), (5,), 4),)}, r"head ids \(5,\)"),
    ],
)
def test_validation(fields, message):
    spec = dense_spec(vocab_size=8, d_model=4, d_ff=4, num_heads=2, encoder_layers=1, decoder_layers=1)
    with pytest.raises(UserError, match=message):
        dataclasses.replace(spec, **fields)


def test_dense_spec():
    spec = dense_spec(vocab_size=8, d_model=12, d_ff=5, num_heads=3, encoder_layers=2, decoder_layers=1, tied=False)
    assert spec.head_dim == 4
    assert spec.encoder == (EncoderLayer((0, 1, 2), 5),) * 2
    assert spec.decoder == (DecoderLayer((0, 1, 2), (0, 1, 2), 5),)
    assert not spec.tied
    assert dataclasses.replace(spec, head_dim=7) == dense_spec(
        vocab_size=8, d_model=12, d_ff=5, num_heads=3, encoder_layers=2, decoder_layers=1, tied=False, head_dim=7
    )


def test_sublayers_name_every_place():
    spec = ModelSpec(
        vocab_size=8,
        d_model=4,
        head_dim=2,
        num_heads=3,
        encoder=(EncoderLayer((0, 2), 5),),
        decoder=(DecoderLayer((1,), (), 6),),
    )
    assert spec.sublayers() == {
        "encoder.0.attention": ("encoder.0.attention.heads", 2),
        "encoder.0.ffn": ("encoder.0.ffn.units", 5),
        "decoder.0.self_attention": ("decoder.0.self_attention.heads", 1),
        "decoder.0.cross_attention": ("decoder.0.cross_attention.heads", 0),
        "decoder.0.ffn": ("decoder.0.ffn.units", 6),
    }
    sizes = spec.axis_sizes()
    assert sizes["embed"] == 4
    assert sizes["bias_heads"] == 3
    assert sizes["decoder.0.cross_attention.heads"] == 0


def test_narrow():
    spec = ModelSpec(
        vocab_size=8,
        d_model=6,
        head_dim=2,
        num_heads=4,
        encoder=(EncoderLayer((0, 1, 3), 5), EncoderLayer((2,), 5)),
        decoder=(DecoderLayer((1, 2, 3), (0, 1), 6),),
    )
    narrow = spec.pruned(
        {
            "embed": [0, 5],
            "encoder.0.attention.heads": [0, 2],  # positions among kept heads, not head ids
            "encoder.1.ffn.units": [],
            "decoder.0.self_attention.heads": [1],
            "decoder.0.cross_attention.heads": [],
            "decoder.0.ffn.units": [0, 1, 2],
        }
    )
    assert narrow.encoder == (EncoderLayer((0, 3), 5), EncoderLayer((2,), 0))
    assert narrow.decoder == (DecoderLayer((2,), (), 3),)
    assert (narrow.d_model, narrow.num_heads, narrow.head_dim) == (2, 4, 2)
    assert spec.pruned({}) == spec


@given(seed=seeds)
def test_narrow_leaves_the_sizes_that_were_kept(seed):
    spec = random_spec(seed, ragged=True)
    rng = np.random.default_rng(seed)
    axes = [axis for axis, _ in spec.sublayers().values()] + ["embed"]
    keep = {a: np.flatnonzero(rng.random(spec.axis_sizes()[a]) < 0.6).tolist() for a in axes if rng.random() < 0.7}
    keep["embed"] = keep.get("embed") or [0]
    before, after = spec.axis_sizes(), spec.pruned(keep).axis_sizes()
    assert after == before | {axis: len(positions) for axis, positions in keep.items()}


@pytest.mark.parametrize("seed", range(28))
def test_axes_table_gives_the_shapes_that_init_makes(seed):
    spec = random_spec(seed, ragged=seed % 4 != 0)
    sizes = spec.axis_sizes()
    table = {path: tuple(sizes[a] for a in axes) for path, axes in param_axes(spec).items()}
    shapes = initial_shapes(spec)
    assert table == {path: leaf.shape for path, leaf in shapes.items()}
    assert {leaf.dtype for leaf in shapes.values()} == {np.dtype("float32")}


def test_random_specs_cover_the_flags():
    """What the test above draws: tied and untied, gated and not, stacks with all sub-layers of a kind gone."""
    specs = [random_spec(seed, ragged=seed % 4 != 0) for seed in range(28)]
    for flag in ("tied", "gated"):
        assert {getattr(s, flag) for s in specs} == {False, True}
    assert {s.output_scale == 1 for s in specs} == {False, True}
    assert any(size == 0 for s in specs for _, size in s.sublayers().values())
    assert any("encoder/position_bias/embedding" not in param_axes(s) for s in specs)


@pytest.mark.parametrize("seed", range(5))
def test_masks_fold_into_parameters_that_exist(seed):
    spec = random_spec(seed, ragged=True)
    axes, sizes = param_axes(spec), spec.axis_sizes()
    names = set(sizes) | set(spec.sublayers())
    for path, masks in mask_sites(spec).items():
        assert path in axes
        assert set(masks) <= names


def test_compute_dtype_leaves_parameters_float32():
    shapes = initial_shapes(random_spec(1), dtype=jax.numpy.bfloat16, remat=True)
    assert {leaf.dtype for leaf in shapes.values()} == {np.dtype("float32")}


@pytest.mark.parametrize(
    ("name", "parameters"),
    [
        ("t5-small", 60_506_624),
        ("t5-base", 222_903_552),
        ("t5-large", 737_668_096),
        ("flan-t5-small", 76_961_152),
        ("flan-t5-base", 247_577_856),
        ("flan-t5-large", 783_150_080),
    ],
)
def test_presets_have_the_public_sizes(name, parameters):
    spec = preset(name)
    sizes = spec.axis_sizes()
    assert sum(int(np.prod([sizes[a] for a in axes])) for axes in param_axes(spec).values()) == parameters
    assert sum(leaf.size for leaf in initial_shapes(spec).values()) == parameters
    assert spec.tied == (spec.output_scale != 1) == (not name.startswith("flan"))


@pytest.mark.parametrize("name", ["t5-huge", "flan-t5", "bart-huge", "mt5-small", ""])
def test_unknown_preset(name):
    with pytest.raises(UserError, match=r"unknown preset .*expected one of t5-small, t5-base"):
        preset(name)


@pytest.mark.parametrize("seed", range(5))
def test_random_batch_rows_end_in_eos_then_padding(seed):
    spec = random_spec(seed)
    for ids in random_batch(spec, seed, rows=8).values():
        for row in ids:
            end = int(np.flatnonzero(row == spec.eos_id)[0])
            assert (row[:end] > 1).all()
            assert (row[end + 1 :] == spec.pad_id).all()
            assert end >= 1


@pytest.mark.parametrize(("field", "value"), [("tied", "no"), ("output_scale", "x"), ("eos_id", 1.5)])
def test_a_field_of_another_type_is_named(field, value):
    with pytest.raises(UserError, match=rf"spec\.{field} is"):
        dataclasses.replace(random_spec(0), **{field: value})


def test_negative_units_are_refused():
    spec = random_spec(0)
    with pytest.raises(UserError, match="negative"):
        dataclasses.replace(spec, encoder=(dataclasses.replace(spec.encoder[0], ffn=-3),))
