"""Small and fast encoder-decoder language models in JAX.

`load` a T5 or BART (hub name, folder, or export) and `generate`; `prune` it from Python, or with
`python -m nash_jax.main`. The parts of pruning are in `nash_jax.pruning`.
Importing the package starts no backend and imports no jax: names are resolved on first use. It adds to XLA_FLAGS what
keeps results right with the jaxlib that is installed (`nash_jax.runtime.xla_flags`).
"""

import importlib
from typing import TYPE_CHECKING, Any

from nash_jax.runtime.xla_flags import set_xla_flags

set_xla_flags()  # before any backend starts

__version__ = "0.1.0"
__all__ = [
    "PruneResult", "Seq2Seq", "TrimResult", "UserError", "__version__", "default_config", "load", "prune",
    "trim_vocabulary",
]  # fmt: skip

if TYPE_CHECKING:
    from nash_jax.config.schema import default_config
    from nash_jax.errors import UserError
    from nash_jax.recipe.api import PruneResult, prune
    from nash_jax.seq2seq import Seq2Seq, load
    from nash_jax.vocabulary.trim import TrimResult, trim_vocabulary

_MODULES = {
    "PruneResult": "nash_jax.recipe.api",
    "Seq2Seq": "nash_jax.seq2seq",
    "TrimResult": "nash_jax.vocabulary.trim",
    "UserError": "nash_jax.errors",
    "default_config": "nash_jax.config.schema",
    "load": "nash_jax.seq2seq",
    "prune": "nash_jax.recipe.api",
    "trim_vocabulary": "nash_jax.vocabulary.trim",
}
_OF_TRAINING = ("PruneResult", "default_config", "prune")  # need the extra `train`


def __getattr__(name: str) -> Any:
    if name in _MODULES:
        if name in _OF_TRAINING:
            importlib.import_module("nash_jax.errors").require_packages("train")
        return getattr(importlib.import_module(_MODULES[name]), name)
    raise AttributeError(f"module 'nash_jax' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
