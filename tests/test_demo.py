"""The demo as a process: its events over HTTP, and its page in a browser."""

import functools
import json
import os
import signal
import subprocess
import sys
import threading
import urllib.error
import urllib.request
from pathlib import Path

import pytest
from browser import open_browser
from commands import LIMIT, call, on_devices
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

import nash_jax
from nash_jax.demo.__main__ import main
from nash_jax.demo.comparison import Comparison, Contestant
from nash_jax.testing import lively_model

pytest.importorskip("starlette", reason="Starlette is not installed: pip install 'nash_jax[demo]'")
pytest.importorskip("uvicorn", reason="Uvicorn is not installed: pip install 'nash_jax[demo]'")

ROOT = Path(__file__).resolve().parents[1]
EVIL = [  # the models write these words
    "<script>document.title='owned'</script>", "<img/src=x/onerror=document.title='owned'>", "&lt;b&gt;", "</div>",
    "'\"`${1}", "data:", "\\n\\n", "été", "字", "<b>", "{}", "]]>", "<!--", "%0A", "a", "b",
]  # fmt: skip
PREFIX = "a: "
TEXT = "a b <b> </div> <script>document.title='owned'</script> unknown"


def make_model(seed, layers):
    """A model with hostile words, whose outputs have several of them."""
    spec, params = lively_model(seed, layers)
    words = ["<pad>", "</s>", "<unk>", *EVIL][: spec.vocab_size]
    tokenizer = Tokenizer(models.WordLevel({word: i for i, word in enumerate(words)}, unk_token="<unk>"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    own = PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<pad>", eos_token="</s>", unk_token="<unk>")
    return nash_jax.Seq2Seq(spec, params, own)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    place = tmp_path_factory.mktemp("demo")
    for name, seed, layers in (("dense", 3, 2), ("pruned", 4, 1)):
        model = make_model(seed, layers)
        model.save(place / name)
        if name == "dense":  # as the stages of a run write it
            nash_jax.Seq2Seq(model.spec, model.params).save(place / "stage")
    return place


@pytest.fixture(scope="module")
def address(folders):
    """The command in a process of its own; where its page is."""
    process = subprocess.Popen(
        [
            *(sys.executable, "-m", "nash_jax.demo", f"--dense={folders}/stage", f"--pruned={folders}/pruned"),
            *("--port=0", f"--prefix={PREFIX}", "--max_new_tokens=12"),
        ],
        cwd=ROOT, env=os.environ | on_devices(1), text=True, stdout=subprocess.PIPE, stderr=subprocess.PIPE,
    )  # fmt: skip
    line = process.stdout.readline()
    assert line.startswith("open http://127.0.0.1:"), line + process.stderr.read()
    yield line.split()[1]
    process.send_signal(signal.SIGINT)
    _, errors = process.communicate(timeout=LIMIT)
    assert "Traceback" not in errors, errors


@functools.cache
def loaded(folder):
    return nash_jax.load(folder)


def expected(folders, name, text):
    return loaded(folders / name).generate([PREFIX + text], max_new_tokens=12, num_beams=1)[0]


def ask(address, body, **headers):
    headers = {"Content-Type": "application/json"} | {k.replace("_", "-"): v for k, v in headers.items()}
    data = body if isinstance(body, bytes) else json.dumps(body).encode()
    try:
        with urllib.request.urlopen(
            urllib.request.Request(f"{address}/compare", data, headers), timeout=LIMIT
        ) as answer:
            return answer.status, answer.read().decode()
    except urllib.error.HTTPError as error:
        return error.code, error.read().decode()


def read_events(text):
    return [json.loads(block.removeprefix("data: ")) for block in text.split("\n\n") if block]


def check_events(events, outputs):
    """Each model begins, tells every token, and ends with the expected text; one after the other."""
    names = [event["model"] for event in events]
    assert names == sorted(names) and set(names) == set(outputs)  # dense, then pruned
    for name, output in outputs.items():
        own = [event for event in events if event["model"] == name]
        assert [event["event"] for event in own] == ["begin", *["token"] * (len(own) - 2), "end"]
        told, end = own[1:-1], own[-1]
        assert [event["tokens"] for event in told] == list(range(1, len(told) + 1)) and end["tokens"] == len(told) > 1
        times = [event["ms"] for event in told]
        assert times == sorted(times) and 0 < end["first_ms"] == times[0] and times[-1] <= end["ms"]
        assert end["text"] == told[-1]["text"] == output != ""
        assert all(output.startswith(event["text"]) for event in told)


def test_events_end_with_what_generate_gives(address, folders):
    for text in (TEXT, ""):  # of one shape
        status, answer = ask(address, {"text": text})
        assert status == 200
        check_events(read_events(answer), {name: expected(folders, name, text) for name in ("dense", "pruned")})


@pytest.mark.parametrize(
    ("body", "headers", "status"),
    [
        (b"{", {}, 400), ([1], {}, 400), ({"texts": ""}, {}, 400), ({"text": 1}, {}, 413), (b"[" * 100_000, {}, 400),
        ({"text": "a" * 20_001}, {}, 413), (b"x" * 400_000, {}, 413),
        ({"text": "a"}, {"Content_Type": "text/plain"}, 415),
        ({"text": "a"}, {"Host": "elsewhere.example"}, 400),
    ],
)  # fmt: skip
def test_what_is_no_text_is_refused(address, body, headers, status):
    assert ask(address, body, **headers)[0] == status


def test_half_a_character_is_a_message(address):
    events = read_events(ask(address, b'{"text": "a \\ud800"}')[1])
    assert [event["event"] for event in events] == ["error"] and "surrogate" in events[0]["text"]


def test_the_page_asks_its_own_server_alone(address):
    for path, kind in (("/", "text/html"), ("/page.css", "text/css"), ("/page.js", "text/javascript")):
        with urllib.request.urlopen(address + path) as answer:
            text = answer.read().decode()
            assert answer.headers["Content-Type"].startswith(kind)
            assert "default-src 'none'" in answer.headers["Content-Security-Policy"]
        assert "//" not in text.replace("// ", "") and "@import" not in text and "innerHTML" not in text
    with urllib.request.urlopen(f"{address}/models") as answer:
        assert [model["name"] for model in json.loads(answer.read())["models"]] == ["dense", "pruned"]


def test_the_page_in_a_browser(address, folders, tmp_path):
    with open_browser() as browser:
        browser.open(address)
        browser.wait("document.querySelectorAll('section').length === 2")
        browser.type("#text", TEXT + "\ue009\ue007")  # Ctrl+Enter
        browser.wait("document.querySelector('#status').textContent === 'done'")
        for name in ("dense", "pruned"):
            shown = browser.run("return document.querySelector(arguments[0]).textContent", f".{name} .output")
            assert shown == expected(folders, name, TEXT)
            numbers = browser.run(
                "return [...document.querySelectorAll(arguments[0])].map(e => e.textContent)", f".{name} dd"
            )
            assert len(numbers) == 4 and all(number[0].isdigit() for number in numbers)
        verdict = browser.run("return document.querySelector('#verdict').textContent")
        assert verdict.startswith("Speedup: ") and "×" in verdict
        assert browser.run("return document.title") == "Dense and pruned, side by side"
        assert browser.run("return document.querySelectorAll('#models script, #models img, #models b').length") == 0
        loaded = browser.run("return performance.getEntriesByType('resource').map(e => e.name)")
        assert loaded and all(name.startswith((address, "data:")) for name in loaded)
        assert browser.messages() == []
        for width, dark in ((1280, False), (390, True)):
            browser.resize(width, 900)
            browser.set_dark(dark)
            assert browser.run("return document.documentElement.scrollWidth") <= width
            browser.screenshot(Path(os.environ.get("SCREENSHOTS", tmp_path)) / f"demo-{width}.png")
        browser.run("document.querySelector('#text').value = 'a \\ud800'; document.querySelector('#go').click()")
        browser.wait("document.querySelector('#status').className === 'error'")


def test_contestants_of_ctranslate2(folders):
    pytest.importorskip("ctranslate2", reason="CTranslate2 is not installed: pip install 'nash_jax[ctranslate2]'")
    loaded = {name: nash_jax.load(folders / name, engine="ctranslate2") for name in ("dense", "pruned")}
    events = []
    comparison = Comparison([Contestant(name, model, PREFIX, {"max_new_tokens": 12}) for name, model in loaded.items()])
    comparison.answer(TEXT, events.append, threading.Event())
    texts = {name: model.generate([PREFIX + TEXT], max_new_tokens=12)[0] for name, model in loaded.items()}
    check_events(events, texts)


def test_who_no_longer_listens_ends_it(folders):
    contestants = [
        Contestant(name, loaded(folders / name), PREFIX, {"max_new_tokens": 12}) for name in ("dense", "pruned")
    ]
    stopped, events = threading.Event(), []

    def tell(event):
        events.append(event)
        if event["event"] == "token":
            stopped.set()

    Comparison(contestants).answer(TEXT, tell, stopped)
    assert [event["event"] for event in events] == ["begin", "token", "end"] and events[-1]["model"] == "dense"


def test_mistakes_are_one_line(folders, tmp_path):
    make_model(0, 1).save(tmp_path / "model")
    model = nash_jax.load(tmp_path / "model")
    nash_jax.Seq2Seq(model.spec, model.params).save(tmp_path / "bare")
    port = f"--port={os.getpid() % 1000 + 20_000}"
    for says, args in {
        "no --pruned; expected --dense=FOLDER": [f"--dense={folders}/dense"],
        "no --dense; expected --dense=FOLDER": [],
        "the dense model has no tokenizer": [f"--dense={tmp_path}/bare", f"--pruned={tmp_path}/bare", "--port=0"],
        "of 203.0.113.1": [f"--dense={folders}/dense", f"--pruned={folders}/pruned", port, "--host=203.0.113.1"],
        "max_new_tokens": [f"--dense={folders}/dense", f"--pruned={folders}/pruned", "--max_new_tokens=0"],
    }.items():
        done = call(main, *args)
        assert done.returncode == 2 and says in done.stderr and done.stderr.count("\n") == 1, (says, done.stderr)
