"""A study's report: what several seeds say together, the files written, the front, and what was published."""

import copy
import csv
import io
import itertools
import json
import math
import re
import statistics

import pytest
from html_page import Page
from hypothesis import given
from hypothesis import strategies as st
from matplotlib.figure import Figure
from matplotlib.transforms import Bbox
from scipy import stats

from nash_jax.pruning.layer_selection import study_sixths
from nash_jax.report.benchmark import Setup
from nash_jax.study import figures as study_figures
from nash_jax.study.figures import Point, name_points, spread_out
from nash_jax.study.matched import matched_table, pareto_front, score_at
from nash_jax.study.published_results import FLAN_T5_LARGE, sixths
from nash_jax.study.records import (
    Group,
    MeanStd,
    comparison_title,
    comparisons,
    mean_std,
    pooled,
    state_sentence,
    timed_seconds,
)
from nash_jax.study.report import console_summary, write_study
from nash_jax.study.tables import combined_table, published_table, quality_table

EVIL = '<script>alert("x")</script>|*a*'
SETUPS = (Setup(1, 512, 64, 1), Setup(8, 512, 64, 1))


def timed(dense, pruned, setup, std=1.0):
    fields = {**setup._asdict(), "runs": 7, "std_ms": std, "encode_ms": 2.0, "per_token_ms": None}
    # The mean differs from the median, so that a speedup of means would be found out.
    return [
        {"model": model, "mean_ms": ms + 3.0, "median_ms": ms, **fields}
        for model, ms in (("dense", dense), ("pruned", pruned))
    ]


def make_record(group, seed, *, encoder=24, decoder=12, rouge2=19.0, times=((100.0, 50.0), (200.0, 160.0)), **more):
    return {
        "cell": f"{group}-s{seed}",
        "group": group,
        "task": "samsum",
        "metric": "rouge2",
        "model": "flan-t5-large",
        "method": "drop",
        "seed": seed,
        "layers": {
            "encoder": {"dense": 24, "kept": list(range(encoder))},
            "decoder": {"dense": 24, "kept": list(range(decoder))},
        },
        "sparsity": {"encoder": 1 - encoder / 24, "decoder": 1 - decoder / 24},
        "params": {"dense": 1000, "pruned": 1000 - 10 * (48 - encoder - decoder)},
        "metrics": {
            "dense": {"rouge1": 40.0, "rouge2": 20.0, "generated_length": 21.5},
            "pruned": {"rouge1": 2 * rouge2, "rouge2": rouge2, "generated_length": 20.25},
        },
        "benchmark": [row for pair, setup in zip(times, SETUPS, strict=True) for row in timed(*pair, setup)],
        "device": "1 × tester",
        "dtype": "float32",
        "seconds": 12.5,
        "stages": {"finetune": {"steps": 300, "seconds": 4.5}, "retrain": {"steps": 100, "seconds": 8.0}},
    } | more


@pytest.fixture
def records():
    return [
        make_record("drop-6-3", 1, rouge2=19.0, times=((100.0, 50.0), (200.0, 160.0))),
        make_record("drop-6-3", 2, rouge2=18.0, times=((100.0, 40.0), (200.0, 160.0))),
        make_record("drop-3-6", 1, encoder=12, decoder=24, rouge2=19.5, times=((100.0, 90.0), (200.0, 100.0))),
        make_record("nash-x", 1, method="nash", decoder=7, rouge2=15.0, times=((100.0, 25.0), (200.0, 80.0))),
    ]


STATES = {"drop-6-3-s1": "done", "drop-6-3-s2": "done", "drop-3-6-s1": "done", "nash-x-s1": "done", "late": "waiting"}


def read_csv(path):
    return list(csv.DictReader(io.StringIO(path.read_text())))


def row_of(table, group):
    return next(row for row in table.rows if row["group"] == group)


