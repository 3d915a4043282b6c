"""Contrasts of a study: the file that predicts them, what records say of them, and how they are shown."""

import csv
import dataclasses
import io
import json
import re

import numpy as np
import pytest
from html_page import Page
from scipy import stats

from nash_jax.config.schema import default_config
from nash_jax.errors import UserError
from nash_jax.evaluation.row_statistics import RowStatistics, SubsetStatistics
from nash_jax.study.contrasts import Contrast, read_contrasts
from nash_jax.study.grid import read_cells
from nash_jax.study.protocol import compare
from nash_jax.study.registry import register
from nash_jax.study.report import Protocol, console_summary, write_study

SEEDS = (1, 2, 3)
CELLS = {
    "nash": {"method": "nash", "seeds": SEEDS},
    "drop": {"method": "drop", "seeds": SEEDS},
    "other": {"method": "drop", "seeds": SEEDS, "finetune": {"epochs": 1.0}},
}
GOOD = {"name": "n", "a": "nash", "b": "drop", "predicted": "at least 1.0", "date": "2026-11-29"}


def read(tmp_path, rows):
    file, config = tmp_path / "c.json", default_config()
    file.write_text(rows if isinstance(rows, str) else json.dumps(rows))
    config.cells, config.contrasts = CELLS, str(file)
    return read_contrasts(config, read_cells(config))


def without(name):
    return {key: value for key, value in GOOD.items() if key != name}


# -- the file -------------------------------------------------------------------------------------------------


def test_a_file_of_contrasts(tmp_path):
    found = read(
        tmp_path, [GOOD, GOOD | {"name": "m", "b": "dense", "metric": "rouge1", "margin": 1, "why": "because"}]
    )
    assert found == [
        Contrast("n", "nash", "drop", "at least 1.0", "2026-11-29", metric="rougeL"),  # the one that is selected by
        Contrast("m", "nash", "dense", "at least 1.0", "2026-11-29", metric="rouge1", margin=1.0, why="because"),
    ]


def test_a_study_without_a_file_has_none():
    config = default_config()
    config.cells = CELLS
    assert read_contrasts(config, read_cells(config)) == []
    config.contrasts = ""
    assert read_contrasts(config, read_cells(config)) == []


WRONG = {
    r"c\.json: 5 contrasts; expected 4 at most; keep those that matter: every further one": [
        GOOD | {"name": str(i)} for i in range(5)
    ],
    r"c\.json is not JSON: .*; expected a list of contrasts": "[{",
    r"c\.json holds a dict; expected a list of contrasts": {"contrasts": [GOOD]},
    r"contrast 1 is 'nash'; expected an object with name, a, b, predicted, date": ["nash"],
    r"contrast 2 has 'predicte' \(did you mean 'predicted'\?\); expected a, b, date": [
        GOOD,
        without("predicted") | {"predicte": ""},
    ],
    r"contrast 1 has no date; expected name, a, b, predicted, date": [without("date")],
    r"contrast 1: predicted is 'about 1'; expected at least X, at most X or within X": [
        GOOD | {"predicted": "about 1"}
    ],
    r"contrast 1: predicted is 'within 0\.0'; expected at least X": [GOOD | {"predicted": "within 0.0"}],
    r"contrast 1: predicted is 'within -1'; expected at least X": [GOOD | {"predicted": "within -1"}],
    r"contrast 1: predicted is 1; expected a text|predicted is 1": [GOOD | {"predicted": 1}],
    r"contrast 1: date is 'today'; expected a day, as in 2026-11-29": [GOOD | {"date": "today"}],
    r"contrast 1: margin is 0; expected a number above 0": [GOOD | {"margin": 0}],
    r"contrast 1: margin is '0\.5'; expected a number above 0": [GOOD | {"margin": "0.5"}],
    r"two contrasts are called 'n'; expected a name of its own": [GOOD, GOOD],
    r"contrast 'n': b is 'drp' \(did you mean 'drop'\?\); expected dense, or one of drop, nash": [GOOD | {"b": "drp"}],
    r"contrast 'n': a and b are both nash; expected two cells that differ": [GOOD | {"b": "nash"}],
    r"contrast 'n': nash and other have different teachers; expected cells that share": [GOOD | {"b": "other"}],
}


@pytest.mark.parametrize("message", WRONG)
def test_a_file_that_cannot_be_used(message, tmp_path):
    with pytest.raises(UserError, match=message):
        read(tmp_path, WRONG[message])


