"""The report page, read back with an HTML parser: what it says, that it is whole, and that nothing escapes."""

import copy
import re
import subprocess
import sys

import numpy as np
import pytest
from html_page import Page

from nash_jax.data.checks import ISSUE_KINDS
from nash_jax.report.benchmark import Setup, setup_label, setups, speedups
from nash_jax.report.console import summary
from nash_jax.report.figures import component_bars, latency_bars, sparsity_curves, training_curves
from nash_jax.report.numbers import (
    direction,
    format_count,
    format_percent,
    format_seconds,
    format_spread,
    format_value,
)
from nash_jax.report.page import render
from nash_jax.report.quality import quality_kept
from nash_jax.report.structure_figure import shade, structure_figure

EVIL = '<script>alert("x")</script>'


def bench(model, batch_size, mean, **more):
    row = {"model": model, "batch_size": batch_size, "source_length": 64, "new_tokens": 32, "num_beams": 1, "runs": 9}
    times = {"mean_ms": mean, "std_ms": mean / 50, "median_ms": mean, "encode_ms": mean / 8, "per_token_ms": mean / 40}
    return row | times | {"p10_ms": 0.9 * mean, "p90_ms": 1.1 * mean} | more


def report():
    return {
        "task": "spelling",
        "metric": "word_accuracy",
        "device": "1 × cpu",
        "dtype": "float32",
        "versions": {"jax": "0.10.2", "nash_jax": "0.1.0"},
        "metrics": {
            "dense": {"phoneme_error": 8.0, "word_accuracy": 70.0, "generated_length": 6.5},
            "pruned": {"phoneme_error": 9.0, "word_accuracy": 66.5, "generated_length": 6.4},
            "baselines": {"most frequent": {"word_accuracy": 3.5}},
        },
        "params": {
            "dense": 2_000_000,
            "pruned": 900_000,
            "encoder_sparsity": 0.612,
            "expected_encoder_sparsity": 0.598,
            "decoder_sparsity": 0.5,
            "kept_decoder_layers": [0, 3],
            "dense_decoder_layers": 4,
        },
        "benchmark": [
            bench("dense", 1, 50.0),
            bench("pruned", 1, 20.0),
            bench("peer", 1, 25.0),
            bench("dense", 8, 130.0),
            bench("pruned", 8, 80.0),
        ],
        "speedup": {"1": 2.5, "8": 1.625},
        "stages": {"finetune": {"seconds": 95.0, "steps": 100}, "prune": {"seconds": 3725.0, "steps": 0}},
        "config": {"task": {"name": "spelling"}, "prune": {"sparsity": 0.6}},
        "data": {
            "summary": {"train": {"examples": 12345, "license": "BSD"}, "test": {"examples": 800}},
            "findings": [
                {"split": "train", "kind": "null", "rule": "dropped", "rows": 1917, "first": f"a.csv:7: {EVIL}"},
                {"split": "test", "kind": "mojibake", "rule": "kept", "rows": 3, "first": "b.csv:9: 'Ã©'"},
            ],
        },
    }


def history():
    rng = np.random.default_rng(0)
    rows = []
    for phase in ("finetune", "prune", "retrain"):
        for step in range(0, 300, 5):
            loss = 4 * np.exp(-step / 100) + 0.1 * rng.random()
            row = {"phase": phase, "step": step, "loss": 2 * loss, "task_loss": loss, "token_accuracy": 1 - loss / 5}
            if phase == "prune":
                row |= {"expected_sparsity": step / 500, "target_sparsity": step / 490, "logits_loss": loss}
                row |= {"lambda_1": -step / 300, "lambda_2": step / 100}
            rows.append(row)
        last = {"validation/word_accuracy": 60.0, "validation/phoneme_error": 9.0}
        last |= {"validation/counted_sparsity": 0.612} if phase == "prune" else {}
        rows.append({"phase": phase, "step": 300, **last})
    return rows


def masks():
    heads = {"encoder.0.attention.heads": [0.9, 0.0, 0.2, 1.0], "encoder.1.attention.heads": [0.0, 0.0, 1.0, 0.0]}
    units = np.zeros(512)
    units[:361] = np.linspace(0.1, 1.0, 361)
    decoder = {f"decoder.{layer}.ffn.units": [float(layer in (0, 3))] * 8 for layer in range(4)}
    return heads | {"encoder.0.ffn.units": units.tolist(), "encoder.1.ffn.units": [1.0] * 512} | decoder


