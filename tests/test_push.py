"""Uploads to a hub: the client is the real one, the hub a server here that has its few endpoints."""

import base64
import http.server
import json
import threading

import numpy as np
import pytest
from commands import call
from huggingface_hub import ModelCard, constants
from huggingface_hub.utils import close_session

import nash_jax
from nash_jax.export.hub import main
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.tree import flatten

SHA = "0123456789abcdef0123456789abcdef01234567"
TOKEN = "hf_" + "a" * 34
SPEC = dense_spec(vocab_size=9, d_model=4, d_ff=4, num_heads=1, encoder_layers=1, decoder_layers=1)


class Hub(http.server.BaseHTTPRequestHandler):
    """Keeps the files of commits in `server.folder / OWNER / NAME`."""

    def do_POST(self):
        body = self.rfile.read(int(self.headers["Content-Length"]))
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            self.answer(401, {"error": "Invalid username or password."})
        elif self.path == "/api/repos/create":
            self.create(json.loads(body))
        elif self.path == "/api/validate-yaml":
            wrong = "license: none" in json.loads(body)["content"]
            errors = [{"message": '"license" must be one of [mit]'}] if wrong else []
            self.answer(400 if wrong else 200, {"errors": errors, "warnings": []})
        elif self.path.startswith("/api/models/") and "/preupload/" in self.path:
            files = [
                {"path": f["path"], "uploadMode": "regular", "shouldIgnore": False} for f in json.loads(body)["files"]
            ]
            self.answer(200, {"files": files})
        elif self.path.startswith("/api/models/") and "/commit/" in self.path:
            self.commit(self.path.split("/")[3:5], [json.loads(line) for line in body.splitlines()])
        else:
            self.answer(404, {"error": f"no {self.path}"})

    def create(self, asked):
        name = f"{asked['organization'] or 'me'}/{asked['name']}"
        if name.startswith("others/"):
            return self.answer(403, {"error": "You don't have the rights to create a model under this namespace"})
        there = name in self.server.created
        self.server.created.setdefault(name, asked.get("visibility"))
        self.answer(409 if there else 200, {"url": f"http://127.0.0.1:{self.server.server_port}/{name}"})

    def commit(self, name, lines):
        for line in lines:
            if line["key"] == "file":
                path = self.server.folder.joinpath(*name, line["value"]["path"])
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(base64.b64decode(line["value"]["content"]))
        self.server.commits.append("/".join(name))
        address = f"http://127.0.0.1:{self.server.server_port}/{'/'.join(name)}/commit/{SHA}"
        self.answer(200, {"success": True, "commitOid": SHA, "commitUrl": address})

    def do_GET(self):
        self.answer(404, {"error": "Repository not found"})

    def answer(self, status, body):
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"Content-Type": "application/json", "Content-Length": str(len(data))}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(data)

    def log_message(self, *args):
        """Silent: it would print into what the command prints."""


@pytest.fixture
def hub(tmp_path, monkeypatch):
    """The server: `created` (name → visibility), `commits`, `folder`."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.created, server.commits, server.folder = {}, [], tmp_path / "hub"
    threading.Thread(target=server.serve_forever, args=(0.02,), daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    yield server
    close_session()
    server.shutdown()
    server.server_close()


@pytest.fixture
def folder(tmp_path):
    """An exported model, with a card that its user wrote, and a hidden file."""
    nash_jax.Seq2Seq(SPEC, random_params(SPEC)).save_hf(tmp_path / "hf")
    (tmp_path / "hf" / "README.md").write_text("---\nlicense: mit\n---\nmine")
    (tmp_path / "hf" / ".secret").write_text("key")
    return tmp_path / "hf"


def test_what_was_uploaded_is_the_model(folder, hub):
    before = {path.name for path in folder.iterdir()}
    done = call(main, f"--folder={folder}", "--repo=me/tiny", "--private")
    assert done.returncode == 0 and done.stdout == f"uploaded: {constants.ENDPOINT}/me/tiny\n", done.stderr
    assert hub.created == {"me/tiny": "private"} and hub.commits == ["me/tiny"]
    there = hub.folder / "me" / "tiny"
    assert {path.name for path in there.iterdir()} == before - {"nash_jax.json", ".secret"}
    assert ModelCard.load(there / "README.md").data.license == "mit"
    found, expected = nash_jax.load(there), nash_jax.load(folder)
    assert found.spec == expected.spec
    for path, leaf in flatten(expected.params).items():
        np.testing.assert_array_equal(flatten(found.params)[path], leaf, err_msg=path)


def test_an_existing_repository_gets_another_commit(folder, hub):
    for _ in range(2):
        assert call(main, f"--folder={folder}", "--repo=tiny").returncode == 0
    assert hub.commits == ["me/tiny"] * 2 and hub.created == {"me/tiny": None}


def test_a_changed_folder_is_not_uploaded(folder, hub):
    weights = folder / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:-1] + b"x")
    done = call(main, f"--folder={folder}", "--repo=me/tiny")
    assert done.returncode == 2 and "model.safetensors was changed since it was saved" in done.stderr
    assert not hub.created and not hub.commits


def test_a_card_that_the_hub_refuses_is_named(folder, hub):
    (folder / "README.md").write_text("---\nlicense: none\n---\n")
    done = call(main, f"--folder={folder}", "--repo=me/x")
    assert done.returncode == 2 and "README.md" in done.stderr and "must be one of [mit]" in done.stderr, done.stderr
    assert done.stderr.count("\n") == 1 and not hub.commits


REFUSED = {
    "no --folder; expected --folder=": ["--repo=me/x"],
    "no --repo; expected --folder=": ["--folder={}"],
    "holds no model that nash_jax saved; expected export/hf": ["--folder={}/none", "--repo=me/x"],
    "--repo: Repo id must use alphanumeric chars": ["--folder={}", "--repo=me/a b"],
    "the hub refused others/x: 403 You don't have the rights": ["--folder={}", "--repo=others/x"],
    "command line: 'word' is not a flag": ["--private", "word"],
}


@pytest.mark.parametrize("says", REFUSED)
def test_mistakes_are_one_line(says, folder, hub):
    done = call(main, *(argument.format(folder) for argument in REFUSED[says]))
    assert done.returncode == 2 and says in done.stderr, done.stderr
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1 and not hub.commits


def test_a_wrong_token_and_no_hub_are_one_line(folder, hub, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    done = call(main, f"--folder={folder}", "--repo=me/x")
    assert done.returncode == 2 and "401" in done.stderr and "hf auth login" in done.stderr
    assert done.stderr.count("\n") == 1
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    done = call(main, f"--folder={folder}", "--repo=me/x")
    assert done.returncode == 2 and "me/x was not uploaded" in done.stderr and done.stderr.count("\n") == 1


def test_without_network_it_says_so(folder, hub, monkeypatch):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    close_session()
    done = call(main, f"--folder={folder}", "--repo=me/x")
    assert done.returncode == 2 and done.stderr.count("\n") == 1 and not hub.created, done.stderr
