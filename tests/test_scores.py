"""Log-probabilities of outputs, against `compute_transition_scores` and `sequences_scores` of transformers."""

import numpy as np
import pytest
from families import TORCH_WARNINGS, random_pair
from scipy.special import log_softmax
from test_generate_cli import byte_tokenizer

from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.seq2seq import Seq2Seq
from nash_jax.testing import lively_model, random_sources

pytestmark = [*TORCH_WARNINGS, pytest.mark.filterwarnings("ignore::UserWarning")]
RULES = {"repetition_penalty": 1.4, "no_repeat_ngram_size": 2, "min_new_tokens": 3}
SEARCHES = {
    "greedy": {},
    "greedy, rules": RULES,
    "2 EOS": {"eos_token_id": [1, 9]},
    "beams": {"num_beams": 4, "num_return_sequences": 3},
    "beams, rules": {"num_beams": 3, "num_return_sequences": 2, "length_penalty": 2.0, "early_stopping": True} | RULES,
    "beams, never": {"num_beams": 3, "length_penalty": -0.5, "early_stopping": "never", "num_return_sequences": 3},
}


@pytest.fixture(scope="module", params=["t5", "bart", "mbart"])
def pair(request, torch, tmp_path_factory):
    """The same random model in PyTorch and here, and padded inputs."""
    return random_pair(request.param, tmp_path_factory.mktemp("model"))


def theirs(torch, model, inputs, fields):
    """Transformers' ids, its scores of logits and of processed scores, and those of beams."""
    import transformers

    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": model.config.decoder_start_token_id}
    settings = transformers.GenerationConfig(
        **(ids | {"top_k": None, "max_new_tokens": 10, "use_cache": False} | fields)
    )
    with torch.no_grad():
        found = model.generate(
            **{name: torch.from_numpy(value) for name, value in inputs.items()}, generation_config=settings,
            return_dict_in_generate=True, output_scores=True, output_logits=True,
        )  # fmt: skip
        own, processed = (
            model.compute_transition_scores(
                found.sequences, scores, getattr(found, "beam_indices", None), normalize_logits=True
            ).numpy()
            for scores in (found.logits, found.scores)
        )
    return found.sequences.numpy(), own, processed, getattr(found, "sequences_scores", None)


def is_generated(ids, eos_ids):
    """Which of the tokens after the start token are up to the first EOS."""
    ended = np.isin(ids[:, 1:], eos_ids)
    return np.cumsum(ended, axis=1) - ended == 0


@pytest.mark.parametrize("search", SEARCHES)
def test_scores_are_those_of_transformers(torch, pair, search):
    """Tokens: of logits, whatever the rules. Of processed scores they are only where there are no rules."""
    model, ours, inputs = pair
    fields = SEARCHES[search]
    ids, own, processed, beams = theirs(torch, model, inputs, fields)
    found = ours.generate_ids(**inputs, max_new_tokens=10, return_scores=True, **fields)
    np.testing.assert_array_equal(found.ids, ids)
    counted = is_generated(ids, fields.get("eos_token_id", 1))
    np.testing.assert_allclose(found.token_log_probs, np.where(counted, own, 0), atol=1e-4)
    np.testing.assert_allclose(found.log_probs, np.where(counted, own, 0).sum(1), atol=1e-4)
    without_rules = np.abs(np.where(counted, own - processed, 0)).max() < 1e-4
    assert without_rules == ("rules" not in search)
    if beams is None:
        assert found.sequences_scores is None
    else:
        np.testing.assert_allclose(found.sequences_scores, beams.numpy(), atol=1e-4)


def test_prompts(torch, pair):
    """Tokens of the prompt have no scores."""
    model, ours, inputs = pair
    start = model.config.decoder_start_token_id
    prompt = np.stack([[start, token] for token in range(5, 9)])
    for fields in ({}, {"num_beams": 3}):
        ids, own, _, beams = theirs(torch, model, inputs | {"decoder_input_ids": prompt}, fields)
        found = ours.generate_ids(**inputs, decoder_input_ids=prompt, max_new_tokens=10, return_scores=True, **fields)
        np.testing.assert_array_equal(found.ids, ids)
        counted = is_generated(ids[:, 1:], 1)
        assert found.token_log_probs.shape == counted.shape
        np.testing.assert_allclose(found.token_log_probs, np.where(counted, own, 0), atol=1e-4)
        assert beams is None or np.allclose(found.sequences_scores, beams.numpy(), atol=1e-4)