def test_a_file_that_is_not_there():
    config = default_config()
    config.cells, config.contrasts = CELLS, "none.json"
    with pytest.raises(UserError, match=r"config\.contrasts: no file 'none\.json'; expected a JSON file of contrasts"):
        read_contrasts(config, read_cells(config))
    config = default_config()
    config.cells, config.contrasts = CELLS, 3
    with pytest.raises(UserError, match=r"config\.contrasts is .*; expected the path of a JSON file, or an empty text"):
        read_contrasts(config, read_cells(config))


@pytest.mark.parametrize(
    ("predicted", "interval", "level", "verdict"),
    [
        ("at least 1.0", (1.0, 2.0), False, "held"),
        ("at least 1.0", (0.9, 2.0), False, "not decided"),
        ("at least 1.0", (0.1, 0.9), False, "refuted"),
        ("at most -0.5", (-2.0, -0.5), False, "held"),
        ("at most -0.5", (-0.4, 2.0), False, "refuted"),
        ("at most -0.5", (-0.6, 2.0), False, "not decided"),
        ("within 0.5", (-0.4, 0.6), True, "held"),
        ("within 0.5", (-0.4, 0.6), False, "not decided"),
        ("within 0.5", (-2.0, -0.6), False, "refuted"),
        ("within 0.5", (0.6, 2.0), False, "refuted"),
    ],
)
def test_verdicts(predicted, interval, level, verdict):
    assert Contrast("n", "a", "b", predicted, "2026-11-29").verdict(interval, level) == verdict


def test_when_a_study_first_saw_a_contrast(tmp_path):
    """A change makes another contrast, which comes after the cells that are done; the first is not forgotten."""
    file, first, second = tmp_path / "contrasts.json", Contrast(**GOOD), Contrast(**GOOD | {"name": "m", "a": "x"})
    ((before,), _) = register(file, [first], [])
    assert before["done_before"] == 0 and re.match(r"\d{4}-\d\d-\d\dT", before["seen"])
    (again, late), withdrawn = register(file, [first, second], ["nash", "nash", "drop", "x"])
    assert again == before and late["done_before"] == 2 and withdrawn == []
    changed = dataclasses.replace(first, predicted="at least 0")
    (now,), withdrawn = register(file, [changed], ["nash", "nash", "drop"])
    assert now["done_before"] == 3 and [own["name"] for own in withdrawn] == ["n", "m"]


# -- what the records say -------------------------------------------------------------------------------------

ROWS = 40


def make_record(group, seed, hits, *, steps=100, seconds=10.0, trials=1):
    """A cell with so many of `ROWS` rows right; its dense model has 30 right, and one more for each seed."""
    return {
        "cell": f"{group}-s{seed}", "group": group, "task": "letters", "metric": "exact_match", "model": "tiny",
        "method": group, "seed": seed, "device": "1 × tester", "dtype": "float32", "teacher": "aa", "trials": trials,
        "metrics": {model: {"exact_match": 100 * n / ROWS} for model, n in (("dense", 30 + seed), ("pruned", hits))},
        "stages": {"finetune": {"steps": 900, "seconds": 90.0}, "label": {"seconds": seconds / 2},
                   "retrain": {"steps": steps, "seconds": seconds / 2}, "evaluate": {"seconds": 5.0}},
    }  # fmt: skip


def make_rows(record):
    """Statistics of the rows of such a record: those that are right come first."""
    models = {
        model: np.stack([np.arange(ROWS) < round(own["exact_match"] * ROWS / 100), np.ones(ROWS)], axis=1).astype(float)
        for model, own in record["metrics"].items()
    }
    return RowStatistics("the rows", [SubsetStatistics("", "exact_match", np.arange(ROWS), models)])


HITS = {"nash": (34, 32, 33, 36), "drop": (24, 24, 22, 27), "near": (34, 32, 33, 37), "cofi": (20, 25, 30)}


@pytest.fixture
def records():
    found = [make_record(group, seed, n) for group, hits in HITS.items() for seed, n in enumerate(hits, 1)]
    return [
        own | {"stages": make_record("", 1, 1, steps=50)["stages"]} if own["group"] == "cofi" else own for own in found
    ]


def contrast(name, a, b, predicted, **more):
    return Contrast(name, a, b, predicted, "2026-11-29", metric="exact_match", **more)


ASKED = [
    contrast("ahead", "nash", "drop", "at least 10"),
    contrast("alike", "near", "nash", "within 2.5", margin=2.5),
    contrast("wide", "nash", "cofi", "at most 0"),
    contrast("kept", "nash", "dense", "at least 20"),
]


