"""Beam search: against transformers token for token, against all sequences there are, and drawn beams."""

import itertools

import jax
import numpy as np
import pytest
from scipy import stats

from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.testing import lively_model, random_sources

PENALTIES = (0.6, 1.0, 2.0, -1.0)
STOPPING = (True, False, "never")
PROMPT = np.array([[7, 3], [1, 2], [8, 0], [9, 9], [3, 4]])
RULES = {
    "repetition_penalty": 1.3, "no_repeat_ngram_size": 2, "encoder_no_repeat_ngram_size": 2, "bad_words_ids": [[4, 5]],
    "min_new_tokens": 3, "forced_eos_token_id": 1,
}  # fmt: skip


@pytest.fixture(scope="module")
def engine(quick_engine) -> Engine:
    """Its parameters are changed by tests."""
    return quick_engine(*lively_model(0))


def log_softmax(scores: np.ndarray) -> np.ndarray:
    return np.asarray(jax.nn.log_softmax(scores))


@pytest.mark.parametrize(("num_beams", "num_return_sequences", "eos"), [(2, 1, [1]), (4, 3, [5, 1, 9]), (5, 5, [1])])
def test_penalties_and_stopping_equal_transformers(as_transformers, engine, num_beams, num_return_sequences, eos):
    lengths = []
    for i, (penalty, stopping) in enumerate(itertools.product(PENALTIES, STOPPING)):
        options = {
            "num_beams": num_beams, "num_return_sequences": num_return_sequences, "eos_token_id": eos,
            "length_penalty": penalty, "early_stopping": stopping, "max_new_tokens": 9 + i % 4,
        }  # fmt: skip
        lengths += as_transformers(engine, i % 5, **options).tolist()
    assert len(set(lengths)) > 4  # ends at different times


def test_other_penalties_stopping_and_limits_do_not_compile_again(quick_engine):
    engine = quick_engine(*lively_model(0))
    ids, mask = random_sources(engine.spec, 0)
    for i, (penalty, stopping) in enumerate(itertools.product(PENALTIES, STOPPING)):
        options = GenerationOptions(
            num_beams=3,
            length_penalty=penalty,
            early_stopping=stopping,
            max_new_tokens=9 + i % 4,
            eos_token_id=1 + i % 2,
        )
        engine.generate(ids, mask, options)
    assert engine._generate._cache_size() == 1


@pytest.mark.parametrize("rules", [{}, RULES], ids=["no rules", "rules"])
def test_prompts_equal_transformers(as_transformers, engine, rules):
    for seed in range(6):
        as_transformers(
            engine, seed, PROMPT, num_beams=4, num_return_sequences=2, eos_token_id=[1, 2],
            max_new_tokens=8 + seed % 3, length_penalty=0.5 * seed, **rules,
        )  # fmt: skip


def test_rules_equal_transformers(as_transformers, engine):
    for seed in range(8):
        stopping = STOPPING[seed % 3]
        options = {"num_beams": 3, "num_return_sequences": 3, "eos_token_id": [1], "early_stopping": stopping}
        as_transformers(engine, seed, max_new_tokens=10 + seed % 2, **options, **RULES)


def test_two_layers_equal_transformers(as_transformers, quick_engine):
    """Caches of all layers go with their beams."""
    engine = quick_engine(*lively_model(0, layers=2))
    for seed in range(6):
        as_transformers(engine, seed, num_beams=4, eos_token_id=[1], max_new_tokens=10, early_stopping=True)


def test_shorter_outputs_are_filled_as_in_transformers(torch_generate, engine):
    """Where padding has id 0, transformers fills with EOS; with another padding id it does not."""
    for pad_id, fill in ((0, 5), (3, 3)):
        spec, params = lively_model(0)
        engine.update_params(params)
        ids, mask = random_sources(spec, 0)
        options = {"num_beams": 2, "eos_token_id": [5, 1], "pad_token_id": pad_id, "max_new_tokens": 10}
        found = engine.generate(ids, mask, GenerationOptions(**options))
        np.testing.assert_array_equal(found, torch_generate(spec, params, ids, mask, **options))
        ended = np.isin(found[:, 1:], options["eos_token_id"])
        after = np.cumsum(ended, axis=1) - ended > 0
        assert after.any()
        assert set(found[:, 1:][after]) == {fill}


