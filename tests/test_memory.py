"""Freed memory is kept where glibc is; what loading a model takes."""

import ctypes
import re
import sys

import pytest

from nash_jax.benchmark import loading_cost
from nash_jax.runtime.memory import keep_freed_memory
from nash_jax.spec import dense_spec


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_glibc_takes_the_options():
    assert keep_freed_memory()


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()


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
    factors = [[float(part.split()[0]) for part in re.split("memory|load, ", line)[1:]] for line in lines[:2]]
    for loaded, compacted in factors:
        assert 0 <= loaded < 1.9 and 1 <= compacted < 2, factors
    assert all("ratio" in line for line in lines[2:])