def test_spread_by_hand():
    assert mean_std([1.0, 2.0, 6.0]) == MeanStd(3.0, math.sqrt((4 + 1 + 9) / 2), 3)
    assert mean_std([2, None, math.nan, "3", True]) == MeanStd(2.0, None, 1)
    assert mean_std([None]) is None
    assert mean_std([1 - 1 / 3] * 3) == MeanStd(1 - 1 / 3, 0.0, 3)


def test_pooled_is_the_deviation_of_all_runs():
    runs = [[1.0, 2.0, 4.0], [10.0, 13.0]]
    rows = [{"mean_ms": statistics.mean(x), "std_ms": statistics.stdev(x), "runs": len(x)} for x in runs]
    found, together = pooled(rows), [*runs[0], *runs[1]]
    assert found.n == 5
    assert found.mean == pytest.approx(statistics.mean(together))
    assert found.std == pytest.approx(statistics.stdev(together))
    assert pooled([{}, {"mean_ms": None}]) is None


def test_groups_over_seeds_by_hand(records):
    (one,) = comparisons(records)
    row = row_of(combined_table(one), "drop-6-3")
    assert row["rouge2"] == pytest.approx((18.5, math.sqrt(0.5), 2))
    assert row["impact"] == pytest.approx((-0.075, math.sqrt(2 * 0.025**2), 2))
    assert row["speedup_b1_s512_n64_k1"] == pytest.approx((2.25, math.sqrt(2 * 0.25**2), 2))  # of 2.0 and 2.5
    assert row["speedup_b8_s512_n64_k1"] == pytest.approx((1.25, 0.0, 2))
    assert row["encoder_layers"].mean == 24 and row["decoder_layers"].mean == 12
    assert row["parameters"].mean == 880 and row["seeds"] == 2


def test_dense_is_the_first_row_and_counted_once(records):
    (one,) = comparisons(records)
    first = quality_table(one).rows[0]
    assert first["group"] == "dense" and first["rouge2"] == MeanStd(20.0, None, 1)
    assert first["parameters"].mean == 1000 and first["seeds"] == 1
    records[1]["metrics"]["dense"]["rouge2"] = 22.0  # the second seed has a dense model of its own
    assert quality_table(comparisons(records)[0]).rows[0]["rouge2"] == pytest.approx((21.0, math.sqrt(2), 2))


def test_other_devices_models_and_tasks_are_not_averaged(records):
    other = make_record("drop-6-3", 3, device="1 × another", rouge2=10.0)
    found = comparisons([*records, other, make_record("drop-6-3", 4, task="xsum")])
    assert [(one.task, one.device) for one in found] == [
        ("samsum", "1 × tester"), ("samsum", "1 × another"), ("xsum", "1 × tester")
    ]  # fmt: skip
    assert row_of(quality_table(found[0]), "drop-6-3")["rouge2"].n == 2


def test_three_seeds_have_an_interval(records, tmp_path):
    """Of the t-distribution; where not all seeds have a value, how many do; a deviation of runs by its name."""
    records.append(make_record("drop-6-3", 3, rouge2=20.0, times=((100.0, 45.0), (200.0, 160.0))))
    records[1]["benchmark"] = []
    write_study(tmp_path, "s", records, STATES)
    low, high = stats.ttest_1samp([19.0, 18.0, 20.0], 0).confidence_interval(0.95)
    text, row = (tmp_path / "tables/combined.md").read_text(), read_csv(tmp_path / "tables/combined.csv")[1]
    assert f"| 19.00 [{low:.2f}, {high:.2f}] |" in text and "| 2.11× (2) | 1.25× (2) |" in text
    assert float(row["rouge2_low"]) == pytest.approx(low) and float(row["rouge2_high"]) == pytest.approx(high)
    assert "| 1,000 |" not in text and "dense | – | 24 | 24 | 20.00 |" in text.replace("|  |", "| – |")
    latency = (tmp_path / "tables/latency.md").read_text()
    assert re.search(r"\| 50\.5 \(sd \d\.\d\d\) \| 103 \(sd 0\.96\) \| 2\.11× \(2\) \|", latency)
    assert "± " not in text + latency


