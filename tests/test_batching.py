"""Many inputs in batches: each once, of like length, and the same whatever stands beside them."""

import numpy as np
import pytest

from nash_jax.errors import UserError
from nash_jax.generation import batching
from nash_jax.generation.batching import generate_batches, plan_batch_rows, plan_batches
from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import length_bucket
from nash_jax.generation.options import GenerationOptions
from nash_jax.ragged import Ragged
from nash_jax.testing import lively_model, random_params, random_spec

GREEDY = GenerationOptions(max_new_tokens=8)
SAMPLING = GenerationOptions(max_new_tokens=8, do_sample=True, seed=3)
LENGTHS = [5, 14, 1, 8, 16, 20, 2, 13, 7, 0, 24, 3, 15, 8, 6, 4]  # in buckets of 8, 16 and 24


def make_sources(lengths, seed: int = 0) -> list[list[int]]:
    rng = np.random.default_rng(seed)
    return [rng.integers(2, 16, length).tolist() for length in lengths]


SOURCES = make_sources(LENGTHS)


@pytest.fixture(scope="module")
def engine(quick_engine) -> Engine:
    return quick_engine(*lively_model(0))


@pytest.fixture(scope="module")
def learned(quick_engine) -> Engine:
    """A model with a table of 10 positions."""
    spec = random_spec(0, family="bart", max_positions=10)
    return quick_engine(spec, random_params(spec, 0))


def trimmed(tokens: np.ndarray) -> list[int]:
    """Up to EOS: how much follows depends on the longest output beside it."""
    ends = np.flatnonzero(tokens[1:] == 1)
    return tokens[: ends[0] + 2 if ends.size else None].tolist()


def collect(engine, sources, options=GREEDY, batch_size=8, **more) -> list[list[list[int]]]:
    """The n outputs of each input, in the order of the inputs; each input is seen once."""
    count, outputs = options.num_return_sequences, {}
    for numbers, tokens in generate_batches(engine, sources, options, batch_size, **more):
        assert 0 < len(numbers) <= batch_size and len(tokens) == count * len(numbers)
        for i, number in enumerate(numbers.tolist()):
            assert number not in outputs
            outputs[number] = [trimmed(row) for row in tokens[i * count : (i + 1) * count]]
    assert sorted(outputs) == list(range(len(sources)))
    return [outputs[number] for number in range(len(sources))]


@pytest.mark.parametrize("batch_size", [1, 3, 8, 1000])
@pytest.mark.parametrize("seed", range(5))
def test_plan(seed, batch_size):
    lengths = np.random.default_rng(seed).integers(0, 200, 100)
    batches = plan_batches(lengths, batch_size)
    assert sorted(np.concatenate(batches).tolist()) == list(range(100))
    widths = [{length_bucket(int(length)) for length in lengths[batch]} for batch in batches]
    assert all(len(own) == 1 for own in widths)
    assert [max(own) for own in widths] == sorted((max(own) for own in widths), reverse=True)  # memory ends at once
    for width in set.union(*widths):
        sizes = [len(batch) for batch, own in zip(batches, widths, strict=True) if width in own]
        assert all(size == batch_size for size in sizes[:-1]) and 0 < sizes[-1] <= batch_size


def test_nothing():
    assert plan_batches(np.zeros(0, int), 4) == []


def test_each_input_as_if_alone(engine):
    """Against the engine with one input at a time; the outputs vary, so that a mistaken order would show."""
    found = collect(engine, SOURCES)
    for source, (output,) in zip(SOURCES, found, strict=True):
        ids = np.array([source or [0]])  # no tokens: one of padding
        assert output == trimmed(engine.generate(ids, np.ones_like(ids), GREEDY)[0])
    assert len({str(output) for output in found}) > 8


def test_no_tokens_are_one_of_padding(learned):
    """Positions tell paddings apart, so that attention to more of them would show."""
    options = GenerationOptions(max_new_tokens=8, min_new_tokens=6)
    pads = np.full((1, 8), learned.spec.pad_id)
    found = next(generate_batches(learned, [[], [5, 6]], options, 2))[1]
    expected = learned.generate(pads[:, :1], np.ones((1, 1), int), options)
    np.testing.assert_array_equal(found[:1, : expected.shape[1]], expected)
    assert learned.generate(pads, np.ones((1, 8), int), options).tolist() != expected.tolist()


