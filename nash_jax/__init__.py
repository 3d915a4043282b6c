"""Small and fast encoder-decoder language models in JAX.

`load` a T5 or BART (hub name, folder, or export) and `generate`; prune one with `python -m nash_jax.main`.
Importing the package starts no backend and imports no jax: names are resolved on first use.
"""

from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"
__all__ = ["Seq2Seq", "__version__", "load"]

if TYPE_CHECKING:
    from nash_jax.seq2seq import Seq2Seq, load


def __getattr__(name: str) -> Any:
    if name in ("Seq2Seq", "load"):
        from nash_jax import seq2seq as model

        return getattr(model, name)
    raise AttributeError(f"module 'nash_jax' has no attribute {name!r}")
