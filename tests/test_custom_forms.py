"""User-defined classification, questions and translations: columns, labels, and messages for damaged rows."""

import pyarrow
import pyarrow.parquet
import pytest
from task_fixtures import write_jsonl

from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import DataIssues
from nash_jax.data.sources import load_rows
from nash_jax.errors import UserError


def own(tmp_path, form, train, test, source, target, **fields):
    """Training and test rows of user files."""
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


def test_a_column_of_texts_taken_for_labels_is_said_in_short(tmp_path):
    train = [{"text": f"t{i}", "kind": f"kind {i:04}"} for i in range(3000)]
    shown = r"kind 0000, kind 0001, .*, kind 0019 … \(3,000\)\)"
    with pytest.raises(UserError, match=f"not a label of the training rows: {shown}"):
        own(tmp_path, "classification", train, [{"text": "c", "kind": "jam"}], "text", "kind")


def test_rows_share_their_label_words(tmp_path):
    """One list per row would need gigabytes for hundreds of labels and thousands of rows."""
    train = [{"text": "a", "kind": "spam"}, {"text": "b", "kind": "ham"}]
    (first, second), _ = own(tmp_path, "classification", train, [train[0] | {"text": "c"}], "text", "kind")
    assert first["labels"] is second["labels"]


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


def test_labels_that_come_again_stay(tmp_path):
    """Label frequencies of a text are learnt; a text of the test rows is not used for training."""
    train = [{"text": "thanks", "kind": kind} for kind in ("warm", "warm", "cold", "warm")]
    train += [{"text": f"text {i}", "kind": "warm"} for i in range(6)]
    files = {"train_file": str(write_jsonl(tmp_path / "a.jsonl", train))}
    files["test_file"] = str(write_jsonl(tmp_path / "b.jsonl", [{"text": "text 5", "kind": "cold"}] * 2))
    task = TaskConfig(name="own", source="files", form="classification", source_column="text", target_column="kind",
                      prefix="", **files)  # fmt: skip
    issues = DataIssues()
    rows = load_rows(task, ["train", "test"], issues)
    assert [(row["source"], *row["references"]) for row in rows["train"]] == [tuple(r.values()) for r in train[:-1]]
    found = [(row["split"], row["kind"], row["rule"], row["rows"]) for row in issues.to_json()]
    assert found == [
        ("train", "leaked", "dropped", 1), ("train", "repeated_label", "kept", 2),
        ("train", "repeated_source", "kept", 1), ("test", "repeated_label", "kept", 1),
    ]  # fmt: skip


def test_bytes_that_are_not_utf8_within_a_nested_column(tmp_path):
    """Parquet accepts such bytes; the fields of other rows are read unchanged."""
    contents = pyarrow.array([b"Bob ran.", b"Ann \xe9.", b"Tom sat."], pyarrow.binary()).view(pyarrow.string())
    answers = pyarrow.StructArray.from_arrays([pyarrow.array([["a"], ["b"], ["c"]])], ["text"])
    document = pyarrow.StructArray.from_arrays([contents], ["text"])
    table = pyarrow.table({"document": document, "answers": answers, "question": ["Who?"] * 3})
    pyarrow.parquet.write_table(table, tmp_path / "a.parquet")
    task = TaskConfig(
        name="own", source="files", form="qa", source_column="question,document.text", target_column="answers.text",
        prefix="", train_file=str(tmp_path / "a.parquet"), max_dropped=0.5,
    )  # fmt: skip
    issues = DataIssues()
    assert [row["references"] for row in load_rows(task, ["train"], issues)["train"]] == [["a"], ["c"]]
    (found,) = issues.to_json()
    assert (found["kind"], found["first"]) == ("not_utf8", f"{tmp_path}/a.parquet row 2: byte 0xe9 is not UTF-8")
