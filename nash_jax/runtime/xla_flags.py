"""Flags of XLA that results depend on; XLA reads them from the environment when its backend starts.

`import nash_jax` sets them, so they hold for the commands and for the library, unless jax ran something before.
"""

import os
import re
from importlib import metadata

# YNNPACK computes matrix products, and no reductions: those of jaxlib 0.10.2 and 0.11 are wrong, or crash, for some
# shapes (jax issues 39103 and 39257; right again in 0.12). All of jaxlib 0.10 to 0.12 know the flag; an unknown one
# ends a process.
_FLAG = "--xla_cpu_experimental_ynn_fusion_type="
_RIGHT = "individual_dot"
_AFFECTED = ("0.10", "0.11")


def set_xla_flags() -> None:
    """Adds to XLA_FLAGS what keeps results right with this jaxlib; a flag that the user set stays as it is."""
    given = os.environ.get("XLA_FLAGS", "")
    if is_affected(_jaxlib_version()) and _FLAG not in given:
        os.environ["XLA_FLAGS"] = f"{given} {_FLAG}{_RIGHT}".strip()


def is_affected(version: str) -> bool:
    """Whether a version of jaxlib has the wrong fusions."""
    return bool(re.match(rf"({'|'.join(map(re.escape, _AFFECTED))})(\.|$)", version))


def _jaxlib_version() -> str:
    """Of the one that is installed, without importing it; empty if there is none."""
    try:
        return metadata.version("jaxlib")
    except metadata.PackageNotFoundError:
        return ""
