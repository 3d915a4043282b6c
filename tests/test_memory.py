"""Freed memory is kept where glibc is; what loading a model takes."""

import copy
import ctypes
import gc
import re
import sys

import jax
import numpy as np
import pytest

from nash_jax.axes import leaf_shapes
from nash_jax.benchmark import loading_cost
from nash_jax.kernels.build import kernel_problem
from nash_jax.pruning.compact import compact
from nash_jax.runtime.memory import anonymous_memory, keep_freed_memory, return_freed_memory
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.spec import FAMILIES, dense_spec
from nash_jax.testing import random_params, random_spec
from nash_jax.tree import count_params, flatten, unflatten

SPEC = dense_spec(vocab_size=500, d_model=32, d_ff=64, num_heads=2, encoder_layers=2, decoder_layers=2)
USUAL = ("t5", "umt5", "bart")
IDS = np.random.default_rng(0).integers(2, 400, (2, 8))
needs_kernels = pytest.mark.skipif(bool(kernel_problem()), reason=kernel_problem())


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_glibc_takes_the_options():
    assert keep_freed_memory()


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
    assert not return_freed_memory()


def device_bytes(call):
    """What `call` returns, and the bytes of all JAX arrays that live beyond those that lived before."""
    gc.collect()
    before = {id(array) for array in jax.live_arrays()}
    found = call()
    gc.collect()
    return found, sum(array.nbytes for array in jax.live_arrays() if id(array) not in before)


def generated(dtype, spec=SPEC, params=None):
    model = Seq2Seq(spec, random_params(spec) if params is None else params, dtype=dtype)
    return model, model.generate_ids(IDS, max_new_tokens=6)


@needs_kernels
@pytest.mark.parametrize("tied", [True, False])
def test_a_model_that_has_generated_holds_each_weight_once(tied):
    spec = dense_spec(vocab_size=500, d_model=32, d_ff=64, num_heads=2, encoder_layers=2, decoder_layers=2, tied=tied)
    (model, _), held = device_bytes(lambda: generated("float32", spec))
    size = 4 * count_params(model.params)
    head = 4 * 512 * 32 if tied else 0  # of a tied model the table is packed, and looked up: 500 outputs in 32 panels
    padding = 4 * 12 * 32  # of an untied head
    assert size <= held <= size + head + padding + 1000
    assert not model._own  # and no other copy is held
    for path, leaf in flatten(model.params).items():
        assert leaf.dtype == np.float32 and not leaf.flags.writeable, path


@needs_kernels
def test_in_int8_only_bytes_are_held_beside_the_parameters():
    (model, _), held = device_bytes(lambda: generated("int8"))
    flat = flatten(model.params)
    matrices = sum(leaf.size for path, leaf in flat.items() if leaf.ndim > 1 and "embedding" not in path)
    matrices += flat["shared/embedding"].size
    shared = sum(leaf.nbytes for path, leaf in flat.items() if leaf.ndim == 1 or "embedding" in path)
    assert matrices + shared <= held <= 1.3 * matrices + shared


@pytest.mark.parametrize("dtype", ["float32", "int8"])
@pytest.mark.parametrize("family", [pytest.param(f, marks=() if f in USUAL else pytest.mark.full) for f in FAMILIES])
def test_parameters_are_what_was_given(family, dtype):
    """Whatever programs ran before; and these take the same weights, whatever form they had before."""
    spec = random_spec(0, family=family)
    given = flatten(random_params(spec))
    model, plain = (
        Seq2Seq(spec, unflatten({path: leaf.copy() for path, leaf in given.items()}), dtype=dtype) for _ in range(2)
    )
    ids = np.minimum(IDS, spec.source_vocab_size - 1)
    many = np.tile(ids, (20, 1))  # rows that XLA decodes
    of_plain = plain.generate_ids(many, max_new_tokens=4), plain.logits(ids, None, ids[:, :2])
    first = model.generate_ids(ids, max_new_tokens=4)
    for _ in range(2):
        found = flatten(model.params)
        assert found.keys() == given.keys()
        for path, leaf in found.items():
            np.testing.assert_array_equal(leaf, given[path])
        np.testing.assert_array_equal(model.generate_ids(many, max_new_tokens=4), of_plain[0])
        np.testing.assert_array_equal(model.logits(ids, None, ids[:, :2]), of_plain[1])
        np.testing.assert_array_equal(model.generate_ids(ids, max_new_tokens=4), first)


@pytest.mark.parametrize("dtype", ["float32", "int8"])
def test_other_parameters_can_be_assigned(dtype):
    model, first = generated(dtype)
    other = random_params(SPEC, seed=1)
    _, expected = generated(dtype, params=random_params(SPEC, seed=1))
    assert not np.array_equal(first, expected)
    model.params = other
    np.testing.assert_array_equal(model.generate_ids(IDS, max_new_tokens=6), expected)
    for path, leaf in flatten(model.params).items():
        np.testing.assert_array_equal(leaf, flatten(other)[path])
    fresh = Seq2Seq(SPEC, random_params(SPEC), dtype=dtype)
    fresh.params["shared"]["embedding"] = other["shared"]["embedding"]  # before it has generated, also one
    assert np.array_equal(fresh.params["shared"]["embedding"], other["shared"]["embedding"])
    assert not np.array_equal(fresh.generate_ids(IDS, max_new_tokens=6), first)
    model.engine.update_params(random_params(SPEC))
    np.testing.assert_array_equal(model.generate_ids(IDS, max_new_tokens=6), first)


