"""Tokenizers that transformers reads with a class that does not know their files, or that end no text."""

import json

import numpy as np
import pytest
from tokenizers import ByteLevelBPETokenizer, Tokenizer, decoders, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from nash_jax.config.schema import TaskConfig
from nash_jax.data.decoding import decode_outputs
from nash_jax.data.special_tokens import end_with_eos, fill_special_tokens
from nash_jax.data.tokenizers import choose_tokenizer, load_tokenizer, save_tokenizer
from nash_jax.errors import UserError
from nash_jax.spec import dense_spec

BERT = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *"今天气很好我们去公园"]
TEXT = "the cat sat on the mat"


def word_pieces(folder):
    (folder / "vocab.txt").write_text("\n".join(BERT) + "\n", encoding="utf-8")
    return "今天很好"


def byte_pairs(folder, **changes):
    """vocab.json and merges.txt, as BART and CodeT5 have them; with changes, one tokenizer.json with these."""
    bpe = ByteLevelBPETokenizer()
    special = ["<s>", "<pad>", "</s>", "<unk>"]
    bpe.train_from_iterator([TEXT] * 5, vocab_size=300, min_frequency=1, special_tokens=special, show_progress=False)
    if changes:
        content = json.loads(bpe.to_str()) | changes
        (folder / "tokenizer.json").write_text(json.dumps(content), encoding="utf-8")
    else:
        bpe.save_model(str(folder))
    return TEXT


def describe(folder, model_type, **own):
    (folder / "config.json").write_text(json.dumps({"model_type": model_type}))
    if own:
        (folder / "tokenizer_config.json").write_text(json.dumps(own))


@pytest.mark.parametrize(
    ("make", "model_type", "own"),
    [
        (word_pieces, "bart", {}),
        (word_pieces, "t5", {"do_lower_case": True}),
        (word_pieces, "bart", {"tokenizer_class": "PreTrainedTokenizerFast"}),
        (byte_pairs, "t5", {}),
        (byte_pairs, "t5", {"tokenizer_class": "TokenizersBackend"}),
        (byte_pairs, "bart", {"tokenizer_class": "CodeT5Tokenizer"}),
    ],
)
def test_texts_are_not_lost(tmp_path, make, model_type, own):
    """transformers reads some of these folders with a class of no words, and all texts become empty."""
    text = make(tmp_path)
    describe(tmp_path, model_type, **own)
    tokenizer = load_tokenizer(str(tmp_path))
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids, skip_special_tokens=True).replace(" ", "") == text.replace(" ", "")


@pytest.mark.parametrize(
    ("make", "named"),
    [("Unigram", "RobertaTokenizer"), ("Unigram", None), ("WordLevel", "T5Tokenizer"), ("WordLevel", None)],
)
def test_the_model_in_tokenizer_json_counts(tmp_path, make, named):
    """A class for other models would read the same words as others."""
    words = ["<pad>", "</s>", "<unk>", "the", "cat"]
    if make == "Unigram":
        backend = Tokenizer(models.Unigram([(word, -1.0) for word in words], unk_id=2))
    else:
        backend = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer, backend.decoder = pre_tokenizers.Whitespace(), decoders.Fuse()
    special = {"pad_token": "<pad>", "eos_token": "</s>", "unk_token": "<unk>"}
    PreTrainedTokenizerFast(tokenizer_object=backend, **special).save_pretrained(tmp_path)
    describe(tmp_path, "bart", **special, **({"tokenizer_class": named} if named else {}))
    assert load_tokenizer(str(tmp_path))("the cat")["input_ids"][:2] == [3, 4]


def test_code_of_a_repository_is_never_run(tmp_path):
    """Its rules for the same files are not known."""
    word_pieces(tmp_path)
    describe(tmp_path, "bart", auto_map={"AutoTokenizer": ["own.OwnTokenizer", None]}, tokenizer_class="OwnTokenizer")
    with pytest.raises(
        UserError, match=r"no tokenizer could be loaded from .*, which has \['tokenizer_config.json', 'voc"
    ):
        load_tokenizer(str(tmp_path))


