"""Training and generation read the same rows from the same files, of every kind, encoding and line end."""

import codecs
import csv
import datetime
import gzip
import io
import json

import datasets
import pyarrow
import pyarrow.feather
import pyarrow.parquet
import pytest

from nash_jax.batch_generate.text_files import open_text_file, to_json
from nash_jax.config.schema import TaskConfig
from nash_jax.data.columns import RequiredColumns
from nash_jax.data.records import read_records
from nash_jax.data.sources import load_rows
from nash_jax.errors import UserError

PAIRS = [("one", "a"), ('two "quoted", and; more', "b\nc"), ("世界 🌍 é", "d\te"), ("  spaces  ", "f"), ("five", "g")]
ROWS = [{"text": source, "gist": target, "n": i} for i, (source, target) in enumerate(PAIRS)]
JSONL = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in ROWS)


def sheet(delimiter=",", ending="\r\n"):
    text = io.StringIO()
    rows = csv.DictWriter(
        text, ["n", "text", "gist"], delimiter=delimiter, lineterminator=ending, quoting=csv.QUOTE_NONNUMERIC
    )
    rows.writeheader()
    rows.writerows(ROWS)
    return text.getvalue()


def table(path):
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(ROWS), path, row_group_size=2)


def stream(path):
    whole = pyarrow.Table.from_pylist(ROWS)
    with pyarrow.ipc.new_stream(str(path), whole.schema) as file:
        file.write_table(whole, max_chunksize=2)


TEXTS = {  # name → content
    "blank.jsonl": "\n\n" + JSONL.replace("\n", "\n\n  \n") + "\n",
    "windows.jsonl": JSONL.replace("\n", "\r\n"),
    "mac.jsonl": JSONL.replace("\n", "\r"),
    "no_end.jsonl": JSONL.rstrip("\n"),
    "joined.jsonl": "\ufeff" + JSONL.replace('\n{"text": "five"', '\n\ufeff{"text": "five"'),
    "rows.ndjson": JSONL,
    "lines.json": JSONL,
    "list.json": json.dumps(ROWS),
    "pretty.json": json.dumps(ROWS, indent=2),
    "one_a_line.json": "[\n" + JSONL.rstrip("\n").replace("\n", ",\n") + "\n]\n",
    "data.json": json.dumps({"version": "1", "data": ROWS, "notes": ["a"]}, ensure_ascii=False, indent=1),
    "rows.json": json.dumps({"rows": ROWS}),
    "rows.csv": sheet(),
    "mac.csv": sheet(ending="\r"),
    "excel.csv": sheet(";"),
    "tabs.csv": sheet("\t"),
    "rows.tsv": sheet("\t", "\n"),
    "UPPER.CSV": sheet(),
    "blank.csv": sheet().replace("\r\n", "\r\n\r\n  \r\n") + "\t\r\n",
}
ENCODINGS = {
    "utf-8": b"", "utf-8-sig": b"", "utf-16-le": codecs.BOM_UTF16_LE, "utf-16-be": codecs.BOM_UTF16_BE,
    "utf-32-le": codecs.BOM_UTF32_LE,
}  # fmt: skip


def same(names, column="text", target="gist"):
    """Checks that both programs read `PAIRS`."""
    files = dict.fromkeys(("train_file", "validation_file", "test_file"), str(names))
    task = TaskConfig(name="own", source="files", source_column=column, target_column=target, prefix="", **files)
    rows = load_rows(task, ("train",))["train"]
    assert [(row["source"], *row["references"]) for row in rows] == PAIRS
    file = open_text_file(str(names), column)
    scan = file.scan()
    found = list(file.rows(scan))
    assert [row.text for row in found] == [source for source, _ in PAIRS] and scan.num_rows == len(PAIRS)
    return found


@pytest.mark.parametrize("name", TEXTS)
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_text_formats(tmp_path, name, encoding):
    path = tmp_path / name
    path.write_bytes(ENCODINGS[encoding] + TEXTS[name].encode(encoding))
    found = same(path)
    assert [str(row.record["n"]) for row in found] == ["0", "1", "2", "3", "4"]  # all columns


@pytest.mark.parametrize("name", ["rows.csv", "data.json", "blank.jsonl"])
def test_packed(tmp_path, name):
    path = tmp_path / f"{name}.gz"
    path.write_bytes(gzip.compress(codecs.BOM_UTF16_LE + TEXTS[name].encode("utf-16-le")))
    same(path)