def test_files_hold_what_was_measured(records, tmp_path):
    records[3]["metrics"]["pruned"]["rouge2"] = 100 / 7
    write_study(tmp_path, "s", records, STATES)
    check_cells(tmp_path / "tables", records)
    check_averages(tmp_path / "tables")
    check_markdown((tmp_path / "tables/combined.md").read_text())
    whole = {"name": "s", "states": STATES, "contrasts": [], "withdrawn": [], "trials": {}, "records": records}
    assert json.loads((tmp_path / "study.json").read_text()) == whole
    assert not list(tmp_path.rglob("*.nash_jax"))


def check_cells(folder, records):
    cells = read_csv(folder / "cells.csv")
    assert [cell["cell"] for cell in cells] == [record["cell"] for record in records]
    assert float(cells[3]["pruned_rouge2"]) == 100 / 7 and float(cells[1]["speedup_b1_s512_n64_k1"]) == 2.5
    assert cells[0]["encoder_layers_kept"] == " ".join(map(str, range(24))) and cells[0]["state"] == "done"
    rows = read_csv(folder / "benchmark.csv")
    assert len(rows) == 16 and rows[1]["median_ms"] == "50.0" and rows[1]["per_token_ms"] == ""


def check_averages(folder):
    groups = {row["group"]: row for row in read_csv(folder / "quality.csv")}
    assert float(groups["nash-x"]["rouge2"]) == 100 / 7 and groups["nash-x"]["rouge2_std"] == ""
    assert float(groups["drop-6-3"]["rouge2"]) == 18.5 and groups["drop-6-3"]["rouge2_n"] == "2"
    assert groups["drop-6-3"]["rouge2_low"] == "" and float(groups["drop-6-3"]["rouge2_std"]) == 0.5**0.5
    assert groups["dense"]["metric"] == "rouge2" and groups["dense"]["impact"] == ""
    latency = read_csv(folder / "latency.csv")
    assert len(latency) == 6 and float(latency[0]["dense_ms"]) == 103.0
    assert float(latency[0]["speedup"]) == 2.25 and float(latency[0]["speedup_std"]) == pytest.approx(0.125**0.5)


def check_markdown(text):
    assert "| drop-6-3 | drop | 24 | 12 | 18.50 | −7.5 | 2.25× | 1.25× | 0.0 | 50.0" in text
    assert "rouge2 change, % ↑" in text
    lines = [line for line in text.splitlines() if line.startswith("|")]
    assert len({line.count("|") for line in lines}) == 1 and len(lines) == 2 + 4


@pytest.mark.parametrize("odd", ["\0", "\ud800", "\u202e", "\x1b[31m", "x" * 3000])
def test_odd_characters_and_long_words(records, odd, tmp_path):
    """Of cells, tasks, metrics, models and devices, in text, tables and figures."""
    evil = f"</script>{EVIL}<img src=x>$^{odd}"
    for record in records:
        record |= {field: f"{record[field]}{evil}" for field in ("cell", "group", "task", "metric", "model", "method")}
        record |= {"device": evil, "dtype": evil, "stages": {evil: {"steps": 3, "seconds": 2.0}}}
        record["metrics"] = {m: {f"{k}{evil}": v for k, v in own.items()} for m, own in record["metrics"].items()}
    write_study(tmp_path, evil, records, {evil: f"failed: {evil}", f"2{evil}": "done"})
    text = (tmp_path / "report.html").read_text(encoding="utf-8")
    page = Page(text)
    assert page.faults == [] and page.count("script") == page.count("img") == 0
    assert len(page.labels()) >= 2 and sum("<script>" in said for said in page.texts) > 10
    tables = "".join(path.read_text(encoding="utf-8") for path in tmp_path.glob("tables/*"))
    assert len(odd) == 3000 or (odd not in text and odd not in tables)
    json.loads((tmp_path / "study.json").read_text(encoding="utf-8"))