def inputs():
    dense = {"embeddings": 400_000, "encoder attention": 500_000, "encoder ffn": 1_100_000, "LM head": 0}
    pruned = {"embeddings": 400_000, "encoder attention": 250_000, "encoder ffn": 250_000, "LM head": 0}
    return {
        "history": history(),
        "masks": masks(),
        "parameters": {"dense": dense, "pruned": pruned},
        "examples": [
            {"source": f"a {EVIL} b", "references": ["AH B", "EY B"], "dense": "EY  B", "pruned": "AH P"},
            {"source": "cat & dog", "references": ["K AE T"], "dense": "K AE T", "pruned": "K AE T"},
            {"source": "empty", "references": ["E"], "dense": "F", "pruned": ""},
        ],
    }


@pytest.fixture(scope="module")
def text():
    return render(report(), **inputs())


@pytest.fixture(scope="module")
def page(text):
    return Page(text)


def test_page_is_well_formed(text, page):
    assert text.startswith("<!DOCTYPE html>")
    assert page.faults == []
    assert [page.count(name) for name in ("html", "head", "body", "main", "h1", "title")] == [1] * 6
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in page.elements


def test_ids_are_unique_and_every_reference_hits_one(text, page):
    ids = [attrs["id"] for _, attrs in page.elements if "id" in attrs]
    assert len(ids) == len(set(ids)) > 0
    assert set(re.findall(r'(?:url\(|href=")#([^)"]+)', text)) <= set(ids)


def test_page_needs_nothing_from_outside(text, page):
    assert not page.count("script") and not page.count("link") and not page.count("iframe")
    for _, attrs in page.elements:
        for name in ("src", "href", "xlink:href", "action", "data"):
            assert attrs.get(name, "#").startswith(("#", "data:image/png;base64,")), attrs
    styles = [attrs["style"] for _, attrs in page.elements if attrs.get("style")]
    assert not [style for style in [*styles, text] if re.search(r"url\((?!#)|@import", style)]


def test_render_is_deterministic_and_leaves_its_inputs_alone(text):
    given, more = report(), inputs()
    before = copy.deepcopy((given, more))
    assert render(given, **more) == text
    assert (given, more) == before


def test_all_figures_are_there_with_labels(page):
    labels = page.labels()
    assert len(labels) == 5 and all(labels)
    roles = [attrs.get("role") for tag, attrs in page.elements if tag == "svg"]
    assert roles == ["img"] * 5
    assert any("finetune, prune, retrain" in label for label in labels)


def test_survivors_are_counted(page):
    for text in ("2/4 heads", "3/4 heads", "1/4 heads"):
        assert (text in page.texts) == (text != "2/4 heads")
    assert "361/512 units" in page.texts and "512/512 units" in page.texts
    assert "kept 4 of 8 heads, 873 of 1,024 units" in page.texts
    assert "kept 2 of the dense model's 4 layers" in page.texts


def test_headline_numbers(page):
    shown = dict(zip(page.texts, page.texts[1:], strict=False))
    assert shown["Quality kept"] == "95.0 %"
    assert shown["Speedup, batch 1"] == "2.50×"
    assert shown["Speedup, batch 8"] == "1.62×"
    assert shown["Parameters removed"] == "55.0 %"
    assert shown["Encoder sparsity"] == "61.2 %"
    assert "counted; the gates expected 59.8 %" in page.texts
    assert "counted; 2 of 4 decoder layers gone" in page.texts
    assert (
        "The pruned model has 95.0 % of the dense model’s word_accuracy, generates 2.50× as fast at batch 1 "
        "and has 55.0 % fewer parameters." in page.texts
    )


def test_models_table_judges_by_the_metric_s_direction(text, page):
    assert 'class="change worse">−5.0 %' in text  # accuracy fell
    assert 'class="change worse">+12.5 %' in text  # error rose
    assert 'class="change">−1.5 %' in text  # length is neither
    assert 'class="change better">2.50×' in text
    assert "most frequent" in page.texts and "peer" in page.texts
    assert page.texts.index("dense") < page.texts.index("pruned") < page.texts.index("most frequent")


def test_latency_shows_means_deviations_and_speedups():
    texts = Page(latency_bars(report())).texts
    for said in ("50.0 ± 1.0", "20.0 ± 0.4", "2.50×", "2.00×", "1.62×", "130 ± 3", "1.25", "encode", "decode"):
        assert said in texts, said


