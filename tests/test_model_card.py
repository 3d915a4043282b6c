"""The model card: the hub's client reads it, its numbers are the report's, and no text of a user breaks it."""

import json
import re

import pytest
from huggingface_hub import ModelCard
from markdown_it import MarkdownIt
from test_report import EVIL, report

from nash_jax.data.tasks import TASKS
from nash_jax.pruning.methods import METHODS
from nash_jax.report.card_metadata import task_type
from nash_jax.report.model_card import escape, model_card, write_cards

LETTERS = "\\ ` * _ { } [ ] < > # | ~ & ! $ @ ]( ```"
HOSTILE = f"x\n---\nlicense: other\n\n# y | {LETTERS} {EVIL} &lt; [a](b) \u2028 \x1b[0m: - 'q' \"d\" {{{{ 7 * 7 }}}}"


def full_report(**task):
    """A report with intervals and settings, as a run has them."""
    given = report()
    given["config"] |= {
        "seed": 57, "model": {"init": "google/flan-t5-small", "family": "t5"},
        "evaluate": {"num_beams": 4, "no_repeat_ngram_size": 3}, "finetune": {"batch_size": 16},
        "prune": {"sparsity": 0.6, "batch_size": 8},
        "task": {"name": "samsum", "source": "hub", "metric": "rouge", "prefix": "summarize: ", "max_new_tokens": 99}
        | {"max_source_length": 256} | task,
    }  # fmt: skip
    given |= {"method": "nash", "task": given["config"]["task"]["name"], "num_test_examples": 800}
    given["intervals"] = {"dense": {"word_accuracy": [68.0, 72.0]}, "pruned": {"word_accuracy": [64.2, 68.9]}}
    given["paired"] = {"word_accuracy": {"kept": 0.95, "low": 0.931, "high": 0.97, "p": 0.001}}
    return given


def read(text, tmp_path):
    """The card as the hub's client reads it from a file."""
    path = tmp_path / "README.md"
    path.write_text(text)
    return ModelCard.load(path)


def tables(text):
    """Rows of cells, as they are shown."""
    found, inside = [], False
    for token in MarkdownIt().enable("table").parse(text):
        inside = token.type != "table_close" and (inside or token.type == "table_open")
        if token.type == "tr_open":
            found.append([])
        elif token.type == "inline" and inside:
            found[-1].append("".join(child.content for child in token.children))
    return found


def test_its_metadata_are_the_report_s(tmp_path):
    given = full_report()
    data = read(model_card(given), tmp_path).data
    assert data.base_model == "google/flan-t5-small" and data.library_name == "transformers"
    assert data.pipeline_tag == "summarization" and data.datasets == ["knkarthick/samsum"]
    assert {"nash_jax", "arxiv:2310.10054", "arxiv:2304.02721"} <= set(data.tags)
    scores = {result.metric_name: result.metric_value for result in data.eval_results}
    assert scores == {name: given["metrics"]["pruned"][name] for name in ("word_accuracy", "phoneme_error")}
    places = {(r.task_type, r.dataset_type, r.dataset_split, r.dataset_name) for r in data.eval_results}
    assert places == {("summarization", "knkarthick/samsum", "test", "samsum")}


def test_what_it_says_are_the_report_s_numbers(tmp_path):
    text = read(model_card(full_report()), tmp_path).text
    rows = {row[0]: row[1:] for row in tables(text)}
    assert rows["word_accuracy"] == ["70.00 (68.00 to 72.00)", "66.50 (64.20 to 68.90)", "95.0 % (93.1 to 97.0)"]
    assert rows["batch 8, 64 → 32 tokens"] == ["130", "80.0", "1.62×"]
    assert rows["Layers of the decoder"] == ["2 of 4: 0, 3"]
    assert rows["Sparsity of the encoder"] == ["60.0 % asked, 61.2 % counted, the gates expected 59.8 %"]
    assert rows["Steps, fine-tuning of the dense model"] == ["100, batches of 16"]
    assert rows["Seed"] == ["57"]
    assert "1 × cpu, float32" in text and "900.0 K parameters, the dense model 2.0 M (55.0 % fewer)" in text
    assert "arxiv.org/abs/2310.10054" in text and "arxiv.org/abs/2304.02721" in text


