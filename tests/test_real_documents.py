"""Real documents through the real T5 tokenizer: outputs depend only on the document."""

import gzip
import itertools
import json
from pathlib import Path

import numpy as np
import pytest

from nash_jax.data.tokenizers import load_tokenizer
from nash_jax.generation.batching import generate_batches
from nash_jax.generation.inputs import length_bucket
from nash_jax.generation.options import GenerationOptions
from nash_jax.models.initialize import init_params
from nash_jax.spec import dense_spec

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
pytestmark = pytest.mark.skipif(
    not (DATA / "t5_tokenizer").is_dir(), reason="the real T5 tokenizer and documents are not beside the checkout"
)
OPTIONS = GenerationOptions(max_new_tokens=12)


@pytest.fixture(scope="module")
def documents() -> list[list[int]]:
    """Token ids of 60 documents, 18 to 300 tokens long."""
    with gzip.open(DATA / "debian_synopsis" / "test.jsonl.gz", "rt") as file:
        texts = [json.loads(line)["document"] for line in itertools.islice(file, 0, 600, 10)]
    ids = load_tokenizer(str(DATA / "t5_tokenizer"))(texts)["input_ids"]
    return [row[:299] + row[-1:] if len(row) > 300 else row for row in ids]


@pytest.fixture(scope="module")
def engine(quick_engine):
    """A fresh T5 with all the words of the real one; with a head of its own, or it would repeat what it read last."""
    sizes = {"d_model": 64, "d_ff": 128, "num_heads": 4, "encoder_layers": 2, "decoder_layers": 2}
    spec = dense_spec(vocab_size=32128, tied=False, **sizes)
    return quick_engine(spec, init_params(spec, 0))


def tokens_by_document(engine, documents, batch_size: int) -> list[list[int]]:
    found: list[list[int]] = [[] for _ in documents]
    for numbers, tokens in generate_batches(engine, documents, OPTIONS, batch_size):
        for number, row in zip(numbers, tokens, strict=True):
            found[number] = [*row.tolist(), *[0] * (13 - len(row))]
    return found


def test_any_order_and_any_batch_give_the_same_tokens_with_a_program_for_each_bucket(engine, documents):
    expected = tokens_by_document(engine, documents, 16)
    assert len({tuple(row) for row in expected}) > 40  # documents differ, and so do their outputs
    buckets = {length_bucket(len(row)) for row in documents}
    assert len(buckets) > 5
    assert engine._generate._cache_size() <= len(buckets)
    order = np.random.default_rng(0).permutation(len(documents))
    shuffled = tokens_by_document(engine, [documents[i] for i in order], 16)
    assert [shuffled[i] for i in np.argsort(order)] == expected
    assert engine._generate._cache_size() <= len(buckets)
    assert tokens_by_document(engine, documents, 1) == expected
