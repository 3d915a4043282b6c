"""The page that a run leaves behind: `render` makes one self-contained HTML file."""

from nash_jax.report.html import render

__all__ = ["render"]