def test_other_engines_and_the_dense_model_s_outputs_have_tables():
    row = {"batch_size": 8, "model": "pruned", "system": "ctranslate2 int8", "median_ms": 12.3, "token_ms": 0.51,
           "same_outputs": 0.875, "speedup": {"dense nash_jax": [2.5, 2.25, 2.75]}}  # fmt: skip
    labels = {"rows": 90, "further": 10, "used": 96, "unfinished": 4, "unusable": 0, "disagreeing": 0}
    text = render(report() | {"peers": [row], "labels": labels})
    assert "Both models in other engines" in text and "Targets that the dense model wrote" in text
    assert "2.50×" in text and "2.25 to 2.75" in text and "ctranslate2 int8" in text and ">96<" in text
    assert "Both models in other engines" not in render(report())


def test_stages_and_data(page):
    for said in ("1 min 35 s", "1 h 2 min", "1 h 4 min", "0.950", "12,345", "BSD"):
        assert said in page.texts, said
    for said in (
        "1,917",
        f"a.csv:7: {EVIL}",
        "b.csv:9: 'Ã©'",
        ISSUE_KINDS["null"].meaning,
        ISSUE_KINDS["mojibake"].why,
    ):
        assert said in page.texts, said


def test_examples_mark_outputs_that_equal_a_reference(page):
    assert page.texts.count("✓ equals reference") == 3
    assert "Outputs that equal a reference, of 3 shown: dense in 2, pruned in 1." in page.texts
    assert "(empty)" in page.texts and "cat & dog" in page.texts


def test_user_text_is_escaped_in_examples(text, page):
    assert EVIL not in text and "<script" not in text
    assert f"a {EVIL} b" in page.texts


@pytest.mark.parametrize("odd", ["", "\0", "\ud800", "\u202e", "\x1b[31m", "x" * 3000])
def test_user_text_is_escaped_everywhere(odd):
    def spoil(value):
        if isinstance(value, dict):
            kept = {"dense", "pruned", "baselines", "mean_ms", "step", "phase", "seconds", "steps", "batch_size"}
            names = {k: k if k in kept or k in plain else f"{k}{EVIL}{odd}" for k in value}
            return {names[k]: spoil(v) for k, v in value.items()}
        if isinstance(value, list):
            return [spoil(v) for v in value]
        return f"{value}$^{EVIL}{odd}" if isinstance(value, str) and value not in plain else value

    plain = {
        *masks(),
        *report(),
        *report()["benchmark"][0],
        *report()["params"],
        *history()[0],
        *inputs()["examples"][0],
    }
    plain |= {"dense", "pruned", "finetune", "prune", "retrain", "expected_sparsity", "target_sparsity"}
    evil = render(spoil(report()), **{name: spoil(value) for name, value in inputs().items()})
    read = Page(evil)
    assert read.faults == [] and "<script" not in evil and len(read.labels()) == 5
    assert sum(EVIL in said for said in read.texts) > 30
    assert odd in ("", "x" * 3000) or odd not in evil


def test_letters_that_matplotlib_lacks_are_no_warning():
    assert "要約モデル" in Page(latency_bars({"benchmark": [bench("要約モデル", 1, 3.0)]})).texts


def test_svg_is_bare(text):
    assert "<?xml" not in text and "<metadata" not in text and "matplotlib v" not in text.lower()
    assert text.count("<!") == 1


@pytest.mark.parametrize("missing", [*report()])
def test_any_part_of_the_report_may_be_missing(missing):
    left = {key: value for key, value in report().items() if key != missing}
    assert Page(render(left, examples=inputs()["examples"])).faults == []


@pytest.mark.parametrize("missing", [*inputs()])
def test_any_input_may_be_missing(missing):
    left = {key: value for key, value in inputs().items() if key not in (missing, "history")}
    assert Page(render(report(), **left)).faults == []


def test_a_run_without_pruning():
    given = report()
    for part in ("metrics", "params"):
        given[part] = {"dense": given[part]["dense"]}
    given["benchmark"], given["speedup"] = [bench("dense", 1, 50.0)], {}
    rows = [row for row in history() if row["phase"] == "finetune"]
    page = Page(render(given, history=rows, masks=None, parameters={"dense": {"embeddings": 5}}))
    assert page.faults == []
    assert "This run has not measured a pruned model." in page.texts
    assert "What survived" not in page.texts and "Sparsity while pruning" not in page.texts
    assert len(page.labels()) == 3


@pytest.mark.parametrize("empty", [{}, {"metrics": {}, "params": {}, "benchmark": [], "speedup": {}, "stages": {}}])
def test_an_empty_report(empty):
    page = Page(render(empty))
    assert page.faults == [] and page.labels() == [] and page.count("section") == 0


