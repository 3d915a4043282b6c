"""Targets that the dense model writes: made, filtered, chosen, learnt; resumed; with a model halfway."""

import dataclasses
import json
from types import SimpleNamespace

import numpy as np
import pytest
from families import TORCH_WARNINGS
from hypothesis import given
from hypothesis import strategies as st
from test_vocabulary import words_tokenizer

import nash_jax
from nash_jax import Seq2Seq, UserError
from nash_jax.axes import encoder_params
from nash_jax.config.derived import all_settings, teacher_settings
from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import Config, HalfwayConfig, LabelConfig
from nash_jax.data.pipeline import Batches
from nash_jax.evaluation.evaluator import Output
from nash_jax.evaluation.metrics import METRICS
from nash_jax.generation.engine import Engine
from nash_jax.ragged import Ragged
from nash_jax.recipe.label import _generate, measure_agreement, select_labels
from nash_jax.recipe.labels import FILE, Label, RunLabels, choose_targets, write_labels
from nash_jax.recipe.run import PruningRun
from nash_jax.report.model_card import model_card
from nash_jax.testing import lively_model
from nash_jax.training.writers import read_rows
from nash_jax.tree import flatten

pytestmark = TORCH_WARNINGS
WORDS = [f"w{i} w{j}" for i in range(1, 5) for j in range(5, 9)]
DATA = {
    "train": [{"source": text, "target": " ".join(reversed(text.split()))} for text in WORDS],
    "validation": [{"source": "w1 w6 w3", "target": "w6 w1"}],
    "test": [{"source": "w1 w9", "target": "w9 w2"}, {"source": "w2 w9", "target": "w2"}],
}
FURTHER = ["w9 w8", "w8 w9 w7", "w1 w5", "w1 w9", "w9 w8"]  # a training input, a test input, and one twice


# -- which target a pair is learnt with ---------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 5), st.floats(0, 1), st.integers(0, 2**31))
def test_a_pair_is_learnt_with_its_reference_or_with_the_label_of_its_row(num_rows, num_further, share, seed):
    rng = np.random.default_rng(seed)
    rows = [{"references": ["x"] * int(n)} for n in rng.integers(1, 4, num_rows)]
    labelled = np.flatnonzero(rng.random(num_rows) < 0.7)
    choice = choose_targets(rows, labelled.tolist(), num_further, share, seed)
    row_of_pair = np.repeat(np.arange(num_rows), [len(row["references"]) for row in rows])
    num_pairs = len(row_of_pair)
    owner = np.concatenate([row_of_pair, labelled, num_rows + np.arange(num_further)])  # row of each target
    for epoch in range(3):
        picked = choice.pick(epoch)
        assert (owner[picked] == np.concatenate([row_of_pair, num_rows + np.arange(num_further)])).all()
        references = picked[:num_pairs] < num_pairs
        assert (picked[:num_pairs][references] == np.flatnonzero(references)).all()
        assert (picked == choice.pick(epoch)).all()
        has_label = np.isin(row_of_pair, labelled)
        if share == 1:
            assert (references == ~has_label).all()
        if share == 0:
            assert references.all()


def test_a_share_of_the_pairs_takes_labels_and_another_one_in_each_epoch():
    rows = [{"references": ["x"]}] * 4000
    choice = choose_targets(rows, list(range(4000)), 0, 0.3, seed=5)
    first, second = (choice.pick(epoch) >= 4000 for epoch in (0, 1))
    assert abs(first.mean() - 0.3) < 0.03 and abs((first & second).mean() - 0.09) < 0.02


