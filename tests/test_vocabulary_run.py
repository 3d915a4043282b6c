"""A run that trims its vocabulary: student and teacher have the same tokens, the dense model keeps all of its own."""

import dataclasses
import json

import numpy as np
import pytest
from families import TORCH_WARNINGS
from test_vocabulary import words_tokenizer

import nash_jax
from nash_jax import Seq2Seq
from nash_jax.config.derived import all_settings, lasting_settings, teacher_settings
from nash_jax.config.schema import Config, ShortenConfig
from nash_jax.generation.options import GenerationOptions
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.workdir import Workdir
from nash_jax.runtime.mesh import make_mesh
from nash_jax.testing import lively_model, random_batch

pytestmark = [*TORCH_WARNINGS, pytest.mark.slow]
DATA = {
    "train": [{"source": f"w{i} w{j}", "target": f"w{j} w{i}"} for i in range(1, 5) for j in (5, 6)],
    "validation": [{"source": "w1 w6 w3", "target": "w6 w1"}],
    "test": [{"source": "w1 w7", "target": "w7 w2"}, {"source": "w2 w9", "target": "w2"}],
}
KEPT = [0, 1, 2, *range(4, 10), 12]  # <pad>, </s>, <unk>, w1 to w6, and w9, which the options begin with


def settings(**shorten):
    config = nash_jax.default_config()
    config.method = "drop"
    config.finetune.epochs = 0.0
    config.shorten.update(decoder_layers=1, vocabulary=True, **shorten)
    config.prune.batch_size = 4
    config.retrain.update(epochs=1.0, batch_size=4, eval_every=1.0)
    config.retrain.distill.logits = 1.0
    config.task.update(
        name="records", prefix="", metric="transcription", max_source_length=4, max_target_length=4, max_new_tokens=4
    )
    config.evaluate.batch_size = 4
    config.benchmark.update(batch_sizes=(1,), source_length=4, new_tokens=(4,), runs=2)
    return config


@pytest.fixture(scope="module")
def model():
    spec, params = lively_model(1, layers=2, vocab_size=16)
    options = GenerationOptions(forced_bos_token_id=12, suppress_tokens=(3, 4))
    return Seq2Seq(spec, params, words_tokenizer(), generation=options)


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    return nash_jax.prune(model, DATA, workdir=tmp_path_factory.mktemp("run") / "work", config=settings())


def test_the_pruned_model_has_the_tokens_of_the_training_rows(done):
    assert done.model.spec.vocab_size == len(KEPT) == len(done.model.tokenizer)
    assert set(done.model.tokenizer.get_vocab()) == {"<pad>", "</s>", "<unk>", *(f"w{i}" for i in (*range(1, 7), 9))}
    assert done.model.generation.forced_bos_token_id == 9
    assert done.model.generation.suppress_tokens == (3,)  # w1; w0 is gone
    dense = nash_jax.load(done.folder / "finetune" / "model")
    assert dense.spec.vocab_size == 16
    assert done.report["params"]["dense"] - done.report["params"]["pruned"] > 2 * 6 * 16  # table and LM head


def test_the_export_in_the_layout_of_transformers_writes_the_same(done):
    texts = ["w1 w2", "w6"]
    assert nash_jax.load(done.folder / "export" / "hf").generate(texts) == done.model.generate(texts)
    assert all(text.startswith("w9") for text in done.model.generate(texts))


def test_the_report_says_what_became_of_the_tokens(done):
    found = json.loads((done.folder / "report.json").read_text())["vocabulary"]
    assert (found["before"]["tokens"], found["after"]["tokens"]) == (16, 10)
    assert found["before"]["head_bytes"] == 4 * 16 * 16
    assert found["coverage"]["train"]["changed_texts"] == found["coverage"]["validation"]["changed_texts"] == 0
    test = found["coverage"]["test"]
    assert (test["num_texts"], test["changed_texts"], test["removed_ids"], test["unknown_after"]) == (4, 2, 1, 2)
    page = (done.folder / "report.html").read_text()
    assert "Vocabulary before and after" in page and "Texts under the trimmed vocabulary" in page


def test_the_teacher_is_the_dense_model_without_the_other_logits(done, model, logits):
    """By their places in the logits of the dense model, for ids of the student's batches."""
    config = dataclasses.replace(Config(), shorten=ShortenConfig(vocabulary=True))
    context = RunContext(config, _workdir(done), make_mesh(""))
    spec, params = context.teacher("retrain")
    batch = random_batch(spec, 0)
    before = {name: np.array(KEPT)[ids] for name, ids in batch.items()}
    expected = logits(model.spec, model.params, before)[..., KEPT]
    np.testing.assert_allclose(logits(spec, params, batch), expected, atol=1e-5)


def _workdir(done):
    workdir = object.__new__(Workdir)  # the run's, whatever its settings
    workdir.folder, workdir.shared, workdir._verified = done.folder, {}, set()
    return workdir


def test_a_finished_run_is_not_done_again(done, model):
    again = nash_jax.prune(model, DATA, workdir=done.folder, config=settings())
    assert again.report["stages"] == done.report["stages"]


def test_settings_at_their_default_do_not_identify_a_run():
    """Workdirs of an earlier version, whose settings do not have these names, continue."""
    assert not {"vocabulary", "alphabet"} & set(lasting_settings(Config())["shorten"])
    chosen = dataclasses.replace(Config(), shorten=ShortenConfig(vocabulary=True))
    assert all_settings(chosen)["shorten"]["vocabulary"] is True
    assert teacher_settings(chosen) == teacher_settings(Config())  # cells of a study share the teacher


def test_a_tokenizer_that_cannot_be_trimmed_is_refused_before_training(tmp_path):
    from transformers import ByT5Tokenizer

    spec, params = lively_model(1, layers=2, vocab_size=384)
    byte_model = Seq2Seq(spec, params, ByT5Tokenizer())
    with pytest.raises(nash_jax.UserError, match=r"ByT5Tokenizer has no tokenizer\.json"):
        nash_jax.prune(byte_model, DATA, workdir=tmp_path / "run", config=settings())
    assert not list(tmp_path.glob("run/*/done"))
