"""How scored outputs are generated, and what is refused before."""

import dataclasses
import json

import numpy as np
import pytest
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import Config, default_config
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.evaluation.evaluator import Evaluator, check_positions, evaluation_options, score_models, score_outputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

ROWS = [{"source": word, "references": ["K AE T"]} for word in ("cat", "tact", "actcat", "a", "taca")]


def config(**evaluate) -> Config:
    own = default_config()
    own.task.update(name="pronunciation", max_source_length=8, max_target_length=6, max_new_tokens=6)
    own.evaluate.update(evaluate)
    return parse_config(own)


def test_options_are_the_models_but_for_what_the_config_sets():
    own = GenerationOptions(max_length=90, min_length=2, num_beams=3, num_return_sequences=2, forced_bos_token_id=5)
    found = evaluation_options(config(num_beams=4, length_penalty=2.0, no_repeat_ngram_size=3), own)
    assert found == GenerationOptions(
        max_new_tokens=6, min_length=2, num_beams=4, length_penalty=2.0, no_repeat_ngram_size=3, forced_bos_token_id=5
    )
    assert evaluation_options(config(num_beams=4, length_penalty=2.0, no_repeat_ngram_size=3), found) == found


def test_outputs_are_those_of_the_options(quick_engine, tmp_path):
    """Rows in order, with beams as without."""
    tokenizer = build_pronunciation_tokenizer(ROWS)
    spec = dense_spec(vocab_size=len(tokenizer), d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    engine, task = quick_engine(spec, random_params(spec)), config().task
    for beams in (1, 3):
        options = evaluation_options(config(num_beams=beams), GenerationOptions())
        texts, lengths = Evaluator(ROWS, tokenizer, task, options, batch_size=2, cache=tmp_path).generate(engine)
        for row, text, length in zip(ROWS, texts, lengths, strict=True):
            ids = np.array([tokenizer(row["source"])["input_ids"]])
            tokens = engine.generate(ids, np.ones_like(ids), options)[0, 1:]
            assert text == tokenizer.decode(tokens, skip_special_tokens=True)
            assert length == (~np.isin(tokens, [spec.pad_id, spec.eos_id])).sum()


LABELS = ["K AE T", "T AE K", "AE"]


def test_labels_only(quick_engine, tmp_path):
    """With the setting all outputs of a random model are labels, without it none is."""
    rows = [row | {"references": [LABELS[i % 2]], "labels": LABELS} for i, row in enumerate(ROWS)]
    tokenizer = build_pronunciation_tokenizer(rows)
    spec = dense_spec(vocab_size=len(tokenizer), d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    engine, task = quick_engine(spec, random_params(spec)), dataclasses.replace(config().task, metric="accuracy")
    for beams in (1, 3):
        options = evaluation_options(config(num_beams=beams), GenerationOptions())
        free, bound = (Evaluator(rows, tokenizer, task, options, 2, tmp_path, only) for only in (False, True))
        assert set(bound.generate(engine)[0]) <= set(LABELS) and bound.evaluate(engine)["invalid"] == 0
        assert free.evaluate(engine)["invalid"] == 100


def uncased(words):
    """A tokenizer as Chinese BART's: without case and compatibility forms, and with spaces between characters."""
    vocabulary = {token: i for i, token in enumerate(["[PAD]", "[UNK]", "[SEP]", *words])}
    backend = Tokenizer(models.WordPiece(vocabulary, unk_token="[UNK]"))
    backend.normalizer, backend.pre_tokenizer = normalizers.BertNormalizer(), pre_tokenizers.BertPreTokenizer()
    backend.decoder = decoders.WordPiece()
    backend.post_processor = processors.TemplateProcessing(single="$A [SEP]", special_tokens=[("[SEP]", 2)])
    return PreTrainedTokenizerFast(
        tokenizer_object=backend, pad_token="[PAD]", eos_token="[SEP]", unk_token="[UNK]"
    )  # fmt: skip


@pytest.mark.parametrize("metric", ["accuracy", "exact_match"])
@pytest.mark.parametrize("labels", [("体育", "财经"), ("Positive", "Négative")])
def test_outputs_that_the_tokenizer_cannot_write_as_the_references(tmp_path, metric, labels):
    """What is right has full marks, and nothing else has any."""
    tokenizer = uncased([*"体育财经", "positive", "negative"])
    own = {"labels": list(labels)} if metric == "accuracy" else {}
    rows = [{"source": "体", "references": [label]} | own for label in labels]
    task = dataclasses.replace(config().task, metric=metric)
    evaluator = Evaluator(rows, tokenizer, task, GenerationOptions(), 2, tmp_path)
    right = [tokenizer.decode(tokenizer(label)["input_ids"], skip_special_tokens=True) for label in labels]
    assert not set(right) & set(labels)
    (subset,) = evaluator.subsets
    assert subset.metric.score(evaluator.postprocess(right), rows)[metric] == 100
    assert subset.metric.score(evaluator.postprocess(right[::-1]), rows)[metric] == 0


def test_a_reference_with_unknown_characters_is_not_met(tmp_path):
    rows = [{"source": "体", "references": ["体x育"]}, {"source": "育", "references": ["体育"]}]
    evaluator = Evaluator(rows, uncased("体育"), config().task, GenerationOptions(), 2, tmp_path)
    assert evaluator.postprocess(["体 育", "体 育"]) == ["体 育", "体育"]


@pytest.mark.parametrize(
    "odd", [{}, {"labels": ["a", "b"]}, {"labels": LABELS, "targets": ["the cat"]}], ids=["none", "others", "nouns"]
)
def test_labels_only_without_labels(tmp_path, odd):
    rows = [ROWS[0] | {"labels": LABELS}, ROWS[1] | odd]
    with pytest.raises(UserError, match=r"config\.evaluate\.labels_only is True, and the rows have no labels"):
        Evaluator(rows, None, config().task, GenerationOptions(), 2, tmp_path, labels_only=True)


def test_scores_with_intervals_and_the_comparison(quick_engine, tmp_path):
    """Dense and pruned, their intervals, and what `compare` says of them; one model alone has no comparison."""
    tokenizer = build_pronunciation_tokenizer(ROWS)
    spec = dense_spec(vocab_size=len(tokenizer), d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=1)
    engine, task = quick_engine(spec, random_params(spec)), dataclasses.replace(config().task, metric="transcription")
    evaluator = Evaluator(
        ROWS, tokenizer, task, evaluation_options(config(), GenerationOptions()), batch_size=8, cache=tmp_path
    )
    found = score_models(evaluator, {"dense": engine, "pruned": engine}, num_examples=2)
    values = {"phoneme_error_rate", "word_error_rate", "word_accuracy"}
    assert json.loads(json.dumps(found)) == found and found["num_examples"] == 5 and len(found["examples"]) == 2
    assert found["metrics"]["dense"].keys() == values | {"generated_length"}
    assert found["metrics"]["dense"] == evaluator.evaluate(engine) == found["metrics"]["pruned"]
    assert found["intervals"].keys() == found["metrics"].keys() == {"dense", "pruned", "baselines"}
    for name in values:
        low, high = found["intervals"]["dense"][name]
        assert low <= found["metrics"]["dense"][name] <= high
        assert found["paired"][name]["difference"] == 0 and found["paired"][name]["p"] == 1
    assert score_models(evaluator, {"model": engine})["paired"] == {}


def test_scores_of_a_mixture(tmp_path):
    """All rows by the config's metric, each task's by its own, of outputs read as the rows say: WSC's nouns."""
    labels = ["False", "True"]
    rows = [
        {"task": "wsc", "source": "cat", "references": ["True"], "labels": labels, "targets": ["the cat"]},
        {"task": "squad", "source": "tact", "references": ["a cat"]},
        {"task": "wsc", "source": "act", "references": ["False"], "labels": labels, "targets": ["the act"]},
    ]
    said = {"dense": ["Cat", "cat", "other"], "pruned": ["Cat", "dog", "act"]}
    task = dataclasses.replace(config().task, mixture="wsc,squad", metric="exact_match")
    evaluator = Evaluator(
        rows, build_pronunciation_tokenizer(ROWS), task, GenerationOptions(), batch_size=8, cache=tmp_path
    )
    found = score_outputs(evaluator, {name: (texts, np.ones(3)) for name, texts in said.items()})
    assert found["metrics"]["dense"] == {
        "exact_match": pytest.approx(200 / 3), "wsc/accuracy": 100, "wsc/invalid": 0, "squad/exact_match": 100,
        "squad/f1": 100, "generated_length": 1,
    }  # fmt: skip
    assert found["metrics"]["pruned"]["wsc/accuracy"] == 50 and found["metrics"]["pruned"]["squad/f1"] == 0
    values = found["metrics"]["dense"].keys() - {"generated_length"}
    assert found["intervals"]["dense"].keys() == found["paired"].keys() == values
    low, high = found["intervals"]["pruned"]["wsc/accuracy"]
    assert (low, high) == (0, 100)
    assert found["paired"]["wsc/accuracy"]["difference"] == -50 and found["metrics"]["baselines"] == {}
    assert found["examples"][0]["dense"] == "Cat"  # as it was put out


def test_baselines_have_intervals_too(tmp_path):
    rows = [{"source": f"a b {i}. c", "references": [f"a {i} c"]} for i in range(4)]
    tokenizer = build_pronunciation_tokenizer(ROWS)
    evaluator = Evaluator(rows, tokenizer, config().task, GenerationOptions(), batch_size=8, cache=tmp_path)
    found = score_models(evaluator, {})
    assert found["tokenizers"] == {"rouge_tokenizer": "english"}
    assert found["intervals"]["baselines"].keys() == {"first_sentence", "first_3_words"}
    low, high = found["intervals"]["baselines"]["first_sentence"]["rouge1"]
    assert low <= found["metrics"]["baselines"]["first_sentence"]["rouge1"] <= high


@pytest.mark.parametrize(
    "field", ["task.max_source_length", "task.max_target_length", "task.max_new_tokens", "benchmark.new_tokens"]
)
def test_no_more_tokens_than_positions(field):
    sizes = {"d_model": 4, "d_ff": 4, "num_heads": 1, "encoder_layers": 1, "decoder_layers": 1}
    spec = dense_spec(vocab_size=9, family="bart", max_positions=8, **sizes)
    own = default_config()
    own.task.update(max_source_length=8, max_target_length=8, max_new_tokens=8)
    own.benchmark.update(source_length=8, new_tokens=(8,))
    check_positions(spec, parse_config(own))
    group, name = field.split(".")
    own[group][name] = (9,) if field == "benchmark.new_tokens" else 9
    with pytest.raises(UserError, match=rf"config\.{field} is 9; expected no more than the model's 8 positions"):
        check_positions(spec, parse_config(own))
    check_positions(dense_spec(vocab_size=9, **sizes), parse_config(own))  # T5 has no table


@pytest.mark.parametrize(
    ("stages", "field", "refused"),
    [
        ("evaluate", "benchmark.source_length", False), ("evaluate", "task.max_target_length", False),
        ("evaluate", "task.max_source_length", True), ("evaluate", "task.max_new_tokens", True),
        ("benchmark", "task.max_source_length", False), ("benchmark", "benchmark.source_length", True),
        ("data,finetune", "benchmark.new_tokens", False), ("data,finetune", "task.max_target_length", True),
        ("evaluate,benchmark", "benchmark.new_tokens", True),
    ],
)  # fmt: skip
def test_only_lengths_of_the_stages_that_are_run(stages, field, refused):
    sizes = {"d_model": 4, "d_ff": 4, "num_heads": 1, "encoder_layers": 1, "decoder_layers": 1}
    spec = dense_spec(vocab_size=9, family="bart", max_positions=8, **sizes)
    own = default_config()
    own.task.update(max_source_length=8, max_target_length=8, max_new_tokens=8)
    own.benchmark.update(source_length=8, new_tokens=(8,))
    own.stages = stages
    group, name = field.split(".")
    own[group][name] = (9,) if field == "benchmark.new_tokens" else 9
    if not refused:
        check_positions(spec, parse_config(own))
    else:
        with pytest.raises(UserError, match=rf"config\.{field} is 9; expected no more than the model's 8 positions"):
            check_positions(spec, parse_config(own))
