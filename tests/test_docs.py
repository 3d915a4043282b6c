"""What the documentation tells a reader to run is run here: small models, few steps, one folder for each page."""

import json
import os
import re
import subprocess
import sys

import pytest
from commands import LIMIT
from doc_blocks import COMMANDS, OUTPUT, PAGES, ROOT, read_blocks
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import nash_jax
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params

WORDS = tuple(
    [
        "a",
        "first",
        "second",
        "text",
        "the",
        "cat",
        "dog",
        "bird",
        "tree",
        "house",
        "saw",
        "met",
        "heard",
        "found",
        "lost",
        "and",
        "then",
    ]
)
# -- a folder with what the pages take for granted ------------------------------------------------------------


def make_tokenizer():
    vocabulary = {token: i for i, token in enumerate(["<pad>", "</s>", "<unk>", "summarize", ":", *WORDS])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    return PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>", model_max_length=512
    )


@pytest.fixture(scope="module")
def my_t5(tmp_path_factory):
    """A tiny T5 with its tokenizer: a folder in the hub's layout, and an export."""
    folder, tokenizer = tmp_path_factory.mktemp("model"), make_tokenizer()
    sizes = {"d_model": 16, "d_ff": 24, "num_heads": 4, "encoder_layers": 2, "decoder_layers": 4}
    spec = dense_spec(vocab_size=len(tokenizer), tied=False, dropout_rate=0.0, **sizes)
    model = nash_jax.Seq2Seq(spec, random_params(spec, scale=0.1), tokenizer)
    model.save_hf(folder / "my-t5")
    model.save(folder / "export")
    return folder


