"""Every task of the table, end to end: rows → tokens → a training step → outputs → values of its metric.

A tiny T5 reads repositories in the hub's layout, a tiny BART own files. Inputs and targets are cut and padded to one
shape, so that all tasks of a model share its programs.
"""

import json

import datasets
import jax
import numpy as np
import pytest
from task_fixtures import use_repository, write_files
from tokenizers.pre_tokenizers import ByteLevel
from transformers import ByT5Tokenizer

from nash_jax.config.schema import DistillConfig, ModelConfig, TaskConfig, TrainConfig
from nash_jax.data.checks import DataIssues
from nash_jax.data.pipeline import Batches, tokenize
from nash_jax.data.sources import load_rows
from nash_jax.data.tasks import TASKS, task_settings
from nash_jax.data.tokenizers import load_tokenizer
from nash_jax.evaluation.evaluator import Evaluator
from nash_jax.evaluation.metrics import METRICS
from nash_jax.evaluation.row_subsets import check_subsets
from nash_jax.generation.options import GenerationOptions
from nash_jax.runtime.sharding import to_host
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.training.losses import StudentLoss
from nash_jax.training.optim import make_optimizer
from nash_jax.training.state import make_state
from nash_jax.training.steps import build_student, make_step

SOURCE, TARGET, NEW, ROWS = 24, 12, 6, 8  # tokens, bytes here, of which every input has as many
LENGTHS = {"max_source_length": SOURCE, "max_target_length": TARGET, "max_new_tokens": NEW}
SIZES = {"d_model": 8, "d_ff": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}


def bart_tokenizer(folder):
    """BART's own kind, of single bytes."""
    tokens = ["<s>", "<pad>", "</s>", "<unk>", *sorted(ByteLevel.alphabet()), "<mask>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BartTokenizer"}))
    return load_tokenizer(str(folder))


@pytest.fixture(scope="module")
def models(tmp_path_factory, quick_engine):
    """Family → (tokenizer, fresh training state, step, engine)."""
    config, made = TrainConfig(learning_rate=1e-2), {}
    for family, flags in (("t5", {}), ("bart", {"max_positions": 32})):
        tokenizer = ByT5Tokenizer() if family == "t5" else bart_tokenizer(tmp_path_factory.mktemp("bart"))
        spec = dense_spec(family=family, vocab_size=len(tokenizer), **SIZES, **flags)
        params, tx = random_params(spec), make_optimizer(config, 1, gate_learning_rate=0.0, frozen=())
        step = make_step(StudentLoss(build_student(spec, ModelConfig()), DistillConfig(), None, None), tx)
        made[family] = tokenizer, make_state({"model": params}, tx, 0), step, quick_engine(spec, params)
    return made


def read(name, family, folder, monkeypatch):
    """The task's settings and rows; nothing of the fixtures is damaged."""
    fields, issues = task_settings(name, family) | LENGTHS, DataIssues()
    if family == "t5":
        monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder / "cache")
        use_repository(monkeypatch, folder / "repository", name)
    else:
        fields |= write_files(folder, name) | {"source": "files"}
    task = TaskConfig(**fields)
    rows = load_rows(task, issues=issues)
    assert not [row for row in issues.to_json() if row["rule"] == "dropped"]
    return task, rows


def right_output(row):
    """What a model puts out that knows the answer."""
    if "targets" in row:  # the noun meant, where it is that
        return row["targets"][0] if row["references"] == ["True"] else "nobody"
    return row["references"][0]


@pytest.mark.parametrize("name", TASKS)
@pytest.mark.parametrize("family", ["t5", "bart"])
def test_a_task(name, family, models, tmp_path, monkeypatch):
    task, rows = read(name, family, tmp_path, monkeypatch)
    tokenizer, fresh, step, engine = models[family]
    check_subsets(task.metric, rows["test"])

    pairs = tokenize(rows["train"][:ROWS], tokenizer, task, tmp_path)
    assert set(pairs[0].lengths) == {SOURCE}
    batch = Batches(*pairs, min(ROWS, len(pairs[0])), 0, tokenizer.pad_token_id, [(SOURCE, TARGET)])[0]
    whole = {key: np.resize(value, (ROWS, value.shape[1])) for key, value in batch.items()}  # few rows come again
    state, metrics = step(jax.tree.map(jax.numpy.array, fresh), {}, whole)
    assert np.isfinite(float(metrics["loss"])) and float(metrics["grad_norm"]) > 0

    engine.update_params(to_host(state["params"]["model"]))
    test = (rows["test"] * ROWS)[:ROWS]
    options = GenerationOptions(max_new_tokens=NEW, min_new_tokens=NEW)
    evaluator = Evaluator(test, tokenizer, task, options, ROWS, tmp_path)
    found, metric = evaluator.evaluate(engine), METRICS[task.metric]
    assert np.isfinite(list(found.values())).all() and 1 <= found["generated_length"] <= NEW

    best = metric.score(evaluator.postprocess([right_output(row) for row in test]), test)
    assert best.keys() | {"generated_length"} == found.keys()
    assert best[metric.selection] == pytest.approx(100)