def test_strings_are_escaped(records, tmp_path):
    records = records[:2]
    for record in records:
        for field in ("group", "task", "model", "method", "device", "dtype", "metric"):
            record[field] = EVIL
        record["metrics"] = {model: {EVIL: score} for model, score in (("dense", 2.0), ("pruned", 1.0))}
    write_study(tmp_path, EVIL, records, {EVIL: f"failed: {EVIL}"})
    assert "<script" not in (tmp_path / "report.html").read_text()
    for path in tmp_path.glob("tables/*.md"):
        text = path.read_text()
        assert "<script" not in text and ("\\*a\\*" in text or path.stem in ("matched", "contrasts"))  # of nothing
    lines = (tmp_path / "tables/quality.md").read_text().splitlines()
    assert len({len(re.findall(r"(?<!\\)\|", line)) for line in lines if line.startswith("|")}) == 1
    assert read_csv(tmp_path / "tables/cells.csv")[0]["group"] == EVIL


def test_a_page_has_every_figure_with_ids_of_its_own(records, tmp_path):
    lengths = [make_record("drop-6-3", 5, task="", metrics={})]
    lengths[0]["benchmark"] = [row for n in (20, 71) for row in timed(100.0, 50.0, Setup(1, 512, n, 1))]
    write_study(tmp_path, "s", [*records, *lengths], STATES)
    page = (tmp_path / "report.html").read_text()
    labels = re.findall(r'<svg class="plot" role="img" aria-label="([^"]*)"', page)
    for start in ("rouge2 against speedup", "rouge2 against layers", "Speedup by batch size, 512 → 64 tokens",
                  "Generated length", "Speedup by output length, batch 1"):  # fmt: skip
        assert sum(label.startswith(start) for label in labels) == 1, start
    ids = re.findall(r' id="([^"]+)"', page)
    assert len(ids) == len(set(ids))
    assert "4 of 5 cells are done, 1 waiting." in page and ">late<" in page


def test_no_records(tmp_path):
    write_study(tmp_path, "s", [], {})
    assert all(not path.read_text() for path in (tmp_path / "tables").iterdir())
    assert "No cell has been planned." in (tmp_path / "report.html").read_text()
    assert console_summary([], {"a": "failed: no memory", "b": "running"}).splitlines() == [
        "0 of 2 cells are done, 1 failed, 1 running.",
        "  a: failed: no memory",
    ]


PARTS = sorted(make_record("g", 1))


@pytest.mark.parametrize("part", PARTS)
def test_any_part_of_a_record_may_be_missing(records, tmp_path, part):
    records[0].pop(part)
    records[1][part] = None
    write_study(tmp_path, "s", records[:2], {})
    assert len(read_csv(tmp_path / "tables/cells.csv")) == 2
    assert console_summary(records, {})


def test_single_numbers_may_be_missing(records, tmp_path):
    first = records[0]
    first["metrics"]["pruned"]["rouge2"] = None
    first["params"]["pruned"] = None
    first["sparsity"]["encoder"] = None
    for row in first["benchmark"]:
        row |= {"std_ms": None, "median_ms": None}
    write_study(tmp_path, "s", records, STATES)
    row = row_of(combined_table(comparisons(records)[0]), "drop-6-3")
    assert row["rouge2"] == MeanStd(18.0, None, 1) and row["speedup_b1_s512_n64_k1"] == MeanStd(2.5, None, 1)


def test_published_rows_stand_beside_ours(records):
    table = published_table(comparisons(records)[0])
    assert [(row["group"], row["sixths"]) for row in table.rows] == [("drop-6-3", "6-3"), ("drop-3-6", "3-6")]
    ours = table.rows[0]
    assert ours["published_impact"].mean == pytest.approx(21.08 / 21.15 - 1)
    assert [ours[f"published_speedup_b{size}"].mean for size in (1, 8, 16)] == [1.65, 1.18, 1.15]
    assert ours["impact"].mean == pytest.approx(-0.075) and ours["compared_metric"] == "rouge2"
    assert ours["speedup_b1"].mean == 2.25 and ours["speedup_b16"] is None
    for said in ("Campos & Zhai 2023", "A10", "CNN/DailyMail", "20 tokens", "1 × tester", "samsum", "512 → 64 tokens"):
        assert said in table.lead


