"""Models by their name on the hub, from its cache or over HTTP, and the tokenizers that come with them."""

import http.server
import json
import threading
from pathlib import Path

import numpy as np
import pytest
from families import save_as_others
from flax.serialization import msgpack_serialize
from huggingface_hub import constants

import nash_jax
from nash_jax.errors import UserError
from nash_jax.spec import dense_spec
from nash_jax.testing import random_params
from nash_jax.tree import flatten

ROOT = Path(__file__).resolve().parents[1]
SHA = "0123456789abcdef0123456789abcdef01234567"
SIZES = {"vocab_size": 9, "d_model": 4, "d_ff": 4, "num_heads": 1, "encoder_layers": 1, "decoder_layers": 1}
SPEC = dense_spec(**SIZES)


@pytest.fixture(scope="module")
def model():
    return nash_jax.Seq2Seq(SPEC, random_params(SPEC))


@pytest.fixture
def cache(tmp_path, monkeypatch):
    """An empty cache of the hub's client."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def assert_same(found, expected):
    assert found.spec == expected.spec
    for path, leaf in flatten(expected.params).items():
        np.testing.assert_array_equal(flatten(found.params)[path], leaf, err_msg=path)


def to_pytorch(folder):
    """Replaces the safetensors by a PyTorch file."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    from safetensors.torch import load_file

    torch.save(load_file(folder / "model.safetensors"), folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()


@pytest.mark.parametrize("old", [False, True])
def test_from_the_cache_without_network(model, cache, monkeypatch, old):
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    repository = cache / "models--someone--tiny"
    (repository / "snapshots").mkdir(parents=True)
    (repository / "refs").mkdir()
    (repository / "refs" / "main").write_text(SHA)
    save_as_others(model, repository / "snapshots" / SHA)
    if old:
        to_pytorch(repository / "snapshots" / SHA)
    assert_same(nash_jax.load("someone/tiny"), model)
    with pytest.raises(
        UserError, match="model 'someone/other' is not a folder, and could not be downloaded from the hub"
    ):
        nash_jax.load("someone/other")


@pytest.fixture
def hub(cache, tmp_path, monkeypatch):
    """A hub over HTTP: (folder of the one repository someone/tiny, names of the files that were fetched)."""
    folder, fetched = tmp_path / "repository", []

    class Handler(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            path = self.path.partition("?")[0].removeprefix("/")
            files = [f.relative_to(folder).as_posix() for f in folder.rglob("*") if f.is_file()]
            if path == "api/models/someone/tiny/revision/main":
                self.answer(json.dumps({"id": "someone/tiny", "sha": SHA}).encode())
            elif path == f"api/models/someone/tiny/tree/{SHA}":
                tree = [
                    {"type": "file", "path": f, "oid": "0" * 40, "size": (folder / f).stat().st_size} for f in files
                ]
                self.answer(json.dumps(tree).encode())
            elif (name := path.removeprefix(f"someone/tiny/resolve/{SHA}/")) in files:
                if self.command == "GET":
                    fetched.append(name)
                self.answer((folder / name).read_bytes(), {"ETag": f'"{name}"', "X-Repo-Commit": SHA})
            else:
                self.send_error(404)

        do_HEAD = do_GET

        def answer(self, body, headers=()):
            self.send_response(200)
            for key, value in {**dict(headers), "Content-Length": str(len(body))}.items():
                self.send_header(key, value)
            self.end_headers()
            if self.command == "GET":
                self.wfile.write(body)

        def log_message(self, *args):
            print("HUB", self.command, *args)

    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(constants, "ENDPOINT", f"http://127.0.0.1:{server.server_port}")
    monkeypatch.setattr(
        constants, "HUGGINGFACE_CO_URL_TEMPLATE", constants.ENDPOINT + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield folder, fetched
    server.shutdown()
    server.server_close()


OTHERS = ("README.md", "tf_model.h5", "flax_model.msgpack", "rust_model.ot", "adapter_model.safetensors")


@pytest.mark.parametrize("old", [False, True])
def test_what_is_fetched(model, hub, old):
    """PyTorch files are downloaded only if there are no safetensors, and no files of other frameworks."""
    folder, fetched = hub
    save_as_others(model, folder)
    if old:
        to_pytorch(folder)
    else:
        (folder / "pytorch_model.bin").write_text("never read")
    for name in OTHERS:
        (folder / name).write_text("never read")
    assert_same(nash_jax.load("someone/tiny"), model)
    weights = "pytorch_model.bin" if old else "model.safetensors"
    assert sorted(set(fetched)) == sorted({"config.json", "generation_config.json", weights})


def test_flax_weights_are_the_last_choice(model, hub):
    folder, fetched = hub
    save_as_others(model, folder)
    (folder / "model.safetensors").unlink()
    weights = {
        "shared": {"embedding": model.params["shared"]["embedding"]},
        "block": {"0": {"layer": {"0": {"layer_norm": {"weight": np.ones(4, np.float32)}}}}},
    }
    (folder / "flax_model.msgpack").write_bytes(msgpack_serialize(weights))
    for name in ("README.md", "tf_model.h5"):
        (folder / name).write_text("never read")
    with pytest.raises(
        UserError, match=r"does not fit its config.json: missing .*left over .'block.0.layer.0.layer_norm"
    ):
        nash_jax.load("someone/tiny")  # its weights are not whole, but they were fetched and read
    assert sorted(set(fetched)) == ["config.json", "flax_model.msgpack", "generation_config.json"]