def test_batches_hold_each_source_once_an_epoch_with_a_target_of_its_own():
    """Sources say which pair they are; targets too, labels with 100 added; lengths differ, so do buckets."""
    rows = [{"references": ["x"]} for _ in range(20)]
    choice = choose_targets(rows, list(range(0, 20, 2)), 4, 0.5, seed=1)
    sources = Ragged.from_lists([[i + 1] * (1 + i % 3) for i in range(24)])
    labels = [[100 + i + 1] * 9 for i in range(0, 20, 2)]
    targets = Ragged.from_lists([*([i + 1] * 4 for i in range(20)), *labels, *([100 + i + 1] for i in range(20, 24))])
    batches = Batches(sources, targets, 4, seed=0, pad_id=0, choice=choice)
    seen = []
    for epoch in range(2):
        for step in range(epoch * batches.steps_per_epoch, (epoch + 1) * batches.steps_per_epoch):
            for source, target in zip(*batches[step].values(), strict=True):
                pair = int(source[0])
                own = set(target[target > 0].tolist())
                assert own in ({pair}, {100 + pair}), (source, target)
                assert (target > 0).sum() == (9 if pair <= 20 else 1) if own == {100 + pair} else 4
                assert own == {pair} or pair > 20 or pair % 2 == 1
                assert own == {100 + pair} or pair <= 20
                seen.append((epoch, pair))
    assert len(seen) == len(set(seen)) == 48


# -- which outputs are used ---------------------------------------------------------------------------------


def test_outputs_are_left_out_for_three_reasons_and_counted():
    rows = [{"source": f"s{i}"} for i in range(6)]
    outputs = [Output("a", 1, True), Output("b", 9, False), Output("", 0, True), *[Output("c", 1, True)] * 3]
    agreements = np.array([90.0, 90.0, 90.0, 49.0, np.nan])
    labels, reasons = select_labels(rows, outputs, agreements, 50)
    assert [label.text for label in labels] == ["a", None, None, None, "c", "c"]
    assert [label.agreement for label in labels] == [90, 90, 90, 49, None, None]
    assert reasons == {"unfinished": 1, "unusable": 1, "disagreeing": 1}


class _Rows:
    """What `measure_agreement` asks an evaluator for."""

    def __init__(self, metric, rows, **tokenizers):
        self.rows, self.subsets = rows, [SimpleNamespace(metric=METRICS[metric].with_tokenizers(tokenizers))]

    def postprocess(self, texts):
        return texts


@pytest.mark.parametrize("metric", ["transcription", "rouge", "exact_match", "squad"])
def test_agreement_is_the_metric_of_the_row_alone(metric):
    outputs = ["A B C", "A B", "B C D", "x"]
    rows = [{"source": "", "references": ["A B C", "A C"]}, {"source": "", "references": ["A C"]}] * 2
    found = measure_agreement(_Rows(metric, rows), [Output(text, 1, True) for text in outputs], 4)
    selection = METRICS[metric].selection
    alone = [METRICS[metric].score([text], [row])[selection] for text, row in zip(outputs, rows, strict=True)]
    np.testing.assert_allclose(found, alone)
    assert found[0] == 100


def test_a_row_whose_reference_does_not_score_alone_is_not_judged():
    """ROUGE finds no word in a smiley."""
    rows = [{"source": "", "references": [":)"]}, {"source": "", "references": ["a b"]}]
    found = measure_agreement(_Rows("rouge", rows, rouge_tokenizer="english"), [Output("x", 1, True)] * 2, 2)
    assert np.isnan(found[0]) and found[1] == 0


def test_labels_survive_the_file_and_a_damaged_one_is_named(tmp_path):
    labels = [Label("s\u2028", "a\nb", 50.0), Label("t", None), Label("u", "c")]
    write_labels(tmp_path, labels)
    found = RunLabels(tmp_path)
    assert found.all == labels
    assert found.label_rows(2) == ([{"source": "s\u2028", "references": ["a\nb"]}], [0])
    assert found.further_rows(2) == [{"source": "u", "references": ["c"]}]
    (tmp_path / FILE).write_text('{"source": "s"\n')
    with pytest.raises(UserError, match=r"labels\.jsonl cannot be read.*delete"):
        _ = RunLabels(tmp_path).all


# -- runs ---------------------------------------------------------------------------------------------------