@pytest.fixture
def results(records):
    return {own["name"]: own for own in compare(ASKED, records, make_rows)}


def test_differences_are_paired_by_seed(results):
    own, pairs = results["ahead"], np.array([HITS["nash"], HITS["drop"]]) * 100 / ROWS
    theirs = stats.ttest_rel(*pairs)
    assert own["seeds"] == [1, 2, 3, 4] and own["differences"] == pytest.approx([25.0, 20.0, 27.5, 22.5])
    assert own["mean"] == pytest.approx(23.75) and own["std"] == pytest.approx(np.std(pairs[0] - pairs[1], ddof=1))
    assert own["interval"] == pytest.approx(theirs.confidence_interval(0.95)) and own["p"] == pytest.approx(
        theirs.pvalue
    )
    assert own["verdict"] == "held" and own["finding"] == "nash ahead" and own["is_level"] is False
    assert own["rows_agree"] is True


def test_p_values_are_corrected_for_all_contrasts(results):
    ps = sorted((own["p"], own["p_holm"]) for own in results.values())
    assert ps[0][1] == pytest.approx(4 * ps[0][0]) and ps[1][1] == pytest.approx(max(3 * ps[1][0], ps[0][1]))
    alone = compare(ASKED[:1], [], make_rows)
    assert alone[0]["p"] is alone[0]["p_holm"] is None


def test_a_contrast_that_is_not_run_yet_counts_in_the_correction(records):
    done = [own for own in records if own["group"] in ("nash", "drop")]
    first = compare(ASKED, done, make_rows)[0]
    assert first["p_holm"] == pytest.approx(4 * first["p"])


def test_level_is_said_where_both_one_sided_tests_say_so(results):
    own = results["alike"]
    assert own["differences"] == pytest.approx([0, 0, 0, 2.5]) and own["is_level"] and own["verdict"] == "held"
    assert own["finding"] == "level within 2.5, on these test rows" and own["rows_agree"] is False
    assert "level" not in results["wide"]["finding"].replace("nor that they are level", "")
    assert results["wide"]["finding"] == "no difference shown, nor that they are level"
    assert results["wide"]["verdict"] == "not decided"


def test_the_dense_model_is_that_of_the_same_cell(results):
    assert results["kept"]["differences"] == pytest.approx([(n - 30 - s) * 2.5 for s, n in enumerate(HITS["nash"], 1)])
    assert results["kept"]["verdict"] == "refuted"


def test_rows_widen_the_interval(results, records):
    """Many seeds of one difference, on few rows: what other rows would give is in the second interval alone."""
    for own in results.values():
        low, high = own["rows_interval"]
        assert low <= own["mean"] <= high
    variance = own_rows_variance(results["ahead"])
    share = np.std(results["ahead"]["differences"], ddof=1) ** 2 / 4
    df = (share + variance) ** 2 / (share**2 / 3 + variance**2 / (ROWS - 1))
    reach = stats.t.ppf(0.975, df) * np.sqrt(share + variance)
    assert results["ahead"]["rows_interval"] == pytest.approx([23.75 - reach, 23.75 + reach], rel=0.05)


def own_rows_variance(own):
    """Of the mean of rows: the share right on either side, averaged over the seeds, as the rows have it."""
    rows = [
        100 * (np.arange(ROWS) < a).astype(float) - 100 * (np.arange(ROWS) < b)
        for a, b in zip(HITS[own["a"]], HITS[own["b"]], strict=True)
    ]
    return np.mean(rows, axis=0).var() / ROWS


def test_what_is_not_alike_is_said(records, results):
    assert "training steps are not equal: 100 and 50" in results["wide"]["notes"]
    assert results["ahead"]["notes"] == [] and results["ahead"]["steps"] == {"a": 100, "b": 100}
    assert results["ahead"]["seconds"] == {"a": 10.0, "b": 10.0}  # labelling in it, the teacher not
    for record in records:
        record["trials"] = 3 if record["group"] == "nash" else 1
    own = compare(ASKED[:1], records, make_rows)[0]
    assert own["notes"] == ["numbers of trials are not equal: 3 and 1"] and own["trials"] == {"a": 3, "b": 1}


def test_fewer_than_three_seeds_have_no_verdict(records):
    own = compare(ASKED[:1], [record for record in records if record["seed"] < 3], make_rows)[0]
    assert own["n"] == 2 and own["mean"] == pytest.approx(22.5) and own["std"] == pytest.approx(np.sqrt(12.5))
    names = ("interval", "rows_interval", "p", "p_holm", "is_level", "detectable", "verdict", "rows_agree")
    assert all(own[name] is None for name in names)
    assert own["notes"] == ["fewer than 3 seeds: no interval and no verdict"] and own["finding"] == ""


