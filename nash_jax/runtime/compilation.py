"""The persistent compilation cache.

No compiler options are set for speed: neither XNNPACK nor oneDNN was faster on a T5-base encoder pass or decoding
(docs/performance.md).
"""

import os
from pathlib import Path

import jax


def enable_cache() -> None:
    """Keeps compiled programs in JAX_COMPILATION_CACHE_DIR, or else in the user's cache folder.

    Those that compile in less than half a second are left out, unless JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS says
    another time.
    """
    if not os.environ.get("JAX_COMPILATION_CACHE_DIR"):
        root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
        jax.config.update("jax_compilation_cache_dir", str(root / "nash_jax" / "xla"))
    if not os.environ.get("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS"):
        jax.config.update("jax_persistent_cache_min_compile_time_secs", 0.5)
