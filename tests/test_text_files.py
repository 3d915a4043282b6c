"""Files of texts: what is read from each file type, and errors that name the line."""

import gzip
import json

import pytest

from nash_jax.batch_generate.text_files import TextRow, open_text_file
from nash_jax.errors import UserError


def write(path, content: str | bytes):
    data = content.encode() if isinstance(content, str) else content
    path.write_bytes(gzip.compress(data) if path.suffix == ".gz" else data)
    return path


def rows(file):
    return list(file.rows(file.scan()))


@pytest.mark.parametrize("name", ["rows.txt", "rows.txt.gz", "rows.source", "rows.gz", "rows"])
def test_lines(tmp_path, name):
    """Only line ends are removed; empty lines, other separators and a last line without line end are kept as rows."""
    path = write(tmp_path / name, "\ufeffone\r\n\n  two\u2028still two \n\t\nlast")
    file = open_text_file(path, None)
    assert [row.text for row in rows(file)] == ["one", "", "  two\u2028still two ", "\t", "last"]
    assert rows(file)[2] == TextRow(f"{path}:3", {"source": "  two\u2028still two "}, "  two\u2028still two ")
    assert file.scan()[:2] == (5, 2)


@pytest.mark.parametrize("name", ["rows.jsonl", "rows.jsonl.gz"])
def test_objects(tmp_path, name):
    records = [{"id": 1, "document": "a\nb", "text": "c"}, {"text": 5, "document": ""}]
    path = write(tmp_path / name, "\n".join(map(json.dumps, records)))
    file = open_text_file(path, None, "output")
    assert rows(file) == [(f"{path}:{i}", r, r["document"]) for i, r in enumerate(records, 1)]
    assert file.scan()[:2] == (2, 1)


@pytest.mark.parametrize(
    ("record", "column"),
    [
        ({"text": "t", "document": "d", "source": "s"}, "source"),
        ({"text": "t", "document": "d"}, "document"),
        ({"other": "o", "text": "t"}, "text"),
    ],
)
def test_column_is_the_first_of_three(tmp_path, record, column):
    assert open_text_file(write(tmp_path / "rows.jsonl", json.dumps(record)), None).column == column


GOOD = '{"document": "sound"}\n'
BROKEN = {
    '{"document": "cut': "rows.jsonl:3: not JSON: Unterminated string starting at at column 14; expected one JSON obj",
    "{]": "rows.jsonl:3: not JSON: Expecting property name enclosed in double quotes at column 2; expected one JSON ob",
    '["document"]': "rows.jsonl:3: a JSON list; expected one JSON object per line",
    "[" * 100_000: "rows.jsonl:3: not JSON: ",
    '{"documents": "a"}': r"rows.jsonl:3 has columns \['documents'\], not 'document' \(did you mean 'documents'\?\)",
    '{"document": null}': "rows.jsonl:3: column 'document' holds None; expected a text",
    '{"document": ["a"]}': r"rows.jsonl:3: column 'document' holds \['a'\]; expected a text",
    '{"document": "a\\udc80"}': r"rows.jsonl:3: column 'document' holds \\udc80, half of a surrogate pair; expected wh",
    '{"document": "a", "output": "b"}': "rows.jsonl:3 has a column 'output' already; expected none: it would be lost",
}


@pytest.mark.parametrize("line", BROKEN, ids=lambda line: line[:32])
def test_broken_row_is_named(tmp_path, line):
    file = open_text_file(write(tmp_path / "rows.jsonl", f"{GOOD}{GOOD}{line}\n{GOOD}"), None, "output")
    with pytest.raises(UserError, match=BROKEN[line]):
        file.scan()


def test_columns_of_results_may_be_read_where_nothing_is_added(tmp_path):
    path = write(tmp_path / "rows.jsonl", '{"output": "a"}\n')
    assert rows(open_text_file(path, "output"))[0].text == "a"


@pytest.mark.parametrize(
    ("name", "content", "column", "says"),
    [
        (
            "rows.xlsx",
            "a,b\n",
            None,
            "rows.xlsx has an unsupported file type; expected .jsonl, .json, .csv, .tsv, .parquet or .arrow, also with",
        ),
        ("rows.parquet.gz", "", None, "rows.parquet.gz cannot be read: .*; expected a complete Parquet file"),
        (
            "rows.csv",
            "a,b\nc,d\n",
            None,
            r"rows.csv:1 has columns \['a', 'b'\]; expected one of source, document, text",
        ),
        ("rows.csv", "text,b\nc\n", None, r"rows.csv:2: 1 fields, not 2; expected as many fields as the header"),
        (
            "rows.csv",
            'text,b\n"c"d,e\n',
            None,
            r"rows.csv:2: broken CSV: ',' expected after '\"'; expected each quoted",
        ),
        (
            "rows.json",
            '{"text": ["a"}',
            None,
            r"rows.json:1: not JSON: .* at column 14; expected a list of objects, or",
        ),
        ("rows.json", '[{"text": "a"},\n {"body": "b"}]', None, r"rows.json row 2 has columns \['body'\], not 'text'"),
        ("rows.jsonl", '{"a": {"b": 1}}', "a.b", "rows.jsonl:1: column 'a.b' holds 1; expected a text"),
        (
            "rows.txt",
            "a\n",
            "document",
            "column 'document' of .*rows.txt, a text file; expected a column only for a file with columns",
        ),
        ("rows.txt", "", None, "rows.txt is empty; expected at least one row"),
        ("rows.jsonl", "", None, "rows.jsonl is empty; expected at least one row"),
        ("rows.jsonl", '{"body": "a"}', None, "rows.jsonl:1 has columns .'body'.; expected one of source, document, t"),
        ("rows.txt", b"a\nb\xe9\n", None, "rows.txt:2: byte 0xe9 is not UTF-8"),
        ("rows.gz", gzip.compress(b"a\n" * 99, mtime=0)[:20], None, r"rows.gz:\d+: cannot be read"),
    ],
)
def test_file_that_cannot_be_used(tmp_path, name, content, column, says):
    path = tmp_path / name
    path.write_bytes(content if isinstance(content, bytes) else write(path, content).read_bytes())
    with pytest.raises(UserError, match=says):
        open_text_file(path, column).scan()


def test_no_file(tmp_path):
    with pytest.raises(UserError, match=r"no file .*none.txt; expected an existing file"):
        open_text_file(tmp_path / "none.txt", None)


def test_a_file_changed_after_the_scan(tmp_path):
    file = open_text_file(write(tmp_path / "rows.txt", "a\nb\nc\n"), None)
    scan = file.scan()
    write(file.paths[0], "a\nb\n")
    left = file.rows(scan)
    assert [next(left).text, next(left).text] == ["a", "b"]
    with pytest.raises(UserError, match=r"rows.txt was changed while it was read"):
        next(left)