def test_tables(tmp_path):
    table(tmp_path / "rows.parquet")
    stream(tmp_path / "stream.arrow")
    pyarrow.feather.write_feather(pyarrow.Table.from_pylist(ROWS), tmp_path / "file.arrow")
    (tmp_path / "stream.arrow.gz").write_bytes(gzip.compress((tmp_path / "stream.arrow").read_bytes()))
    for name in ("rows.parquet", "stream.arrow", "file.arrow", "stream.arrow.gz"):
        found = same(tmp_path / name)
        assert found[1].place == f"{tmp_path / name} row 2" and found[1].record == {**ROWS[1]}, name


def test_folders_of_datasets(tmp_path):
    """A chosen part in another order, over several files; a folder of splits gives each its own."""
    mixed = datasets.Dataset.from_list([ROWS[4], {"text": "no", "gist": "x", "n": 9}, *ROWS[:4]])
    mixed.select([2, 3, 4, 5, 0]).save_to_disk(tmp_path / "folder", num_shards=2)
    assert same(tmp_path / "folder")[4].record == ROWS[4]

    other = datasets.Dataset.from_list([{"text": "held out", "gist": "h"}])
    splits = datasets.DatasetDict(train=datasets.Dataset.from_list(ROWS), validation=other, test=other)
    splits.save_to_disk(tmp_path / "splits")
    task = TaskConfig(name="own", source="files", source_column="text", target_column="gist", prefix="")
    for held_out in ("", str(tmp_path / "splits")):
        files = {"train_file": str(tmp_path / "splits"), "validation_file": held_out, "test_file": held_out}
        rows = load_rows(TaskConfig(**{**vars(task), **files}))
        assert {split: len(own) for split, own in rows.items()} == {"train": 5, "validation": 1, "test": 1}
        assert rows["test"][0]["source"] == "held out"
    with pytest.raises(
        UserError, match=r"the folder .*splits holds the splits test, train, validation; expected one of"
    ):
        open_text_file(str(tmp_path / "splits"), "text")
    same(tmp_path / "splits" / "train")


def test_nested_columns(tmp_path):
    nested = [{"data": {"text": source}, "out": {"gist": {"short": target}}} for source, target in PAIRS]
    (tmp_path / "rows.jsonl").write_text("".join(json.dumps(row) + "\n" for row in nested))
    (tmp_path / "rows.json").write_text(json.dumps(nested))
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(nested), tmp_path / "rows.parquet")
    datasets.Dataset.from_list(nested).save_to_disk(tmp_path / "folder")
    flat = [{"data.text": source, "out.gist.short": target} for source, target in PAIRS]
    (tmp_path / "flat.jsonl").write_text("".join(json.dumps(row) + "\n" for row in flat))
    for name in ("rows.jsonl", "rows.json", "rows.parquet", "folder", "flat.jsonl"):
        same(tmp_path / name, "data.text", "out.gist.short")


def test_several_files_and_patterns(tmp_path):
    for number, row in enumerate(ROWS):
        (tmp_path / f"part-{number}.jsonl").write_text(json.dumps(row) + "\n")
    (tmp_path / "last.csv").write_text("gist;text\ng;five\n")
    (tmp_path / "part-a,b.jsonl").write_text(JSONL)
    first = ",".join(str(tmp_path / f"part-{number}.jsonl") for number in range(4))
    same(f"{tmp_path}/part-?.jsonl")
    same(f"{tmp_path}/part-[0-3].jsonl, {tmp_path}/last.csv")
    assert same(f"{first},{tmp_path}/last.csv")[4].place == f"{tmp_path}/last.csv:2"
    same(f"{first},{tmp_path}/part-?.jsonl")  # each file once
    same(tmp_path / "part-a,b.jsonl")  # a file of that name
    for names in (f"{tmp_path}/other-*.jsonl", f"{first},{tmp_path}/none.jsonl", ","):
        with pytest.raises(UserError, match=r"^no file .*; expected an existing file"):
            open_text_file(names, "text")
        with pytest.raises(UserError, match=r"config.task.train_file: no file .*; expected an existing file"):
            load_rows(TaskConfig(name="own", source="files", train_file=names))
    (tmp_path / "rows.txt").write_text("one\n")
    with pytest.raises(
        UserError, match="names files with columns and files of lines; expected files of one of the two"
    ):
        open_text_file(f"{tmp_path}/last.csv,{tmp_path}/rows.txt", None)


def test_one_object_is_one_row(tmp_path):
    """Also if it holds a list of objects: its columns decide."""
    path = tmp_path / "row.json"
    for row in ({"text": "a", "gist": "b"}, {"text": "a", "gist": "b", "notes": [{"text": "c"}]}):
        path.write_text(json.dumps(row))
        assert [read for _, read in read_records(path, RequiredColumns(("text", "gist")))] == [row]


