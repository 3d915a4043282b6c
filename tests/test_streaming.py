"""Records are read one at a time, and with a limit no further than it needs."""

import csv
import json
import tracemalloc

import datasets
import pyarrow
import pyarrow.parquet
import pytest

from nash_jax.config.schema import TaskConfig
from nash_jax.data.arrow_records import BATCH_ROWS
from nash_jax.data.checks import DataIssues
from nash_jax.data.columns import RequiredColumns
from nash_jax.data.records import read_records
from nash_jax.data.sources import load_rows
from nash_jax.errors import UserError

COLUMNS = RequiredColumns(("document", "summary"))
ROWS = [{"document": f"text {i}", "summary": f"brief {i}"} for i in range(6 * BATCH_ROWS)]


def own_task(path, **fields):
    (path.parent / "other.jsonl").write_text('{"document": "held out", "summary": "h"}\n')
    files = dict.fromkeys(("validation_file", "test_file"), str(path.parent / "other.jsonl"))
    return TaskConfig(name="own", source="files", train_file=str(path), prefix="", **files, **fields)


def write_jsonl(path):
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS) + '\n{"document": 5}\n')


def write_csv(path):
    with path.open("w", newline="") as file:
        csv.writer(file).writerows([("document", "summary"), *(row.values() for row in ROWS), ("broken", "")])
        file.write('"never closed')


def write_parquet(path):
    """The data of the last row group are zeros."""
    table = pyarrow.Table.from_pylist(ROWS)
    pyarrow.parquet.write_table(table, path, row_group_size=2 * BATCH_ROWS, compression="zstd")
    group = pyarrow.parquet.read_metadata(path).row_group(2)
    start = group.column(0).dictionary_page_offset or group.column(0).data_page_offset
    content = bytearray(path.read_bytes())
    content[start : start + 1000] = bytes(1000)
    path.write_bytes(content)


WRITERS = {"rows.csv": write_csv, "rows.parquet": write_parquet}


@pytest.mark.parametrize("name", WRITERS)
@pytest.mark.parametrize("limit", [1, 700])
def test_a_limit_reads_no_further(tmp_path, name, limit):
    """The end of the file is broken, which is not seen before it is reached."""
    path = tmp_path / name
    WRITERS[name](path)
    issues = DataIssues()
    rows = load_rows(own_task(path, max_train_examples=limit), issues=issues)["train"]
    assert [row["source"] for row in rows] == [row["document"] for row in ROWS[:limit]]
    assert issues.rows_read["train"] == limit
    with pytest.raises(UserError, match="broken CSV: unexpected end of data" if "csv" in name else "cannot be read: "):
        load_rows(own_task(path))


def test_a_limit_counts_the_rows_that_are_kept(tmp_path):
    """Dropped rows before the last kept one are counted; rows behind it are neither read nor counted."""
    path = tmp_path / "rows.jsonl"
    lines = ['{"document": "a", "summary": "b"}', "broken", '{"document": "c", "summary": "d"}', "{}", "broken again"]
    path.write_text("\n".join(lines))
    issues = DataIssues()
    rows = load_rows(own_task(path, max_train_examples=2, max_dropped=0.4), issues=issues)["train"]
    assert [row["source"] for row in rows] == ["a", "c"]
    assert (issues.rows_read["train"], issues.num_dropped("train")) == (3, 1)
    with pytest.raises(UserError, match="3 of 5 train rows cannot be used"):
        load_rows(own_task(path, max_dropped=0.4))


def test_a_limit_within_the_rows_of_a_record(tmp_path):
    """Of two rows of one record only one is needed: one is read, by count."""
    path = tmp_path / "rows.jsonl"
    record = {
        "passage": "P", "query": "Q @placeholder", "entities": ["a", "b"], "answers": ["a", "b"],
        "idx": {"passage": 0, "query": 0},
    }  # fmt: skip
    path.write_text(json.dumps(record) + "\n")
    issues = DataIssues()
    task = TaskConfig(
        name="record", source="files", train_file=str(path), prefix="", metric="record", max_train_examples=1
    )
    assert len(load_rows(task, ("train",), issues)["train"]) == 1 == issues.rows_read["train"]


def test_held_out_rows_are_those_that_are_used(tmp_path):
    """A test row that a limit leaves out is no leak when it is trained on; one that is used is."""
    path, other = tmp_path / "rows.jsonl", tmp_path / "other.jsonl"
    write_jsonl(path)
    task = own_task(path, max_train_examples=4, max_eval_examples=2, max_dropped=0.4)
    other.write_text("".join(json.dumps(row) + "\n" for row in ROWS[:3]))
    issues = DataIssues()
    rows = load_rows(task, issues=issues)
    assert [row["source"] for row in rows["test"]] == ["text 0", "text 1"]
    assert [row["source"] for row in rows["train"]] == ["text 2", "text 3", "text 4", "text 5"]
    assert [row["kind"] for row in issues.to_json()] == ["leaked"]


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.csv", "rows.parquet", "rows.arrow", "folder"])
def test_reading_needs_little_memory(tmp_path, name):
    """Of 30 MB of texts no more than a batch is in memory; Arrow's own memory is counted too."""
    path, text = tmp_path / name, "x" * 1000
    rows = [{"document": f"{i} {text}", "summary": "s"} for i in range(30_000)]
    if name == "folder":
        datasets.Dataset.from_list(rows).save_to_disk(path)
    elif name == "rows.arrow":
        table = pyarrow.Table.from_pylist(rows)
        with pyarrow.ipc.new_stream(str(path), table.schema) as file:
            file.write_table(table, max_chunksize=1000)
    elif name == "rows.parquet":
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path, row_group_size=8000)
    elif name == "rows.csv":
        with path.open("w", newline="") as file:
            csv.writer(file).writerows([("document", "summary"), *(row.values() for row in rows)])
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    del rows
    before, most = pyarrow.total_allocated_bytes(), 0
    tracemalloc.start()
    for number, (_, record) in enumerate(read_records(path, COLUMNS)):
        assert record["document"].startswith(f"{number} ")
        most = max(most, pyarrow.total_allocated_bytes() - before) if number % 1000 == 0 else most
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert number == 29_999
    assert peak < 8e6 and most < 20e6, (peak, most)
