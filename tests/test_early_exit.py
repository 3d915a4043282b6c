"""Exits of tokens, against models that keep their first layers alone."""

import numpy as np
import pytest

import nash_jax
from nash_jax.benchmark import early_exit, speculation
from nash_jax.benchmark.early_exit import best_by_layer, exits, layers_needed
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.spec import dense_spec
from nash_jax.testing import random_batch, random_params, random_spec


def test_exits_and_layers():
    best = np.array([[[5, 5, 1, 7]], [[5, 6, 2, 7]], [[5, 5, 2, 8]]])  # [L, B, T]
    found = exits(best)
    assert found.tolist() == [[1, 3, 2, 3]]
    assert layers_needed(found, np.array([[True, True, True, False]])) == (2.0, 2.0)
    two = np.array([[1, 3], [2, 1]])
    assert layers_needed(two, np.array([[True, True], [True, False]])) == (2.0, 2.5)


@pytest.mark.parametrize("family", ["t5", "bart"])
def test_each_layer_as_the_last_one(family):
    spec = random_spec(5, family=family)
    params, batch = random_params(spec), random_batch(spec)
    ids, inputs = batch["input_ids"], batch["labels"]
    mask = np.ones_like(ids)
    found = np.asarray(best_by_layer(spec, params, ids, mask, inputs))
    for depth in range(1, len(spec.decoder) + 1):
        short = nash_jax.Seq2Seq(*select_layers(spec, params, decoder=range(depth)))
        np.testing.assert_array_equal(found[depth - 1], short.logits(ids, mask, inputs).argmax(-1))


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("texts")
    tokenizer = build_pronunciation_tokenizer([{"source": "abcdef", "references": ["A B C D"]}])
    spec = dense_spec(vocab_size=len(tokenizer), d_model=16, d_ff=16, num_heads=2, encoder_layers=1, decoder_layers=2)
    params = random_params(spec, scale=0.5)
    nash_jax.Seq2Seq(spec, params).save(folder / "model")  # as a run's stages save theirs
    nash_jax.Seq2Seq(*select_layers(spec, params, decoder=[0]), tokenizer).save(folder / "draft")
    (folder / "texts.txt").write_text("abc\nfade\n\nbed\n")
    return folder


def test_the_commands(files, capsys):
    common = [f"--model={files / 'model'}", f"--input={files / 'texts.txt'}", "--max_new_tokens=4"]
    assert early_exit.main(["early_exit", *common, f"--pruned={files / 'draft'}", "--batch_size=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line[: line.index(".")] for line in lines[2:6]] == [
        "| model | 1 | 2 | 1", "| model | 2 | 2 | 1", "| pruned | 1 | 1 | 1", "| pruned | 2 | 1 | 1",
    ]  # fmt: skip
    assert lines[-1] == "pruned: share of the tokens by the layer that decides them: 1: 100.0%"
    assert speculation.main(["speculation", *common, f"--draft={files / 'draft'}", "--runs=2"]) == 0
    assert "| 1 | 3 | 0 | " in capsys.readouterr().out


@pytest.mark.parametrize("command", [early_exit, speculation])
def test_mistakes(files, command, capsys):
    (files / "empty.txt").write_text("\n")
    flags = [f"--model={files / 'model'}", f"--draft={files / 'draft'}"][: 1 if command is early_exit else 2]
    assert command.main(["command", *flags]) == 2 and "no --input" in capsys.readouterr().err
    assert command.main(["command", *flags, f"--input={files / 'empty.txt'}"]) == 2
    assert "has no text; expected a text on each line" in capsys.readouterr().err
