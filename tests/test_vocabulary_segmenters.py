"""Random tokenizers lose tokens: the texts that chose those that stay are segmented as before."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

from nash_jax.errors import UserError
from nash_jax.vocabulary.segmenters import keep_tokens, merged_parts, needed_ids

LETTERS = "abcd"
texts = st.lists(st.text(LETTERS + "z", min_size=1, max_size=12), min_size=1, max_size=4)  # z is in no vocabulary


@st.composite
def unigrams(draw):
    """Pieces with scores of few values, so that many paths tie."""
    pieces = draw(st.lists(st.text(LETTERS, min_size=1, max_size=4), min_size=4, max_size=25, unique=True))
    scores = draw(st.lists(st.sampled_from([-1.0, -2.0, -3.0, -11.0]), min_size=len(pieces), max_size=len(pieces)))
    return Tokenizer(models.Unigram([("<unk>", 0.0), *zip(pieces, scores, strict=True)], unk_id=0))


@st.composite
def bpes(draw):
    """Merges of any two tokens, several of them with the same result."""
    tokens, merges = ["<unk>", *LETTERS], list[tuple[str, str]]()
    for _ in range(draw(st.integers(1, 20))):
        left, right = (draw(st.sampled_from(tokens[1:])) for _ in range(2))
        if len(left + right) <= 6 and (left, right) not in merges:
            merges.append((left, right))
            tokens += [left + right] * (left + right not in tokens)
    vocabulary = {token: i for i, token in enumerate(tokens)}
    return Tokenizer(models.BPE(vocabulary, merges, unk_token="<unk>", ignore_merges=draw(st.booleans())))


@st.composite
def word_tables(draw):
    words = draw(st.lists(st.text(LETTERS, min_size=1, max_size=3), min_size=2, max_size=12, unique=True))
    tokenizer = Tokenizer(models.WordLevel({w: i for i, w in enumerate(["<unk>", *words])}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Split("z", "removed")
    return tokenizer


def cut(tokenizer, chosen, alphabet=True):
    """The tokenizer with what the chosen texts need, and id → new id."""
    content = json.loads(tokenizer.to_str())
    used = {i for text in chosen for i in tokenizer.encode(text).ids}
    new_ids = {old: new for new, old in enumerate(sorted(needed_ids(content["model"], used, alphabet)))}
    return Tokenizer.from_str(json.dumps(content | {"model": keep_tokens(content["model"], new_ids)})), new_ids


@given(st.one_of(unigrams(), bpes(), word_tables()), texts, st.booleans())
def test_chosen_texts_have_the_same_tokens(tokenizer, chosen, alphabet):
    smaller, new_ids = cut(tokenizer, chosen, alphabet)
    for text in chosen:
        expected = tokenizer.encode(text)
        found = smaller.encode(text)
        assert found.tokens == expected.tokens
        assert found.ids == [new_ids[i] for i in expected.ids]


@given(st.one_of(unigrams(), bpes(), word_tables()), texts)
def test_cutting_again_cuts_nothing(tokenizer, chosen):
    smaller, _ = cut(tokenizer, chosen)
    again, new_ids = cut(smaller, chosen)
    assert json.loads(again.to_str()) == json.loads(smaller.to_str())
    assert list(new_ids) == list(new_ids.values())


@given(st.one_of(unigrams(), bpes()), texts, texts)
def test_with_the_alphabet_nothing_new_is_unknown(tokenizer, chosen, others):
    """Where every letter is a token: texts may be written otherwise, and are then written with letters."""
    smaller, _ = cut(tokenizer, chosen)
    for text in others:
        letters = {letter for letter in text if tokenizer.token_to_id(letter) is None}
        found = smaller.encode(text)
        assert letters or "<unk>" not in [smaller.id_to_token(i) for i in found.ids]


def test_the_rules_of_unigram_are_needed():
    """With only the used pieces the unknown token gains, for it then stands for letters and scores higher."""
    pieces = {"<unk>": 0.0, "ab": -20.0, "cd": -20.0, "a": 0.0, "bc": -1.0, "c": -100.0, "d": -100.0}
    tokenizer = Tokenizer(models.Unigram(list(pieces.items()), unk_id=0))
    content = json.loads(tokenizer.to_str())
    chosen = ["abcd", "abc"]
    assert [tokenizer.encode(text).tokens for text in chosen] == [["ab", "cd"], ["a", "bc"]]
    used = {i for text in chosen for i in tokenizer.encode(text).ids} | {0}
    lone = keep_tokens(content["model"], {old: new for new, old in enumerate(sorted(used))})
    wrong = Tokenizer.from_str(json.dumps(content | {"model": lone}))
    assert wrong.encode("abcd").ids == [3, 4, 0]  # a, bc, unknown: 0 - 1 - (20 + 10) against -40
    smaller, _ = cut(tokenizer, chosen, alphabet=False)
    assert smaller.encode("abcd").tokens == ["ab", "cd"]


def test_a_bpe_keeps_what_lies_between():
    """abcd is made of ab and cd, which no text has alone; the merges that make abc are gone."""
    merges = [("b", "c"), ("a", "b"), ("c", "d"), ("ab", "cd"), ("a", "bc")]
    merges = merges[1:4] + [merges[0], merges[4]]
    vocabulary = {t: i for i, t in enumerate([*LETTERS, "ab", "cd", "abcd", "bc", "abc"])}
    smaller, _ = cut(Tokenizer(models.BPE(vocabulary, merges)), ["abcd"])
    assert set(smaller.get_vocab()) == {*LETTERS, "ab", "cd", "abcd"}
    assert json.loads(smaller.to_str())["model"]["merges"] == [["a", "b"], ["c", "d"], ["ab", "cd"]]


@given(bpes(), st.text(LETTERS, min_size=1, max_size=10))
def test_merges_of_a_token_are_those_of_the_word_around_it(tokenizer, word):
    """What stands on its own is merged as it was within the word: the claim that the rule for BPE rests on."""
    content = json.loads(tokenizer.to_str())["model"]
    ranks = {tuple(pair): rank for rank, pair in enumerate(content["merges"])}
    for token in () if content["ignore_merges"] else tokenizer.encode(word).tokens:
        assert merged_parts(token, ranks)[-1:] == ([token] if len(token) > 1 else [])


CORPUS = [
    "the quick brown fox jumps over the lazy dog", "a package of tools for packages", "tools that quicken builds",
    "the dog's package – naïve café", "lazily built, quickly tested", "over and over again the tools jump",
] * 3  # fmt: skip


def trained(kind):
    """A tokenizer of a usual build, trained on a few lines, with an end of text."""
    special = ["<pad>", "</s>", "<unk>"]
    if kind == "unigram":
        tokenizer = Tokenizer(models.Unigram())
        tokenizer.normalizer = normalizers.NFKC()
        tokenizer.pre_tokenizer, tokenizer.decoder = pre_tokenizers.Metaspace(), decoders.Metaspace()
        trainer = trainers.UnigramTrainer(vocab_size=90, special_tokens=special, unk_token="<unk>", show_progress=False)
    elif kind == "bpe":
        tokenizer = Tokenizer(models.BPE())
        tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        tokenizer.decoder = decoders.ByteLevel()
        alphabet = pre_tokenizers.ByteLevel.alphabet()
        trainer = trainers.BpeTrainer(
            vocab_size=340, special_tokens=special, initial_alphabet=alphabet, show_progress=False
        )
    else:
        tokenizer = Tokenizer(models.WordLevel(unk_token="<unk>"))
        tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
        trainer = trainers.WordLevelTrainer(special_tokens=special, show_progress=False)
    tokenizer.train_from_iterator(CORPUS, trainer)
    tokenizer.post_processor = processors.TemplateProcessing("$A </s>", special_tokens=[("</s>", 1)])
    return tokenizer


@pytest.mark.parametrize("kind", ["unigram", "bpe", "words"])
def test_trained_tokenizers(kind):
    from transformers import PreTrainedTokenizerFast

    from nash_jax.vocabulary.coverage import measure_coverage, used_ids
    from nash_jax.vocabulary.tokenizer import tokenizer_needs, trim_tokenizer

    names = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=trained(kind), **names)
    chosen, others = CORPUS[:3], [*CORPUS[3:6], "ünseen 🙂 words"]
    old_ids = sorted(tokenizer_needs(tokenizer, used_ids(tokenizer, chosen)))
    new_ids = {old: new for new, old in enumerate(old_ids)}
    smaller = trim_tokenizer(tokenizer, new_ids)
    assert len(smaller) == len(old_ids) < len(tokenizer)
    for text in chosen:
        ids, found = tokenizer(text)["input_ids"], smaller(text)["input_ids"]
        assert found == [new_ids[i] for i in ids]
        assert smaller.decode(found) == tokenizer.decode(ids)
    for text in others:  # bytes and letters write what no word of theirs does
        assert kind != "bpe" or smaller.decode(smaller(text)["input_ids"]) == f"{text}</s>"
    assert measure_coverage(tokenizer, smaller, new_ids, chosen).changed_texts == 0
    assert measure_coverage(tokenizer, smaller, new_ids, others).changed_texts > 0


def test_coverage_is_counted():
    """By hand: words of a table, of which c and d are gone."""
    from transformers import PreTrainedTokenizerFast

    from nash_jax.vocabulary.coverage import Coverage, measure_coverage
    from nash_jax.vocabulary.tokenizer import trim_tokenizer

    table = Tokenizer(models.WordLevel({t: i for i, t in enumerate(["<unk>", *LETTERS])}, unk_token="<unk>"))
    table.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    old = PreTrainedTokenizerFast(tokenizer_object=table, unk_token="<unk>")
    new_ids = {0: 0, 1: 1, 2: 2}
    found = measure_coverage(old, trim_tokenizer(old, new_ids), new_ids, ["a b", "a c c", "d x", "b"])
    assert found == Coverage(4, 8, 5, 8, 2, 2, 1, 4)
    assert np.isclose(found.kept_share, 5 / 8)
    assert found.summary() == (
        "62.50 % of 8 tokens stay; 2 of 4 texts are written otherwise (8 tokens); unknown tokens 1 → 4"
    )


@pytest.mark.parametrize(
    ("model", "message"),
    [
        (models.WordPiece({"a": 0}), "the tokenizer is a WordPiece; expected one of Unigram, BPE, WordLevel"),
        (models.BPE({"a</w>": 0}, [], end_of_word_suffix="</w>"), "the tokenizer is a BPE with end_of_word_suffix"),
    ],
)
def test_other_kinds_are_refused(model, message):
    with pytest.raises(UserError, match=message):
        needed_ids(json.loads(Tokenizer(model).to_str())["model"], {0}, True)
