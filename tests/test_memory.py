"""Freed memory is kept where glibc is."""

import ctypes
import sys

import pytest

from nash_jax.runtime.memory import keep_freed_memory


@pytest.mark.skipif(not hasattr(ctypes.CDLL(None), "mallopt"), reason="the C library has no mallopt")
def test_glibc_takes_the_options():
    assert keep_freed_memory()


def test_elsewhere_nothing_happens(monkeypatch):
    monkeypatch.setattr(sys, "platform", "darwin")
    assert not keep_freed_memory()
