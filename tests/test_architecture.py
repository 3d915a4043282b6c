"""Imports point one way, torch stays out, and importing starts no backend."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nash_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
ALLOWED = {  # part of the package → what of the package it may import
    "pruning": ("spec", "tree", "errors", "pruning"),
    "models": ("spec", "tree", "errors", "models"),
    "generation": ("models", "spec", "tree", "errors", "ragged", "progress", "generation"),
    "spec": ("errors",),
    "tree": ("errors",),
}


def imports(source: str, package: str = "nash_jax") -> set[str]:
    """Full names of all that a module imports, at any depth of its code; `package` resolves relative ones."""
    found = set()
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            parents = package.split(".")
            base = ".".join(parents[: len(parents) - node.level + 1]) if node.level else ""
            module = ".".join(part for part in (base, node.module) if part)
            found |= {f"{module}.{alias.name}" for alias in node.names}
        elif isinstance(node, ast.Call) and ast.unparse(node.func) in ("importlib.import_module", "__import__"):
            found |= {arg.value for arg in node.args[:1] if isinstance(arg, ast.Constant)}
    return found


def imports_of(file: Path) -> set[str]:
    return imports(file.read_text(), ".".join(file.relative_to(ROOT).parent.parts))


def name_of(file: Path) -> str:
    return file.relative_to(PACKAGE).as_posix()


def test_imports_are_found():
    source = """
import os.path, torch
from nash_jax.spec import ModelSpec
from . import gates
from ..models import build
def late():
    import nash_jax.training.loop as loop
    importlib.import_module("configs.base")
"""
    assert imports(source, "nash_jax.pruning") == {
        "os.path",
        "torch",
        "nash_jax.spec.ModelSpec",
        "nash_jax.pruning.gates",
        "nash_jax.models.build",
        "nash_jax.training.loop",
        "configs.base",
    }
    assert len(FILES) > 15


@pytest.mark.parametrize("part", ALLOWED)
def test_imports_point_one_way(part):
    files = [f for f in FILES if name_of(f).split("/")[0].removesuffix(".py") == part]
    assert files
    for file in files:
        own = {name.split(".")[1] for name in imports_of(file) if name.startswith("nash_jax.")}
        assert own <= set(ALLOWED[part]), name_of(file)


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_imports_configs_or_torch(file):
    roots = {name.split(".")[0] for name in imports_of(file)}
    assert "configs" not in roots
    # timed against, and the reader of old checkpoints, both only where it is installed
    assert "torch" not in roots or name_of(file) in ("benchmark/peers.py", "convert/weights.py")


def test_importing_starts_no_backend():
    program = """
import nash_jax, nash_jax.models, nash_jax.convert.hf, nash_jax.testing
from nash_jax.pruning import compact, distill, gates, hard_concrete, lagrangian, layer_selection
import jax
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "importing started a backend"
jax.devices()
assert xla_bridge.backends_are_initialized(), "this check no longer sees backends"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