def test_published_speeds_beside_cells_that_were_only_timed(records):
    first = copy.deepcopy(records[0]) | {"task": "", "metrics": {}}
    first["benchmark"] = [row for n in (20, 128) for row in timed(100.0, 100.0 / n, Setup(1, 512, n, 1))]
    rows = published_table(comparisons([first])[0]).rows
    assert [(row["new_tokens"], row["speedup_b1"].mean) for row in rows] == [(20, 20.0), (128, 128.0)]
    assert rows[0]["impact"] is None


def test_published_numbers_are_the_reference():
    assert FLAN_T5_LARGE[1, 1] == (15.51, (4.96, 5.54, 5.64)) and FLAN_T5_LARGE[6, 6].change == 0
    assert len(FLAN_T5_LARGE) == 8


@pytest.mark.parametrize("depth", [8, 12, 24])
def test_sixths_are_those_of_the_lists(depth):
    assert {sixths(len(kept), depth) for kept in study_sixths(depth).values()} == set(study_sixths(depth))
    assert all(sixths(len(kept), depth) == number for number, kept in study_sixths(depth).items())


@pytest.mark.parametrize("kept, dense", [(7, 24), (3, 8), (0, 24), (None, 24), (25, 24), (3, None)])
def test_what_is_no_number_of_sixths(kept, dense):
    assert sixths(kept, dense) is None


COORDINATES = st.one_of(st.integers(0, 4).map(float), st.floats(-1e6, 1e6))


@given(st.lists(st.tuples(COORDINATES, COORDINATES), max_size=30))
def test_pareto_front_is_what_nothing_dominates(points):
    def dominated(a):
        return any(b[0] >= a[0] and b[1] >= a[1] and b != a for b in points)

    front = pareto_front(points)
    assert sorted(front) == [i for i, point in enumerate(points) if not dominated(point)]
    assert [points[i] for i in front] == sorted((points[i] for i in front), key=lambda p: (p[0], -p[1]))


@given(st.lists(st.floats(-100, 100), max_size=20), st.floats(0.5, 20))
def test_names_at_line_ends_are_apart_and_in_order(places, gap):
    found = spread_out(places, gap, -150.0, 150.0)
    order = sorted(range(len(places)), key=lambda i: places[i])
    allowed = min(gap, 300 / max(1, len(places) - 1))
    assert all(found[b] - found[a] >= allowed - 1e-6 for a, b in itertools.pairwise(order))
    assert all(-150 - 1e-6 <= place <= 150 + 1e-6 for place in found)


def test_names_hide_no_error_bars():
    """Also where a bar of another point runs where the name would stand."""
    figure = Figure(figsize=(4, 3))
    axes = figure.subplots()
    axes.set(xlim=(0, 10), ylim=(0, 10))
    left = Point(Group("one", ({},)), MeanStd(3, 2.0, 2), MeanStd(5, 3.0, 2))
    name_points(axes, [left, Point(Group("other", ({},)), MeanStd(7, 1.0, 2), MeanStd(5, None, 1))])
    ends = [[(1, 5), (5, 5)], [(3, 2), (3, 8)], [(6, 5), (8, 5)]]
    bars = [Bbox(axes.transData.transform(end)).padded(1) for end in ends]
    names = [text.get_window_extent() for text in axes.texts]
    assert [text.get_text() for text in axes.texts] == ["one", "other"]
    assert not any(name.overlaps(bar) for name in names for bar in bars)
    assert not names[0].overlaps(names[1])


def test_figures_of_cells_without_numbers_are_empty(records):
    for record in records:
        record |= {"metrics": {}, "benchmark": []}
    (one,) = comparisons(records)
    paints = ("quality_against_speed", "quality_against_depth", "speed_against_batch", "speed_against_length",
              "length_against_size")  # fmt: skip
    assert [getattr(study_figures, paint)(one, "x") for paint in paints] == [""] * 5


