"""The table of tasks: every entry from a repository in its real layout, own files in its schema, damaged ones too."""

import csv
import dataclasses
import json
from pathlib import Path

import datasets
import pytest
from task_fixtures import (
    SIZES,
    hub_splits,
    records,
    schema,
    shrunk,
    use_repository,
    write_files,
    write_jsonl,
    write_repository,
)

from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import DataIssues
from nash_jax.data.forms import classification
from nash_jax.data.sources import SPLITS, load_rows
from nash_jax.data.tasks import TASKS, get_task, task_settings
from nash_jax.errors import UserError
from nash_jax.evaluation.metrics import METRICS


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """Nothing comes from, or goes into, the cache of `datasets`."""
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path / "cache")


def config(name, family="t5", **fields):
    return TaskConfig(**{**task_settings(name, family), **fields})


def expected_rows(name, found, prompt, training):
    """Rows that the form makes of records, which test_forms.py holds to hand-written ones."""
    prefix = TASKS[name].prefix if prompt == "t5" else ""
    rows = [row for record in found for row in TASKS[name].form.to_rows(record, prompt, training)]
    return [row | {"source": prefix + row["source"]} for row in rows]


@pytest.mark.parametrize("name", TASKS)
def test_rows_of_a_repository(name, tmp_path, monkeypatch):
    use_repository(monkeypatch, tmp_path / name, name)
    rows = load_rows(config(name))
    assert list(rows) == list(SPLITS)
    train, own = records(name, "train"), hub_splits(name)
    held_out = "[" in TASKS[name].splits[1]
    test = "validation_matched" if name == "mnli" else "validation" if held_out else "test"
    expected = {
        "train": train[:18] if held_out else train,
        "validation": train[18:] if held_out else records(name, "validation"),
        "test": train[18:] if name == "dolly" else records(name, test),
    }
    assert test in own or name == "dolly"
    for split in SPLITS:
        assert rows[split] == expected_rows(name, expected[split], "t5", split == "train"), split
    sources = {split: {row["source"] for row in rows[split]} for split in SPLITS}
    assert not sources["train"] & (sources["validation"] | sources["test"])


@pytest.mark.parametrize("name", ["cola", "samsum", "squad", "wmt16_ro_en"])
def test_plain_prompts_for_other_families(name, tmp_path, monkeypatch):
    use_repository(monkeypatch, tmp_path / name, name)
    rows = load_rows(config(name, "bart"), ["train"])["train"]
    held_out = "[" in TASKS[name].splits[1]
    assert rows == expected_rows(name, records(name, "train")[: 18 if held_out else None], "plain", True)


@pytest.mark.parametrize(
    ("name", "size", "sizes"),
    [("dolly", 15011, [14000, 1011, 1011]), ("sst2", 5000, [3000, 2000, 8]), ("rte", 2490, [2241, 249, 8])],
)
def test_what_is_held_out(name, size, sizes, tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, name, write_repository(tmp_path / name, name, {"train": size}))
    rows = load_rows(config(name))
    assert [len(rows[split]) for split in SPLITS] == sizes
    made = expected_rows(name, [schema(name)[1](i) for i in range(size)], "t5", True)
    assert rows["train"] + rows["validation"] == made
    assert (rows["test"] == rows["validation"]) == (name == "dolly")


@pytest.mark.parametrize("name", ["cola", "mnli", "stsb", "squad", "narrativeqa", "multirc", "record", "wsc", "dolly"])
def test_own_files_in_a_task_s_schema(name, tmp_path):
    files = write_files(tmp_path, name)
    rows = load_rows(config(name, source="files", **files))
    for split in SPLITS:
        read = [json.loads(line) for line in Path(files[f"{split}_file"]).read_text().splitlines()]
        assert rows[split] == expected_rows(name, read, "t5", split == "train")
        assert len(read) == SIZES[split]


@pytest.mark.parametrize("name", ["squad", "narrativeqa", "multirc", "qqp"])
def test_own_parquet_files_in_a_task_s_schema(name, tmp_path):
    files = {}
    for split in SPLITS:
        files[f"{split}_file"] = str(tmp_path / f"{split}.parquet")
        datasets.Dataset.from_list(records(name, split), features=schema(name)[0]).to_parquet(files[f"{split}_file"])
    rows = load_rows(config(name, source="files", **files), ["train"])["train"]
    assert rows == expected_rows(name, records(name, "train"), "t5", True)


