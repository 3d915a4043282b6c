"""The real T5 tokenizer, trimmed to real documents: they have the same tokens, and get the same outputs."""

import gzip
import json
from pathlib import Path

import numpy as np
import pytest

from nash_jax import Seq2Seq, trim_vocabulary
from nash_jax.data.tokenizers import load_tokenizer
from nash_jax.generation.options import GenerationOptions
from nash_jax.models.initialize import init_params
from nash_jax.spec import dense_spec

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not (DATA / "t5_tokenizer").is_dir(), reason="the real T5 tokenizer and documents are not beside the checkout"
)


@pytest.fixture(scope="module")
def documents():
    with gzip.open(DATA / "debian_synopsis" / "test.jsonl.gz", "rt") as file:
        return [json.loads(line) for line in file]


@pytest.fixture(scope="module")
def model():
    """A fresh T5 with all the words of the real one, and a head of its own: outputs are not what was read last."""
    sizes = {"d_model": 32, "d_ff": 32, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 1}
    spec = dense_spec(vocab_size=32128, tied=False, **sizes)
    tokenizer = load_tokenizer(str(DATA / "t5_tokenizer"))
    return Seq2Seq(spec, init_params(spec, 0), tokenizer, generation=GenerationOptions(max_new_tokens=8))


def texts_of(rows):
    return [f"summarize: {row['document']}" for row in rows] + [row["summary"] for row in rows]


@pytest.fixture(scope="module")
def trimmed(model, documents):
    """To 200 documents and summaries; 100 others are held out."""
    return trim_vocabulary(model, texts_of(documents[:200]), held_out=texts_of(documents[200:300]))


def short(documents, count):
    """Their first twenty words: one shape of batches, so one program for each model."""
    return ["summarize: " + " ".join(row["document"].split()[:20]) for row in documents[:count]]


def check_tokens(model, trimmed, texts):
    old, new = model.tokenizer, trimmed.model.tokenizer
    for text in texts:
        before, after = old(text)["input_ids"], new(text)["input_ids"]
        assert trimmed.old_ids[after].tolist() == before
        assert new.decode(after) == old.decode(before)


def check_outputs(model, trimmed, texts):
    """The whole model may write only the tokens that are kept."""
    gone = np.setdiff1d(np.arange(model.spec.vocab_size), trimmed.old_ids).tolist()
    expected = model.generate(texts, suppress_tokens=gone)
    assert len(set(expected)) > len(texts) / 4
    assert trimmed.model.generate(texts) == expected


def test_tokens_map_one_to_one(model, trimmed, documents):
    assert trimmed.before.tokens == 32128
    assert trimmed.after.tokens == len(trimmed.model.tokenizer) == trimmed.model.spec.vocab_size < 5000
    check_tokens(model, trimmed, texts_of(documents[:200:3]))


def test_held_out_documents_are_covered_but_for_rare_words(trimmed):
    found = trimmed.held_out
    assert found.num_texts == 200
    assert 0.8 < found.kept_share < 1
    assert 0 < found.changed_texts < 200
    assert found.unknown_after == found.unknown_before  # every letter is still a token


@pytest.mark.full
def test_logits_are_the_columns_of_the_whole_model(model, trimmed, documents):
    new = trimmed.model.tokenizer(short(documents, 8), padding=True, return_tensors="np")
    targets = trimmed.model.tokenizer([row["summary"] for row in documents[:8]], padding=True, return_tensors="np")
    ids, labels, mask = new["input_ids"], targets["input_ids"], new["attention_mask"]
    expected = model.logits(trimmed.old_ids[ids], mask, trimmed.old_ids[labels])[..., trimmed.old_ids]
    np.testing.assert_allclose(trimmed.model.logits(ids, mask, labels), expected, atol=1e-5)


def test_outputs_are_those_of_the_whole_model(model, trimmed, documents):
    check_outputs(model, trimmed, short(documents, 16))


@pytest.mark.full
def test_all_1507_documents(model, documents):
    """The whole documents: tokens one to one, and the same outputs."""
    found = trim_vocabulary(model, texts_of(documents))
    assert len(documents) == 1507
    assert found.after.tokens < 9000
    check_tokens(model, found, texts_of(documents))
    check_outputs(model, found, [f"summarize: {row['document']}" for row in documents])


def test_transformers_reads_the_new_tokenizer_and_writes_the_same(torch, trimmed, documents, tmp_path):
    import transformers

    trimmed.model.save_hf(tmp_path / "hf")
    assert not list((tmp_path / "hf").glob("*.model"))  # SentencePiece's file has the old words
    tokenizer = transformers.AutoTokenizer.from_pretrained(tmp_path / "hf")
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(tmp_path / "hf").eval()
    texts = short(documents, 4)
    with torch.no_grad():
        found = [model.generate(**tokenizer(text, return_tensors="pt"), max_new_tokens=8)[0] for text in texts]
    assert trimmed.model.generate(texts) == [tokenizer.decode(ids, skip_special_tokens=True) for ids in found]
