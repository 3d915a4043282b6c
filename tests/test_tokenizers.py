"""The tokenizer built from the pronouncing data, saved and loaded by transformers, and errors of loading."""

import dataclasses
import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from commands import LIMIT
from tokenizers import Tokenizer, models
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nash_jax.config.schema import TaskConfig
from nash_jax.data.tokenizers import (
    EOS,
    PAD,
    UNKNOWN,
    build_pronunciation_tokenizer,
    build_tokenizer,
    choose_tokenizer,
    load_tokenizer,
    save_tokenizer,
)
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
    says = {
        "{": r"broken/tokenizer.json is not JSON: .*; expected the file as it was saved; download it again",
        "[]": r"broken/tokenizer.json holds a list",
    }
    other = r"no tokenizer could be loaded from .*broken'.*; set config.task.tokenizer"
    with pytest.raises(UserError, match=says.get(str(content), other)):
        load_tokenizer(str(broken))


@pytest.mark.parametrize("lacking", ["pad_token", "eos_token"])
def test_tokens_that_training_needs(tmp_path, lacking):
    """A tokenizer without them loads; a run takes them from the model, and is refused without one."""
    words = Tokenizer(models.WordLevel({PAD: 0, EOS: 1, UNKNOWN: 2}, unk_token=UNKNOWN))
    tokens = {"pad_token": PAD, "eos_token": EOS, "unk_token": UNKNOWN}
    del tokens[lacking]
    PreTrainedTokenizerFast(tokenizer_object=words, **tokens).save_pretrained(tmp_path)
    task = TaskConfig(source="files", tokenizer=str(tmp_path))
    with pytest.raises(UserError, match=f"the tokenizer has no {lacking}, and neither has a model that comes with it"):
        choose_tokenizer(task, None, ROWS)


POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a2146\nsize 791656\n"


@pytest.mark.parametrize("name", ["spiece.model", "tokenizer.json", "vocab.json"])
def test_a_pointer_of_git_lfs(tmp_path, name):
    (tmp_path / "config.json").write_text(json.dumps({"model_type": "t5"}))
    (tmp_path / name).write_text(POINTER)
    with pytest.raises(UserError, match=rf"{name} is a pointer of Git LFS; expected the file itself; git lfs pull in "):
        load_tokenizer(str(tmp_path))


@pytest.fixture(scope="module")
def spiece(tmp_path_factory):
    """A SentencePiece file as T5's, trained here."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    path = tmp_path_factory.mktemp("spiece") / "spiece.model"
    texts = ["the cat sat on the mat", "a dog barks at night", "birds sing in the morning"] * 20
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter(texts), model_prefix=str(path.with_suffix("")), vocab_size=60, pad_id=0, eos_id=1,
        unk_id=2, bos_id=-1, minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    return path


@pytest.mark.parametrize(
    ("config", "own"),
    [
        ({"model_type": "t5"}, None),
        (None, None),
        ({"model_type": "mt5"}, {"tokenizer_class": "MT5Tokenizer"}),  # no longer a class
        ({"model_type": "t5"}, {"tokenizer_class": "T5TokenizerFast"}),
        (None, {"tokenizer_class": "PreTrainedTokenizerFast"}),
        ({"model_type": "umt5"}, {"tokenizer_class": "TokenizersBackend"}),
    ],
)
def test_from_a_sentencepiece_file_alone(spiece, tmp_path, config, own):
    """Whatever class is named beside it: transformers 5 has fewer."""
    shutil.copy(spiece, tmp_path)
    for name, content in (("config.json", config), ("tokenizer_config.json", own)):
        if content is not None:
            (tmp_path / name).write_text(json.dumps(content))
    tokenizer = load_tokenizer(str(tmp_path))
    ids = tokenizer("the cat")["input_ids"]
    assert ids[-1] == tokenizer.eos_token_id == 1 and tokenizer.unk_token_id == 2 not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True) == "the cat"


def test_transformers_says_nothing_beside_our_message(tmp_path):
    """No advice to install PyTorch, no note on another class, no traceback."""
    (tmp_path / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "MT5Tokenizer"}))
    (tmp_path / "spiece.model").write_bytes(b"not a model")
    code = "import sys\nfrom nash_jax.data.tokenizers import load_tokenizer\nfrom nash_jax.errors import UserError\n"
    code += "try: load_tokenizer(sys.argv[1])\nexcept UserError as error: print(error)"
    done = subprocess.run([sys.executable, "-c", code, str(tmp_path)], capture_output=True, text=True, timeout=LIMIT)
    assert done.stderr == "" and done.stdout.count("\n") == 1
    assert "which has ['spiece.model', 'tokenizer_config.json']" in done.stdout


# -- made of the training rows ------------------------------------------------------------------------------

PAIRS = [{"source": f"the cat number {i} sleeps", "references": [f"il gatto numero {i} dorme"]} for i in range(50)]


@pytest.mark.parametrize("text", ["the cat sleeps", "Ünïcode ☃ and\ttabs\n", "il gatto 42", " two  spaces "])
def test_a_tokenizer_of_the_rows_writes_every_text(tmp_path, text):
    made = build_tokenizer(PAIRS, 320)
    made.save_pretrained(tmp_path)
    for tokenizer in (made, load_tokenizer(str(tmp_path))):
        ids = tokenizer(text)["input_ids"]
        assert ids[-1] == tokenizer.eos_token_id and tokenizer.pad_token_id == 0
        assert tokenizer.decode(ids, skip_special_tokens=True) == text
    assert len(made) == 320 and len(made("the cat number")["input_ids"]) < 8  # words of the rows are few tokens
    assert build_tokenizer(PAIRS, 320).get_vocab() == made.get_vocab()


def test_a_tokenizer_is_made_where_none_is_named():
    task = TaskConfig(source="files", vocabulary_size=300)
    assert len(choose_tokenizer(task, None, PAIRS)) == 300
    with pytest.raises(UserError, match=r"vocabulary_size is 100; expected 259 or more: every byte is a token"):
        choose_tokenizer(dataclasses.replace(task, vocabulary_size=100), None, PAIRS)
    with pytest.raises(UserError, match=r"no tokenizer; expected .*config\.task\.vocabulary_size to make one"):
        choose_tokenizer(TaskConfig(source="files"), None, PAIRS)
