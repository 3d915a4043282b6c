"""Several tasks trained together: rates, sampling of epochs, batches that depend only on the step, values by task."""

import dataclasses
import json
from pathlib import Path

import numpy as np
import pytest
from task_fixtures import write_files
from transformers import ByT5Tokenizer

from nash_jax.config.parsing import parse_config
from nash_jax.config.schema import TaskConfig, default_config
from nash_jax.data.checks import DataIssues
from nash_jax.data.mixing import Mixture, interleave, make_mixture, mixing_rates
from nash_jax.data.pipeline import Batches
from nash_jax.data.sources import SPLITS, load_rows
from nash_jax.data.tasks import TASKS
from nash_jax.errors import UserError
from nash_jax.evaluation.row_subsets import check_subsets, merge_values, split_by_task
from nash_jax.ragged import Ragged
from nash_jax.recipe.run import PruningRun

GLUE = {"cola": 8551, "rte": 2490, "mnli": 392702}


@pytest.mark.parametrize(
    ("cap", "temperature", "weights"),
    [
        (2**19, 1.0, [8551, 2490, 392702]),
        (4096, 1.0, [4096, 2490, 4096]),
        (4096, 2.0, [64, 2490**0.5, 64]),
        (2**19, 1e9, [1, 1, 1]),
    ],
)
def test_rates(cap, temperature, weights):
    found = mixing_rates(list(GLUE.values()), cap, temperature)
    np.testing.assert_allclose(found, np.array(weights) / sum(weights), rtol=1e-6)


def rows_of(**sizes):
    """Rows of tasks, of which every third has two references."""
    parts = {
        name: {"train": [{"source": f"{name} {i}", "references": ["a", "b"][: 1 + (i % 3 == 0)]} for i in range(size)]}
        for name, size in sizes.items()
    }
    return interleave(parts, ["train"])["train"]


def pair_tasks(rows):
    return np.array([row["task"] for row in rows for _ in row["references"]])


def test_quotas_count_pairs():
    rows = rows_of(big=60, small=6)  # 80 and 8 pairs
    task = TaskConfig(mixture_cap=40)
    assert make_mixture(rows, task, 0).quotas == (40, 8)
    assert make_mixture(rows, dataclasses.replace(task, mixture_temperature=1e9), 0).quotas == (24, 24)
    assert make_mixture(rows, TaskConfig(), 0).quotas == (80, 8)
    assert (
        make_mixture(rows_of(big=900, tiny=1), TaskConfig(mixture_cap=900, mixture_temperature=0.3), 0).quotas[1] == 1
    )


def test_without_cap_an_epoch_is_every_pair_once():
    rows = rows_of(big=60, small=6)
    mixture = make_mixture(rows, TaskConfig(), 3)
    for epoch in range(3):
        assert sorted(mixture.sample(epoch)) == list(range(88))


@pytest.mark.parametrize("temperature", [1.0, 2.0, 1e9])
def test_no_pair_is_drawn_twice_before_all_are_once(temperature):
    rows = rows_of(big=60, small=6)
    names, mixture = (
        pair_tasks(rows),
        make_mixture(rows, TaskConfig(mixture_cap=25, mixture_temperature=temperature), 3),
    )
    drawn = np.concatenate([mixture.sample(epoch) for epoch in range(11)])
    for number, name in enumerate(("big", "small")):
        own = drawn[names[drawn] == name]
        assert len(own) == 11 * mixture.quotas[number]
        counts = np.bincount(own, minlength=len(names))[names == name]
        assert counts.max() - counts.min() <= 1


def test_a_draw_hangs_on_seed_and_epoch_alone():
    rows = rows_of(big=60, small=6)
    task = TaskConfig(mixture_cap=25)
    first, again, other = (make_mixture(rows, task, seed) for seed in (3, 3, 4))
    assert again.sample(5).tolist() == first.sample(5).tolist()  # without the epochs before
    assert first.sample(5).tolist() != first.sample(6).tolist()
    assert first.sample(5).tolist() != other.sample(5).tolist()


def batches(seed=7):
    pairs = (np.arange(0, 40), np.arange(40, 44))
    tokens = Ragged.from_lists([[i + 1] * (1 + i % 5) for i in range(44)])
    return Batches(tokens, tokens, 8, seed, 0, mixture=Mixture(pairs, (20, 12), seed))


def test_batches_of_a_mixture():
    first, again = batches(), batches()
    assert first.steps_per_epoch == 4
    for step in (9, 2, 9):  # in any order
        for key, value in first[step].items():
            np.testing.assert_array_equal(again[step][key], value)
    for epoch in range(3):
        drawn = np.concatenate([first[4 * epoch + i]["input_ids"][:, 0] for i in range(4)]) - 1
        assert sorted(drawn) == sorted(first.mixture.sample(epoch))
        assert (drawn >= 40).sum() == 12


def config(folder, *names, **fields):
    files = {}
    for name in names:
        for field, path in write_files(folder, name).items():
            files[field] = path.replace(f"/{name}_", "/{task}_")
    fields = {"name": "mixed", "mixture": ", ".join(names)} | fields
    return TaskConfig(source="files", **(files | fields))