def test_a_row_hangs_on_no_other(engine):
    """Alone, or in a batch where others go on for longer, and whatever fills the batch."""
    spec, params = lively_model(1)
    engine.update_params(params)
    ids, mask = random_sources(spec, 1)
    for penalty, stopping in ((1.0, True), (-1.0, False), (2.0, "never")):
        options = GenerationOptions(
            num_beams=3, num_return_sequences=2, length_penalty=penalty, early_stopping=stopping, max_new_tokens=12
        )
        together = engine.generate(ids, mask, options).reshape(5, 2, -1)
        for row in range(5):
            alone = engine.generate(ids[row : row + 1], mask[row : row + 1], options)
            width = alone.shape[1]
            np.testing.assert_array_equal(together[row, :, :width], alone)
            assert (together[row, :, width:] == spec.eos_id).all()


def test_enough_beams_find_the_best_of_all_sequences(engine):
    """15 beams keep every token that does not end: after two steps the best of all 1 + 15 · 16 sequences are found."""
    spec, params = lively_model(2)
    engine.update_params(params)
    ids, mask = random_sources(spec, 2, rows=2)
    starts = np.stack([np.zeros(16, int), np.arange(16)], axis=1)
    for row in range(2):
        batch = np.repeat(ids[row : row + 1], 16, 0), np.repeat(mask[row : row + 1], 16, 0)
        logits = engine.logits(*batch, starts)
        first, second = log_softmax(logits[0, 0]), log_softmax(logits[:, 1])  # [V], [V, V]
        for penalty in (0.5, 3.0):
            scores = {(1,): first[1]} | {
                (a, b): (first[a] + second[a, b]) / 2**penalty for a in range(16) for b in range(16) if a != 1
            }
            best = sorted(scores, key=scores.__getitem__)[::-1][:5]
            options = GenerationOptions(
                num_beams=15, num_return_sequences=5, length_penalty=penalty, max_new_tokens=2, early_stopping="never"
            )
            found = engine.generate(ids[row : row + 1], mask[row : row + 1], options)[:, 1:]
            expected = [(*tokens, spec.eos_id)[: found.shape[1]] for tokens in best]
            assert [tuple(tokens) for tokens in found.tolist()] == expected


def test_without_an_end_all_beams_run_to_the_limit(engine):
    ids, mask = random_sources(engine.spec, 0)
    options = GenerationOptions(num_beams=4, num_return_sequences=3, max_new_tokens=10, early_stopping=True)
    assert engine.generate(ids, mask, options, stop_at_eos=False).shape == (15, 11)


# -- drawn beams -------------------------------------------------------------------------------------------

DRAWN = GenerationOptions(num_beams=3, num_return_sequences=2, do_sample=True, top_k=8, max_new_tokens=8)


def test_drawn_beams_hang_on_seed_and_row_id_alone(engine):
    spec, params = lively_model(0)
    engine.update_params(params)
    ids, mask = random_sources(spec, 4)
    together = engine.generate(ids, mask, DRAWN).reshape(5, 2, -1)
    order = np.array([2, 0, 4, 3, 1])
    shuffled = engine.generate(ids[order], mask[order], DRAWN, row_ids=order).reshape(5, 2, -1)
    np.testing.assert_array_equal(shuffled, together[order])
    other = engine.generate(ids, mask, DRAWN.replace(seed=1)).reshape(5, 2, -1)
    assert not np.array_equal(other[:, :, :3], together[:, :, :3])


def test_beams_are_drawn_without_replacement(engine):
    """One step: of 2·K drawn the first K count. Pairs of tokens come as often as drawing one after the other says."""
    ids, mask = random_sources(engine.spec, 4, rows=1)
    rows = 4096
    options = GenerationOptions(
        num_beams=2, num_return_sequences=2, do_sample=True, temperature=1.5, top_k=0, max_new_tokens=1
    )
    found = engine.generate(np.repeat(ids, rows, 0), np.repeat(mask, rows, 0), options)[:, 1].reshape(rows, 2)
    log_probs = log_softmax(engine.logits(ids, mask, np.zeros((1, 1), int))[0, 0])
    p = np.exp(log_softmax(log_probs / 1.5)).astype(np.float64)
    assert (log_probs[found[:, 0]] >= log_probs[found[:, 1]]).all()  # returned in the order of their scores
    pairs = list(itertools.combinations(range(16), 2))
    expected = np.array([p[a] * p[b] / (1 - p[a]) + p[b] * p[a] / (1 - p[b]) for a, b in pairs])
    numbers = {pair: i for i, pair in enumerate(pairs)}
    counts = np.bincount([numbers[tuple(sorted(pair))] for pair in found.tolist()], minlength=len(pairs))
    common = rows * expected > 5
    assert common.sum() > 30
    observed = [*counts[common], counts[~common].sum()]
    wanted = np.array([*expected[common], expected[~common].sum()])
    assert stats.chisquare(observed, rows * wanted / wanted.sum()).pvalue > 1e-3
