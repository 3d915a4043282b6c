"""Fails the build on a public name that the API pages leave out, or that has no docstring to print.

The public modules are `PUBLIC`. Their public names are those of `__all__`; where a module has none, the functions and
classes defined there whose names have no underscore in front.
"""

import importlib
import inspect
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

PUBLIC = (
    "nash_jax",
    "nash_jax.pruning",
    "nash_jax.vocabulary.coverage",
    "nash_jax.vocabulary.sizes",
    "nash_jax.spec",
    "nash_jax.axes",
    "nash_jax.config.schema",
    "nash_jax.recipe.presets",
    "nash_jax.generation.options",
)
RECEIVERS = ("self", "cls")


def public_names(module: ModuleType) -> list[str]:
    """The names that users may import from a module."""
    if hasattr(module, "__all__"):
        return sorted(name for name in module.__all__ if not name.startswith("__"))
    own = inspect.getmembers(module, lambda value: inspect.isfunction(value) or inspect.isclass(value))
    return [name for name, value in own if value.__module__ == module.__name__ and not name.startswith("_")]


def docstring_faults(name: str, value: Any) -> Iterator[str]:
    """What the docstring of a function or class lacks: the text itself, `Args:`, or one of the arguments.

    A function of one or two arguments may say in its text what they are; then each is named there in backquotes or by
    its shape, and no `Args:` is asked for.
    """
    if not callable(value):
        return
    text = inspect.getdoc(value) or ""
    if not text:
        yield f"{name} has no docstring"
    if inspect.isfunction(value):
        arguments = [p for p in inspect.signature(value).parameters if p not in RECEIVERS]
        if "Args:" in text:
            listed = text.partition("Args:")[2]
            yield from (f"{name}: Args leaves out {p}" for p in arguments if not _lists(listed, p))
        elif arguments:
            yield f"{name} takes {', '.join(arguments)}, and its docstring has no Args"


def _lists(text: str, argument: str) -> bool:
    return re.search(rf"^ *\*{{0,2}}{argument}: ", text, re.MULTILINE) is not None


def faults(documented: set[str]) -> list[str]:
    """What is wrong with the API pages.

    Args:
      documented: full names of the objects that the pages describe.
    """
    found = []
    for module_name in PUBLIC:
        module = importlib.import_module(module_name)
        for name in public_names(module):
            if f"{module_name}.{name}" not in documented:
                found.append(f"{module_name}.{name} is public, and no page of docs/api describes it")
            found += docstring_faults(f"{module_name}.{name}", getattr(module, name))
    return found


def _check(app: Any, env: Any) -> None:
    from sphinx.util import logging

    documented = {entry[0] for entry in env.get_domain("py").get_objects()}
    for fault in faults(documented):
        logging.getLogger(__name__).warning(fault, type="public_names")


def setup(app: Any) -> dict[str, Any]:
    """Registers the check with Sphinx."""
    app.connect("env-check-consistency", _check)
    return {"parallel_read_safe": True}