def test_of_many_groups_the_front_and_the_drops_are_drawn():
    many = [make_record(f"nash-{i}", 1, method="nash", rouge2=10.0 - i, times=((100.0, 50.0 + i), (1.0, 1.0)))
            for i in range(12)]  # fmt: skip
    (one,) = comparisons([*many, make_record("drop-6-3", 1, rouge2=1.0, times=((100.0, 99.0), (1.0, 1.0)))])
    assert [group.name for group in study_figures.shown_groups(one, one.groups)] == ["nash-0", "drop-6-3"]
    assert len(study_figures.shown_groups(one, one.groups[:10])) == 10


def test_stacks_shortened(records):
    def stack(encoder, decoder):
        (one,) = comparisons([make_record("g", 1, encoder=encoder, decoder=decoder)])
        return study_figures.shortened_stack(one.groups[0])

    assert stack(24, 4) == ("decoder", 4) and stack(8, 24) == ("encoder", 8) and stack(8, 8) == ("both", 8)
    assert stack(24, 24) is None and stack(8, 4) is None


def test_a_metric_where_lower_is_better(records, tmp_path):
    for record in records:
        record |= {"metric": "word_error", "metrics": {"dense": {"word_error": 0.1}, "pruned": {"word_error": 0.2}}}
    write_study(tmp_path, "s", records, STATES)
    text = (tmp_path / "tables/quality.md").read_text()
    assert "word_error change, % ↓" in text and "+100.0" in text


def test_console_lines(records):
    lines = console_summary(records, STATES).splitlines()
    assert lines[:3] == ["4 of 5 cells are done, 1 waiting.", "", "samsum · flan-t5-large"]
    assert lines[3].split()[:2] == ["group", "enc/dec"] and "b1 512→64" in lines[3]
    drop = next(line for line in lines if "drop-6-3" in line)
    assert re.split(r"\s{2,}", drop.strip()) == [
        "drop-6-3", "24/12", "18.50", "−7.5", "2.25×", "1.25×"
    ]  # fmt: skip
    assert len({len(line) for line in lines[3:]}) == 1


def test_states():
    assert state_sentence({"a": "done", "b": "failed: out of memory"}) == "1 of 2 cells are done, 1 failed."
    assert state_sentence({}) == "No cell has been planned."


def test_timed_seconds_by_hand():
    def row(model, batch_size, tokens, ms):
        return {
            "model": model,
            "batch_size": batch_size,
            "new_tokens": tokens,
            "runs": 7,
            "mean_ms": ms,
            "encode_ms": 10,
        }

    rows = [row("dense", 1, 20, 100), row("dense", 1, 26, 130), row("pruned", 1, 20, 50), row("dense", 8, 20, 400)]
    assert timed_seconds({"benchmark": rows}) == pytest.approx(7 * (100 + 130 + 50 + 400 + 3 * 10) / 1000)
    shown = console_summary([{"benchmark": rows, "metrics": {}, "seconds": 7.455}], {"a": "done"})
    assert "timed runs took 5 s of 7 s (1.50 times as long)" in shown


def test_score_at_equal_speed_by_hand():
    points = [(1.0, 60.0), (2.0, 50.0), (1.5, 40.0), (4.0, 30.0)]  # the third is dominated
    assert score_at(points, 3.0) == pytest.approx(40.0)
    assert score_at(points, 1.5) == pytest.approx(55.0)
    assert score_at(points, 4.01) is None and score_at([], 1.0) is None
    assert score_at([(2.0, 70.0), (1.0, 60.0)], 1.2) == 70.0  # faster and better than dense


def at_equal_speed(method, name, score, ms, seed=1, dense=10.0):
    """A cell whose dense model takes 40 ms and has the error rate `dense`."""
    rows = [{"model": m, "batch_size": 1, "source_length": 8, "new_tokens": 8, "num_beams": 1, "runs": 7,
             "mean_ms": t, "median_ms": t} for m, t in (("dense", 40.0), ("pruned", ms))]  # fmt: skip
    scores = {"dense": {"error_rate": dense}, "pruned": {"error_rate": score}}
    return {"cell": f"{name}-s{seed}", "group": name, "task": "t", "model": "m", "method": method, "seed": seed,
            "metric": "error_rate", "metrics": scores, "benchmark": rows}  # fmt: skip


