import itertools
from fractions import Fraction
from math import floor, inf, nan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from nash_jax.axes import param_axes
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import ShortenConfig, default_config
from nash_jax.errors import UserError
from nash_jax.pruning.layer_selection import (
    FIXED_SELECTIONS,
    SELECTIONS,
    Candidates,
    candidates,
    choose_layers,
    drop_least_important,
    kept_layers,
    select_layers,
    study_sixths,
)
from nash_jax.spec import DecoderLayer, EncoderLayer
from nash_jax.testing import random_batch, random_params, random_spec
from nash_jax.tree import check_shapes, flatten

SPEC = random_spec(
    0,
    num_heads=3,
    encoder=(EncoderLayer((0, 1, 2), 5), EncoderLayer((0, 2), 7), EncoderLayer((1,), 6)),
    decoder=(DecoderLayer((0, 1), (2,), 5), DecoderLayer((1, 2), (0, 1), 6), DecoderLayer((0, 2), (1,), 7)),
)


@pytest.mark.parametrize(
    ("num_layers", "keep", "selection", "layers"),
    [
        (12, 3, "uniform", [0, 5, 11]),
        (12, 4, "uniform", [0, 3, 7, 11]),
        (12, 2, "uniform", [0, 11]),
        (12, 1, "uniform", [0]),
        (6, 4, "uniform", [0, 1, 3, 5]),
        (24, 4, "uniform", [0, 7, 15, 23]),
        (1, 1, "uniform", [0]),
        (12, 3, "low", [0, 1, 2]),
        (12, 3, "high", [9, 10, 11]),
        (12, 1, "high", [11]),
    ],
)
def test_tables(num_layers, keep, selection, layers):
    assert choose_layers(num_layers, keep, selection) == layers


@given(st.integers(1, 48), st.data())
def test_uniform_is_the_formula(num_layers, data):
    keep = data.draw(st.integers(1, num_layers))
    layers = choose_layers(num_layers, keep)
    assert layers == sorted(set(layers))
    assert len(layers) == keep
    if keep > 1:
        assert layers == [floor(Fraction(num_layers - 1, keep - 1) * i) for i in range(keep)]
        assert (layers[0], layers[-1]) == (0, num_layers - 1)


@pytest.mark.parametrize("selection", FIXED_SELECTIONS)
def test_keeping_all_keeps_all(selection):
    assert choose_layers(7, 7, selection) == list(range(7))


@pytest.mark.parametrize("selection", SELECTIONS)
def test_configs_take_every_selection(selection):
    config = default_config()
    config.shorten.selection = selection
    assert parse_config(config).shorten == ShortenConfig(selection=selection)
    assert candidates(7, 0, (), selection) == Candidates(tuple(range(7)), 7)


@pytest.mark.parametrize(
    ("num_layers", "sizes"), [(8, [1, 2, 4, 5, 6, 8]), (12, [2, 4, 6, 8, 10, 12]), (24, [4, 8, 12, 16, 20, 24])]
)
def test_lists_of_the_study(num_layers, sizes):
    """Sixths of the depth, rounded, the first layer among them."""
    sixths = study_sixths(num_layers)
    assert {number: len(layers) for number, layers in sixths.items()} == dict(enumerate(sizes, 1))
    for layers in sixths.values():
        assert layers == sorted(set(layers)) and layers[0] == 0
        assert choose_layers(num_layers, len(layers), "study") == layers


def test_layers_by_name():
    assert kept_layers(6, 2, (), "high") == [4, 5]
    assert kept_layers(6, 0, (), "low") == [0, 1, 2, 3, 4, 5]
    assert kept_layers(6, 2, (1, 3, 5), "high") == [1, 3, 5]
    for wrong in ((3, 1), (1, 1), (0, 6), (-1, 2)):
        with pytest.raises(UserError, match="of 6; expected increasing numbers from 0 to 5"):
            kept_layers(6, 2, wrong, "uniform")