def settings(folder, **changes):
    config = nash_jax.default_config()
    config.method = "drop"
    config.finetune.epochs = 0.0
    config.label.update(share=0.5, texts=str(folder / "further.txt"))
    config.halfway.update(decoder_layers=2, epochs=1.0, batch_size=4, average_decay=0.5)
    config.shorten.decoder_layers = 1
    config.prune.batch_size = 4
    config.retrain.update(epochs=2.0, batch_size=4, eval_every=0.5, average_last=3, freeze_encoder=True)
    config.retrain.distill.logits = 0.8
    config.task.update(
        name="records", prefix="", metric="transcription", max_source_length=4, max_target_length=12, max_new_tokens=12,
        source="files", form="text", source_column="source", target_column="target",
    )  # fmt: skip
    config.evaluate.batch_size = 4
    config.export = ""
    config.benchmark.update(batch_sizes=(1,), source_length=4, new_tokens=(4,), runs=2)
    config.update_from_flattened_dict(changes)
    (folder / "further.txt").write_text("\n".join(FURTHER))
    return parse_config(config)


@pytest.fixture(scope="module")
def model():
    spec, params = lively_model(1, layers=3, vocab_size=16)
    return Seq2Seq(spec, params, words_tokenizer())


@pytest.fixture(scope="module")
def done(model, tmp_path_factory):
    folder = tmp_path_factory.mktemp("run")
    run = PruningRun(settings(folder), folder / "work", given=model, records=DATA)
    run.run()
    return run


@pytest.mark.slow
def test_the_teacher_writes_what_it_generates(done, model):
    sources = [*WORDS, "w9 w8", "w8 w9 w7"]
    labels = done.context.labels.all
    assert [label.source for label in labels] == sources
    written = dict(zip(sources, model.generate(sources, max_new_tokens=12), strict=True))
    used = {label.source: label.text for label in labels if label.text is not None}
    assert used.items() <= written.items() and len(used) > 3
    counts = done.workdir.result("label")
    assert (counts["rows"], counts["further"], counts["already_in_a_split"]) == (16, 2, 2)
    assert counts["used"] == len(used) == 18 - sum(counts[name] for name in ("unfinished", "unusable", "disagreeing"))
    assert not (done.workdir.folder / "label" / "checkpoints").exists()
    report = json.loads((done.workdir.folder / "report.json").read_text())
    assert report["labels"]["used"] == counts["used"]
    assert "Targets that the dense model wrote" in (done.workdir.folder / "report.html").read_text()
    targets = next(line for line in model_card(report).splitlines() if line.startswith("| Targets |"))
    assert targets.endswith(f"; {len(used)} outputs used |")


@pytest.mark.slow
def test_a_stopped_labelling_goes_on_and_writes_the_same(done, model, tmp_path):
    """Of the outputs some are there, by two processes of a larger run, and half a line."""
    run = PruningRun(settings(tmp_path, stages="data,finetune"), tmp_path / "run", given=model, records=DATA)
    run.run()
    rows = [*run.context.rows["train"], *({"source": text, "references": [""]} for text in FURTHER[:2])]
    evaluator = run.context.evaluator("train", "finetune", rows, num_beams=1)
    _generate(evaluator, Engine(*run.context.model("finetune")), tmp_path / "whole")
    lines = (tmp_path / "whole" / "0.partial").read_bytes().splitlines(keepends=True)
    assert len(lines) == 18
    parts = run.workdir.stage("label") / "checkpoints"
    parts.mkdir()
    (parts / "1.partial").write_bytes(b"".join(lines[:4]))
    (parts / "0.partial").write_bytes(b"".join(lines[4:8]) + lines[8][:7])
    PruningRun(settings(tmp_path, stages="label"), tmp_path / "run", given=model, records=DATA).run()
    assert (run.workdir.stage("label") / FILE).read_bytes() == (done.workdir.stage("label") / FILE).read_bytes()


@pytest.mark.slow
def test_layers_of_a_model_halfway_have_the_numbers_of_the_dense_one(done):
    halfway, shorten = done.workdir.result("halfway"), done.workdir.result("shorten")
    assert halfway["kept_decoder_layers"] == [0, 2] and halfway["steps"] == 4
    assert shorten["kept_decoder_layers"] == [0] and shorten["dense_decoder_layers"] == 3
    report = json.loads((done.workdir.folder / "report.json").read_text())
    assert report["params"]["kept_decoder_layers"] == [0]
    trained, dense = (flatten(done.context.model(stage)[1]) for stage in ("halfway", "finetune"))
    assert not np.allclose(trained["decoder/layers_0/ffn/wo"], dense["decoder/layers_0/ffn/wo"])


