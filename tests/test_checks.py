"""1,000 damaged rows among 10,000: each kind is counted with its first place, and the other rows are unchanged."""

import csv
import dataclasses
import io
import json
import math
import os
import subprocess
import sys
from pathlib import Path

import datasets
import numpy as np
import pyarrow
import pyarrow.parquet
import pytest
from commands import on_devices
from transformers import ByT5Tokenizer

from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import (
    ISSUE_KINDS,
    DataIssues,
    RowIssue,
    check_rows,
    find_issues,
    is_dropped,
    unusable_text_kind,
)
from nash_jax.data.pipeline import tokenize, tokenized_table
from nash_jax.data.sources import load_rows
from nash_jax.data.summary import format_summary, summarize_data
from nash_jax.data.tasks import TASKS
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError
from nash_jax.training.writers import read_rows

ROOT = Path(__file__).resolve().parents[1]
HELD_OUT = [(f"held out {i}", f"kept {i}") for i in range(8)]
LIMITS = {"max_source_length": 24, "max_target_length": 16}  # tokens, letters here
NUM_ROWS, EVERY = 10_000, 10


def sound(i):
    return f"text number {i}", f"Brief {i}"


TEXTS = {  # kind → (source, target) of row i; row i-1 is valid
    "empty": lambda i: ("", sound(i)[1]),
    "blank": lambda i: (sound(i)[0], " \u200b\t"),
    "nul_character": lambda i: (sound(i)[0] + "\0", sound(i)[1]),
    "duplicate": lambda i: sound(i - 1),
    "leaked": lambda i: (HELD_OUT[i % 8][0], f"leak {i}"),
    "repeated_source": lambda i: (sound(i - 1)[0], f"other {i}"),
    "source_is_target": lambda i: (f"same {i}", f"same {i}"),
    "control_character": lambda i: (sound(i)[0], f"bell\x07 {i}"),
    "replacement_character": lambda i: (f"na\ufffdve {i}", sound(i)[1]),
    "mojibake": lambda i: (f"caf\u00c3\u00a9 {i}", sound(i)[1]),
    "null_word": lambda i: (sound(i)[0], "NaN"),
    "no_word": lambda i: (sound(i)[0], "!?"),
    "source_too_long": lambda i: (f"much longer than a text may be {i}", sound(i)[1]),
    "target_too_long": lambda i: (sound(i)[0], f"a summary that goes on {i}"),
}


def csv_line(*fields):
    text = io.StringIO()
    csv.writer(text, lineterminator="\n").writerow(fields)
    return text.getvalue().encode()


def json_line(**record):
    return json.dumps(record, ensure_ascii=False).encode("utf-8", "surrogatepass") + b"\n"


