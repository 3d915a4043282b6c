"""Outputs that can only be labels: against transformers with a prefix function over the same labels, and for texts."""

import itertools

import numpy as np
import pytest
from families import TORCH_WARNINGS, random_pair
from seeds import some
from test_generate_cli import byte_tokenizer

from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.seq2seq import Seq2Seq
from nash_jax.testing import lively_model, random_params, random_sources, random_spec

pytestmark = [*TORCH_WARNINGS, pytest.mark.filterwarnings("ignore::UserWarning")]
LABELS = {
    "words": [[5, 1], [6, 1], [7, 1]],
    "one within another": [[5, 1], [5, 6, 1], [5, 6, 7, 8, 9, 1], [10, 11, 1], [10, 12, 13, 1]],
    "one": [[4, 5, 6, 1]],
    "many": [[3 + i % 4, 7 + i // 4, 3 + i % 13, 1] for i in range(17)],
}


@pytest.fixture(scope="module", params=some(["bart", "t5", "pegasus"], few=1))
def pair(request, torch, tmp_path_factory):
    """The same random model in PyTorch and here, and padded inputs."""
    return random_pair(request.param, tmp_path_factory.mktemp("model"))


def theirs(torch, model, inputs, sequences, fields):
    import transformers

    def allowed(_, tokens):
        prefix = tokens.tolist()[1:]
        found = {own[len(prefix)] for own in sequences if len(own) > len(prefix) and own[: len(prefix)] == prefix}
        return sorted(found) or [1]

    ids = {"pad_token_id": 0, "eos_token_id": 1, "decoder_start_token_id": model.config.decoder_start_token_id}
    common = {"top_k": None, "use_cache": False, "max_new_tokens": max(map(len, sequences))}
    settings = transformers.GenerationConfig(**(ids | common | fields))
    with torch.no_grad():
        found = model.generate(
            **{name: torch.from_numpy(value) for name, value in inputs.items()}, generation_config=settings,
            prefix_allowed_tokens_fn=allowed, return_dict_in_generate=True, output_scores=True,
        )  # fmt: skip
    return found.sequences.numpy(), getattr(found, "sequences_scores", None)


def outputs(ids):
    """Generated tokens of each row, up to the first EOS."""
    return [row[: row.index(1) + 1] if 1 in row else row for row in ids[:, 1:].tolist()]


@pytest.mark.parametrize("labels", LABELS)
@pytest.mark.parametrize("fields", [{}, {"num_beams": 2}, {"num_beams": 4, "early_stopping": True}, {"num_beams": 5}])
def test_outputs_are_those_of_a_prefix_function(torch, pair, labels, fields):
    model, ours, inputs = pair
    sequences = LABELS[labels]
    ids, scores = theirs(torch, model, inputs, sequences, fields)
    found = ours.generate_ids(**inputs, allowed_sequences=sequences, return_scores=True, **fields)
    np.testing.assert_array_equal(found.ids, ids)
    assert all(output in sequences for output in outputs(found.ids))
    if scores is not None:
        np.testing.assert_allclose(found.sequences_scores, scores.numpy(), atol=1e-4)


def test_several_outputs_are_the_best_labels(torch, pair):
    model, ours, inputs = pair
    sequences, fields = LABELS["one within another"], {"num_beams": 5, "num_return_sequences": 4}
    found = ours.generate_ids(**inputs, allowed_sequences=sequences, **fields)
    np.testing.assert_array_equal(found, theirs(torch, model, inputs, sequences, fields)[0])
    assert all(len({tuple(output) for output in outputs(found[i : i + 4])}) == 4 for i in range(0, len(found), 4))


@pytest.mark.parametrize("seed", range(3))
def test_with_as_many_beams_as_labels_the_most_probable_is_found(seed):
    """By the log-probabilities of all labels, computed with teacher forcing."""
    model = Seq2Seq(*lively_model(seed))
    ids, mask = random_sources(model.spec, seed)
    sequences = LABELS["one within another"]
    found = model.generate_ids(ids, mask, allowed_sequences=sequences, num_beams=5, length_penalty=0.0)
    totals = []
    for sequence in sequences:
        forced = np.tile([[model.spec.decoder_start_id, *sequence]], (len(ids), 1))
        logits = model.logits(ids, mask, forced[:, :-1]).astype(float)
        own = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        totals.append(np.take_along_axis(own, forced[:, 1:, None], axis=-1).sum((1, 2)))
    assert outputs(found) == [sequences[i] for i in np.argmax(totals, axis=0)]


DRAWN = {"do_sample": True, "seed": 1, "num_return_sequences": 4, "top_p": 0.9, "renormalize_logits": True}


@pytest.mark.parametrize("options", [DRAWN, DRAWN | {"num_beams": 4}, {"num_beams": 3, "renormalize_logits": True}])
def test_drawn_outputs_are_allowed_too(options):
    model = Seq2Seq(*lively_model(1))
    found = model.generate_ids(*random_sources(model.spec, 1), allowed_sequences=LABELS["many"], **options)
    drawn = {tuple(output) for output in outputs(found)}
    assert drawn <= set(map(tuple, LABELS["many"])) and len(drawn) > 2


def test_options_that_forbid_or_force_tokens_do_not_count():
    """As those of bart-large-cnn, with which no short label could be generated."""
    model = Seq2Seq(*lively_model(2))
    ids, mask = random_sources(model.spec, 2)
    rules = {
        "min_length": 56, "no_repeat_ngram_size": 3, "forced_bos_token_id": 0, "forced_eos_token_id": 2,
        "max_new_tokens": 2, "bad_words_ids": [[5]], "suppress_tokens": [6], "encoder_no_repeat_ngram_size": 1,
    }  # fmt: skip
    for beams, sequences in itertools.product((1, 2), ([[5, 5, 5, 5, 1]], [[6, 1], [5, 5, 6, 6, 1]])):
        plain = model.generate_ids(ids, mask, allowed_sequences=sequences, num_beams=beams)
        ruled = model.generate_ids(ids, mask, allowed_sequences=sequences, num_beams=beams, **rules)
        np.testing.assert_array_equal(ruled, plain)
        assert all(output in sequences for output in outputs(plain))


def test_other_labels_do_not_compile_again():
    """Up to the next power of two, in number and length; and a prompt's tokens are not part of a label."""
    engine = Engine(*lively_model(0))
    ids, mask = random_sources(engine.spec, 0)
    for sequences in ([[5, 1], [6, 7, 8, 1]], [[9, 1], [10, 11, 1]]):
        found = engine.generate(ids, mask, GenerationOptions(allowed_sequences=sequences))
        assert all(output in sequences for output in outputs(found))
    assert engine._generate._cache_size() == 1
    prompt = np.tile([[0, 9, 9]], (len(ids), 1))
    found = engine.generate(ids, mask, GenerationOptions(allowed_sequences=sequences), decoder_input_ids=prompt)
    assert all(output in sequences for output in outputs(found[:, 2:]))


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({"allowed_sequences": [[5, 6]]}, r"allowed_sequences holds \[5, 6\]; expected an EOS \(1\) at its end"),
        ({"allowed_sequences": [[5, 1], [1, 6, 1]]}, r"allowed_sequences holds \[1, 6, 1\]; expected an EOS"),
        ({"allowed_sequences": [[99, 1]]}, "allowed_sequences holds the id 99"),
        ({"allowed_sequences": [[]]}, "a list of non-empty lists of token ids"),
        (
            {"allowed_sequences": [[5, 1], [6, 1]], "num_beams": 4, "num_return_sequences": 3},
            "num_return_sequences is 3; expected no more than the 2 outputs that are allowed",
        ),
    ],
)
def test_sequences_that_cannot_be_used(options, said):
    model = Seq2Seq(*lively_model(0))
    with pytest.raises(UserError, match=said):
        model.generate_ids(*random_sources(model.spec, 0), **options)