def test_rows_of_a_mixture(tmp_path):
    task = config(tmp_path, "samsum", "rte", "wsc")
    rows = load_rows(task)
    for name in ("samsum", "rte", "wsc"):
        path = {f"{split}_file": getattr(task, f"{split}_file").replace("{task}", name) for split in SPLITS}
        alone = load_rows(TaskConfig(name=name, source="files", prefix=TASKS[name].prefix, **path))
        for split in SPLITS:
            own = [{k: v for k, v in row.items() if k != "task"} for row in rows[split] if row["task"] == name]
            assert own == alone[split]
    assert [row["task"] for row in rows["test"][:6]] == ["samsum", "rte", "wsc"] * 2
    plain = load_rows(dataclasses.replace(task, prompt="plain"), ["test"])["test"]
    assert plain[0]["source"] == rows["test"][0]["source"].removeprefix("summarize: ")


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        (
            {"mixture": "rte,colla"},
            "config.task.mixture names 'colla' (did you mean 'cola'?); expected one of samsum, ",
        ),
        ({"mixture": "rte"}, "config.task.mixture is 'rte'; expected two tasks or more, each once"),
        ({"mixture": "rte,cola,rte"}, "config.task.mixture is 'rte,cola,rte'; expected two tasks or more, each once"),
        ({"name": "rte"}, "config.task.name is 'rte', a single task; expected a name for the mixture"),
        (
            {"form": "text"},
            "config.task.mixture with another config.task.source or form; expected 'hub' or",
        ),
        ({"test_file": "t.jsonl"}, "config.task.test_file is 't.jsonl'; expected a path with {task}, replaced by each"),
    ],
)
def test_mixtures_that_are_refused(tmp_path, fields, message):
    with pytest.raises(UserError) as error:
        load_rows(config(tmp_path, "rte", "cola", **fields))
    assert str(error.value).startswith(message)


def test_findings_of_a_mixture(tmp_path):
    """Issues are counted by task; the place of each row of the mixture is its file and line."""
    task = config(tmp_path, "samsum", "rte")
    path = Path(task.train_file.replace("{task}", "rte"))
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], lines[1].replace("The ", "\\u0000"), *lines[2:], lines[5]]))
    issues = DataIssues()
    rows = load_rows(task, issues=issues)
    found = [(row["task"], row["split"], row["kind"], row["rows"]) for row in issues.to_json()]
    assert found == [("rte", "train", "nul_character", 1), ("rte", "train", "repeated_label", 1)]
    assert issues.to_json()[0]["first"].startswith(f"{path}:2: ")
    assert issues.rows_read == {"train": 49, "validation": 16, "test": 16} and issues.num_dropped("train") == 1
    for split in SPLITS:
        for row, place in zip(rows[split], issues.places[split], strict=True):
            file, _, line = place.rpartition(":")
            record = json.loads(Path(file).read_text().splitlines()[int(line) - 1])
            (made,) = TASKS[row["task"]].form.to_rows(record, "t5", split == "train")
            assert row["source"].endswith(made["source"])


def test_the_data_stage_of_a_mixture(tmp_path, capsys):
    """The data summary by task; the batches of a phase are sampled by the mixture."""
    ByT5Tokenizer().save_pretrained(tmp_path / "tokenizer")
    task = config(tmp_path, "squad", "wsc")
    path = Path(task.train_file.replace("{task}", "wsc"))
    path.write_text(path.read_text() + "no JSON\n")
    settings = default_config()
    settings.task.update({field.name: getattr(task, field.name) for field in dataclasses.fields(task)})
    settings.task.update(metric="exact_match", tokenizer=str(tmp_path / "tokenizer"), mixture_cap=16)
    settings.model.update(d_model=8, d_ff=8, num_heads=2, encoder_layers=1, decoder_layers=3)
    settings.stages = "data"
    for phase in ("finetune", "prune", "retrain"):
        settings[phase].batch_size = 4
    recipe = PruningRun(parse_config(settings), tmp_path / "run")
    found = recipe.run()["stages"]["data"]
    assert found["summary"]["train"] | {"rows": 36, "rows_read": 37, "rows_dropped": 1} == found["summary"]["train"]
    assert [row["kind"] for row in found["findings"] if row.get("task") == "wsc"] == ["not_json"]
    assert f"    wsc: dropped 1 not_json, first {path}:25: not JSON" in capsys.readouterr().err
    assert recipe.context.batches(recipe.config.finetune, "finetune").steps_per_epoch == (16 + 12) // 4


def test_values_by_task():
    """A row counts for all and for its task, which is scored by its own metric."""
    labels = {"labels": ["entailment", "not_entailment"]}
    rows = [
        {"task": "rte", "references": ["entailment"], **labels},
        {"task": "squad", "references": ["the cat", "a dog"]},
        {"task": "rte", "references": ["not_entailment"], **labels},
    ]
    check_subsets("exact_match", rows)
    parts, outputs = split_by_task("exact_match", rows), ["entailment", "Dog!", "none"]
    found = merge_values(parts, [part.metric.values(part.measure(outputs)) for part in parts])
    assert found == {
        "exact_match": pytest.approx(100 / 3), "rte/accuracy": 50, "rte/invalid": 50, "squad/exact_match": 100,
        "squad/f1": 100,
    }  # fmt: skip
    assert [part.prefix for part in split_by_task("rouge", [{"references": ["a"]}])] == [""]
    with pytest.raises(UserError, match="no label words"):
        check_subsets("exact_match", [{"task": "rte", "references": ["entailment"]}])