def matched_rows(*cells):
    (one,) = comparisons(cells)
    return {row["group"]: row for row in matched_table(one).rows}


def test_methods_at_equal_speed():
    cell = at_equal_speed
    found = matched_rows(cell("drop", "d", 20.0, 10.0), cell("nash", "n", 12.0, 20.0), cell("none", "x", 9.0, 40.0))
    assert set(found) == {"d", "n"}
    assert found["n"]["speedup"].mean == 2.0 and found["n"]["at_drop"].mean == pytest.approx(10 + 10 / 3)
    assert found["n"]["ahead_of_drop"] == MeanStd(pytest.approx(4 / 3), None, 1)  # fewer errors: ahead
    assert found["d"]["at_nash"] is None and found["d"]["ahead_of_nash"] is None  # NASH was not run so small


def test_equal_speed_is_of_one_seed():
    """A seed is compared with its own dense model and rivals, and the differences are averaged."""
    cells = [
        at_equal_speed("drop", "d", 20.0, 10.0),
        at_equal_speed("nash", "n", 12.0, 20.0),  # at 2×: 13.33 of dropping, ahead by 4/3
        at_equal_speed("drop", "d", 24.0, 10.0, seed=2, dense=15.0),
        # its dense model is of another score: at 2×, dropping has 18, NASH is behind by 1
        at_equal_speed("nash", "n", 19.0, 20.0, seed=2, dense=15.0),
        at_equal_speed("nash", "n", 5.0, 20.0, seed=3),  # without a rival
    ]
    row = matched_rows(*cells)["n"]
    leads = [4 / 3, -1.0]
    assert row["ahead_of_drop"] == pytest.approx((statistics.mean(leads), statistics.stdev(leads), 2))
    assert row["at_drop"] == pytest.approx((statistics.mean([40 / 3, 18]), statistics.stdev([40 / 3, 18]), 2))
    assert row["error_rate"] == (12.0, pytest.approx(7.0), 3)


def test_a_line_is_of_the_same_groups_for_each_seed():
    """A group that was run with one of the row's seeds alone would help the rival in that one."""
    cells = [
        at_equal_speed("drop", "d", 20.0, 10.0),
        at_equal_speed("drop", "d", 20.0, 10.0, seed=2),
        at_equal_speed("drop", "single", 11.0, 20.0),
        at_equal_speed("nash", "n", 12.0, 20.0),
        at_equal_speed("nash", "n", 12.0, 20.0, seed=2),
        at_equal_speed("nash", "alone", 12.0, 20.0),
    ]
    found = matched_rows(*cells)
    assert found["n"]["ahead_of_drop"] == (pytest.approx(4 / 3), pytest.approx(0.0), 2)
    assert found["alone"]["ahead_of_drop"] == MeanStd(pytest.approx(-1.0), None, 1)


def test_dense_models_of_other_settings_are_not_compared(tmp_path):
    cells = [at_equal_speed("drop", "d", 20.0, 10.0), at_equal_speed("nash", "n", 12.0, 20.0)]
    found = comparisons([cell | {"teacher": teacher} for teacher in ("aa", "bb") for cell in cells])
    assert [len(one.records) for one in found] == [2, 2]
    assert [comparison_title(one, found).rpartition(" · ")[2] for one in found] == ["aa", "bb"]


def test_a_difference_is_written_with_its_sign(tmp_path):
    cells = [at_equal_speed("drop", "d", 20.0, 10.0), at_equal_speed("nash", "n", 12.0, 20.0)]
    write_study(tmp_path, "s", cells, {})
    text = (tmp_path / "tables" / "matched.md").read_text()
    assert "| +1.33 |" in text
    (row,) = [row for row in read_csv(tmp_path / "tables" / "matched.csv") if row["group"] == "n"]
    assert float(row["ahead_of_drop"]) == pytest.approx(4 / 3) and row["ahead_of_drop_n"] == "1"
