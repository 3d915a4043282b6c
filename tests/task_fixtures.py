"""Small data sets in the real schema and layout of every task's repository, for tests without network."""

import dataclasses
import json
from pathlib import Path

import datasets
from datasets import ClassLabel, Features, List, Translation, Value

from nash_jax.data.tasks import TASKS

STRING, INT = Value("string"), Value("int32")
NOUNS = ["cat", "dog", "bird", "fish", "horse", "mouse", "goat", "cow"]
VERBS = ["sees", "hears", "helps", "finds"]
SIZES = {"train": 24, "validation": 8, "test": 8}
KINDS_OF_MNLI = ("matched", "mismatched")
HIDDEN = -1  # the hub's number for a label that is not published


def sentence(i):
    return f"The {NOUNS[i % 8]} {VERBS[i // 8 % 4]} {i} times the {NOUNS[(i * 3 + 1) % 8]}."


def glue_features(*columns, labels):
    return Features(dict.fromkeys(columns, STRING) | {"label": ClassLabel(names=list(labels)), "idx": INT})


def glue_record(*columns, labels):
    def make(i):
        texts = {column: sentence(i + number) for number, column in enumerate(columns)}
        return texts | {"label": i % len(labels), "idx": i}

    return make


GLUE = {  # columns in the order of the files, labels in the order of their numbers
    "cola": (("sentence",), ("unacceptable", "acceptable")),
    "sst2": (("sentence",), ("negative", "positive")),
    "mrpc": (("sentence1", "sentence2"), ("not_equivalent", "equivalent")),
    "qqp": (("question1", "question2"), ("not_duplicate", "duplicate")),
    "mnli": (("premise", "hypothesis"), ("entailment", "neutral", "contradiction")),
    "qnli": (("question", "sentence"), ("entailment", "not_entailment")),
    "rte": (("sentence1", "sentence2"), ("entailment", "not_entailment")),
    "cb": (("premise", "hypothesis"), ("entailment", "contradiction", "neutral")),
    "copa": (("premise", "choice1", "choice2", "question"), ("choice1", "choice2")),
    "boolq": (("question", "passage"), ("False", "True")),
}
BOOLEAN = ClassLabel(names=["False", "True"])
SCHEMAS = {  # task → (features, record number i)
    **{name: (glue_features(*c, labels=n), glue_record(*c, labels=n)) for name, (c, n) in GLUE.items()},
    "samsum": (
        Features(dict.fromkeys(("id", "dialogue", "summary"), STRING)),
        lambda i: {"id": str(i), "dialogue": f"A: {sentence(i)}\r\nB: Yes.", "summary": sentence(i)},
    ),
    "cnn_dailymail": (
        Features(dict.fromkeys(("article", "highlights", "id"), STRING)),
        lambda i: {"article": f"(CNN) {sentence(i)} More.", "highlights": f"{sentence(i)}\nMore .", "id": str(i)},
    ),
    "xsum": (
        Features(dict.fromkeys(("document", "summary", "id"), STRING)),
        lambda i: {"document": f"{sentence(i)}\nMore.", "summary": sentence(i), "id": str(i)},
    ),
    "orange_sum": (
        Features(dict.fromkeys(("text", "summary"), STRING)),
        lambda i: {"text": f"Été : {sentence(i)}", "summary": sentence(i)},
    ),
    "dolly": (
        Features(dict.fromkeys(("instruction", "context", "response", "category"), STRING)),
        lambda i: {
            "instruction": f"Who is it? {i}", "context": sentence(i) * (i % 2), "response": NOUNS[i % 8],
            "category": "closed_qa",
        },
    ),
    "tweet_qa": (
        Features({"Question": STRING, "Answer": List(STRING), "Tweet": STRING, "qid": STRING}),
        lambda i: {"Question": f"who? {i}", "Answer": [NOUNS[i % 8], "it"], "Tweet": sentence(i), "qid": str(i)},
    ),
    "narrativeqa": (
        Features({
            "document": {
                "id": STRING, "kind": STRING, "url": STRING, "file_size": INT, "word_count": INT, "start": STRING,
                "end": STRING, "summary": {"text": STRING, "tokens": List(STRING), "url": STRING, "title": STRING},
                "text": STRING,
            },
            "question": {"text": STRING, "tokens": List(STRING)},
            "answers": List({"text": STRING, "tokens": List(STRING)}),
        }),
        lambda i: {
            "document": {
                "id": str(i), "kind": "movie", "url": "", "file_size": 1, "word_count": 1, "start": "", "end": "",
                "summary": {"text": sentence(i), "tokens": [], "url": "", "title": ""}, "text": "a whole book",
            },
            "question": {"text": f"Who? {i}", "tokens": ["Who", "?"]},
            "answers": [{"text": f"The {NOUNS[i % 8]}", "tokens": []}, {"text": NOUNS[i % 8], "tokens": []}],
        },
    ),
    "squad": (
        Features({
            **dict.fromkeys(("id", "title", "context", "question"), STRING),
            "answers": {"text": List(STRING), "answer_start": List(INT)},
        }),
        lambda i: {
            "id": str(i), "title": "", "context": sentence(i), "question": f"Who's it? {i}",
            "answers": {"text": [f"The {NOUNS[i % 8]}"], "answer_start": [0]},
        },
    ),
    "stsb": (
        Features({"sentence1": STRING, "sentence2": STRING, "label": Value("float32"), "idx": INT}),
        lambda i: {"sentence1": sentence(i), "sentence2": sentence(i + 1), "label": i % 6 * 0.95, "idx": i},
    ),
    "wic": (
        Features({
            **dict.fromkeys(("word", "sentence1", "sentence2"), STRING),
            **dict.fromkeys(("start1", "start2", "end1", "end2"), INT), "idx": INT, "label": BOOLEAN,
        }),
        lambda i: {
            "word": "cat", "sentence1": sentence(i), "sentence2": sentence(i + 1), "start1": 4, "start2": 4, "end1": 7,
            "end2": 7, "idx": i, "label": i % 2,
        },
    ),
    "wsc": (
        Features({
            "text": STRING, "span1_index": INT, "span2_index": INT, "span1_text": STRING, "span2_text": STRING,
            "idx": INT, "label": BOOLEAN,
        }),
        lambda i: {
            "text": f"The {NOUNS[i % 8]} slept {i} times because it was tired, said Tom.", "idx": i, "label": i % 2,
            "span1_text": f"The {NOUNS[i % 8]}" if i % 2 else "Tom", "span1_index": 0, "span2_text": "it",
            "span2_index": 6,
        },
    ),
    "multirc": (
        Features({
            **dict.fromkeys(("paragraph", "question", "answer"), STRING),
            "idx": {"paragraph": INT, "question": INT, "answer": INT}, "label": BOOLEAN,
        }),
        lambda i: {
            "paragraph": f"<b>Sent 1: </b>{sentence(i // 4)}<br>", "question": f"Who? {i // 2}", "answer": NOUNS[i % 8],
            "idx": {"paragraph": i // 4, "question": i // 2, "answer": i}, "label": i % 2,
        },
    ),
    "record": (
        Features({
            "passage": STRING, "query": STRING, "entities": List(STRING), "answers": List(STRING),
            "idx": {"passage": INT, "query": INT},
        }),
        lambda i: {
            "passage": f"{sentence(i)}\n@highlight\nIt is so\n@highlight\nIndeed", "query": f"@placeholder sees {i}",
            "entities": ["Ann", "Bob", "Bob Hope"], "answers": ["Bob", "Bob Hope"], "idx": {"passage": i, "query": i},
        },
    ),
}  # fmt: skip
HIDDEN_TESTS = {*GLUE, "stsb", "wic", "wsc", "multirc"}


def schema(name):
    """(features, record number i) of a task."""
    if name in SCHEMAS:
        return SCHEMAS[name]
    languages = TASKS[name].subset.split("-")
    features = Features({"translation": Translation(languages=languages)})
    return features, lambda i: {"translation": {code: f"{code}: {sentence(i)}" for code in languages}}


def records(name, split, size=None, hidden=True):
    """Records of one of the hub's splits, each different from those of the others.

    Args:
      name: of the task.
      split: of the hub.
      size: how many; those of `SIZES` when left out.
      hidden: labels are, where the hub's are.
    """
    start = list(SIZES).index(split.split("_")[0]) * 100_000
    found = [schema(name)[1](start + i) for i in range(SIZES[split.split("_")[0]] if size is None else size)]
    if hidden and split.startswith("test") and name in HIDDEN_TESTS:
        found = [record | {"label": HIDDEN} for record in found]
    return found


def hub_splits(name):
    """Names of the splits that a task's repository has."""
    if name == "dolly":
        return ["train"]
    if name == "squad":
        return ["train", "validation"]
    if name == "mnli":
        return ["train", *(f"{split}_{kind}" for split in SIZES if split != "train" for kind in KINDS_OF_MNLI)]
    return list(SIZES)


def write_repository(folder, name, sizes=None):
    """Writes a task's repository; → its entry of the table, with the folder as repository.

    Args:
      folder: to write into.
      name: of the task.
      sizes: rows of a split, by its name on the hub; others have those of `SIZES`.
    """
    task, folder = TASKS[name], Path(folder)
    configs = []
    for split in hub_splits(name):
        rows = records(name, split, (sizes or {}).get(split))
        if name == "dolly":
            path = Path("databricks-dolly-15k.jsonl")
        elif task.files:
            path = Path(task.files.format(split=split).replace("*", "0000"))
        else:
            path = Path(task.subset or "data", f"{split}-00000-of-00001.parquet")
            configs.append(f"  - split: {split}\n    path: {task.subset or 'data'}/{split}-*")
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".jsonl":
            write_jsonl(folder / path, rows)
        else:
            datasets.Dataset.from_list(rows, features=schema(name)[0]).to_parquet(folder / path)
    if configs:
        head = f"---\nconfigs:\n- config_name: {task.subset or 'default'}\n  data_files:"
        (folder / "README.md").write_text("\n".join([head, *configs, "---", ""]))
    return dataclasses.replace(task, repository=str(folder))


def shrunk(task):
    """An entry whose held-out rows are a quarter of the training split, for a repository of few rows."""
    quarter = {0: "train[:75%]", 1: "train[75%:]", 2: "train[75%:]"}
    return dataclasses.replace(
        task, splits=tuple(quarter[i] if "[" in split else split for i, split in enumerate(task.splits))
    )


def use_repository(monkeypatch, folder, name):
    """Puts a small repository in the place of a task's own; for `TaskConfig(name=name, source="hub")`."""
    monkeypatch.setitem(TASKS, name, shrunk(write_repository(folder, name)))


def write_files(folder, name):
    """Own JSONL files in a task's schema; → the settings `train_file`, `validation_file` and `test_file`."""
    found = {}
    for split in SIZES:
        path = Path(folder, f"{name}_{split}.jsonl")
        found[f"{split}_file"] = str(write_jsonl(path, records(name, split, hidden=False)))
    return found


def write_jsonl(path, rows):
    path.write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows), encoding="utf-8")
    return path