def spec_of(**own):
    sizes = {"d_model": 8, "d_ff": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    return dense_spec(vocab_size=400, family="t5", tied=True, dropout_rate=0.0, **sizes, **own)


@pytest.mark.parametrize("eos_id", [1, 3, 399])
def test_eos_is_what_ends_texts(tmp_path, eos_id):
    """config.json of some Chinese T5 has the EOS id of T5, a word of BertTokenizer."""
    word_pieces(tmp_path)
    describe(tmp_path, "t5", tokenizer_class="BertTokenizer")
    tokenizer = fill_special_tokens(load_tokenizer(str(tmp_path)), spec_of(pad_id=0, eos_id=eos_id))
    assert tokenizer.eos_token == "[SEP]"


NAMED = {"bos_token": "<s>", "eos_token": "</s>", "pad_token": "<pad>"}


@pytest.mark.parametrize(
    ("reader", "named"),
    [("PreTrainedTokenizerFast", NAMED), ("PreTrainedTokenizerFast", {}), ("GPT2Tokenizer", NAMED)],
)
def test_a_tokenizer_that_ends_no_text(tmp_path, capsys, reader, named):
    """As KoBART's; the run's own ends texts with EOS, also when it is saved and read again."""
    byte_pairs(tmp_path, post_processor=None)
    describe(tmp_path, "bart", tokenizer_class=reader, unk_token="<unk>", **named)
    spec = spec_of(pad_id=1, eos_id=2)
    own = load_tokenizer(str(tmp_path))
    plain = AutoTokenizer.from_pretrained(tmp_path)(TEXT)["input_ids"]
    rows = [{"source": TEXT, "references": [TEXT]}]
    tokenizer = choose_tokenizer(TaskConfig(), own, rows, spec)
    assert "the tokenizer ends no text with </s>; this run's does" in capsys.readouterr().err
    save_tokenizer(tokenizer, tmp_path / "saved")
    for each in (tokenizer, load_tokenizer(str(tmp_path / "saved"))):
        assert each(TEXT)["input_ids"] == [*plain, 2] == each(text_target=TEXT)["input_ids"]


def test_a_tokenizer_that_ends_texts_stays(tmp_path, capsys):
    word_pieces(tmp_path)
    describe(tmp_path, "t5", tokenizer_class="BertTokenizer")
    tokenizer = fill_special_tokens(load_tokenizer(str(tmp_path)), spec_of())
    before = tokenizer("今天")["input_ids"]
    end_with_eos(tokenizer)
    assert tokenizer("今天")["input_ids"] == before and capsys.readouterr().err == ""


@pytest.mark.parametrize("beyond", [500, 9_000])
def test_ids_of_a_padded_table_are_left_out(tmp_path, beyond):
    """A slow tokenizer raises KeyError at them, a fast one leaves them out."""
    sentencepiece = pytest.importorskip("sentencepiece", reason="sentencepiece is not installed")
    sentencepiece.SentencePieceTrainer.train(
        sentence_iterator=iter([TEXT, "birds sing in the morning"] * 20), model_type="bpe", vocab_size=60,
        model_prefix=str(tmp_path / "sentencepiece.bpe"), minloglevel=2, hard_vocab_limit=False,
    )  # fmt: skip
    (tmp_path / "dict.txt").write_text("".join(f"{word} 1\n" for word in ["▁the", "▁cat", "▁mat"]), encoding="utf-8")
    describe(tmp_path, "mbart", tokenizer_class="BartphoTokenizer")
    tokenizer = load_tokenizer(str(tmp_path))
    ids = tokenizer("the cat")["input_ids"]
    tokens = np.array([[2, *ids[1:3], beyond, *ids[3:]]])
    assert decode_outputs(tokenizer, tokens) == ["the cat"]
    assert decode_outputs(tokenizer, tokens, keep_tokens=["<unk>"]) == ["the cat"]