@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        (
            "cut.json",
            b'[\n{"text": "a"},\n{"text": ',
            r"cut.json:3: not JSON: Expecting value at column 10; expected a l",
        ),
        ("half.json", b'[{"text": "\xe9"}]', r"half.json:1: byte 0xe9 is not UTF-8"),
        ("odd.jsonl", codecs.BOM_UTF16_LE + "{}\n".encode("utf-16-le") + b"a", r"odd.jsonl:2: not UTF-16.*: truncated"),
        ("deep.json", b"[" * 100_000, r"deep.json: not JSON: .*; expected a list of objects"),
        ("folder.arrow", b"ARROW1 and no more", r"folder.arrow cannot be read: .*; expected a complete Arrow file"),
    ],
)
def test_damaged(tmp_path, name, content, says):
    (tmp_path / name).write_bytes(content)
    with pytest.raises(UserError, match=says):
        list(read_records(tmp_path / name, RequiredColumns(("text",))))


@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
@pytest.mark.parametrize("encoding", ENCODINGS)
def test_lines_of_texts(tmp_path, ending, encoding):
    """A blank line of a text file is a row: outputs are found by line number."""
    path = tmp_path / "rows.txt"
    path.write_bytes(ENCODINGS[encoding] + ending.join(["one", "", "é 世", "", ""]).encode(encoding))
    file = open_text_file(str(path), None)
    assert [row.text for row in file.rows(file.scan())] == ["one", "", "é 世", ""]


def test_what_json_does_not_have(tmp_path):
    """Dates and bytes of a table are texts in the output."""
    path = tmp_path / "rows.parquet"
    rows = [{"text": "a", "day": datetime.date(2024, 2, 29), "raw": b"x", "list": [1.5, None]}]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)
    file = open_text_file(str(path), None)
    (row,) = file.rows(file.scan())
    assert json.loads(to_json(row.record)) == {"text": "a", "day": "2024-02-29", "raw": "b'x'", "list": [1.5, None]}


def test_the_content_says_whether_a_file_is_packed(tmp_path):
    (tmp_path / "packed.jsonl").write_bytes(gzip.compress(JSONL.encode()))
    (tmp_path / "unpacked.csv.gz").write_text(sheet())
    table(tmp_path / "plain.parquet")
    (tmp_path / "packed.parquet").write_bytes(gzip.compress((tmp_path / "plain.parquet").read_bytes()))
    (tmp_path / "plain.parquet").rename(tmp_path / "unpacked.parquet.gz")
    for name in ("packed.jsonl", "unpacked.csv.gz", "packed.parquet", "unpacked.parquet.gz"):
        same(tmp_path / name)


def test_a_list_named_jsonl(tmp_path):
    for number, text in enumerate((json.dumps(ROWS), json.dumps(ROWS, indent=1))):
        (tmp_path / f"{number}.jsonl").write_text(text)
        same(tmp_path / f"{number}.jsonl")


def test_the_list_with_the_columns_is_taken(tmp_path):
    path = tmp_path / "rows.json"
    for others in ({"authors": [{"name": "x"}]}, {"authors": [{"name": "x"}], "files": [{"path": "y"}]}):
        path.write_text(json.dumps(others | {"data": ROWS}))
        same(path)
    path.write_text(json.dumps({"train": ROWS, "test": ROWS}))
    with pytest.raises(UserError, match=r"row 1 has columns \['test', 'train'\], not 'text'"):
        open_text_file(path, "text").scan()


def test_folders_and_pointers(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "a.jsonl").write_text(JSONL)
    for names in (tmp_path / "folder", f"{tmp_path}/fold*"):
        with pytest.raises(UserError, match=r"folder is a folder, which datasets.save_to_disk did not write"):
            open_text_file(names, "text")
    for name in ("a.csv", "b.parquet"):
        (tmp_path / name).write_text("version https://git-lfs.github.com/spec/v1\noid sha256:a\nsize 1\n")
        with pytest.raises(UserError, match=rf"{name} is a pointer of Git LFS; expected the file itself"):
            open_text_file(tmp_path / name, "text")


def test_a_message_names_some_columns(tmp_path):
    """An object by ids, and a CSV without a header, have no end of names."""
    (tmp_path / "ids.json").write_text(json.dumps({str(i): {"text": "a"} for i in range(5000)}))
    (tmp_path / "no_header.csv").write_text("x" * 5000 + ",y\n")
    for name in ("ids.json", "no_header.csv"):
        with pytest.raises(UserError, match=r"has columns .*, not 'text'") as error:
            open_text_file(tmp_path / name, "text").scan()
        assert len(str(error.value)) < 700
