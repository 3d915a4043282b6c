"""Warpers against those of transformers; draws follow the probabilities and do not depend on the batch."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.processors import make_rules
from nash_jax.generation.sampling import add_gumbel_noise, apply_warpers, sample_tokens

R, V = 6, 37

run = jax.jit(apply_warpers, static_argnums=0)
seeds = st.integers(0, 2**32 - 1)

CASES = [
    {"temperature": 0.7, "top_k": 0},
    {"top_k": 5},
    {"top_k": 1},
    {"top_k": 400},
    {"top_k": 0, "top_p": 0.9},
    {"top_k": 0, "top_p": 0.0},
    {"top_k": 0, "top_p": 0.3, "temperature": 1.9},
    {"top_k": 8, "top_p": 0.6},
    {"top_k": 0, "min_p": 0.2},
    {"top_k": 0, "min_p": 1.0, "num_beams": 3},
    {"top_k": 9, "top_p": 0.8, "min_p": 0.1, "temperature": 0.5, "renormalize_logits": True},
    {"top_k": 1, "top_p": 0.05, "num_beams": 2},
    {"top_k": 0, "top_p": 0.05, "num_beams": 2, "renormalize_logits": True},
]


def rules_of(options: dict, eos_ids=(1, 4), vocab_size: int = V):
    options = GenerationOptions(do_sample=True, **options)
    return make_rules(options, vocab_size=vocab_size, eos_ids=eos_ids, prompt_length=1, max_length=9)


def reference(options: dict, scores: np.ndarray, eos_ids=(1, 4)) -> np.ndarray:
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    from transformers import GenerationConfig, GenerationMixin, T5Config

    class Generator(GenerationMixin):
        config = T5Config(vocab_size=V)

    config = GenerationConfig(do_sample=True, eos_token_id=list(eos_ids), decoder_start_token_id=0, **options)
    config.update(**config._get_default_generation_params(), defaults_only=True)
    generator = Generator()
    generator._prepare_special_tokens(config, device="cpu")
    rules = generator._get_logits_processor(config, 1, torch.zeros((1, 1), dtype=torch.long), device="cpu")
    return rules(torch.zeros((len(scores), 1), dtype=torch.long), torch.tensor(scores)).numpy()


def random_scores(seed: int, banned: float = 0.2) -> np.ndarray:
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, rng.uniform(0.1, 6), (R, V)).astype(np.float32)
    scores[rng.random((R, V)) < banned] = -np.inf
    return scores


@pytest.mark.parametrize("options", CASES, ids=str)
def test_warpers_equal_transformers(options):
    rules, values = rules_of(options)
    for seed in range(25):
        scores = random_scores(seed)
        found, expected = np.asarray(run(rules, values, scores)), reference(options, scores)
        np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
        np.testing.assert_allclose(found, expected, rtol=2e-6, atol=2e-6)


def test_ties_with_the_last_of_top_k_are_kept_as_in_transformers():
    rules, values = rules_of({"top_k": 6})
    for seed in range(20):
        scores = np.random.default_rng(seed).integers(0, 5, (R, V)).astype(np.float32)
        np.testing.assert_array_equal(run(rules, values, scores), reference({"top_k": 6}, scores))


@pytest.mark.parametrize("top_k", [0, 12])
def test_top_p_keeps_whole_ties_and_never_less_than_transformers(top_k):
    options = {"top_p": 0.6, "top_k": top_k}
    rules, values = rules_of(options)
    for seed in range(20):
        scores = np.random.default_rng(seed).integers(0, 6, (R, V)).astype(np.float32)
        found, expected = np.asarray(run(rules, values, scores)), reference(options, scores)
        for row in range(R):
            least = expected[row][np.isfinite(expected[row])].min()
            np.testing.assert_array_equal(np.isfinite(found[row]), scores[row] >= least)


@settings(max_examples=20)
@given(seed=seeds)
def test_top_p_is_the_smallest_set_that_reaches_it(seed):
    """Against a loop over the sorted tokens in float64."""
    rules, values = rules_of({"top_k": 0, "top_p": 0.75})
    scores = random_scores(seed, banned=0)
    kept = np.isfinite(np.asarray(run(rules, values, scores)))
    for row, own in zip(scores.astype(np.float64), kept, strict=True):
        prob = np.exp(row - row.max())
        prob /= prob.sum()
        mass, expected = 0.0, set()
        for token in np.argsort(-row):
            if mass >= 0.75:
                break
            mass += prob[token]
            expected.add(token)
        assert set(np.flatnonzero(own)) == expected


def test_a_row_without_a_choice_stays_without():
    rules, values = rules_of({"top_k": 5, "top_p": 0.5, "min_p": 0.3, "temperature": 0.5})
    scores = random_scores(0, banned=0)
    scores[2] = -np.inf
    scores[3, 1:] = -np.inf
    found = np.asarray(run(rules, values, scores))
    assert np.isneginf(found[2]).all()
    assert np.flatnonzero(np.isfinite(found[3])).tolist() == [0]


@functools.partial(jax.jit, static_argnums=0)
def fused(rules, values, scores, scale):
    return apply_warpers(rules, values, jax.nn.log_softmax(scores * scale + scale, axis=-1))


@given(seed=seeds)
def test_the_best_token_is_kept_however_scores_are_fused(seed):
    """Scores are computed in the same program, so that XLA may round them differently where it reads them."""
    rules, values = rules_of({"top_k": 0, "top_p": 0.1, "min_p": 1.0, "temperature": 1.9})
    scale = np.float32(np.random.default_rng(seed).uniform(0.1, 3))
    found = np.asarray(fused(rules, values, random_scores(seed, banned=0), scale))
    assert (np.isfinite(found).sum(-1) == 1).all()


def test_another_value_does_not_compile_again():
    compiled = jax.jit(lambda *args: apply_warpers(*args), static_argnums=0)
    for temperature, top_p, min_p in ((0.5, 0.9, 0.1), (1.5, 0.3, 0.01)):
        rules, values = rules_of({"temperature": temperature, "top_p": top_p, "min_p": min_p})
        compiled(rules, values, random_scores(0))
    assert compiled._cache_size() == 1


def test_draws_follow_the_probabilities():
    """χ² of 20000 draws over 8 tokens, 7 degrees of freedom: above 29.9 once in 10000 times."""
    scores = np.array([2.0, 1.0, 0.0, -1.0, 0.5, -np.inf, 1.5, -0.5, 0.0], np.float32)
    count = 20000
    rows = np.broadcast_to(scores, (count, len(scores)))
    drawn = jax.jit(sample_tokens)(rows, jax.random.key(3), jnp.arange(count), jnp.int32(4))
    assert drawn.dtype == jnp.int32
    found = np.bincount(np.asarray(drawn), minlength=len(scores))
    prob = np.exp(scores) / np.exp(scores).sum()
    assert found[5] == 0
    expected = np.delete(prob * count, 5)
    assert ((np.delete(found, 5) - expected) ** 2 / expected).sum() < 29.9


def test_positions_and_seeds_draw_anew():
    """Uniform draws at two positions, and with two seeds, agree as often as chance has it."""
    rows = np.zeros((4000, 8), np.float32)
    one = functools.partial(jax.jit(sample_tokens), rows)
    first = np.asarray(one(jax.random.key(0), jnp.arange(4000), jnp.int32(1)))
    for other in (one(jax.random.key(0), jnp.arange(4000), jnp.int32(2)),
                  one(jax.random.key(1), jnp.arange(4000), jnp.int32(1))):  # fmt: skip
        assert abs(np.mean(first == np.asarray(other)) - 1 / 8) < 4 * np.sqrt(1 / 8 * 7 / 8 / 4000)


def test_a_row_draws_the_same_in_any_batch_and_at_any_place():
    scores, ids = random_scores(1), np.arange(R, dtype=np.int32) + 40
    key, compiled = jax.random.key(7), jax.jit(sample_tokens)
    for position in range(12):
        together = np.asarray(compiled(scores, key, ids, jnp.int32(position)))
        order = np.random.default_rng(position).permutation(R)
        np.testing.assert_array_equal(compiled(scores[order], key, ids[order], jnp.int32(position)), together[order])
        alone = [int(compiled(scores[i : i + 1], key, ids[i : i + 1], jnp.int32(position))[0]) for i in range(R)]
        assert alone == together.tolist()


def test_the_greatest_of_perturbed_scores_are_draws_without_replacement():
    """P(second = b | first = a) = p_b / (1 - p_a)."""
    prob, count = np.array([0.5, 0.3, 0.15, 0.05]), 20000
    rows = np.broadcast_to(np.log(prob).astype(np.float32), (count, 4))
    noisy = jax.jit(add_gumbel_noise)(rows, jax.random.key(0), jnp.arange(count), jnp.int32(0))
    pairs = np.argsort(-np.asarray(noisy), axis=1)[:, :2]
    found = np.zeros((4, 4))
    np.add.at(found, tuple(pairs.T), 1)
    expected = prob[:, None] * prob[None] / (1 - prob[:, None]) * count
    np.fill_diagonal(expected, 0)
    different = ~np.eye(4, dtype=bool)
    assert (found[~different] == 0).all()
    assert ((found - expected)[different] ** 2 / expected[different]).sum() < 35.6  # 11 degrees of freedom, 1 in 5000