@pytest.mark.parametrize("init", ["", "runs/x/y/model", "/tmp/model", "~/model", "../t5", HOSTILE])
def test_a_folder_is_no_base_model(init, tmp_path):
    given = full_report()
    given["config"]["model"]["init"] = init
    assert read(model_card(given), tmp_path).data.base_model is None


def spoil(value):
    if isinstance(value, dict):
        return {name: spoil(item) for name, item in value.items()}
    if isinstance(value, list):
        return [spoil(item) for item in value]
    return HOSTILE if isinstance(value, str) else value


@pytest.mark.parametrize("layout", ["hf", "ct2", "ct2_int8", "other"])
def test_no_text_breaks_it(layout, tmp_path):
    given = spoil(full_report() | {"benchmark": []}) | {"benchmark": report()["benchmark"]}
    given["metrics"]["pruned"][HOSTILE] = 1.0
    text = model_card(given, layout)
    card, plain = read(text, tmp_path), read(model_card(full_report(), layout), tmp_path)
    assert "license" not in card.data.to_dict()
    shown = MarkdownIt().enable("table").parse(card.text)
    kinds = [token.type for token in shown if token.type not in ("heading_open", "inline")]
    assert not {"html_block", "html_inline"} & {child.type for token in shown for child in token.children or [token]}
    assert kinds.count("fence") == sum(t.type == "fence" for t in MarkdownIt().enable("table").parse(plain.text))
    assert {len(row) for row in tables(card.text)} <= {2, 4}
    headings = [t.content for t, before in zip(shown[1:], shown, strict=False) if before.type == "heading_open"]
    assert [h for h in headings[1:] if not h.startswith(("How", "Quality", "Speed", "Use", "Limits"))] == []
    for code in (token.content for token in shown if token.type == "fence"):
        compile(code, "card", "exec")


def test_escaped_text_is_shown_as_it_was():
    shown = MarkdownIt().enable("table").parseInline(f"a {escape(LETTERS)} b")[0].children
    assert "".join(child.content for child in shown) == f"a {LETTERS} b"
    assert {child.type for child in shown} <= {"text", "text_special"}


@pytest.mark.parametrize("missing", [*full_report()])
def test_any_part_of_the_report_may_be_missing(missing, tmp_path):
    given = {name: value for name, value in full_report().items() if name != missing}
    assert read(model_card(given), tmp_path).text


def test_missing_and_not_finite_numbers_are_tolerated(tmp_path):
    given = full_report()
    given["metrics"]["pruned"]["word_accuracy"] = float("nan")
    given["intervals"]["dense"]["word_accuracy"] = None
    given["paired"]["word_accuracy"] |= {"kept": None, "low": None, "high": None}
    found = read(model_card(given), tmp_path).data.eval_results
    assert [result.metric_name for result in found] == ["phoneme_error"]
    assert model_card({}).startswith("---\n")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_is_explained(method):
    rows = dict(row for row in tables(model_card(full_report() | {"method": method})) if len(row) == 2)
    assert rows["Method"] != method and len(rows["Method"].split()) > 3


@pytest.mark.parametrize(
    ("name", "kind"),
    [
        ("cola", "text-classification"), ("wmt16_de_en", "translation"), ("xsum", "summarization"),
        ("squad", "question-answering"), ("dolly", "text-generation"),
    ],
)  # fmt: skip
def test_the_hub_s_name_of_the_task(name, kind):
    assert task_type({"config": {"task": {"name": name, "metric": TASKS[name].metric}}}) == kind


def test_a_card_that_is_there_stays(tmp_path):
    for name in ("hf", "ct2", "linked"):
        (tmp_path / name).mkdir()
    (tmp_path / "hf" / "README.md").write_text("mine")
    (tmp_path / "linked" / "README.md").symlink_to(tmp_path / "none")
    written = write_cards(full_report(), tmp_path, ("hf", "ct2", "ct2_int8", "linked"))
    assert written == [tmp_path / "ct2" / "README.md"] and (tmp_path / "hf" / "README.md").read_text() == "mine"
    assert not (tmp_path / "none").exists() and not (tmp_path / "ct2_int8").exists()
    assert re.search(r"ctranslate2\.Translator", written[0].read_text())
    assert json.dumps("summarize: A text.") in written[0].read_text()