DRAWN = {"do_sample": True, "temperature": 0.7, "top_k": 5, "num_return_sequences": 3, "seed": 3}


@pytest.mark.parametrize("options", [DRAWN, DRAWN | {"num_beams": 3}, {}, {"num_beams": 4, "num_return_sequences": 2}])
def test_scores_are_the_log_softmax_of_teacher_forced_logits(options):
    """Also of drawn tokens, without temperature and top-k: by `logits` of the whole output at once."""
    model = Seq2Seq(*lively_model(3))
    ids, mask = random_sources(model.spec, 3)
    found = model.generate_ids(ids, mask, max_new_tokens=9, return_scores=True, **options)
    plain = model.generate_ids(ids, mask, max_new_tokens=9, **options)
    np.testing.assert_array_equal(found.ids, plain)
    times = len(found.ids) // len(ids)
    logits = model.logits(np.repeat(ids, times, 0), np.repeat(mask, times, 0), found.ids[:, :-1])
    expected = np.take_along_axis(log_softmax(logits, axis=-1), found.ids[:, 1:, None], axis=-1)[..., 0]
    counted = is_generated(found.ids, model.spec.eos_id)
    assert 0 < counted.sum() < counted.size  # some outputs end early
    np.testing.assert_allclose(found.token_log_probs, np.where(counted, expected, 0), atol=1e-4)
    np.testing.assert_allclose(found.log_probs, found.token_log_probs.sum(1), atol=1e-5)
    if options.get("num_beams") and "do_sample" not in options:
        np.testing.assert_allclose(found.sequences_scores, found.log_probs / counted.sum(1), atol=1e-4)
        assert (np.diff(found.sequences_scores.reshape(-1, 2), axis=1) <= 0).all()


def test_scores_of_texts_are_in_the_order_of_the_texts():
    tokenizer = byte_tokenizer()
    model = Seq2Seq(*lively_model(34, vocab_size=len(tokenizer)), tokenizer)
    texts = ["cat", "a longer text than the others", "", "dog", "☃"]
    options = {"max_new_tokens": 8, "num_beams": 3, "num_return_sequences": 2}
    found = model.generate(texts, batch_size=2, return_scores=True, **options)
    assert found.texts == model.generate(texts, batch_size=2, **options) and len(found.texts) == 10
    for i, text in enumerate(texts):
        ids = np.array([tokenizer(text)["input_ids"] or [0]])
        alone = model.generate_ids(ids, np.ones_like(ids), return_scores=True, **options)
        for n in range(2):
            row = 2 * i + n
            own = found.token_ids[row]
            assert tokenizer.decode(own, skip_special_tokens=True) == found.texts[row]
            np.testing.assert_array_equal(alone.ids[n, 1 : 1 + len(own)], own)
            np.testing.assert_allclose(found.token_log_probs[row], alone.token_log_probs[n, : len(own)], atol=1e-5)
            assert found.log_probs[row] == pytest.approx(alone.log_probs[n], abs=1e-4)
            assert found.sequences_scores[row] == pytest.approx(alone.sequences_scores[n], abs=1e-4)
    nothing = model.generate([], return_scores=True)
    assert nothing.texts == [] and len(nothing.log_probs) == 0 and nothing.sequences_scores is None
    assert model.generate(["a"], return_scores=True).sequences_scores is None


@pytest.mark.parametrize("num_beams", [1, 3])
def test_without_scores_the_program_is_as_it_was(num_beams):
    """Scores are a program of their own; the program without them carries nothing for them."""
    spec, params = lively_model(0)
    engine = Engine(spec, params)
    ids, mask = random_sources(spec, 0)
    options = GenerationOptions(max_new_tokens=5, num_beams=num_beams)
    engine.generate(ids, mask, options)
    assert engine._generate._cache_size() == 1
    engine.generate_scored(ids, mask, options)
    engine.generate_scored(ids, mask, options)
    engine.generate(ids, mask, options)
    assert engine._generate._cache_size() == 2
