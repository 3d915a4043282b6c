"""The table of tasks: every entry from a repository in its real layout, own files in its schema, one's own forms."""

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

from nash_jax.config import TaskConfig
from nash_jax.data.checks import Findings
from nash_jax.data.forms import classification
from nash_jax.data.sources import SPLITS, load_rows
from nash_jax.data.tasks import RECIPES, TASKS, find_task, task_settings
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
    rows = [row for record in found for row in TASKS[name].form.make(record, prompt, training)]
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
        "hypothesis, premise, label; or config.task.form='text' with columns of your own"
    )
    own = dataclasses.replace(task, form="text", source_column="premise", target_column="premise")
    assert load_rows(own, ["train"])["train"] == [{"source": "a", "references": ["a"]}]
    write_jsonl(Path("a.jsonl"), [{"question": "a", "answer": "b", "paragraph": "c", "label": 1, "idx": {"answer": 0}}])
    assert "not 'idx.paragraph'; expected" in complaint(
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
    task, findings = config(name, source="files", train_file="a.jsonl"), Findings()
    assert load_rows(task, ["train"], findings)["train"] == expected_rows(name, own[:2] + own[3:], "t5", True)
    (found,) = findings.to_json()
    assert (found["kind"], found["rows"], found["rule"]) == (kind, 1, "dropped")
    assert found["first"].startswith(f"a.jsonl:3: {said}")
    message = complaint(dataclasses.replace(task, max_dropped=0.0), ["train"])
    assert f" train rows cannot be used: {kind} 1 (a.jsonl:3: {said}" in message


def test_bytes_that_are_not_utf8_within_a_nested_column(tmp_path):
    """Parquet lets them in; the other rows' fields are read as they are."""
    import pyarrow
    import pyarrow.parquet

    contents = pyarrow.array([b"Bob ran.", b"Ann \xe9.", b"Tom sat."], pyarrow.binary()).view(pyarrow.string())
    answers = pyarrow.StructArray.from_arrays([pyarrow.array([["a"], ["b"], ["c"]])], ["text"])
    document = pyarrow.StructArray.from_arrays([contents], ["text"])
    table = pyarrow.table({"document": document, "answers": answers, "question": ["Who?"] * 3})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    task = TaskConfig(
        name="own", source="files", form="qa", source_column="question,document.text", target_column="answers.text",
        prefix="", train_file=str(tmp_path / "a.parquet"), max_dropped=0.5,
    )  # fmt: skip
    findings = Findings()
    assert [row["references"] for row in load_rows(task, ["train"], findings)["train"]] == [["a"], ["c"]]
    (found,) = findings.to_json()
    assert (found["kind"], found["first"]) == ("not_utf8", f"{tmp_path}/a.parquet row 2: byte 0xe9 is not UTF-8")


def test_rows_of_one_record_are_not_held_against_each_other(tmp_path):
    """ReCoRD has a row for each answer to learn; the query that comes once more is a duplicate all the same."""
    own = records("record", "train", 4)
    path = write_jsonl(tmp_path / "a.jsonl", [*own, own[0]])
    findings = Findings()
    task = config("record", source="files", train_file=str(path))
    rows = load_rows(task, ["train"], findings)["train"]
    assert rows == expected_rows("record", own, "t5", True) and len(rows) == 8
    (found,) = findings.to_json()
    assert (found["kind"], found["rows"], findings.rows_read) == ("duplicate", 2, {"train": 10})


def test_records_that_are_no_case_of_the_task_are_no_rows(tmp_path):
    path = write_jsonl(tmp_path / "a.jsonl", records("wsc", "train", 9))
    findings = Findings()
    rows = load_rows(config("wsc", source="files", train_file=str(path)), ["train"], findings)["train"]
    assert len(rows) == findings.rows_read["train"] == 4 and findings.to_json() == []


def test_labels_that_come_again_stay(tmp_path):
    """How often a text has a label is learnt; a text of the test rows is no training text."""
    train = [{"text": "thanks", "kind": kind} for kind in ("warm", "warm", "cold", "warm")]
    train += [{"text": f"text {i}", "kind": "warm"} for i in range(6)]
    files = {"train_file": str(write_jsonl(tmp_path / "a.jsonl", train))}
    files["test_file"] = str(write_jsonl(tmp_path / "b.jsonl", [{"text": "text 5", "kind": "cold"}] * 2))
    task = TaskConfig(name="own", source="files", form="classification", source_column="text", target_column="kind",
                      prefix="", **files)  # fmt: skip
    findings = Findings()
    rows = load_rows(task, ["train", "test"], findings)
    assert [(row["source"], *row["references"]) for row in rows["train"]] == [tuple(r.values()) for r in train[:-1]]
    found = [(row["split"], row["kind"], row["rule"], row["rows"]) for row in findings.to_json()]
    assert found == [
        ("train", "leaked", "dropped", 1), ("train", "repeated_label", "kept", 2),
        ("train", "repeated_source", "kept", 1), ("test", "repeated_label", "kept", 1),
    ]  # fmt: skip


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
    found, findings = records("samsum", "train", 5), Findings()
    found[1]["dialogue"] = ""
    monkeypatch.setitem(TASKS, "samsum", write_repository(tmp_path / "r", "samsum"))
    path = tmp_path / "r" / "data" / "train-00000-of-00001.parquet"
    datasets.Dataset.from_list(found, features=schema("samsum")[0]).to_parquet(path)
    rows = load_rows(config("samsum"), ["train"], findings)["train"]
    assert rows == expected_rows("samsum", [found[0], *found[2:]], "t5", True)
    assert [row["first"] for row in findings.to_json()] == ["train row 2: column 'dialogue' holds ''"]


def test_a_repository_that_is_not_there(tmp_path, monkeypatch):
    monkeypatch.setitem(TASKS, "rte", dataclasses.replace(TASKS["rte"], repository=str(tmp_path / "none")))
    assert "cannot be loaded" in complaint(config("rte"))


def test_settings_that_do_not_go_together():
    assert complaint(config("cola", prefix="summarize: ")) == (
        "config.task.prefix is 'summarize: '; expected none for the task cola, whose inputs say themselves what is "
        "asked for; config.task.prefix=''"
    )
    assert complaint(config("cola", form="text")) == (
        "config.task.form is 'text'; expected 'auto' with config.task.source='hub'"
    )
    with pytest.raises(UserError, match=r"'colla' \(did you mean 'cola'\?\)"):
        find_task("colla")


# -- one's own forms --------------------------------------------------------------------------------------


def own(tmp_path, form, train, test, source, target, **fields):
    """Rows of training and test of own files."""
    files = {f"{split}_file": str(write_jsonl(tmp_path / f"{split}.jsonl", rows))
             for split, rows in (("train", train), ("test", test))}  # fmt: skip
    task = TaskConfig(name="own", source="files", form=form, source_column=source, target_column=target, **(
        {"prefix": ""} | fields | files))  # fmt: skip
    rows = load_rows(task, ["train", "test"])
    return rows["train"], rows["test"]


def test_own_classification(tmp_path):
    train = [{"text": "a", "kind": "spam"}, {"text": "b", "kind": "ham"}, {"text": "c", "kind": "spam"}]
    trained, tested = own(
        tmp_path, "classification", train, [{"text": "d", "kind": "ham"}], "text", "kind", prefix="sort: "
    )
    labels = ["ham", "spam"]
    assert trained == [{"source": f"sort: {r['text']}", "references": [r["kind"]], "labels": labels} for r in train]
    assert tested == [{"source": "sort: d", "references": ["ham"], "labels": labels}]


@pytest.mark.parametrize(("prompt", "source"), [("t5", "premise: a claim: c"), ("plain", "a</s></s>c")])
def test_own_classification_of_pairs_with_numbers(tmp_path, prompt, source):
    train = [{"premise": "a", "claim": "b", "label": label} for label in (3, 10, 3)]
    trained, tested = own(
        tmp_path, "classification", train, [train[1] | {"claim": "c"}], "premise, claim", "label", prompt=prompt
    )  # fmt: skip
    assert [row["references"] for row in trained] == [["3"], ["10"], ["3"]]  # as they are written, no numbers of labels
    assert tested == [{"source": source, "references": ["10"], "labels": ["10", "3"]}]


def test_labels_that_training_rows_do_not_have(tmp_path):
    train = [{"text": "a", "kind": "spam"}, {"text": "b", "kind": "ham"}]
    with pytest.raises(UserError, match=r"1 of 1 test rows cannot be used: label_outside_set 1 \(.*test.jsonl:1: "
                       r"column 'kind' holds 'jam', not a label of the training rows: ham, spam\)"):  # fmt: skip
        own(tmp_path, "classification", train, [{"text": "c", "kind": "jam"}], "text", "kind")
    with pytest.raises(UserError, match=r"column 'kind' of .*train.jsonl holds 1 label\(s\); expected two labels or"):
        own(tmp_path, "classification", train[:1], train, "text", "kind")
    with pytest.raises(UserError, match=r"1 of 3 train rows cannot be used: not_text 1 \(.*train.jsonl:3: column "
                       "'kind' holds 0.5"):  # fmt: skip
        own(
            tmp_path, "classification", [*train, {"text": "c", "kind": 0.5}], [train[0] | {"text": "d"}], "text", "kind"
        )
    with pytest.raises(UserError, match=r"train.jsonl:1 has columns \['kind', 'text'\], not 'label'"):
        own(tmp_path, "classification", train, train, "text", "label")


def test_own_questions(tmp_path):
    train = [
        {"q": "Who?", "doc": "Bob ran.", "answers": ["Bob", "He"]},
        {"q": "Why?", "doc": "Fear.", "answers": "fear"},
    ]
    others = [record | {"doc": "Else."} for record in train]
    trained, tested = own(tmp_path, "qa", train, others, "q,doc", "answers")
    assert [row["source"] for row in tested] == ["question: Who? context: Else.", "question: Why? context: Else."]
    assert trained == [
        {"source": "question: Who? context: Bob ran.", "references": ["Bob", "He"]},
        {"source": "question: Why? context: Fear.", "references": ["fear"]},
    ]  # fmt: skip
    with pytest.raises(UserError, match=r"config.task.source_column is 'q'; expected two columns, as in 'question,con"):
        own(tmp_path, "qa", train, train, "q", "answers")


def test_own_translation(tmp_path):
    train = [{"en": "Good.", "text": {"ro": "Bine."}}]
    for prompt, source in (("t5", "translate English to Romanian: Good."), ("plain", "Good.")):
        others = [{"en": "Bad.", "text": {"ro": "Rău."}}]
        trained, _ = own(tmp_path, "translation", train, others, "en", "text.ro", prompt=prompt)
        assert trained == [{"source": source, "references": ["Bine."]}]
    with pytest.raises(UserError, match=r"config.task.target_column is 'text', which T5's prompt cannot name"):
        own(tmp_path, "translation", train, train, "en", "text")


# -- the table --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_an_entry_is_whole(name):
    task = TASKS[name]
    assert task.metric in METRICS
    assert task.recipe in RECIPES
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
