"""Imports point one way, torch stays out, and importing starts no backend."""

import ast
import graphlib
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGE = ROOT / "nash_jax"
FILES = sorted(PACKAGE.rglob("*.py"))
BASE = ("errors", "spec", "axes", "tree", "ragged", "runtime")
SCIENCE = (*BASE, "models", "pruning", "kernels", "generation")
RESULTS = (*SCIENCE, "config", "evaluation")
MODELS_OF_A_RUN = ("convert", "engines", "export", "seq2seq")
ALLOWED = {  # each room of the package → the rooms that it may import, beside itself
    "__init__": ("config", "errors", "recipe", "runtime", "seq2seq", "vocabulary"),
    "errors": (),
    "spec": ("errors",),
    "axes": ("errors", "spec", "tree"),
    "tree": ("errors",),
    "ragged": (),
    "runtime": ("errors", "tree"),
    "models": (*BASE,),
    "pruning": (*BASE,),  # neither models nor generation: gates work on any table of axes
    "kernels": (*BASE,),
    "generation": (*BASE, "models", "kernels"),
    "config": ("errors", "pruning", "runtime"),
    "data": (*BASE, "config"),
    "evaluation": (*SCIENCE, "config", "data"),
    "convert": (*SCIENCE, "data"),
    "export": (*SCIENCE, "convert", "data", "testing"),
    "engines": (*SCIENCE, "export"),
    "seq2seq": (*SCIENCE, "convert", "data", "engines", "export"),
    "training": (*SCIENCE, "config", "data"),
    "benchmark": (*RESULTS, "convert", "engines", "export", "report", "seq2seq", "testing", "training"),
    "batch_generate": (*SCIENCE, "data", "seq2seq"),
    "vocabulary": (*SCIENCE, "batch_generate", "data", "seq2seq"),
    "report": (*SCIENCE, "config", "data", "evaluation", "training"),
    "recipe": (*RESULTS, *MODELS_OF_A_RUN, "batch_generate", "data", "training", "benchmark", "report", "vocabulary"),
    "study": (*SCIENCE, "config", "data", "evaluation", "recipe", "report", "training"),
    "testing": ("spec", "axes", "tree", "models"),
    "main": (*BASE, "config", "recipe", "study", "report"),
    "verify": (*BASE, "recipe", "report", "training"),
    "demo": (*SCIENCE, "data", "seq2seq"),
    "generate": (*SCIENCE, "batch_generate", "data", "seq2seq"),
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
        assert own <= {part, *ALLOWED[part]}, name_of(file)


def test_rooms_make_no_circle():
    """Real imports between rooms have an order from the bottom to the top."""
    graph: dict[str, set[str]] = {}
    for file in FILES:
        own = {name.split(".")[1] for name in imports_of(file) if name.startswith("nash_jax.")}
        room = name_of(file).split("/")[0].removesuffix(".py")
        graph.setdefault(room, set()).update(own - {room})
    order = list(graphlib.TopologicalSorter(graph).static_order())  # raises CycleError
    assert order.index("errors") < order.index("pruning") < order.index("recipe") < order.index("main")


def test_every_room_is_known():
    """The package has the rooms of the table and no others: a new one is a decision."""
    rooms = {name_of(f).split("/")[0].removesuffix(".py") for f in FILES}
    assert rooms == set(ALLOWED)
    assert len(rooms) <= 30


@pytest.mark.parametrize("file", FILES, ids=name_of)
def test_nothing_imports_configs_or_torch(file):
    roots = {name.split(".")[0] for name in imports_of(file)}
    assert "configs" not in roots
    # timed against, and the reader of old checkpoints, both only where it is installed
    assert "torch" not in roots or name_of(file) in (
        "benchmark/peer_systems.py",
        "benchmark/torch_step.py",
        "convert/weights.py",
    )


def test_importing_starts_no_backend():
    program = """
import nash_jax, nash_jax.models, nash_jax.convert.hf, nash_jax.testing
import nash_jax.pruning
import jax
from jax._src import xla_bridge
assert not xla_bridge.backends_are_initialized(), "importing started a backend"
jax.devices()
assert xla_bridge.backends_are_initialized(), "this check no longer sees backends"
"""
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_the_page_of_the_tree_has_the_rooms_in_the_order_of_their_imports():
    lines = (ROOT / "docs" / "layout.md").read_text().splitlines()
    first_columns = [line.split("|")[1] for line in lines if line.startswith("| `")]
    rooms = [
        name.removesuffix("/").removesuffix(".py") for text in first_columns for name in re.findall(r"`(.+?)`", text)
    ]
    assert set(rooms) == set(ALLOWED) - {"__init__"}
    for number, room in enumerate(rooms):
        files = [f for f in FILES if name_of(f).split("/")[0].removesuffix(".py") == room]
        own = {name.split(".")[1] for file in files for name in imports_of(file) if name.startswith("nash_jax.")}
        assert own <= set(rooms[: number + 1]), room