def test_what_is_known_before_anything_is_measured():
    assert candidates(6, 2, (), "high") == Candidates((4, 5), 2)
    assert candidates(6, 2, (), "importance") == Candidates((0, 1, 2, 3, 4, 5), 2)
    assert candidates(6, 2, (1, 3, 5), "importance") == Candidates((1, 3, 5), 3)  # named: nothing is left to choose
    with pytest.raises(UserError, match="cannot keep 7 of 6 layers; expected a number from 1 to 6"):
        candidates(6, 7, (), "importance")
    with pytest.raises(UserError, match="of 6; expected increasing numbers"):
        candidates(6, 2, (5, 1), "importance")
    with pytest.raises(UserError, match="cannot keep 0 of 2 layers; expected a number from 1 to 2"):
        Candidates((0, 1), 0)


COSTS = st.lists(st.integers(-3, 9), min_size=1, max_size=5)


def additive(encoder_costs, decoder_costs):
    """A loss in which each layer's absence costs its own."""
    whole = sum(encoder_costs) + sum(decoder_costs)
    return lambda encoder, decoder: float(
        whole - sum(encoder_costs[i] for i in encoder) - sum(decoder_costs[i] for i in decoder)
    )


@given(COSTS, COSTS, st.data())
def test_greedy_is_the_best_of_all_where_losses_add_up(encoder_costs, decoder_costs, data):
    costs, loss = {"encoder": encoder_costs, "decoder": decoder_costs}, additive(encoder_costs, decoder_costs)
    keep = {side: data.draw(st.integers(1, len(own))) for side, own in costs.items()}
    kept, steps = drop_least_important(
        {side: candidates(len(costs[side]), keep[side], (), "importance") for side in costs}, loss
    )
    every = [itertools.combinations(range(len(costs[side])), keep[side]) for side in costs]
    assert loss(kept["encoder"], kept["decoder"]) == min(loss(*choice) for choice in itertools.product(*every))
    for side, own in costs.items():  # of equals the first goes
        dropped = sorted(range(len(own)), key=lambda i, own=own: (own[i], i))[: len(own) - keep[side]]
        assert kept[side] == sorted(set(range(len(own))) - set(dropped))
        assert [step["layer"] for step in steps if step["side"] == side] == dropped


def test_steps_tell_what_was_measured():
    """Both sides compete until one is short enough; of equals the encoder's goes first."""
    sides = {"encoder": Candidates((0, 1, 2), 2), "decoder": Candidates((0, 2, 3), 1)}
    assert drop_least_important(sides, additive([5, 2, 2], [1, 7, 4, 2])) == (
        {"encoder": [0, 2], "decoder": [2]},
        [
            {"side": "decoder", "layer": 0, "loss": 8.0, "others": {
                "encoder.0": 12.0, "encoder.1": 9.0, "encoder.2": 9.0, "decoder.2": 11.0, "decoder.3": 9.0}},
            {"side": "encoder", "layer": 1, "loss": 10.0, "others": {
                "encoder.0": 13.0, "encoder.2": 10.0, "decoder.2": 12.0, "decoder.3": 10.0}},
            {"side": "decoder", "layer": 3, "loss": 12.0, "others": {"decoder.2": 14.0}},
        ],
    )  # fmt: skip


def test_losses_are_measured_anew_after_each_drop():
    """Either of two twins can go, but not both, though each alone is worth the least."""

    def loss(encoder, decoder):
        return (1.0 if 2 not in decoder else 0.0) + (5.0 if not {0, 1} & set(decoder) else 0.0)

    kept, steps = drop_least_important({"encoder": Candidates((0,), 1), "decoder": Candidates((0, 1, 2), 1)}, loss)
    assert kept == {"encoder": [0], "decoder": [1]}
    assert [(step["layer"], step["loss"]) for step in steps] == [(0, 0.0), (2, 1.0)]


def test_nothing_to_drop_measures_nothing():
    sides = {"encoder": Candidates((0, 1), 2), "decoder": Candidates((2,), 1)}
    assert drop_least_important(sides, lambda *_: pytest.fail("measured")) == ({"encoder": [0, 1], "decoder": [2]}, [])


