"""The tokenizer built from the pronouncing data, saved and loaded by transformers, and errors of loading."""

import json
import shutil

import numpy as np
import pytest
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nash_jax.data.tokenizers import EOS, PAD, UNKNOWN, build_pronunciation_tokenizer, load_tokenizer, save_tokenizer
from nash_jax.errors import UserError

ROWS = [
    {"source": "cat", "references": ["K AE T"]},
    {"source": "o'er", "references": ["AO R", "OW ER"]},
    {"source": "tact", "references": ["T AE K T"]},
]


@pytest.fixture(scope="module")
def tokenizer():
    return build_pronunciation_tokenizer(ROWS)


@pytest.fixture(scope="module")
def folder(tokenizer, tmp_path_factory):
    path = tmp_path_factory.mktemp("tokenizer")
    save_tokenizer(tokenizer, path)
    return path


def test_vocabulary_is_what_occurs(tokenizer):
    symbols = [PAD, EOS, UNKNOWN, "'", *"aceort", *sorted(["AE", "AO", "ER", "K", "OW", "R", "T"])]
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == symbols
    assert (tokenizer.pad_token_id, tokenizer.eos_token_id, tokenizer.unk_token_id) == (0, 1, 2)


def test_order_of_rows_does_not_matter(tokenizer):
    assert build_pronunciation_tokenizer(ROWS[::-1]).get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("text", ["o'er", "K AE T", "cat"])
def test_ids_end_with_eos(tokenizer, text):
    ids = tokenizer(text)["input_ids"]
    symbols = text.split() if " " in text else list(text)
    assert tokenizer.convert_ids_to_tokens(ids) == [*symbols, EOS]
    cut = tokenizer(text, truncation=True, max_length=3)["input_ids"]
    assert tokenizer.convert_ids_to_tokens(cut) == [*symbols[:2], EOS]


def test_decoding_gives_the_phonemes_back(tokenizer):
    for row in ROWS:
        for reference in row["references"]:
            ids = [0, *tokenizer(reference)["input_ids"], 0, 0]  # as generated: start token, EOS, padding
            assert tokenizer.batch_decode([np.array(ids)], skip_special_tokens=True) == [reference]


def test_unknown_symbols(tokenizer):
    assert tokenizer("caz")["input_ids"] == [*tokenizer.convert_tokens_to_ids(["c", "a", UNKNOWN]), 1]
    assert tokenizer("K ZH")["input_ids"] == [*tokenizer.convert_tokens_to_ids(["K", UNKNOWN]), 1]
    assert tokenizer("")["input_ids"] == [1]


@pytest.mark.parametrize("load", [AutoTokenizer.from_pretrained, lambda path: load_tokenizer(str(path))])
def test_saved_and_loaded(tokenizer, folder, load):
    loaded = load(folder)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    texts = ["cat", "K AE T", "o'er zz", "", "K ZH"]
    assert loaded(texts)["input_ids"] == tokenizer(texts)["input_ids"]
    assert (loaded.pad_token, loaded.eos_token, loaded.unk_token) == (PAD, EOS, UNKNOWN)
    assert json.loads(loaded.backend_tokenizer.to_str()) == json.loads(tokenizer.backend_tokenizer.to_str())


def test_home_folder_is_found(tokenizer, folder, monkeypatch):
    monkeypatch.setenv("HOME", str(folder.parent))
    assert load_tokenizer(f"~/{folder.name}").get_vocab() == tokenizer.get_vocab()


@pytest.mark.parametrize("name", ["./nowhere", "/no/such/folder", "~/nowhere", "no/such/folder"])
def test_no_such_folder(name):
    with pytest.raises(UserError, match=f"tokenizer: no folder '{name}'; expected a folder, or a name on the hub"):
        load_tokenizer(name)


@pytest.mark.parametrize("content", ["{}", "{", "[]", '{"model": {"type": "WordLevel"}}', None])
def test_broken_tokenizer(folder, tmp_path, content):
    broken = tmp_path / "broken"
    shutil.copytree(folder, broken)
    if content is None:
        (broken / "tokenizer.json").unlink()
    else:
        (broken / "tokenizer.json").write_text(content)
    with pytest.raises(UserError, match=r"no tokenizer could be loaded from .*broken'.*; set config.task.tokenizer"):
        load_tokenizer(str(broken))


@pytest.mark.parametrize("lacking", ["pad_token", "eos_token"])
def test_tokens_that_a_model_needs(tmp_path, lacking):
    words = Tokenizer(models.WordLevel({PAD: 0, EOS: 1, UNKNOWN: 2}, unk_token=UNKNOWN))
    tokens = {"pad_token": PAD, "eos_token": EOS, "unk_token": UNKNOWN}
    del tokens[lacking]
    PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(tmp_path)
    with pytest.raises(UserError, match=f"the tokenizer .* has no {lacking}; expected one made for an encoder-decoder"):
        load_tokenizer(str(tmp_path))