CSV = {  # kind → lines of row i
    "not_utf8": lambda i: f"caf\xe9 {i},b\n".encode("latin-1"),
    "too_few_fields": lambda i: f"text {i}\n".encode(),
    "too_many_fields": lambda i: f"text, number {i},brief\n".encode(),
    "header_again": lambda i: b"document,summary\n",
}
JSONL = {
    "not_utf8": lambda i: json_line(document="caf\xe9", summary="b").decode().encode("latin-1"),
    "not_json": lambda i: b'{"document": "a", "summary": \n',
    "not_object": lambda i: b'["a", "b"]\n',
    "missing_column": lambda i: json_line(document=f"text {i}"),
    "null": lambda i: json_line(document=None, summary="b"),
    "not_text": lambda i: json_line(document="a", summary=[3, 1.5, True, {"a": "b"}][i // 10 % 4]),
    "surrogate": lambda i: b'{"document": "a \\ud83d", "summary": "b"}\n',
}
PARQUET = {"not_utf8": lambda i: (b"caf\xe9", b"b"), "null": lambda i: (None, b"b")}


def damaged_rows(own):
    """(kind or None, source and target or what the format writes) of each row."""
    kinds = [*own, *TEXTS]
    for i in range(NUM_ROWS):
        kind = kinds[i // EVERY % len(kinds)] if i % EVERY == 5 else None
        yield kind, own[kind](i) if kind in own else TEXTS[kind](i) if kind else sound(i)


def write_csv(path):
    lines = [row if isinstance(row, bytes) else csv_line(*row) for _, row in damaged_rows(CSV)]
    path.write_bytes(b"document,summary\n" + b"".join(lines))
    starts = np.cumsum([2, *(line.count(b"\n") for line in lines)])
    return [f"{path}:{start}" for start in starts[:-1]]


def write_jsonl(path):
    rows = [row for _, row in damaged_rows(JSONL)]
    path.write_bytes(b"".join(r if isinstance(r, bytes) else json_line(document=r[0], summary=r[1]) for r in rows))
    return [f"{path}:{i + 1}" for i in range(NUM_ROWS)]


def write_parquet(path):
    pairs = [[v.encode() if isinstance(v, str) else v for v in row] for _, row in damaged_rows(PARQUET)]
    columns = [pyarrow.array(values, pyarrow.binary()).view(pyarrow.string()) for values in zip(*pairs, strict=True)]
    pyarrow.parquet.write_table(pyarrow.Table.from_arrays(columns, ["document", "summary"]), path)
    return [f"{path} row {i + 1}" for i in range(NUM_ROWS)]


WRITERS = {"csv": (write_csv, CSV), "jsonl": (write_jsonl, JSONL), "parquet": (write_parquet, PARQUET)}


def write_all(folder, ending):
    """Writes the three files; returns the task, and places and kinds of the training rows (None for valid rows)."""
    write, own = WRITERS[ending]
    places = write(folder / f"train.{ending}")
    for split in ("validation", "test"):
        lines = (json_line(document=source, summary=target) for source, target in HELD_OUT)
        (folder / f"{split}.jsonl").write_bytes(b"".join(lines))
    task = TaskConfig(
        name="own", source="files", prefix="", **LIMITS, train_file=str(folder / f"train.{ending}"),
        validation_file=str(folder / "validation.jsonl"), test_file=str(folder / "test.jsonl"),
    )  # fmt: skip
    return task, places, list(damaged_rows(own))


def make_tokenizer():
    return build_pronunciation_tokenizer([{"source": "abcdefghijklmnopqrstuvwxyz", "references": ["B K N"]}])


@pytest.fixture(scope="module", params=WRITERS)
def damaged(request, tmp_path_factory):
    """(task, places, rows, loaded rows, their summary) of 10,000 rows in a format."""
    folder = tmp_path_factory.mktemp(request.param)
    task, places, rows = write_all(folder, request.param)
    issues = DataIssues()
    loaded = load_rows(task, issues=issues)
    return task, places, rows, loaded, summarize_data(loaded, make_tokenizer(), task, folder, issues)


def test_every_kind_is_counted_with_its_first_place(damaged):
    _, places, rows, _, record = damaged
    found = {row["kind"]: row for row in record["findings"] if row["split"] == "train"}
    expected = {kind: sum(own == kind for own, _ in rows) for kind in {own for own, _ in rows} - {None}}
    assert found.pop("unknown_token")["rows"] > 9000  # the tokenizer has no digits; tests/test_token_issues.py
    assert sum(own is not None for own, _ in rows) == NUM_ROWS // EVERY == 1000
    assert {kind: row["rows"] for kind, row in found.items()} == expected
    for kind, row in found.items():
        place = places[next(i for i, (own, _) in enumerate(rows) if own == kind)]
        assert row["first"].startswith(f"{place}: "), kind
        assert row["rule"] == ("dropped" if is_dropped(kind, "train") else "kept")
    assert ": 26 tokens, of which 24 are used: 'much longer than a text may be " in found["source_too_long"]["first"]


def test_the_other_rows_survive_in_order(damaged):
    _, _, rows, loaded, _ = damaged
    expected = [pair for kind, pair in rows if kind is None or not is_dropped(kind, "train")]
    assert [(row["source"], *row["references"]) for row in loaded["train"]] == expected
    assert [(row["source"], *row["references"]) for row in loaded["test"]] == HELD_OUT


def test_summary(damaged):
    task, _, _, loaded, record = damaged
    found, used = record["summary"]["train"], loaded["train"]
    assert (found["rows_read"], found["rows"]) == (NUM_ROWS, len(used))
    assert found["rows_dropped"] == NUM_ROWS - len(used)
    whole = make_tokenizer()([row["source"] for row in used])["input_ids"]
    lengths = sorted(map(len, whole))
    assert found["mean_source_tokens"] == pytest.approx(sum(lengths) / len(lengths), abs=0.05)
    assert found["source_tokens_95"] == lengths[math.ceil(0.95 * (len(lengths) - 1))]
    assert found["max_source_tokens"] == lengths[-1] > task.max_source_length
    cut = sum(length > task.max_source_length for length in lengths)
    assert cut > 40 and found["sources_cut"] == f"{100 * cut / len(lengths):.1f} %"
    lines = list(format_summary(record))
    assert all("\n" not in line for line in lines)
    assert f"  train: {len(used):,} rows; {found['rows_read']:,} read, {found['rows_dropped']:,} dropped" == lines[0]
    assert json.loads(json.dumps(record)) == record


def test_limit_names_all_kinds(damaged):
    task, places, rows, *_ = damaged
    with pytest.raises(UserError) as error:
        load_rows(TaskConfig(**{**vars(task), "max_dropped": 0.01}))
    assert "\n" not in str(error.value)
    for kind in {own for own, _ in rows if own and is_dropped(own, "train")} - {"leaked"}:
        assert f"({places[next(i for i, (own, _) in enumerate(rows) if own == kind)]}: " in str(error.value)


# -- kinds, one by one -------------------------------------------------------------------------------------


def test_table_is_documented_and_all_of_it_is_tried():
    page = (ROOT / "docs" / "own_data.md").read_text()
    for name, kind in ISSUE_KINDS.items():
        assert f"| `{name}` | {kind.meaning} | {kind.rule} | {kind.why} |" in page, name
    of_forms = {
        "label_outside_set",
        "repeated_label",
        "contradiction",
    }  # tests/test_tasks.py, tests/test_custom_forms.py
    of_tokens = {"unknown_token", "control_token", "lost_line_end"}  # tests/test_token_issues.py
    assert set(CSV) | set(JSONL) | set(TEXTS) | of_forms | of_tokens | {"same_file"} == set(ISSUE_KINDS)


@pytest.mark.parametrize(
    ("value", "kind"),
    [
        (None, "null"), (3, "not_text"), (True, "not_text"), ({}, "not_text"), (b"a", "not_text"),
        (math.nan, "not_text"), ("", "empty"), (" \n", "blank"), ("\xa0\u200b\ufeff", "blank"),
        ("a\0", "nul_character"), ("\0", "nul_character"),
        ("\ud83d", "surrogate"), ("a", None), ("🙂", None), ("…", None), ("世界", None), ("\u0301", None), (" a", None),
    ],
)  # fmt: skip
def test_breaks(value, kind):
    assert unusable_text_kind(value) == kind


@pytest.mark.parametrize(
    ("text", "kinds"),
    [
        ("plain", []),
        ("two\tlines\r\nof text", []), ("Grüße", []), ("é", []), ("Ünïcödé 世界", []), ("5 € – “so”", []),
        ("€", ["no_word"]), ("cafÃ©", ["mojibake"]), ("itâ€™s", ["mojibake"]), ("\x1b[0m", ["control_character"]),
        ("form\ffeed", ["control_character"]), (" None ", ["null_word"]), ("N/A", ["null_word"]), ("Nonesuch", []),
        ("--", ["no_word"]), ("🙂", ["no_word"]), ("a\ufffd\x7f", ["control_character", "replacement_character"]),
    ],
)  # fmt: skip
def test_oddities(text, kinds):
    assert [damage.kind for damage in find_issues({"source": "a", "references": [text]})] == kinds


def test_labels():
    """A row with a label outside the set is dropped; the summary counts the labels that occur."""
    labels = ["yes", "no", "maybe"]
    rows = [{"source": f"a {i}", "references": [word], "labels": labels} for i, word in enumerate(("yes", "yse", "no"))]
    issues = DataIssues()
    entries = [(f"rows:{i}", row) for i, row in enumerate(rows)]
    kept = list(check_rows(entries, lambda row: [row], "train", issues, {}))
    assert kept == [rows[0], rows[2]]
    (found,) = issues.to_json()
    assert (found["kind"], found["rows"]) == ("label_outside_set", 1)
    assert found["first"] == "rows:1: 'yse' is none of 'yes', 'no', 'maybe'"


def test_scores_are_of_all_rows_given():
    """A duplicate is dropped only from the training split."""
    entries = [("a:1", {"source": "a", "references": ["b"]})] * 2
    for split, left in (("train", 1), ("validation", 2), ("test", 2)):
        issues = DataIssues()
        assert len(list(check_rows(entries, lambda row: [row], split, issues, {}))) == left
        assert issues.num_dropped(split) == 2 - left
        assert [row["rule"] for row in issues.to_json()] == ["dropped" if split == "train" else "kept"]


@pytest.mark.parametrize(
    ("dropped", "share", "refused"), [(2, 0.2, False), (3, 0.2, True), (1, 0.0, True), (0, 0.0, False)]
)
def test_limit(dropped, share, refused):
    issues = DataIssues()
    entries = [(f"a:{i}", {"source": str(i), "references": ["b"]}) for i in range(10 - dropped)]
    entries += [("a:99", RowIssue("not_json", "what"))] * dropped
    assert len(list(check_rows(entries, lambda row: [row], "test", issues, {}))) == 10 - dropped
    if refused:
        with pytest.raises(
            UserError, match=f"{dropped} of 10 test rows cannot be used: not_json {dropped} .a:99: what.;"
        ):
            issues.check_limit("test", share)
    else:
        issues.check_limit("test", share)


def test_one_file_for_all_splits(tmp_path):
    """This may be intended, as in a trial run: no row is dropped, but it is reported."""
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b"".join(json_line(document=source, summary=target) for source, target in HELD_OUT))
    issues = DataIssues()
    files = {f"{split}_file": str(path) for split in ("train", "validation", "test")}
    rows = load_rows(TaskConfig(name="own", source="files", **files), issues=issues)
    assert rows["train"] == rows["test"] and len(rows["train"]) == len(HELD_OUT)
    (found,) = issues.to_json()
    assert (found["kind"], found["rows"], found["split"]) == ("same_file", len(HELD_OUT), "train")
    assert found["first"] == f"{path}: the validation file too"


def test_hub_rows_are_checked(tmp_path_factory, monkeypatch):
    """`datasets` reads a folder instead of the hub's repository; its tables have null for missing values."""
    rows = {
        "train": [*map(sound, range(10)), (None, "b"), sound(3), HELD_OUT[0]],
        "validation": [*HELD_OUT, HELD_OUT[2]],
        "test": [*HELD_OUT[1:], (" ", "c")],
    }
    folder = tmp_path_factory.mktemp("repository")
    for split, pairs in rows.items():
        lines = (json_line(dialogue=source, summary=target) for source, target in pairs)
        (folder / f"{split}.jsonl").write_bytes(b"".join(lines))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", tmp_path_factory.mktemp("cache"))  # not among the data
    monkeypatch.setitem(TASKS, "samsum", dataclasses.replace(TASKS["samsum"], repository=str(folder)))
    issues = DataIssues()
    loaded = load_rows(TaskConfig(max_dropped=0.25), issues=issues)
    assert {split: len(own) for split, own in loaded.items()} == {"train": 10, "validation": 9, "test": 7}
    assert loaded["train"][3] == {"source": "summarize: text number 3", "references": ["Brief 3"]}
    found = [(row["split"], row["kind"], row["rule"], row["first"].partition(":")[0]) for row in issues.to_json()]
    assert found == [
        ("train", "null", "dropped", "train row 11"),
        ("train", "duplicate", "dropped", "train row 12"),
        ("train", "leaked", "dropped", "train row 13"),
        ("validation", "duplicate", "kept", "validation row 9"),
        ("test", "blank", "dropped", "test row 8"),
    ]
    with pytest.raises(UserError, match=r"3 of 13 train rows cannot be used: null 1 \(train row 11: column 'dialogue'"):
        load_rows(TaskConfig())


# -- tokens ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("tokenizer", [make_tokenizer(), ByT5Tokenizer()], ids=["Rust", "Python"])
def test_lengths_before_the_cut(tmp_path, tokenizer):
    rows = [{"source": "abc" * n, "references": ["dd" * n]} for n in range(1, 9)]
    task = TaskConfig(max_source_length=10, max_target_length=7)
    table = tokenized_table(rows, tokenizer, task, tmp_path)
    assert list(table["source_length"]) == [3 * n + 1 for n in range(1, 9)]
    assert list(table["target_length"]) == [2 * n + 1 for n in range(1, 9)]
    sources, targets = tokenize(rows, tokenizer, task, tmp_path)
    assert sources.lengths.tolist() == [min(3 * n + 1, 10) for n in range(1, 9)]
    assert targets.lengths.tolist() == [min(2 * n + 1, 7) for n in range(1, 9)]


def test_what_is_tokenised_is_not_tokenised_again(tmp_path):
    """Another process reads the stored lengths and ids: it tokenizes no row again and gets the same numbers."""

    class Counting:
        own, calls = make_tokenizer(), 0

        def __getattr__(self, name):
            return getattr(self.own, name)

        def __call__(self, *args, **kwargs):
            texts = [*args, *kwargs.values()]
            self.calls += any(isinstance(some, list) and HELD_OUT[0][0] in some for some in texts)
            return self.own(*args, **kwargs)

    rows = {"train": [{"source": source, "references": [target]} for source, target in HELD_OUT]}
    records, calls = [], []
    for tokenizer in (Counting(), Counting()):
        records.append(summarize_data(rows, tokenizer, TaskConfig(**LIMITS), tmp_path, DataIssues()))
        tokenize(rows["train"], tokenizer, TaskConfig(**LIMITS), tmp_path)
        calls.append(tokenizer.calls)
    assert calls[0] > 0 == calls[1]
    assert records[0] == records[1]


# -- the command -------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_training_on_damaged_rows(tmp_path):
    """configs/local.py on the damaged CSV: a few steps, and a report that lists the issues."""
    task, _, rows = write_all(tmp_path, "csv")
    make_tokenizer().save_pretrained(tmp_path / "tokenizer")
    sizes = {
        "model": {"d_model": 8, "d_ff": 8, "decoder_d_ff": 8, "num_heads": 2, "encoder_layers": 1, "decoder_layers": 1}
    }
    files = {f"{split}_file": getattr(task, f"{split}_file") for split in ("train", "validation", "test")}
    sizes["task"] = {**files, **LIMITS, "max_new_tokens": 4, "tokenizer": str(tmp_path / "tokenizer")}
    sizes["shorten"] = {"decoder_layers": 1}
    sizes["finetune"] = {"epochs": 0.04, "optimizer": "adamw"}
    sizes |= {phase: {"epochs": 0.0} for phase in ("prune", "retrain")}
    sizes["benchmark"] = {"batch_sizes": (1,), "source_length": 8, "new_tokens": (2,), "runs": 1}
    flags = [f"--config.{group}.{name}={value}" for group, fields in sizes.items() for name, value in fields.items()]
    command = [sys.executable, "-m", "nash_jax.main", f"--config={ROOT}/configs/local.py", "--workdir=run", *flags]
    environment = os.environ | on_devices(1)
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    kept = sum(kind is None or not is_dropped(kind, "train") for kind, _ in rows)
    assert f"  train: {kept:,} rows; 10,000 read, {10_000 - kept:,} dropped\n" in done.stderr
    losses = [row["loss"] for row in read_rows(tmp_path / "run" / "metrics.jsonl") if "loss" in row]
    assert len(losses) > 10 and np.isfinite(losses).all()
    report = json.loads((tmp_path / "run" / "report.json").read_text())
    page = (tmp_path / "run" / "report.html").read_text()
    found = {row["kind"] for row in report["data"]["findings"] if row["split"] == "train"}
    assert found == {kind for kind, _ in rows if kind} | {"unknown_token"}
    assert all(ISSUE_KINDS[kind].meaning.replace("'", "&#x27;") in page for kind in found)
    assert report["data"]["summary"]["train"]["rows"] == kept