@pytest.mark.slow
def test_a_frozen_encoder_is_the_one_it_was(done):
    (spec, trained), (_, before) = (done.context.model(stage) for stage in ("retrain", "compact"))
    trained, before = flatten(trained), flatten(before)
    frozen = encoder_params(spec)
    assert {path for path in trained if np.array_equal(trained[path], before[path])} == frozen
    phases = [row for row in read_rows(done.workdir.folder / "metrics.jsonl") if row["phase"] == "retrain"]
    assert all(row["logits_loss"] > 0 for row in phases if "logits_loss" in row)


@pytest.mark.slow
def test_a_vocabulary_is_trimmed_to_what_the_teacher_writes_too(model, tmp_path):
    changes = {"shorten.vocabulary": True, "label.share": 1.0, "stages": "data,finetune,label,halfway,shorten"}
    run = PruningRun(settings(tmp_path, **changes), tmp_path / "run", given=model, records=DATA)
    run.run()
    known = set(run.context.tokenizer_of("retrain").get_vocab())
    learnt = {word for text in run.context.labels.texts() for word in text.split()}
    trained = {word for row in DATA["train"] for word in (*row["source"].split(), *row["target"].split())}
    assert learnt - trained and learnt <= known
    assert "w0" not in known | learnt


@pytest.mark.slow
def test_a_model_from_random_weights_has_the_shape_of_dropping(done, model, tmp_path):
    changes = {"method": "scratch", "label.share": 0.0, "label.texts": "", "halfway.decoder_layers": 0}
    run = PruningRun(
        settings(tmp_path, stages="data,finetune,shorten", **changes),
        tmp_path / "run", given=model, records=DATA,
    )  # fmt: skip
    run.run()
    (spec, params), (dropped, kept) = run.context.model("shorten"), done.context.model("shorten")
    assert spec == dropped
    own, others = flatten(params), flatten(kept)
    assert not any(np.allclose(own[path], others[path]) for path in own if not path.endswith("scale"))
    assert run.workdir.result("label") is run.workdir.result("halfway") is None  # this run does not have them


def test_cells_that_learn_labels_share_the_teacher_of_those_that_do_not():
    chosen = dataclasses.replace(Config(), label=LabelConfig(share=1.0), halfway=HalfwayConfig(decoder_layers=6))
    assert teacher_settings(chosen) == teacher_settings(Config())
    assert {"label", "halfway"}.isdisjoint(all_settings(Config())) and "average_last" not in all_settings(Config())


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"label.texts": "t", "task.mixture": "rte,cola"}, "config.label.texts is set, with config.task.mixture"),
        ({"method": "cofi", "prune.epochs": 20.0, "halfway.decoder_layers": 3}, "the method cofi drops none"),
        ({"halfway.decoder_layers": 3, "shorten.decoder_kept": (0,)}, "names the layers to keep"),
        ({"retrain.average_decay": 0.9, "retrain.average_last": 2}, "config.retrain has average_decay and average_"),
        ({"method": "nash", "prune.freeze_encoder": True}, "nash trains gates in the encoder"),
        ({"stages": "data,label"}, "config.stages names 'label', which has nothing to do"),
        ({"label.share": 1.5}, "config.label.share is 1.5; expected a share from 0 to 1"),
    ],
)
def test_settings_that_do_not_go_together_are_refused(changes, message):
    config = nash_jax.default_config()
    config.update_from_flattened_dict(changes)
    with pytest.raises(UserError) as refused:
        parse_config(config)
    assert message in str(refused.value)


@pytest.mark.slow
def test_further_inputs_that_are_all_known_are_refused(model, tmp_path):
    own = settings(tmp_path, stages="data,finetune,label")
    (tmp_path / "further.txt").write_text("w1 w5\nw1 w9\n")
    with pytest.raises(UserError, match="all its texts are in the data already"):
        PruningRun(own, tmp_path / "run", given=model, records=DATA).run()
