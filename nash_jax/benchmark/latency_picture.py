"""The picture of a latency table: milliseconds a layer by heads and by FFN units, a line for each kind of sub-layer."""

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator, StrMethodFormatter

from nash_jax.benchmark.latency_entries import KEYS_VALUES
from nash_jax.benchmark.latency_store import LatencyTable
from nash_jax.report.drawing import ACCENT, BLUE, DENSE, PRUNED, ROSE, VIOLET, new_figure, report_style
from nash_jax.runtime.files import writing

_HEIGHT = 270.0  # points
_PANELS = {  # what is along the x axis → kind → colour and marker
    "heads": {
        "encoder attention": (BLUE, "o"), "decoder self-attention": (PRUNED, "s"),
        "decoder cross-attention": (ACCENT, "D"), KEYS_VALUES: (DENSE, "^"),
    },
    "FFN units": {"encoder FFN": (ROSE, "o"), "decoder FFN": (VIOLET, "s")},
}  # fmt: skip


@report_style()
def save_picture(table: LatencyTable, path: Path) -> None:
    """Draws a table.

    Args:
      table: a table.
      path: of the picture; its ending is the format, `.png` or `.svg`.

    Raises:
      UserError: if it cannot be written.
    """
    figure, setup = new_figure(_HEIGHT), table.setup
    for axes, (what, looks) in zip(figure.subplots(1, len(_PANELS)), _PANELS.items(), strict=True):
        for kind, (color, marker) in looks.items():
            sizes, ms = table.curves[kind]
            axes.plot(sizes, ms, color=color, marker=marker, markersize=4, label=kind)
        _finish(axes, what)
    tokens = f"{setup.batch_size} × {setup.source_length} → {setup.new_tokens} tokens"
    figure.suptitle(f"A layer's milliseconds of a generation, {tokens}, {setup.engine}, {setup.dtype}", fontsize=10)
    figure.legend(loc="outside lower left", ncols=3)
    with writing(path):
        figure.savefig(path, dpi=200, metadata={"Date": None} if path.suffix == ".svg" else None)


def _finish(axes: Axes, what: str) -> None:
    axes.set(xlabel=f"{what} of a layer", ylabel="ms", ylim=(0, None))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axes.xaxis.set_major_formatter(StrMethodFormatter("{x:,.0f}"))