def test_missing_and_not_finite_numbers_are_tolerated():
    given = report()
    given["metrics"]["pruned"]["word_accuracy"] = float("nan")
    given["metrics"]["dense"]["phoneme_error"] = None
    given["benchmark"] = [bench("dense", 1, 50.0, std_ms=None, encode_ms=None), {"model": "pruned", "batch_size": 1}]
    given["params"] |= {"expected_encoder_sparsity": None, "dense_decoder_layers": None}
    rows = [row | {"task_loss": float("nan")} if row["step"] > 100 else row for row in history()]
    page = Page(render(given, history=rows, examples=[{"source": "a", "references": "b", "dense": None}]))
    assert page.faults == [] and quality_kept(given) is None
    assert page.texts[page.texts.index("Encoder sparsity") + 2] == "counted"


def test_the_command_starts_without_the_libraries_that_draw():
    code = "import nash_jax.main, nash_jax.report.result, nash_jax.study.report, sys; print(*sys.modules)"
    found = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert "nash_jax.report.result" in found
    assert not {"jinja2", "matplotlib", "pandas", "textalloc"} & set(found)


def test_figures_of_nothing_are_empty():
    assert training_curves([]) == sparsity_curves([]) == latency_bars({}) == component_bars({}) == ""
    assert structure_figure({}) == ""
    assert component_bars({"dense": {"lm head": 0}}) == ""


def test_training_curves_show_the_metric_asked_for():
    assert "validation phoneme_error" in Page(training_curves(history(), "phoneme_error")).texts
    assert "validation word_accuracy" in Page(training_curves(history(), "absent")).texts
    without_prune = [row for row in history() if row["phase"] != "prune"]
    assert "prune" not in Page(training_curves(without_prune)).texts


def test_sparsity_curves_show_what_was_counted():
    texts = Page(sparsity_curves(history(), 300)).texts
    assert {"target", "expected", "counted 61.2 %", "λ₁", "λ₂", "Sparsity"} <= set(texts)
    assert not [text for text in Page(sparsity_curves(history(), 200)).texts if "counted" in text]


def test_component_bars_leave_out_what_nobody_has():
    texts = Page(component_bars(inputs()["parameters"])).texts
    assert "LM head" not in texts and {"embeddings", "250.0 K (−50.0 %)", "1.1 M"} <= set(texts)


def test_survivors_of_a_decoder_and_of_d_model():
    names = [f"decoder.{layer}.{kind}_attention.heads" for layer in (10, 0) for kind in ("self", "cross")]
    masks = {name: [1.0, 0.0] for name in names}
    masks |= {"decoder.0.ffn.units": [], "decoder.10.ffn.units": [0.0] * 3, "embed": [1.0, 0.5, 0.0]}
    texts = Page(structure_figure(masks)).texts
    assert {"1/2 heads", "0/0 units", "gone", "2/3", "Decoder", "d_model"} <= set(texts)
    assert texts.index("layer 0") < texts.index("layer 10")
    assert "kept 4 of 5 sub-layers, 4 of 8 heads, 0 of 3 units" in texts


def test_removed_and_barely_kept_units_differ_in_colour():
    removed, barely, half, full = shade(np.asarray([0.0, 1e-3, 0.5, 1.0])).sum(axis=1)
    assert removed > barely > half > full
    assert np.array_equal(shade(np.asarray([1.0])), shade(np.asarray([1.4])))


def test_a_lower_metric_is_not_called_quality_kept():
    given = report() | {"metric": "phoneme_error"}
    texts = Page(render(given)).texts
    assert "Quality kept" not in texts and "phoneme_error 8.000 → 9.000, lower is better" in texts
    assert quality_kept(given) == pytest.approx(1.125)
    assert [direction(name) for name in ("word_error_rate", "loss", "generated_length", "rouge1")] == [-1, -1, 0, 1]
    assert direction("invalid") == -1


def test_setups_are_told_apart_by_what_varies():
    rows = [bench(model, 1, mean, num_beams=beams) for beams in (1, 4) for model, mean in (("dense", 8), ("pruned", 4))]
    found = setups(rows)
    assert [setup_label(setup, found) for setup in found] == ["batch 1, 1 beam", "batch 1, 4 beams"]
    assert setup_label(Setup(1, 64, 32, 1), [Setup(1, 64, 32, 1), Setup(1, 128, 32, 1)]) == "batch 1, 64 → 32 tokens"
    assert speedups({"benchmark": rows}) == {"batch 1, 1 beam": 2.0, "batch 1, 4 beams": 2.0}
    # One reported factor cannot stand for two set-ups, so each shows its own.
    assert Page(latency_bars({"benchmark": rows, "speedup": {"1": 9.0}})).texts.count("2.00×") == 2