# -- texts ----------------------------------------------------------------------------------------------------

TEXTS = ["cat", "a longer text than the others", "", "dog", "☃"]
WORDS = ["yes", "no", "not at  all", "naïve"]  # two spaces, and a letter of two tokens


@pytest.fixture(scope="module")
def model():
    tokenizer = byte_tokenizer()
    return Seq2Seq(*lively_model(34, vocab_size=len(tokenizer)), tokenizer)


@pytest.mark.parametrize("options", [{}, {"num_beams": 4, "num_return_sequences": 3}, {"do_sample": True, "seed": 4}])
def test_texts_are_labels(model, options):
    found = model.generate(TEXTS, labels=WORDS, batch_size=2, **options)
    assert len(found) == len(TEXTS) * options.get("num_return_sequences", 1) and set(found) <= set(WORDS)
    scored = model.generate(TEXTS, labels=tuple(WORDS), batch_size=2, return_scores=True, **options)
    assert scored.texts == found and (scored.log_probs < 0).all()
    for text, ids in zip(scored.texts, scored.token_ids, strict=True):
        assert ids.tolist() == model.tokenizer(text_target=text)["input_ids"]


def test_labels_of_a_tokenizer_without_eos_and_of_a_model_with_positions():
    tokenizer = byte_tokenizer(eos=False)
    spec = random_spec(0, family="bart", vocab_size=len(tokenizer), max_positions=32)
    model = Seq2Seq(spec, random_params(spec), tokenizer, generation=GenerationOptions(max_length=2))
    assert set(model.generate(["a", "b", "c"], labels=WORDS)) <= set(WORDS)


def test_what_follows_eos_is_no_part_of_a_label(model):
    """As the language of mBART's targets."""
    from tokenizers import processors

    tokenizer = byte_tokenizer()
    both = [("</s>", 1), ("<unk>", 2)]
    tokenizer.backend_tokenizer.post_processor = processors.TemplateProcessing(
        single="$A </s> <unk>", special_tokens=both
    )
    assert tokenizer("a")["input_ids"][1:] == [1, 2]
    found = Seq2Seq(model.spec, model.params, tokenizer).generate(TEXTS, labels=WORDS, return_scores=True)
    assert set(found.texts) <= set(WORDS) and all(ids[-1] == 1 for ids in found.token_ids)


@pytest.mark.parametrize(
    ("labels", "said"),
    [
        ([], "labels hold"), ("yes", "labels hold"), (["yes", "yes"], "labels hold"), ([3], "labels hold 3"),
        (5, "labels hold 5"),
        (["yes", None], "labels hold None"), (["yes", " "], "labels hold ' '"),
    ],
)  # fmt: skip
def test_labels_that_cannot_be_used(model, labels, said):
    with pytest.raises(UserError, match=f"{said}.*; expected a list of different texts"):
        model.generate(["cat"], labels=labels)


def test_labels_with_the_same_tokens_are_refused(model, monkeypatch):
    from tokenizers import normalizers

    tokenizer = byte_tokenizer()
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    other = Seq2Seq(model.spec, model.params, tokenizer)
    with pytest.raises(UserError, match="the labels 'Yes' and 'yes' have the same tokens"):
        other.generate(["cat"], labels=["Yes", "yes"])