def test_seeds_that_differ_by_the_same_have_no_verdict(records):
    own = compare([contrast("same", "nash", "nash-copy", "within 1")],
                  [*records, *(r | {"group": "nash-copy"} for r in records if r["group"] == "nash")])[0]  # fmt: skip
    assert own["verdict"] is own["p"] is None and own["notes"] == [
        "all seeds differ by the same: no interval and no verdict"
    ]


def test_only_cells_of_one_teacher_are_pairs(records):
    records[0] |= {"teacher": "bb"}
    assert compare(ASKED[:1], records)[0]["seeds"] == [2, 3, 4]


def test_rows_that_are_missing_or_others(records):
    own = compare(ASKED[:1], records)[0]
    assert own["rows_interval"] is None and own["verdict"] == "held"
    assert own["notes"] == ["no interval over rows: no statistics of the test rows of nash-s1"]

    def others(record):
        return dataclasses.replace(make_rows(record), rows=record["group"])

    assert compare(ASKED[:1], records, others)[0]["notes"] == [
        "no interval over rows: nash-s1 and drop-s1 have different test rows"
    ]


def test_a_metric_that_the_cells_do_not_have(records):
    own = compare([dataclasses.replace(ASKED[0], metric="rouge9")], records)[0]
    assert own["n"] == 0 and own["mean"] is None and own["notes"][1] == "no rouge9: the cells have exact_match"


def test_fewer_errors_are_better(records):
    for record in records:
        record["metrics"] = {model: {"error_rate": own["exact_match"]} for model, own in record["metrics"].items()}
    own = compare([dataclasses.replace(ASKED[0], metric="error_rate", predicted="at most 0")], records)[0]
    assert own["finding"] == "drop ahead" and own["verdict"] == "refuted"


# -- how it is shown ------------------------------------------------------------------------------------------


TRIALS = {"nash": {"metric": "exact_match", "settings": [{"retrain.learning_rate": x} for x in (1e-3, 2e-3)],
                   "scores": [81.0, None], "chosen": 1}}  # fmt: skip


@pytest.fixture
def shown(records, results, tmp_path):
    """A study's folder, written from records alone."""
    seen = [own | {"seen": "2026-11-29T20:00:00+00:00", "done_before": 6 * i} for i, own in enumerate(results.values())]
    gone = [dataclasses.asdict(contrast("gone", "nash", "x", "at least 9"))]
    write_study(
        tmp_path, "s", records, {"nash-s1": "done", "nash-t2": "diverged: its loss"}, Protocol(seen, gone, TRIALS)
    )
    return tmp_path


def test_study_json_holds_the_contrasts(shown, results):
    found = json.loads((shown / "study.json").read_text())
    assert found["contrasts"][0]["interval"] == pytest.approx(results["ahead"]["interval"])
    assert found["contrasts"][1]["done_before"] == 6 and found["withdrawn"][0]["name"] == "gone"
    assert found["trials"]["nash"]["chosen"] == 1


def test_no_spread_is_printed_without_its_name(shown, results, records):
    """Neither in the page, nor in a table, nor on the terminal."""
    texts = [path.read_text() for path in (*shown.glob("tables/*"), shown / "report.html", shown / "study.json")]
    texts.append(console_summary(records, {}, Protocol(list(results.values()))))
    assert len(texts) > 12 and not any("±" in text for text in texts)


def test_the_page_shows_contrasts_and_trials(shown):
    whole = (shown / "report.html").read_text()
    page = re.sub(r"<[^>]+>", " ", whole)
    assert Page(whole).faults == []
    labels = re.findall(r'<svg class="plot" role="img" aria-label="([^"]*)"', whole)
    assert any(label.startswith("Differences of contrasts: ahead +23.75 [") for label in labels)
    for said in (
        "nash ahead", "level within 2.5", "before its cells were run", "after 18 of its cells were done", "diverged",
        "4 seeds find a difference of", "Withdrawn or changed since this study first saw them: gone",
        "wide: training steps are not equal: 100 and 50", "retrain.learning_rate 0.001",
    ):  # fmt: skip
        assert said in page, said


