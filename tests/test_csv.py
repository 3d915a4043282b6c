"""CSV files: sound ones lose nothing, whatever they hold; broken ones are refused at the line, and no row made up."""

import csv
import gzip
import io
import threading

import pytest

from nash_jax.data.checks import RowIssue
from nash_jax.data.columns import RequiredColumns
from nash_jax.data.records import read_records
from nash_jax.errors import UserError

COLUMNS = RequiredColumns(("document", "summary"))
LONG = "".join(f"Chapter {i} begins in spring, and the heroine walks {i} miles\n" for i in range(3000))


def read(path, columns=COLUMNS):
    return list(read_records(path, columns))


def pairs(path):
    return [tuple(record.values()) for _, record in read(path)]


SOUND = {
    "a field of 180,000 characters": [(LONG, "a long walk"), ("short", "b"), ("another", "c")],
    "a field of a million characters on one line": [("x" * 1_000_000, "a"), ("b", "y" * 200_000)],
    "quotes within": [('say "hi", then "bye"', '"'), ('""', 'the "end"')],
    "line ends within": [("one\ntwo\r\nthree\rfour", "\n"), ("\r", "a\n\nb")],
    "separators within": [("a;b\tc", "d,e,,f"), ("  ", "\u2028\x1c\x85")],
    "NUL": [("a\0b", "c"), ("\0", "d")],
    "one that looks like the header": [("document,summary", "document"), ("summary", "document")],
}


@pytest.mark.parametrize("name", SOUND)
@pytest.mark.parametrize("ending", ["\n", "\r\n", "\r"])
def test_a_sound_file_is_read_as_it_was_written(tmp_path, name, ending):
    path, text = tmp_path / "rows.csv", io.StringIO()
    csv.writer(text, lineterminator=ending, quoting=csv.QUOTE_ALL).writerows([("document", "summary"), *SOUND[name]])
    path.write_bytes(text.getvalue().encode())
    assert pairs(path) == SOUND[name]


def test_the_limit_of_the_csv_module_stays_as_it_was(tmp_path):
    """It is one for the process: neither changed for others, also after an error, nor obeyed, however low it is."""
    path = tmp_path / "rows.csv"
    path.write_text(f"document,summary\n{'a' * 5000},b\n")
    broken = tmp_path / "broken.csv"
    broken.write_text('document,summary\n"a"b,c\n')
    before = csv.field_size_limit(1000)
    try:
        for place, record in read_records(path, COLUMNS):
            assert (place, len(record["document"])) == (f"{path}:2", 5000)
            assert csv.field_size_limit() == 1000
        with pytest.raises(UserError):
            read(broken)
        assert csv.field_size_limit() == 1000
        found = []
        threads = [threading.Thread(target=lambda: found.extend(read(path))) for _ in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(found) == 8 and csv.field_size_limit() == 1000
    finally:
        csv.field_size_limit(before)


BROKEN = {  # lines after the header → the row that is named, and what is said of it
    "not closed, at the end": ('a,b\n"c,d\n', 3, "unexpected end of data"),
    "not closed, the next quotes": ('"a,b\n"c",d\ne,f\n', 2, "',' expected after '\"' in line 3, in the row that"),
    "not closed, a later one closes it": (
        '"a,b\nc,d\ne,f\ng,"h"\n',
        2,
        "',' expected after '\"' in line 5, in the row",
    ),
    "text after a quote": ('a,b\n"c" d,e\nf,g\n', 3, "',' expected after '\"'"),
    "text after a quote of a long row": ('"a\nb,c\nd" x,e\nf,g\n', 2, "',' expected after '\"' in line 4"),
    "several lines, too few": ('c,d\n"a\nb,c\nd"\nf,g\n', 3, "1 fields, not 2, in a row of 3 lines"),
    "several lines, too many": ('c,d\n\n"a\nb",c,d\nf,g\n', 4, "3 fields, not 2, in a row of 2 lines"),
    "Windows' line ends": ('a,b\r\n"c\r\nd,e\r\nf,g\r\n', 3, "unexpected end of data in line 5"),
    "beyond the old limit": ('a,b\n"' + "x,y\n" * 50_000, 3, "unexpected end of data in line 50002"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_file_is_refused_at_the_row(tmp_path, name):
    """The rows before it are read, and none after it."""
    text, line, says = BROKEN[name]
    path = tmp_path / "rows.csv"
    path.write_bytes(f"document,summary\n{text}".encode())
    found, entries = [], read_records(path, COLUMNS)
    with pytest.raises(UserError, match=r"rows.csv:\d+: broken CSV: .*; expected each quoted field closed") as error:
        while True:
            found.append(next(entries)[0])
    assert f"rows.csv:{line}: broken CSV: {says}" in str(error.value)
    assert all(int(place.rpartition(":")[2]) < line for place in found)


def test_what_is_dropped_for_certain(tmp_path):
    """A row on one line ends there, whatever its fields: it alone is dropped."""
    path = tmp_path / "rows.csv"
    path.write_bytes(
        b'document,summary\na,b,,\nc\nd,e,f\n\xe9,g\n5" disk,the "h"\n \t\n\xef\xbb\xbfdocument,summary\ni,j\n'
    )
    kinds = [(place.rpartition(":")[2], read.kind) for place, read in read(path) if isinstance(read, RowIssue)]
    assert kinds == [("3", "too_few_fields"), ("4", "too_many_fields"), ("5", "not_utf8"), ("8", "header_again")]
    kept = [tuple(record.values()) for _, record in read(path) if isinstance(record, dict)]
    assert kept == [("a", "b"), ('5" disk', 'the "h"'), ("i", "j")]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("rows.csv", "document;summary;id\na,b;c;1\n"),
        ("rows.csv", "document\tsummary\na,b\tc\n"),
        ("rows.tsv", "summary\tdocument\nc\ta,b\n"),
        ("rows.tsv", 'document,summary\n"a,b",c\n'),
        ("rows.tsv.gz", 'document\tsummary\n"a,b"\tc\n'),
    ],
)
def test_the_header_tells_the_delimiter(tmp_path, name, text):
    path = tmp_path / name
    path.write_bytes(gzip.compress(text.encode()) if name.endswith(".gz") else text.encode())
    ((_, record),) = read(path)
    assert (record["document"], record["summary"]) == ("a,b", "c")


def test_the_delimiter_is_not_guessed(tmp_path):
    """A comma is one where the header has the columns with commas, whatever the rows hold."""
    path = tmp_path / "rows.csv"
    path.write_text("document,summary;x,summary\na;b,c;d,e\n")
    assert read(path)[0][1] == {"document": "a;b", "summary;x": "c;d", "summary": "e"}
    path.write_text("document;gist\na;b\n")
    with pytest.raises(UserError, match=r"rows.csv:1 has columns \['document;gist'\], not 'document'"):
        read(path)