def test_who_gave_the_weights_may_write_to_them():
    """A CPU takes aligned memory as it is; the engine then has its own copy all the same."""
    given, first = random_params(SPEC), generated("float32")[1]
    flat = {path: aligned(leaf) for path, leaf in flatten(given).items()}
    for dtype in ("float32", "int8"):
        expected = first if dtype == "float32" else generated(dtype)[1]
        own = {path: aligned(leaf) for path, leaf in flat.items()}
        model, tokens = generated(dtype, params=unflatten(own))
        np.testing.assert_array_equal(tokens, expected)
        for leaf in own.values():
            leaf[...] = 0
        np.testing.assert_array_equal(model.generate_ids(IDS, max_new_tokens=6), expected)


def aligned(leaf):
    memory = np.empty(leaf.nbytes + 64, np.uint8)
    start = -memory.ctypes.data % 64
    found = memory[start : start + leaf.nbytes].view(leaf.dtype).reshape(leaf.shape)
    found[...] = leaf
    return found


def test_what_follows_a_generation(tmp_path):
    """Saving, compacting, copying; who holds parameters gets no second copy of them."""
    model, first = generated("float32")
    for name, save in (("export", model.save), ("hf", model.save_hf)):
        save(tmp_path / name)
        np.testing.assert_array_equal(load(tmp_path / name).generate_ids(IDS, max_new_tokens=6), first)
    spec, params = compact(model.spec, model.params, {})
    np.testing.assert_array_equal(Seq2Seq(spec, params).generate_ids(IDS, max_new_tokens=6), first)
    np.testing.assert_array_equal(copy.deepcopy(model).generate_ids(IDS, max_new_tokens=6), first)
    held, again = flatten(model.params), flatten(model.params)
    assert all(again[path].ctypes.data == leaf.ctypes.data for path, leaf in held.items())


def test_compaction_of_mapped_files_holds_what_it_makes(tmp_path):
    """No folded copies of whole matrices, and what is kept whole stays a part of the file."""
    spec = dense_spec(vocab_size=8, d_model=512, d_ff=2048, num_heads=8, encoder_layers=4, decoder_layers=1)
    flat = {}
    for index, (path, shape) in enumerate(leaf_shapes(spec).items()):
        np.save(tmp_path / f"{index}.npy", np.ones(shape, np.float32))
        flat[path] = np.load(tmp_path / f"{index}.npy", mmap_mode="r")
    size = 4 * count_params(flat)
    mask = np.ones(2048, np.float32)
    mask[1024:] = 0
    masks = {"encoder.0.ffn.units": mask, "encoder.1.ffn.units": np.ones(2048, np.float32)}
    begun = anonymous_memory()
    with loading_cost.watched_memory() as highest:
        _, params = compact(spec, unflatten(flat), masks)
    made = sum(4 * leaf.size for path, leaf in flatten(params).items() if "encoder/layers_0/ffn/w" in path)
    assert highest[0] < made + 4 * 512 * 2048 + (2 << 20) < size / 3
    assert anonymous_memory() - begun < made + (2 << 20)


def test_memory_of_loading_into_shards(monkeypatch, capsys):
    """The shards, and about the largest parameter; zeros in the shape of a model are written without taking room."""
    model = dense_spec(vocab_size=30_000, d_model=256, d_ff=512, num_heads=4, encoder_layers=4, decoder_layers=4)
    monkeypatch.setattr(loading_cost, "preset", lambda name: model)
    assert loading_cost.main(["loading_cost", "--mesh=fsdp:4"]) == 0
    line = capsys.readouterr().out
    assert re.match(r"t5-base, bfloat16, fsdp:4, process 0 of 1: 0.02 GiB in .* s; memory at most ", line), line
    beyond, largest = (float(re.search(rf"{before} ([-.\d]+) GiB", line)[1]) for before in ("at most", "has"))
    assert beyond <= largest + 0.1


@pytest.mark.full
def test_memory_and_time_of_loading(monkeypatch, capsys):
    """A process that loads a model holds its parameters and little more; both kinds of folders are timed."""
    model = dense_spec(vocab_size=30_000, d_model=256, d_ff=512, num_heads=4, encoder_layers=4, decoder_layers=4)
    monkeypatch.setattr(loading_cost, "preset", lambda name: model)
    assert loading_cost.main(["loading_cost", "--runs=2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.partition(":")[0] for line in lines] == ["t5-base, export", "t5-base, hf"] * 2
    factors = [
        [float(part.split()[0]) for part in re.split("memory|load, |generating |float32, ", line)[1:]]
        for line in lines[:2]
    ]
    for loaded, compacted, float32, int8 in factors:
        assert 0 <= loaded < 1.9 and 1 <= compacted < 1.5, factors
        assert 1 <= float32 < 2.8 and 1 <= int8 < 2.8, factors  # of a small model, with its programs and a table twice
    assert all("ratio" in line for line in lines[2:])