def test_tables_of_contrasts(shown):
    rows = list(csv.DictReader(io.StringIO((shown / "tables" / "contrasts.csv").read_text())))
    assert [row["verdict"] for row in rows] == ["held", "held", "not decided", "refuted"]
    assert float(rows[0]["interval_low"]) < float(rows[0]["mean"]) < float(rows[0]["interval_high"])
    assert (
        rows[0]["seeds"] == "1 2 3 4" and rows[2]["steps_b"] == "50" and rows[2]["notes"].startswith("training steps")
    )
    text = (shown / "tables" / "contrasts.md").read_text()
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len(lines) == 2 + 4 and len({line.count("|") for line in lines}) == 1 and "+23.75 [" in lines[2]


def test_effort_of_each_group(shown):
    rows = {row["group"]: row for row in csv.DictReader(io.StringIO((shown / "tables" / "training.csv").read_text()))}
    assert float(rows["nash"]["steps"]) == 100 and float(rows["cofi"]["steps"]) == 50
    assert float(rows["nash"]["seconds"]) == 10 and float(rows["nash"]["teacher_seconds"]) == 90
    cells = list(csv.DictReader(io.StringIO((shown / "tables" / "cells.csv").read_text())))
    assert cells[0]["training_steps"] == "100" and cells[0]["teacher_steps"] == "900"


def test_groups_with_fewer_trials_are_named(records, tmp_path):
    for record in records:
        record["trials"] = 3 if record["group"] == "nash" else 1
    write_study(tmp_path, "s", records, {})
    text = (tmp_path / "tables" / "training.md").read_text()
    assert (
        "Fewer trials than the 3 of another: drop (1), near (1), cofi (1)." in text
        and "| nash | nash | 4 | 3 |" in text
    )


def test_lines_of_a_terminal(results):
    lines = console_summary([], {}, Protocol([results["ahead"] | {"done_before": 0}], trials=TRIALS)).splitlines()
    assert lines[2] == "nash: 2 trials on validation rows, chosen: retrain.learning_rate 0.001 (81.00 exact_match)"
    lines = lines[2:]
    assert lines[2].startswith("ahead: nash - drop: +23.75 [") and "p = " in lines[2] and "4 seeds" in lines[2]
    assert lines[3] == "  predicted at least 10 (2026-11-29, before its cells were run): held"
    assert "with 80 % power" in lines[4]


def test_strings_of_contrasts_are_escaped(records, tmp_path):
    evil = '<script>alert("x")</script>|*a*'
    results = compare([dataclasses.replace(ASKED[0], name=evil)], records)
    write_study(tmp_path, "s", records, {}, Protocol(results, [results[0]]))
    assert "<script" not in (tmp_path / "report.html").read_text()
    assert "\\*a\\*" in (tmp_path / "tables" / "contrasts.md").read_text()


@pytest.mark.parametrize("odd", ["", "\0", "\ud800", "\u202e", "\x1b[31m", "x" * 3000])
def test_no_string_of_a_study_becomes_markup(records, odd, tmp_path):
    """Names of cells, tasks, metrics, devices, contrasts and settings, in text, tables and figures of its page."""
    evil = f'</script><script>alert("x")</script><img src=x>$^|*a*{odd}'

    def spoil(name):
        return f"{name}{evil}"

    for record in records:
        record |= {field: spoil(record[field]) for field in ("cell", "group", "task", "metric", "model", "method")}
        record |= {"device": evil, "dtype": evil, "stages": {spoil("retrain"): {"steps": 3, "seconds": 2.0}}}
        record["metrics"] = {m: {spoil(k): v for k, v in own.items()} for m, own in record["metrics"].items()}
    asked = [
        dataclasses.replace(
            c, **{field: spoil(getattr(c, field)) for field in ("name", "a", "b", "date", "metric", "why")}
        )
        for c in ASKED[:3]
    ]
    seen = [own | {"seen": evil, "done_before": 1} for own in compare(asked, records)]
    trials = {evil: TRIALS["nash"] | {"metric": evil, "settings": [{evil: evil}, {evil: 2}]}}
    states = {records[0]["cell"]: "done", evil: f"failed: {evil}", f"2{evil}": f"diverged: {evil}"}
    write_study(tmp_path, evil, records, states, Protocol(seen, [seen[0]], trials))
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.faults == [] and page.count("script") == page.count("img") == 0
    assert len(page.labels()) == 1 and sum("<script>" in said for said in page.texts) > 10
    assert odd in ("", "x" * 3000) or odd not in text


def test_contrasts_of_nothing_draw_nothing(tmp_path):
    results = compare(ASKED, [])
    write_study(tmp_path, "s", [], {}, Protocol(results))
    page = (tmp_path / "report.html").read_text()
    assert "<svg" not in page and "no verdict" in page