def test_one_model_and_its_components():
    """The page of an evaluation; a row without numbers is a row of dashes."""
    given = report() | {"model": "my/model", "params": {"model": 5000, "encoder_sparsity_at_least": 0.25}}
    given |= {"metrics": {"model": {"word_accuracy": 66.5}}, "benchmark": [bench("model", 1, 50.0)], "speedup": {}}
    row = {"component": "encoder FFN", "batch_size": 1, "source_length": 64, "new_tokens": 32}
    rows = [row | {"median_ms": 1.25, "std_ms": 0.5, "share": 0.025, "per_token_ms": None}]
    rows += [row | {"component": "LM head", "median_ms": -0.5, "std_ms": 1.0, "share": -0.01, "per_token_ms": -0.016}]
    rows += [row | {"component": f"odd {EVIL}"}]
    page = Page(render(given | {"components": {"times": rows}}, parameters={"model": {"encoder FFN": 5000}}))
    assert page.faults == [] and "nash_jax · evaluation report" in page.texts
    said = "The model has 5.0 K parameters, reaches 66.50 word_accuracy and generates 32 tokens in 50.0 ms at batch 1."
    for text in (said, "1.25 ± 0.50", "2.5 %", "−0.50 ± 1.00", "−1.0 % · −0.02 ms a token", f"odd {EVIL}", "≥ 25.0 %"):
        assert text in page.texts, text
    assert "Small numbers compare with dense." not in " ".join(page.texts)


def test_intervals_are_shown():
    given = report() | {"intervals": {"pruned": {"word_accuracy": [65.0, 68.0]}}}
    assert "65.00 … 68.00" in Page(render(given)).texts


def test_what_is_kept_is_shown_with_its_interval():
    paired = {"difference": -3.5, "kept": 0.95, "low": 0.9312, "high": 1.002, "p": 0.001}
    given = report() | {"paired": {"word_accuracy": paired}}
    page = Page(render(given))
    assert "93.1 to 100.2" in page.texts and page.faults == []
    assert "word_accuracy 70.00 → 66.50, p = 0.001" in page.texts
    assert any("has 95.0 % (93.1 to 100.2) of the dense model’s word_accuracy" in text for text in page.texts)
    given["paired"] = {"word_accuracy": paired | {"low": None, "high": None}}
    assert "95.0 %" in Page(render(given)).texts


def test_console_lines_say_how_sure_they_are():
    paired = {"word_accuracy": {"difference": -3.5, "kept": 0.95, "low": 0.9312, "high": 1.002, "p": 0.0123}}
    metrics = {"dense": {"word_accuracy": 70.0, "length": 6.0}, "pruned": {"word_accuracy": 66.5, "length": 5.0}}
    given = {"metrics": metrics, "paired": paired, "params": report()["params"], "benchmark": []}
    lines = summary(given).splitlines()
    assert lines[1].split(maxsplit=3)[1:] == ["70.00", "66.50", "95.0 % (93.1 to 100.2), p = 0.012"]
    assert lines[2].split() == ["length", "6.00", "5.00"]
    assert lines[0].index("pruned") + 1 == lines[1].index("66.50") == lines[2].index("5.00") - 1  # they align right
    sizes = {"model": 9, "encoder_sparsity": None, "encoder_sparsity_at_least": None}
    sizes |= {"decoder_sparsity": None, "decoder_sparsity_at_least": None}
    given = {"model": "m", "num_test_examples": 3, "params": sizes, "metrics": {"model": {"rouge1": 40.0, "length": 6}}}
    given |= {
        "intervals": {"model": {"rouge1": [38.0, 42.0]}},
        "components": {"parameters": {"model": {}}, "times": []},
    }
    lines = summary(given).splitlines()
    assert lines[1].endswith("40.00  (38.00 to 42.00)") and lines[2].endswith("6.00")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (format_value(1234567), "1,234,567"),
        (format_value(-0.5), "−0.500"),
        (format_value(8.7, like=22.4), "8.70"),
        (format_value(True), "True"),
        (format_value(None), "–"),
        (format_value(float("inf")), "inf"),
        (format_percent(-0.123), "−12.3 %"),
        (format_percent(None), "–"),
        (format_count(1_234_567_890), "1.23 B"),
        (format_count(950), "950"),
        (format_count(591.2066756501767), "591"),
        (format_seconds(59.94), "59.9 s"),
        (format_seconds(3599.9), "1 h 0 min"),
        (format_spread(310.0, 0.3), "310.0 ± 0.3"),
        (format_spread(1904.2, 38.2), "1,904 ± 38"),
    ],
)
def test_numbers_are_written_to_be_read(written, expected):
    assert written == expected
