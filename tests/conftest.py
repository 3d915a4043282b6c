"""Four fake CPU devices and one folder of compiled programs for every run, and what several test files share."""

import os
from pathlib import Path

from commands import on_devices

# Read when jax is imported or starts its backend, so they must be in place before; commands that tests start inherit
# them.
os.environ |= on_devices(4)
# What one process has compiled, no other compiles again. XLA_FLAGS and the devices are part of a program's key.
os.environ.setdefault("JAX_COMPILATION_CACHE_DIR", str(Path(__file__).parents[1] / ".pytest_cache/d/compiled"))
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")

import functools
import gc
import json
from types import SimpleNamespace

import jax
import numpy as np
import pytest
from hypothesis import settings

from nash_jax import Seq2Seq
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.models import build
from nash_jax.testing import lively_model, random_sources

jax.config.update("jax_numpy_rank_promotion", "raise")  # broadcasting over a missing axis is a bug until spelt out
settings.register_profile("few", deadline=None, max_examples=10, derandomize=True)
settings.register_profile("full", deadline=None, max_examples=30, derandomize=True)

GOLDEN = Path(__file__).resolve().parents[2] / "shared" / "golden" / "l0"


def pytest_configure(config):
    """Before tests are read: fewer examples of each property, unless the mark `full` is asked for."""
    settings.load_profile("few" if "not full" in config.option.markexpr else "full")


def pytest_addoption(parser):
    parser.addoption("--share", default="0/1", help="K/N: of every N tests that are chosen the one numbered K, from 0")


@pytest.hookimpl(trylast=True)  # after those that the marks leave out are gone
def pytest_collection_modifyitems(config, items):
    """A share of the tests; files with slow tests first, so that no process is left alone with one at the end."""
    number, count = map(int, config.option.share.split("/"))
    if not 0 <= number < count:
        raise pytest.UsageError(f"--share is {config.option.share}: a number below the second one")
    config.hook.pytest_deselected(items=[item for i, item in enumerate(items) if i % count != number])
    items[:] = items[number::count]
    slow = {item.path for item in items if item.get_closest_marker("slow")}
    items.sort(key=lambda item: item.path not in slow)


def pytest_collection_finish():
    """What has been imported stays: the collector of cycles, a tenth of the time, need not look through it again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 100)


@pytest.fixture(autouse=True)
def clock(monkeypatch):
    """The clock of progress lines stands still: a slow machine has no more of them than a fast one."""
    monkeypatch.setattr("nash_jax.runtime.progress.time", SimpleNamespace(monotonic=lambda: 0.0))


@functools.partial(jax.jit, static_argnums=0)
def _logits(spec, params, input_ids, attention_mask, decoder_input_ids, masks):
    return build(spec).apply({"params": params}, input_ids, attention_mask, decoder_input_ids, masks)


@pytest.fixture(scope="session")
def logits():
    """`logits(spec, params, batch, masks=None)` → float32 [B, T, V]; a spec compiles once for all files.

    Padding of `batch["input_ids"]` is masked, unless an attention mask says otherwise.
    """

    def run(spec, params, batch, masks=None, attention_mask=None):
        if attention_mask is None:
            attention_mask = (batch["input_ids"] != spec.pad_id).astype(np.int32)
        return np.asarray(_logits(spec, params, batch["input_ids"], attention_mask, batch["labels"], masks))

    return run


@pytest.fixture(scope="session")
def quick_engine():
    """`quick_engine(spec, params)` → an `Engine`."""
    return Engine


@pytest.fixture(scope="session")
def torch():
    """PyTorch; what asks for it is skipped without it."""
    torch = pytest.importorskip("torch", reason="PyTorch is not installed: pip install torch (CPU build)")
    torch.set_num_threads(1)  # for tiny models more threads are only more waiting
    return torch


@pytest.fixture(scope="session")
def torch_generate(torch, tmp_path_factory):
    """`torch_generate(spec, params, ids, mask, prompt=None, **options)` → the ids that transformers' T5 generates."""
    from transformers import T5ForConditionalGeneration

    models = {}

    def run(spec, params, ids, mask, prompt=None, **options):
        if id(params) not in models:
            folder = tmp_path_factory.mktemp("torch") / "model"
            Seq2Seq(spec, params).save_hf(folder)
            models[id(params)] = params, T5ForConditionalGeneration.from_pretrained(folder).eval()
        _, model = models[id(params)]
        inputs = {"input_ids": torch.tensor(ids).long(), "attention_mask": torch.tensor(mask).long()}
        if prompt is not None:
            inputs["decoder_input_ids"] = torch.tensor(prompt).long()
        with torch.no_grad():  # the cache of transformers 5.23 fails where the decoder is the deeper one
            return model.generate(**inputs, use_cache=len(spec.decoder) <= len(spec.encoder), **options).numpy()

    return run


@pytest.fixture(scope="session")
def as_transformers(torch_generate):
    """`…(engine, seed, prompt=None, **options)` holds one lively model to transformers; → where outputs end, [R].

    Sources are padded on the right, of odd seeds on the left; 99 for an output that does not end.
    """

    def check(engine, seed, prompt=None, **options):
        spec, params = lively_model(seed, len(engine.spec.decoder))
        engine.update_params(params)
        ids, mask = random_sources(spec, seed, left=seed % 2 == 1)
        expected = torch_generate(spec, params, ids, mask, prompt, **options)
        found = engine.generate(ids, mask, GenerationOptions(**options), decoder_input_ids=prompt)
        np.testing.assert_array_equal(found, expected, err_msg=f"seed {seed}, {options}")
        ended = np.isin(found[:, 1:], options["eos_token_id"])
        return np.where(ended.any(1), ended.argmax(1), 99)

    return check


@pytest.fixture(scope="session")
def golden():
    """`golden(name)` → (settings and scalars, {kind: {gate name: array}}) of one of the authors' cases."""
    if not GOLDEN.is_dir():
        pytest.skip(f"no golden values: {GOLDEN} is not there (they do not ship with the project)")
    cases = {case["name"]: case for case in json.loads((GOLDEN / "cases.json").read_text())}
    with np.load(GOLDEN / "arrays.npz") as file:
        flat = {key: file[key] for key in file}

    def read(name):
        arrays = {}
        for key, value in flat.items():
            case, kind, gate = key.split("/")
            if case == name:
                arrays.setdefault(kind, {})[gate] = value
        return cases[name], arrays

    return read
