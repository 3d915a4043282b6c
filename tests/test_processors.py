"""Rules against the processors that transformers builds from the same options, in its order."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from nash_jax.errors import UserError
from nash_jax.generation import processors
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.processors import apply_processors, make_rules

R, V, L, S, EOS = 5, 23, 12, 9, (1, 7)

seeds = st.integers(0, 2**32 - 1)
run = jax.jit(apply_processors, static_argnums=0)

ALONE = [  # options that differ by an n-gram size compile one program each, so few sizes
    {"repetition_penalty": 1.7},
    {"repetition_penalty": 0.4},
    {"encoder_repetition_penalty": 2.5},
    {"no_repeat_ngram_size": 1},
    {"no_repeat_ngram_size": 2},
    {"no_repeat_ngram_size": 3},
    {"no_repeat_ngram_size": 20},
    {"encoder_no_repeat_ngram_size": 1},
    {"encoder_no_repeat_ngram_size": 2},
    {"encoder_no_repeat_ngram_size": 20},
    {"bad_words_ids": [[4], [1], [2, 3], [2], [5, 6, 3], [1, 2], [7], [3, 3, 3, 3, 2]]},
    {"bad_words_ids": [[1]]},
    {"min_length": 6},
    {"min_new_tokens": 4, "min_length": 9},
    {"forced_bos_token_id": 5},
    {"forced_bos_token_id": 0},
    {"forced_eos_token_id": 1},
    {"forced_eos_token_id": [1, 8]},
    {"remove_invalid_values": True},
    {"exponential_decay_length_penalty": [3, 1.4]},
    {"suppress_tokens": [0, 9]},
    {"begin_suppress_tokens": [1, 2]},
    {"begin_suppress_tokens": [1, 2], "forced_bos_token_id": 4},
    {"renormalize_logits": True},
]


def random_options(seed: int) -> dict:
    """About half of all options, with random values."""
    rng = np.random.default_rng(seed)

    def ids(size, least=0):
        return rng.integers(least, V, size).tolist()

    everything = {
        "repetition_penalty": float(rng.uniform(0.5, 2)),
        "encoder_repetition_penalty": float(rng.uniform(0.5, 2)),
        "no_repeat_ngram_size": int(rng.integers(1, 4)),
        "encoder_no_repeat_ngram_size": int(rng.integers(1, 4)),
        "bad_words_ids": [ids(size) for size in rng.integers(1, 4, 5)],
        "min_length": int(rng.integers(0, L)),
        "min_new_tokens": int(rng.integers(0, L)),
        "forced_bos_token_id": int(rng.integers(V)),
        "forced_eos_token_id": ids(2),
        "remove_invalid_values": True,
        "exponential_decay_length_penalty": [int(rng.integers(0, 6)), float(rng.uniform(1, 2))],
        "begin_suppress_tokens": ids(3),
        "renormalize_logits": True,
    }
    chosen = {name: value for name, value in everything.items() if rng.random() < 0.5}
    if "remove_invalid_values" in chosen:  # a banned EOS becomes -3e38, its decay +3e38: transformers ends in NaN
        chosen.pop("exponential_decay_length_penalty", None)
    forced = {chosen.get("forced_bos_token_id"), *chosen.get("forced_eos_token_id", ())}
    if rng.random() < 0.5:  # never all of what is forced: nothing would be left
        chosen["suppress_tokens"] = [i for i in ids(4) if i not in forced]
    return chosen


@functools.cache
def model():
    pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    from transformers import GenerationMixin, T5Config

    class Generator(GenerationMixin):
        config = T5Config(vocab_size=V)

    return Generator()


def reference(options: dict, scores, tokens, source, prompt_length: int, max_length: int) -> np.ndarray:
    """What transformers makes of scores [R, V] after tokens [R, length]."""
    generator = model()
    import torch
    from transformers import GenerationConfig

    config = GenerationConfig(**{"max_length": max_length, "eos_token_id": list(EOS), "pad_token_id": 0, **options})
    config.update(**config._get_default_generation_params(), defaults_only=True)
    generator._prepare_special_tokens(_with_start(config), device="cpu")
    config = generator._prepare_generated_length(config, False, False, "input_ids", prompt_length, None)
    rules = generator._get_logits_processor(config, prompt_length, torch.tensor(source).long(), device="cpu")
    return rules(torch.tensor(tokens).long(), torch.tensor(scores)).numpy()


def _with_start(config):
    config.decoder_start_token_id = 0
    return config


def draw_inputs(seed: int):
    """Scores [R, V] with some -inf, tokens [R, L] of few ids (so that n-grams repeat), source [R, S]."""
    rng = np.random.default_rng(seed)
    scores = rng.normal(0, 3, (R, V)).astype(np.float32)
    scores[rng.random((R, V)) < 0.1] = -np.inf
    few = int(rng.integers(2, V + 1))
    tokens = rng.integers(0, few, (R, L)).astype(np.int32)
    return scores, tokens, rng.integers(0, few, (R, S)).astype(np.int32)


def ours(options: dict, scores, tokens, length: int, source, prompt_length: int, max_length: int) -> np.ndarray:
    rules, values = rules_of(options, prompt_length=prompt_length, max_length=max_length)
    return np.asarray(run(rules, values, scores, tokens, jnp.int32(length), source))


def rules_of(options: dict, eos_ids=EOS, prompt_length: int = 1, max_length: int = L):
    return make_rules(
        GenerationOptions().replace(**options), vocab_size=V, eos_ids=eos_ids, prompt_length=prompt_length,
        max_length=max_length,
    )  # fmt: skip


def check(options: dict, seed: int, prompt_length: int = 1) -> None:
    scores, tokens, source = draw_inputs(seed)
    rng = np.random.default_rng(seed)
    max_length = int(rng.integers(prompt_length + 1, L + 1))
    length = int(rng.integers(prompt_length, max_length))
    expected = reference(options, scores, tokens[:, :length], source, prompt_length, max_length)
    found = ours(options, scores, tokens, length, source, prompt_length, max_length)
    np.testing.assert_array_equal(np.isneginf(found), np.isneginf(expected))
    np.testing.assert_allclose(found, expected, rtol=2e-6, atol=1e-6)


@pytest.mark.parametrize("options", ALONE, ids=str)
def test_each_rule_equals_transformers(options):
    for seed in range(25):
        check(options, seed)
        check(options, seed, prompt_length=1 + seed % 3)


@pytest.mark.parametrize("seed", range(12))
def test_rules_together_equal_transformers(seed):
    options = random_options(seed)
    for data in range(10):
        check(options, 100 * seed + data, prompt_length=1 + data % 2)


def test_the_rules_change_something():
    """What the comparison above would not see: that no rule fires in it."""
    for options in ALONE:
        if options in ({"bad_words_ids": [[1]]}, {"no_repeat_ngram_size": 20}, {"encoder_no_repeat_ngram_size": 20}):
            continue  # EOS alone is no bad word; no text is so long
        changed = 0
        for seed in range(25):
            scores, tokens, source = draw_inputs(seed)
            length = 1 + seed % (L - 1)
            changed += not np.array_equal(ours(options, scores, tokens, length, source, 1, L), scores)
        assert changed, options


@settings(max_examples=20)
@given(seed=seeds)
def test_what_stands_beyond_the_length_does_not_matter(seed):
    options = random_options(seed % 3) | {"no_repeat_ngram_size": 2, "repetition_penalty": 1.3}
    scores, tokens, source = draw_inputs(seed)
    length = 1 + seed % (L - 1)
    other = tokens.copy()
    other[:, length:] = np.random.default_rng(seed).integers(0, V, (R, L - length))
    found = [ours(options, scores, each, length, source, 1, L) for each in (tokens, other)]
    np.testing.assert_array_equal(*found)


@settings(max_examples=20)
@given(seed=seeds)
def test_a_row_does_not_depend_on_the_others(seed):
    scores, tokens, source = draw_inputs(seed)
    options = random_options(2)
    together = ours(options, scores, tokens, 6, source, 1, L)
    order = np.random.default_rng(seed).permutation(R)
    np.testing.assert_array_equal(ours(options, scores[order], tokens[order], 6, source[order], 1, L), together[order])


@pytest.mark.parametrize("options", [{"encoder_no_repeat_ngram_size": 2}, {"encoder_repetition_penalty": 2.0}], ids=str)
def test_padding_of_the_source_marked_negative_is_as_if_it_were_not_there(options):
    for seed in range(15):
        scores, tokens, source = draw_inputs(seed)
        there = 1 + seed % S
        padded = np.where(np.arange(S) < there, source, -1)
        expected = reference(options, scores, tokens[:, :5], source[:, :there], 1, L)
        np.testing.assert_allclose(ours(options, scores, tokens, 5, padded, 1, L), expected, rtol=1e-6)


def test_ids_above_the_head_are_not_scored():
    """Tokens of an embedding table larger than the LM head."""
    scores, tokens, _ = draw_inputs(0)
    tokens[:, :4] = V + np.arange(4)
    for options in ({"repetition_penalty": 1.5}, {"no_repeat_ngram_size": 1}):
        expected = reference(options, scores, tokens[:, :6], tokens, 1, L)
        np.testing.assert_allclose(ours(options, scores, tokens, 6, None, 1, L), expected, rtol=1e-6)


def test_without_rules_scores_come_back_as_they_are():
    rules, values = rules_of({})
    assert rules.processors == rules.warpers == ()
    assert values == {}
    scores = object()  # nothing may touch it
    assert apply_processors(rules, values, scores, None, None) is scores


def test_rules_that_cannot_fire_are_off():
    for options in ({"min_length": 1}, {"min_new_tokens": 0, "min_length": 5}, {"bad_words_ids": [[1], [7]]}):
        assert rules_of(options)[0].processors == ()
    without_eos = {"min_length": 5, "exponential_decay_length_penalty": (1, 2.0)}
    assert rules_of(without_eos, eos_ids=())[0].processors == ()
    assert rules_of({"temperature": 2.0, "top_p": 0.5})[0].warpers == ()  # not sampling


def test_another_value_does_not_compile_again():
    variants = [
        {
            "repetition_penalty": penalty, "encoder_repetition_penalty": penalty, "min_length": shortest,
            "bad_words_ids": words, "suppress_tokens": suppressed, "forced_eos_token_id": last,
            "begin_suppress_tokens": suppressed, "exponential_decay_length_penalty": (shortest, penalty),
        }
        for penalty, shortest, words, suppressed, last in [
            (1.1, 4, [[2, 3], [4, 5, 6], [7, 8, 9], [9]], [3], 1),
            (1.9, 7, [[3, 4], [4, 5], [7, 8, 2], [8, 8]] + [[i] for i in range(12)], [3, 4, 5, 6], [1, 7, 9]),
        ]
    ]  # fmt: skip
    compiled = jax.jit(lambda *args: apply_processors(*args), static_argnums=0)  # a cache of its own
    scores, tokens, source = draw_inputs(0)
    for variant, max_length in zip(variants, (L, L - 3), strict=True):
        rules, values = rules_of(variant, max_length=max_length)
        compiled(rules, values, scores, tokens, jnp.int32(5), source)
    assert compiled._cache_size() == 1


def test_greedy_in_a_while_loop_equals_the_same_loop_in_transformers():
    """Fixed scores, so that rules alone move the choice from step to step."""
    options = {"repetition_penalty": 1.2, "no_repeat_ngram_size": 2, "min_length": 6, "forced_bos_token_id": 3,
               "forced_eos_token_id": 1, "bad_words_ids": [[2, 4], [5]]}  # fmt: skip
    scores, _, source = draw_inputs(3)
    rules, values = rules_of(options)

    @jax.jit
    def loop(values, scores):
        def step(state):
            length, tokens = state
            best = jnp.argmax(apply_processors(rules, values, scores, tokens, length), axis=-1).astype(jnp.int32)
            return length + 1, jax.lax.dynamic_update_slice_in_dim(tokens, best[:, None], length, axis=1)

        start = (jnp.int32(1), jnp.zeros((R, L), jnp.int32))
        return jax.lax.while_loop(lambda state: state[0] < L, step, start)[1]

    tokens = np.zeros((R, 1), np.int32)
    while tokens.shape[1] < L:
        best = reference(options, scores, tokens, source, 1, L).argmax(-1)
        tokens = np.concatenate([tokens, best[:, None]], axis=1)
    np.testing.assert_array_equal(loop(values, scores), tokens)
    assert len(np.unique(tokens)) > 4


def test_large_vocabularies_need_no_array_of_rows_tokens_and_vocabulary():
    """R·L·V elements would be 33 GB; shapes alone are followed."""
    options = GenerationOptions(
        repetition_penalty=1.2, no_repeat_ngram_size=3, encoder_no_repeat_ngram_size=2, bad_words_ids=((5, 6), (7,))
    )
    rules, values = make_rules(options, vocab_size=250112, eos_ids=(1,), prompt_length=1, max_length=512)
    ints = jax.ShapeDtypeStruct((64, 512), jnp.int32)
    scores = jax.ShapeDtypeStruct((64, 250112), jnp.float32)
    jaxpr = jax.make_jaxpr(functools.partial(apply_processors, rules))(values, scores, ints, jnp.int32(9), ints)
    largest = max(out.aval.size for eqn in jaxpr.jaxpr.eqns for out in eqn.outvars)
    assert largest <= 64 * 250112


def test_source_is_asked_for():
    rules, values = rules_of({"encoder_no_repeat_ngram_size": 2})
    scores, tokens, _ = draw_inputs(0)
    with pytest.raises(ValueError, match="need the source ids"):
        apply_processors(rules, values, scores, tokens, jnp.int32(3))


@pytest.mark.parametrize(
    ("options", "name"),
    [
        ({"bad_words_ids": [[3, V]]}, "bad_words_ids"),
        ({"suppress_tokens": [V]}, "suppress_tokens"),
        ({"begin_suppress_tokens": [V]}, "begin_suppress_tokens"),
        ({"forced_bos_token_id": V}, "forced_bos_token_id"),
        ({"forced_eos_token_id": V}, "forced_eos_token_id"),
    ],
)
def test_ids_outside_the_vocabulary_are_refused(options, name):
    with pytest.raises(UserError, match=rf"^{name} holds the id {V}; expected ids below the vocabulary's {V}$"):
        rules_of(options)


def test_eos_outside_the_vocabulary_is_refused():
    with pytest.raises(UserError, match=r"^eos_token_id holds the id -1; expected"):
        rules_of({}, eos_ids=(-1,))


def test_every_processor_has_an_option():
    own = {"bad_words": "bad_words_ids", "bad_sequences": "bad_words_ids"}
    names = {field.name for field in dataclasses.fields(GenerationOptions)}
    assert {own.get(name, name) for name in processors._PROCESSORS} <= names