@pytest.fixture
def place(tmp_path, my_t5):
    """The working directory of a page: configs, a model, three files of rows."""
    for name, target in {"configs": ROOT / "configs", "my-t5": my_t5 / "my-t5", "docs": ROOT / "docs"}.items():
        (tmp_path / name).symlink_to(target)
    for name in ("quickstart", "mine"):
        (tmp_path / "runs" / name).mkdir(parents=True)
    (tmp_path / "runs" / "quickstart" / "export").symlink_to(my_t5 / "export")
    for split, first, count in (("train", 0, 32), ("validation", 32, 4), ("test", 36, 4)):
        texts = [
            " ".join(WORDS[(n * k) % len(WORDS)] for k in range(1, 6 + n % 3)) for n in range(first, first + count)
        ]
        rows = [
            {"document": f"{text} {WORDS[n % len(WORDS)]}", "summary": text[:9].strip()} for n, text in enumerate(texts)
        ]
        (tmp_path / f"{split}.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    (tmp_path / "articles.jsonl").write_text((tmp_path / "test.jsonl").read_text())
    return tmp_path


# -- the pages ------------------------------------------------------------------------------------------------


def test_every_block_is_run_or_says_why_not():
    wrong = []
    for page in PAGES:
        for block in read_blocks(page):
            if block.language not in COMMANDS + OUTPUT:
                wrong.append(f"{block.place}: language {block.language!r}")
            if block.note and not (block.is_slow or block.reason):
                wrong.append(f"{block.place}: comment {block.note!r}")
        if page.relative_to(ROOT).as_posix() not in RUN and any(is_run(block) for block in read_blocks(page)):
            wrong.append(f"{page}: no test runs it")
    assert not wrong, "\n".join(wrong)


def is_run(block):
    return block.language in COMMANDS and not block.reason


def test_what_the_pages_name_is_there():
    """Files of the repository and links between pages; the site's build checks headings too."""
    missing = []
    for page in PAGES:
        text = re.sub(r"^```python\n.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        named = re.findall(r"\b(?:nash_jax|tests|configs|docs|launch)/[\w/]+\.(?:py|md|sh)\b", text)
        missing += [f"{page}: {name}" for name in named if not (ROOT / name).is_file()]
        links = re.findall(r"\]\((?!\w+:|#)([^)#\s]+)", text)
        missing += [f"{page}: {link}" for link in links if not (page.parent / link).exists()]
    assert not missing, "\n".join(missing)


def test_no_command_is_indented_instead_of_fenced():
    """An indented block would not be seen by these tests."""
    for page in PAGES:
        outside = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
        assert not re.search(r"\n\n    \S", outside), page


@pytest.fixture(scope="module")
def run():
    """`run(place, *arguments)` → what tests/run_page.py printed; programs are compiled once for all tests."""
    hidden = ("JAX_", "XLA_", "HF_")
    environment = {name: value for name, value in os.environ.items() if not name.startswith(hidden)}
    environment["JAX_COMPILATION_CACHE_DIR"] = os.environ["JAX_COMPILATION_CACHE_DIR"]  # conftest has set it
    environment |= {"PYTHONPATH": str(ROOT), "HF_HUB_OFFLINE": "1"}
    environment |= {
        "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0",
        "JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES": "-1",
    }

    def run_pages(place, *arguments):
        done = subprocess.run(
            [sys.executable, str(ROOT / "tests" / "run_page.py"), *arguments],
            cwd=place, env=environment, capture_output=True, text=True, timeout=LIMIT, check=False,
        )  # fmt: skip
        print(done.stdout)
        assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
        return done.stdout

    return run_pages


QUICK = [
    f"docs/{name}.md"
    for name in (
        "generation",
        "serving",
        "own_data",
        "study",
        "tasks",
        "checkpoints",
        "onnx",
        "stablehlo",
        "vocabulary",
    )
]
SLOW = ["docs/start_to_end.md", "docs/library.md", "docs/evaluation.md", "docs/pruning.md"]
RUN = [*QUICK, *SLOW]


def test_pages_of_quick_commands(run, place):
    run(place, *QUICK)
    rows = [json.loads(line) for line in (place / "summaries.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and set(rows[0]) == {"document", "summary", "output"}
    assert "drop-6-2-taught" in (place / "runs/students/tables/contrasts.md").read_text()
    assert (place / "folder" / "spec.json").exists() and (place / "folder_hf" / "model.safetensors").exists()


@pytest.mark.full
def test_from_a_model_on_disk_to_a_smaller_one(run, place):
    run(place, "docs/start_to_end.md")
    rows = [json.loads(line) for line in (place / "summaries.jsonl").read_text().splitlines()]
    assert len(rows) == 4 and set(rows[0]) == {"document", "summary", "output"}
    for name in ("report.html", "report.json", "metrics.jsonl", "export/spec.json", "export/hf/model.safetensors"):
        assert (place / "runs/mine" / name).exists()
    report = json.loads((place / "runs/mine/report.json").read_text())
    assert len(report["params"]["kept_decoder_layers"]) == 3


@pytest.mark.full
@pytest.mark.slow
def test_a_run_with_a_smaller_vocabulary(run, place):
    run(place, "docs/vocabulary.md", "--slow")
    report = json.loads((place / "runs/vocabulary/report.json").read_text())
    assert report["vocabulary"]["coverage"]["train"]["changed_texts"] == 0


@pytest.mark.full
@pytest.mark.slow
def test_library(run, place):
    printed = run(place, "docs/library.md")
    assert 5 < float(re.search(r"encoder: ([\d.]+)% removed", printed)[1]) < 60
    assert sum(map(int, re.findall(r"\d+", re.search(r"units: (.*)", printed)[1]))) < 60
    assert (place / "runs/library/report.html").exists() and (place / "runs/own_loop/spec.json").exists()


@pytest.mark.full
@pytest.mark.slow
def test_pages_on_the_quickstart(run, place):
    (place / "runs" / "quickstart" / "export").unlink()
    first = "--first=python -m nash_jax.main --config=configs/quickstart.py"
    run(place, first, "docs/evaluation.md", "docs/pruning.md", "--slow")
    for name in ("quickstart-evaluate", "cofi", "bart"):
        assert (place / "runs" / name / "report.html").exists()