@pytest.mark.parametrize("value", [nan, inf])
def test_broken_losses_decide_nothing(value):
    sides = {"encoder": Candidates((0,), 1), "decoder": Candidates((0, 1, 2), 2)}
    with pytest.raises(UserError, match=f"the loss without decoder layer 1 is {value}; expected a finite loss"):
        drop_least_important(sides, lambda encoder, decoder: value if decoder == [0, 2] else 1.0)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ((12, 0), "cannot keep 0 of 12 layers; expected a number from 1 to 12"),
        ((12, 13), "cannot keep 13 of 12 layers"),
        ((12, 3, "middle"), r"unknown layer selection 'middle' by number; expected one of \('uniform', 'low', "),
        ((12, 3, "importance"), "unknown layer selection 'importance' by number"),
        ((12, 3, "study"), "the study has no list of 3 of 12 layers; expected one of 2, 4, 6, 8, 10, 12"),
        ((6, 3, "study"), "the study has no lists for 6 layers; expected a depth of 8, 12, 24"),
    ],
)
def test_choice_errors(arguments, message):
    with pytest.raises(UserError, match=message):
        choose_layers(*arguments)


@pytest.mark.parametrize(("side", "layers"), [("encoder", [0, 3]), ("decoder", [-1])])
def test_surgery_errors(side, layers):
    with pytest.raises(UserError, match=rf"cannot keep {side} layers \[.*\] of 3; expected indices from 0 to 2"):
        select_layers(SPEC, random_params(SPEC), **{side: layers})


def test_layers_move_whole_and_all_else_stays():
    params = random_params(SPEC)
    shorter, kept = select_layers(SPEC, params, encoder=[1, 2], decoder=[0, 2])
    assert shorter.encoder == SPEC.encoder[1:]
    assert shorter.decoder == (SPEC.decoder[0], SPEC.decoder[2])
    sizes = shorter.axis_sizes()
    check_shapes(kept, {p: tuple(sizes[a] for a in axes) for p, axes in param_axes(shorter).items()}, "selection")
    moves = {"encoder": {0: 1, 1: 2}, "decoder": {0: 0, 1: 2}}
    for path, leaf in flatten(kept).items():
        side, *rest = path.split("/")
        source = params[side] if side in params and isinstance(params[side], dict) else params
        if rest and rest[0].startswith("layers_"):
            rest[0] = f"layers_{moves[side][int(rest[0].removeprefix('layers_'))]}"
        for key in rest if rest else [path]:
            source = source[key]
        assert leaf is source, path


def test_nothing_selected_is_the_identity():
    params = random_params(SPEC)
    same, kept = select_layers(SPEC, params)
    assert same == SPEC
    assert all(leaf is flatten(params)[path] for path, leaf in flatten(kept).items())


@pytest.mark.parametrize(("encoder", "decoder"), [([1, 2], [1, 2]), ([0, 2], [0])])
def test_short_model_equals_the_deep_one_with_the_others_silenced(logits, encoder, decoder):
    """A dropped layer is one that adds nothing to the residual stream; the bias table outlives block 0."""
    params, batch = random_params(SPEC, 1), random_batch(SPEC, 1, source=11, target=9)
    shorter, kept = select_layers(SPEC, params, encoder=encoder, decoder=decoder)
    for side in ("encoder", "decoder"):
        table = params[side]["position_bias"]["embedding"]
        np.testing.assert_array_equal(kept[side]["position_bias"]["embedding"], table)
    chosen = {"encoder": encoder, "decoder": decoder}
    masks = {}
    for sublayer in SPEC.sublayers():
        side, index, _ = sublayer.split(".")
        masks[sublayer] = np.float32(int(index) in chosen[side])
    deep = logits(SPEC, params, batch, masks)
    np.testing.assert_allclose(logits(shorter, kept, batch), deep, rtol=1e-5, atol=1e-5 * np.abs(deep).max())
    flat = {side: np.zeros_like(kept[side]["position_bias"]["embedding"]) for side in chosen}
    without = {k: v | {"position_bias": {"embedding": flat[k]}} if k in flat else v for k, v in kept.items()}
    assert np.abs(logits(shorter, without, batch) - deep).max() > 1e-2  # so the table mattered
