"""The page that a run leaves behind: `render` makes one self-contained HTML file."""

from typing import TYPE_CHECKING, Any

__all__ = ["render"]

if TYPE_CHECKING:
    from nash_jax.report.html import render


def __getattr__(name: str) -> Any:
    if name == "render":  # on first use: its figures need matplotlib, what the terminal says does not
        from nash_jax.report import html

        return html.render
    raise AttributeError(f"module 'nash_jax.report' has no attribute {name!r}")