def test_own_csv_files_in_a_task_s_schema(tmp_path):
    path = tmp_path / "rte.csv"
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerows([["label", "sentence1", "sentence2"], [1, "A, b.", "C."], ["entailment", "D.", "E."]])
    rows = load_rows(config("rte", source="files", train_file=str(path)), ["train"])["train"]
    assert [row["source"] for row in rows] == ["rte sentence1: A, b. sentence2: C.", "rte sentence1: D. sentence2: E."]
    assert [row["references"] for row in rows] == [["not_entailment"], ["entailment"]]


def complaint(task, splits=SPLITS):
    with pytest.raises(UserError) as error:
        load_rows(task, splits)
    return str(error.value)


def test_files_in_another_schema(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    write_jsonl(Path("a.jsonl"), [{"premise": "a", "label": 0}])
    task = config("mnli", source="files", train_file="a.jsonl")
    assert complaint(task, ["train"]) == (
        "a.jsonl:1 has columns ['label', 'premise'], not 'hypothesis'; expected the columns of the task mnli: "
        "hypothesis, premise, label; or config.task.form='text' with your columns"
    )
    own = dataclasses.replace(task, form="text", source_column="premise", target_column="premise")
    assert load_rows(own, ["train"])["train"] == [{"source": "a", "references": ["a"]}]
    write_jsonl(Path("a.jsonl"), [{"question": "a", "answer": "b", "paragraph": "c", "label": 1, "idx": {"answer": 0}}])
    assert "not 'idx.paragraph' (did you mean 'paragraph'?); expected" in complaint(
        config("multirc", source="files", train_file="a.jsonl"), ["train"]
    )


DAMAGE = {  # kind → (task, what its third record has instead, what is said)
    "label_outside_set": ("cola", {"label": 7}, "column 'label' holds 7, not 0 to 1 or one of unacceptable, "),
    "missing_column": ("multirc", {"idx": None}, "has columns ['answer', 'idx', 'label', 'paragraph', 'question'], not "
                       "'idx.paragraph'"),
    "null": ("narrativeqa", {"question": {"text": None}}, "column 'question.text' holds None"),
    "empty": ("squad", {"answers": {"text": []}}, "column 'answers.text' holds []"),
    "blank": ("tweet_qa", {"Answer": ["a", " "]}, "column 'Answer' holds ['a', ' ']"),
    "not_text": ("record", {"entities": [3]}, "column 'entities' holds [3]"),
    "contradiction": ("wsc", {"span2_text": "she"}, "column 'span2_index' holds 6, not the number of 'she' in 'The"),
}  # fmt: skip


@pytest.mark.parametrize("kind", DAMAGE)
def test_damaged_rows_of_own_files(kind, tmp_path, monkeypatch):
    """Of any schema: counted with file and line, dropped, and refused where too many."""
    monkeypatch.chdir(tmp_path)
    name, change, said = DAMAGE[kind]
    own = records(name, "train", 9)
    write_jsonl(Path("a.jsonl"), [*own[:2], own[2] | change, *own[3:]])
    task, issues = config(name, source="files", train_file="a.jsonl"), DataIssues()
    assert load_rows(task, ["train"], issues)["train"] == expected_rows(name, own[:2] + own[3:], "t5", True)
    (found,) = issues.to_json()
    assert (found["kind"], found["rows"], found["rule"]) == (kind, 1, "dropped")
    assert found["first"].startswith(f"a.jsonl:3: {said}")
    message = complaint(dataclasses.replace(task, max_dropped=0.0), ["train"])
    assert f" train rows cannot be used: {kind} 1 (a.jsonl:3: {said}" in message


def test_rows_of_one_record_are_not_held_against_each_other(tmp_path):
    """ReCoRD has a row for each answer to learn; the query that comes once more is a duplicate all the same."""
    own = records("record", "train", 4)
    path = write_jsonl(tmp_path / "a.jsonl", [*own, own[0]])
    issues = DataIssues()
    task = config("record", source="files", train_file=str(path))
    rows = load_rows(task, ["train"], issues)["train"]
    assert rows == expected_rows("record", own, "t5", True) and len(rows) == 8
    (found,) = issues.to_json()
    assert (found["kind"], found["rows"], issues.rows_read) == ("duplicate", 2, {"train": 10})


def test_records_that_are_no_case_of_the_task_are_no_rows(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", records("wsc", "train", 9))
    issues = DataIssues()
    rows = load_rows(config("wsc", source="files", train_file=str(path)), ["train"], issues)["train"]
    assert len(rows) == issues.rows_read["train"] == 4 and issues.to_json() == []


def test_a_repository_in_another_schema(tmp_path, monkeypatch):
    task = dataclasses.replace(shrunk(write_repository(tmp_path / "r", "rte")), form=TASKS["qqp"].form)
    monkeypatch.setitem(TASKS, "rte", task)
    message = complaint(config("rte"))
    assert message.startswith(f"{tmp_path}/r (train[:75%]) has columns ['idx', 'label', 'sentence1', 'sentence2'], not")
    assert message.endswith("'question1'; expected the columns of the task rte: question1, question2, label")


def test_a_repository_that_numbers_its_labels_otherwise(tmp_path, monkeypatch):
    task = shrunk(write_repository(tmp_path / "r", "mnli"))
    form = classification("mnli", ("hypothesis", "premise"), ("entailment", "contradiction", "neutral"))
    monkeypatch.setitem(TASKS, "mnli", dataclasses.replace(task, form=form))
    assert complaint(config("mnli")).endswith(
        " has the labels entailment, neutral, contradiction; expected entailment, contradiction, neutral, in this order"
    )


def test_damaged_rows_of_a_repository(tmp_path, monkeypatch):
    """SAMSum has an empty dialogue."""
    found, issues = records("samsum", "train", 5), DataIssues()
    found[1]["dialogue"] = ""
    monkeypatch.setitem(TASKS, "samsum", write_repository(tmp_path / "r", "samsum"))
    path = tmp_path / "r" / "data" / "train-00000-of-00001.parquet"
    datasets.Dataset.from_list(found, features=schema("samsum")[0]).to_parquet(path)
    rows = load_rows(config("samsum"), ["train"], issues)["train"]
    assert rows == expected_rows("samsum", [found[0], *found[2:]], "t5", True)
    assert [row["first"] for row in issues.to_json()] == ["train row 2: column 'dialogue' holds ''"]


def test_a_repository_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "rte", dataclasses.replace(TASKS["rte"], repository=str(tmp_path / "none")))
    assert "cannot be loaded" in complaint(config("rte"))


def test_settings_that_do_not_go_together():
    assert complaint(config("cola", prefix="summarize: ")) == (
        "config.task.prefix is 'summarize: '; expected no prefix for the task cola, whose inputs already "
        "name the task; config.task.prefix=''"
    )
    assert complaint(config("cola", form="text")) == (
        "config.task.form is 'text'; expected 'auto' with config.task.source='hub'"
    )
    with pytest.raises(UserError, match=r"'colla' \(did you mean 'cola'\?\)"):
        get_task("colla")


# -- the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_an_entry_is_whole(name):
    task = TASKS[name]
    assert task.metric in METRICS
    assert all(0 < length <= 512 for length in task.lengths)
    assert task.files.count("{split}") == (task.revision == "refs/convert/parquet")
    if task.form.labels and name != "wsc":  # a label's tokens, at the worst a token for every three characters
        assert max(map(len, task.form.labels)) / 3 + 1 <= task.lengths[2]


def test_binary_metrics_know_the_positive_label():
    positives = {name: TASKS[name].form.labels[1] for name in ("cola", "mrpc", "qqp")}
    assert positives == {"cola": "acceptable", "mrpc": "equivalent", "qqp": "duplicate"}


def test_the_documented_table():
    page = (Path(__file__).parents[1] / "docs" / "tasks.md").read_text()
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in page.splitlines() if line.startswith("| `")]
    documented = {row[0].strip("`"): row[1:] for row in rows if len(row) == 6}
    assert documented == {
        name: [
            f"{task.repository}{f' ({task.subset})' if task.subset else ''}",
            ", ".join(f"`{split}`" for split in task.splits),
            task.metric,
            " / ".join(map(str, task.lengths)),
            task.recipe,
        ]
        for name, task in TASKS.items()
    }
