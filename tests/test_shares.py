"""A training file alone: shares of its sources are held out, by the seed, and nothing leaks."""

import dataclasses
import json

import pytest

from nash_jax.config.schema import TaskConfig
from nash_jax.data.checks import DataIssues
from nash_jax.data.sources import SPLITS, load_rows
from nash_jax.data.summary import format_summary, summarize_data
from nash_jax.data.tokenizers import build_pronunciation_tokenizer
from nash_jax.errors import UserError


@pytest.fixture
def task(tmp_path):
    """`task(rows)`: these (source, target) pairs in a training file, and no other file."""

    def make(pairs, **fields):
        lines = [json.dumps({"document": source, "summary": target}) for source, target in pairs]
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(lines))
        return TaskConfig(name="own", source="files", train_file=str(path), **{"prefix": "", **fields})

    return make


PAIRS = [(f"source {i % 200}", f"target {i}") for i in range(600)]  # each source with three targets


def sources(rows):
    return {split: [row["source"] for row in rows[split]] for split in rows}


def test_no_source_is_in_two_splits(task):
    issues = DataIssues()
    found = sources(load_rows(task(PAIRS, prefix="do: "), issues=issues))
    assert {split: len(own) for split, own in found.items()} == {"train": 540, "validation": 30, "test": 30}
    assert {split: len(set(own)) for split, own in found.items()} == {"train": 180, "validation": 10, "test": 10}
    assert len(set().union(*map(set, found.values()))) == 200
    assert not any(row["kind"] == "leaked" for row in issues.to_json()) and issues.num_dropped("train") == 0


def test_the_split_is_decided_by_source_and_seed(task):
    """Neither the order of the rows nor a limit, the prefix or a lone split changes it; another seed does."""
    whole = sources(load_rows(task(PAIRS)))
    assert sources(load_rows(task(PAIRS))) == whole
    turned = sources(load_rows(task(PAIRS[::-1])))
    assert all(turned[split] == whole[split][::-1] for split in SPLITS)
    assert sources(load_rows(task(PAIRS), ("test",))) == {"test": whole["test"]}
    few = sources(load_rows(task(PAIRS, max_train_examples=7, max_eval_examples=4)))
    assert few == {split: own[: 7 if split == "train" else 4] for split, own in whole.items()}
    other = sources(load_rows(task(PAIRS, split_seed=1)))
    assert set(other["test"]) != set(whole["test"]) and len(other["test"]) == 30
    more = sources(load_rows(task(PAIRS, held_out_share=0.1)))
    assert len(more["test"]) == 60 and set(whole["test"]) < set(more["test"])


def test_a_split_with_a_file_of_its_own(task, tmp_path):
    (tmp_path / "test.jsonl").write_text(json.dumps({"document": "source 3", "summary": "t"}))
    for name, other in (("test", "validation"), ("validation", "test")):
        issues = DataIssues()
        rows = load_rows(task(PAIRS, **{f"{name}_file": str(tmp_path / "test.jsonl")}), issues=issues)
        found = sources(rows)
        assert found[name] == ["source 3"] and len(set(found[other])) == 10
        assert not set(found["train"]) & {*found[name], *found[other]}
        assert list(issues.origins) == [other]
    config = task(PAIRS, validation_file=str(tmp_path / "test.jsonl"))
    two = sources(load_rows(config, ("train", "test")))  # no share is taken for the split that has a file
    assert two["test"] == found["test"] and len(two["train"]) == 570


@pytest.mark.parametrize(("count", "sizes"), [(3, (1, 1, 1)), (9, (7, 1, 1)), (60, (54, 3, 3))])
def test_few_rows(task, count, sizes):
    rows = load_rows(task([(f"a {i}", "b") for i in range(count)]))
    assert tuple(len(rows[split]) for split in SPLITS) == sizes


@pytest.mark.parametrize("count", [1, 2])
def test_too_few_sources(task, count):
    pairs = [(f"a {i % count}", f"b {i}") for i in range(20)]
    says = rf"rows.jsonl: {count} different sources, for the splits train, test, validation; expected a source for each"
    with pytest.raises(UserError, match=says):
        load_rows(task(pairs))


def test_rows_that_cannot_be_used_are_counted_once(task):
    issues = DataIssues()
    pairs = [*PAIRS, ("", "empty"), (" ", "blank"), ("no target", None), PAIRS[0], PAIRS[1]]
    rows = load_rows(task(pairs), issues=issues)
    assert sum(issues.rows_read.values()) == len(pairs)
    kept = {split: len(rows[split]) for split in SPLITS}
    assert {split: issues.rows_read[split] - issues.num_dropped(split) for split in SPLITS} == kept
    dropped = {row["kind"]: row["rows"] for row in issues.to_json() if row["rule"] == "dropped"}
    assert {kind: dropped[kind] for kind in ("empty", "blank", "null")} == {"empty": 1, "blank": 1, "null": 1}


def test_other_forms(task, tmp_path):
    """Labels are those of the whole file; several columns are one source."""
    path = tmp_path / "rows.csv"
    lines = [f"premise {i % 50},claim {i % 3},{'yes' if i % 2 else 'no'}" for i in range(300)]
    path.write_text("\n".join(["premise,claim,label", *lines]))
    config = dataclasses.replace(
        task(PAIRS), train_file=str(path), form="classification", source_column="premise,claim", target_column="label"
    )
    found = sources(load_rows(config))
    assert not set(found["train"]) & set(found["test"]) and len(set(found["test"])) == round(0.05 * 150)


def test_the_summary_says_so(task, tmp_path):
    issues = DataIssues()
    config = task(PAIRS)
    tokenizer = build_pronunciation_tokenizer([{"source": "abcdefghijklmnopqrstuvwxyz", "references": ["B"]}])
    record = summarize_data(load_rows(config, issues=issues), tokenizer, config, tmp_path, issues)
    lines = "\n".join(format_summary(record))
    for split in ("validation", "test"):
        says = (
            f"{split}: 30 rows; 30 read, 0 dropped; 5 % of the sources of {config.train_file} (held_out_share, split_"
        )
        assert says in lines
    assert "origin" not in record["summary"]["train"]


def test_records_in_memory(task):
    records = {"train": [{"document": source, "summary": target} for source, target in PAIRS]}
    assert load_rows(task(PAIRS), records=records) == load_rows(task(PAIRS))
    with pytest.raises(UserError, match=r"the rows have the splits \['test', 'train'\]; expected also 'validation'"):
        load_rows(task(PAIRS), records=records | {"test": records["train"]})


@pytest.mark.parametrize(
    ("pairs", "fields", "says"),
    [
        ([("a", None), ("b", "")], {}, r"0 different sources.*the first .*rows.jsonl:1: column 'summary' holds None"),
        ([(1, "x"), ("b", 2)], {}, r"0 different sources.*the first .*rows.jsonl:1: column 'document' holds 1"),
        (PAIRS[:20], {"held_out_share": 0.6}, "20 different sources, of which each of test and validation takes 12"),
    ],
)
def test_why_there_are_too_few_sources(task, pairs, fields, says):
    with pytest.raises(UserError, match=says):
        load_rows(task(pairs, **fields))
