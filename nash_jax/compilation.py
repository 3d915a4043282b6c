"""`jit` with the compiler options that pay on this backend, and the persistent compilation cache."""

import functools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax

# XLA's own float32 dot is far from a CPU's peak on transformer shapes (docs/performance.md).
_CPU_OPTIONS = {"xla_cpu_use_xnnpack": True}


@functools.cache
def compiler_options() -> dict[str, Any]:
    """Options for this backend that the installed jaxlib knows and the user has not set in XLA_FLAGS."""
    if jax.default_backend() != "cpu":
        return {}
    known = {}
    for option, value in _CPU_OPTIONS.items():
        if option in os.environ.get("XLA_FLAGS", ""):
            continue
        try:
            jax.jit(lambda x: x + 1, compiler_options={option: value}).lower(1.0).compile()
        except jax.errors.JaxRuntimeError:  # an option of another jaxlib
            continue
        known[option] = value
    return known


def jit(fn: Callable[..., Any], **kwargs: Any) -> Any:
    """`jax.jit` with `compiler_options()`."""
    return jax.jit(fn, compiler_options=compiler_options(), **kwargs)


def enable_cache() -> None:
    """Keeps compiled programs in JAX_COMPILATION_CACHE_DIR, or else in the user's cache folder."""
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(root / "nash_jax" / "xla"))
    jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