@pytest.mark.parametrize(
    "options",
    [
        GREEDY,
        GenerationOptions(max_new_tokens=8, do_sample=True, num_return_sequences=2, seed=1),
        GenerationOptions(max_new_tokens=8, num_beams=3, num_return_sequences=2),
    ],
    ids=["greedy", "sampling", "beams"],
)
def test_batch_size_does_not_matter(engine, options):
    sources = SOURCES if options is GREEDY else [source for source in SOURCES if len(source) <= 8]  # compiles less
    expected = collect(engine, sources, options, batch_size=8)
    for batch_size in (1, 3):
        assert collect(engine, sources, options, batch_size) == expected


def test_order_does_not_matter(engine):
    expected = collect(engine, SOURCES)
    order = np.random.default_rng(1).permutation(len(SOURCES)).tolist()
    assert collect(engine, [SOURCES[i] for i in order]) == [expected[i] for i in order]
    assert collect(engine, Ragged.from_lists(SOURCES)) == expected


def test_one_program_for_each_bucket(quick_engine):
    """Also when batches are not full, and when the outputs get another limit within a bucket."""
    engine = quick_engine(*lively_model(1))
    for limit in (5, 8):
        for seed in range(3):
            collect(engine, make_sources(LENGTHS, seed), GenerationOptions(max_new_tokens=limit), batch_size=3)
    assert engine._generate._cache_size() == len({length_bucket(length) for length in LENGTHS}) == 3


def test_what_is_drawn_hangs_on_the_number_of_the_row(engine):
    short = [[3, 4, 5]] * 8
    drawn = collect(engine, short, SAMPLING)
    assert len({str(output) for output in drawn}) > 4  # the same input, other numbers
    assert collect(engine, short, SAMPLING) == drawn
    assert collect(engine, short[3:], SAMPLING, first_row=3) == drawn[3:]
    assert collect(engine, short[3:], SAMPLING) == drawn[:5]


def test_what_is_done_is_left_out(engine):
    """Batches of which all is done; of others all is generated, so that they stay what they were."""
    batches = plan_batches(np.array(LENGTHS), 3)
    done = [*batches[1].tolist(), *batches[3].tolist(), batches[4][0]]
    found = {tuple(numbers): tokens for numbers, tokens in generate_batches(engine, SOURCES, GREEDY, 3, done=done)}
    assert list(found) == [tuple(batch) for i, batch in enumerate(batches) if i not in (1, 3)]
    for numbers, tokens in generate_batches(engine, SOURCES, GREEDY, 3):
        if tuple(numbers) in found:
            np.testing.assert_array_equal(found[tuple(numbers)], tokens)


def test_progress_is_said_where_it_takes_long(engine, capsys, monkeypatch):
    many = [[2, 3]] * 9
    monkeypatch.setattr(batching, "PROGRESS_DELAY_S", 1e9)  # not yet, however slow the machine is
    collect(engine, many, batch_size=1)
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(batching, "PROGRESS_DELAY_S", 0.0)  # as if some seconds had gone by
    collect(engine, many, batch_size=1)
    assert capsys.readouterr().err == "generating: input 9/9, 0 s left\n"
    collect(engine, many, batch_size=1, progress=False)
    assert capsys.readouterr().err == ""
    assert len(list(generate_batches(engine, many[:3], GREEDY, 1, progress=True, done=[1]))) == 2
    assert capsys.readouterr().err == "generating: input 2/2, 0 s left\n"


def test_few_inputs_of_a_length_have_few_rows():
    lengths = np.array([700, 20, 30, 30, 8, 8, 8, 3, 1])
    assert plan_batch_rows(lengths, 4) == {768: 1, 24: 1, 32: 2, 8: 4}
    assert plan_batch_rows(lengths, 64) == {768: 1, 24: 1, 32: 2, 8: 8}


def test_refusals(engine, learned):
    with pytest.raises(UserError, match="inputs hold 16; expected ids from 0 to 15, the model's vocabulary"):
        next(generate_batches(engine, [[3], [4, 16]], GREEDY, 2))
    with pytest.raises(UserError, match="the longest input is 11 tokens long; expected no more than the model's 10 po"):
        next(generate_batches(learned, [[3], [4] * 11], GREEDY, 2))
