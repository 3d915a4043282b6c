import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nash_jax.axes import param_axes
from nash_jax.errors import UserError
from nash_jax.pruning import hard_concrete as hc
from nash_jax.pruning.gates import GateGroup, HardConcreteGates, gate_groups
from nash_jax.spec import DecoderLayer, EncoderLayer, ModelSpec
from nash_jax.testing import random_batch, random_params, random_spec

SPEC = ModelSpec(
    vocab_size=20,
    d_model=6,
    head_dim=2,
    num_heads=3,
    encoder=(EncoderLayer((0, 2), 5), EncoderLayer((), 4)),
    decoder=(DecoderLayer((0, 1, 2), (1,), 7),),
)
GROUPS = (
    GateGroup("decoder.0.ffn", 1),
    GateGroup("embed", 6),
    GateGroup("encoder.0.attention.heads", 3),
    GateGroup("encoder.0.ffn.units", 50, 0.5),
)
LOG_ALPHA = np.random.default_rng(0).normal(0, 2, 60).astype(np.float32)


def groups_of(spec, *patterns, **options):
    return gate_groups(param_axes(spec), spec.axis_sizes(), patterns, **options)


def apply(method, log_alpha=LOG_ALPHA, groups=GROUPS, **options):
    return HardConcreteGates(groups).apply({"params": {"log_alpha": log_alpha}}, method=method, **options)


def test_every_prunable_name_has_a_group():
    groups = groups_of(SPEC, ".*")
    assert [(g.name, g.size) for g in groups] == [
        ("decoder.0.cross_attention", 1),
        ("decoder.0.cross_attention.heads", 1),
        ("decoder.0.ffn", 1),
        ("decoder.0.ffn.units", 7),
        ("decoder.0.self_attention", 1),
        ("decoder.0.self_attention.heads", 3),
        ("embed", 6),
        ("encoder.0.attention", 1),
        ("encoder.0.attention.heads", 2),
        ("encoder.0.ffn", 1),
        ("encoder.0.ffn.units", 5),
        ("encoder.1.ffn", 1),
        ("encoder.1.ffn.units", 4),
    ]  # and none for encoder 1's attention, which is gone


def test_patterns_match_in_full():
    assert [g.name for g in groups_of(SPEC, r"encoder\.\d+\.ffn")] == ["encoder.0.ffn", "encoder.1.ffn"]
    assert [g.name for g in groups_of(SPEC, r"encoder\.\d+\.attention\.heads", "embed")] == [
        "embed",
        "encoder.0.attention.heads",
    ]
    with pytest.raises(UserError, match="nothing in the model matches"):
        groups_of(SPEC, "ffn", "vocab", "head_dim", "bias_heads")


def test_only_units_have_a_droprate():
    groups = groups_of(SPEC, ".*", units_droprate=0.3)
    assert {g.droprate for g in groups if g.name.endswith(".units")} == {0.3}
    assert {g.droprate for g in groups if not g.name.endswith(".units")} == {None}


def test_groups_start_open_or_at_their_droprate():
    params = HardConcreteGates(GROUPS).init(jax.random.key(0))["params"]
    start = np.asarray(params["log_alpha"])
    assert start.shape == (60,)
    np.testing.assert_allclose(start[:10], 10, atol=0.06)
    np.testing.assert_allclose(start[10:], 0, atol=0.06)
    assert len(np.unique(start)) == 60  # no two groups share their noise
    assert np.asarray(apply("probs", start)["decoder.0.ffn"]) > 0.99


def test_split_gives_every_group_its_part():
    rows = apply("split", flat=jnp.arange(60))
    assert {name: np.shape(row) for name, row in rows.items()} == {
        "decoder.0.ffn": (),
        "embed": (6,),
        "encoder.0.attention.heads": (3,),
        "encoder.0.ffn.units": (50,),
    }
    np.testing.assert_array_equal(np.concatenate([np.atleast_1d(row) for row in rows.values()]), np.arange(60))


def test_one_head_is_still_a_vector():
    rows = apply("probs", jnp.zeros(2), (GateGroup("decoder.0.ffn", 1), GateGroup("decoder.0.self_attention.heads", 1)))
    assert {name: row.shape for name, row in rows.items()} == {
        "decoder.0.ffn": (),
        "decoder.0.self_attention.heads": (1,),
    }


def test_each_group_is_a_row_of_its_own():
    rows, probs = apply("rows"), apply("probs")
    assert probs.keys() == rows.keys()
    for name, row in apply("split", flat=LOG_ALPHA).items():
        np.testing.assert_array_equal(rows[name], row)
        np.testing.assert_array_equal(probs[name], hc.prob_nonzero(row), err_msg=name)


def test_samples_follow_the_probabilities():
    @jax.jit
    def many(keys):
        return jax.vmap(lambda key: apply("sample", rngs={"gates": key}))(keys)

    draws, probs = many(jax.random.split(jax.random.key(3), 4000)), apply("probs")
    for name, p in probs.items():
        p, z = np.asarray(p, np.float64), np.asarray(draws[name])
        assert z.shape == (4000, *p.shape)
        assert z.min() >= 0
        assert z.max() <= 1
        assert np.all(np.abs((z != 0).mean(0) - p) < 5 * np.sqrt(p * (1 - p) / 4000)), name
    units = np.asarray(draws["encoder.0.ffn.units"])[:, :10]
    correlation = np.corrcoef(units.T) - np.eye(10)
    assert np.abs(correlation).max() < 0.1  # gates are independent; 6 standard deviations


def test_samples_depend_on_the_key_alone():
    draw = {seed: apply("sample", rngs={"gates": jax.random.key(seed)}) for seed in (0, 1)}
    again = apply("sample", rngs={"gates": jax.random.key(0)})
    jax.tree.map(np.testing.assert_array_equal, draw[0], again)
    assert not np.array_equal(draw[0]["encoder.0.ffn.units"], draw[1]["encoder.0.ffn.units"])


def test_gradients_reach_every_gate():
    gradient = jax.grad(lambda a: sum(jnp.sum(p) for p in apply("probs", a).values()))(LOG_ALPHA)
    p = np.asarray(hc.prob_nonzero(LOG_ALPHA), np.float64)
    np.testing.assert_allclose(gradient, p * (1 - p), rtol=1e-4, atol=1e-7)


def test_the_model_obeys_the_mask_of_every_group(logits):
    """Gates and model agree on names and shapes: closing any one group changes the logits."""
    spec = random_spec(1, num_heads=3, encoder=(EncoderLayer((0, 2), 5),), decoder=(DecoderLayer((0, 1, 2), (1,), 7),))
    params, batch = random_params(spec), random_batch(spec)
    groups = groups_of(spec, ".*")
    size = sum(g.size for g in groups)
    open_masks = HardConcreteGates(groups).bind({"params": {"log_alpha": jnp.zeros(size)}}).split(jnp.ones(size))
    plain = logits(spec, params, batch)
    np.testing.assert_allclose(logits(spec, params, batch, open_masks), plain, rtol=1e-5, atol=1e-5)
    for group in groups:
        closed = open_masks | {group.name: jnp.zeros_like(open_masks[group.name])}
        assert np.abs(logits(spec, params, batch, closed) - plain).max() > 1e-3, group.name
