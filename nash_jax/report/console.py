"""What a run found, as plain text for the terminal, a log or a pipe."""

from collections.abc import Sequence
from pathlib import Path

import rich.console
import rich.table

from nash_jax.report.quality import Report


def align(rows: Sequence[Sequence[str]], left: Sequence[int] = (0,)) -> str:
    """Rows as lines of aligned columns, however long: no colours, no frames, no cuts.

    Args:
      rows: of texts, all of one length.
      left: the columns that align left; the others align right.
    """
    table = rich.table.Table.grid(padding=(0, 2, 0, 0))
    for place in range(max(map(len, rows), default=0)):
        table.add_column(justify="left" if place in left else "right", no_wrap=True)
    for row in rows:
        table.add_row(*row)
    console = rich.console.Console(width=10_000, color_system=None, markup=False, emoji=False, highlight=False)
    with console.capture() as shown:
        console.print(table)
    return "\n".join(line.rstrip() for line in shown.get().splitlines())


def summary(report: Report) -> str:
    """What a run found: a line each of dense and pruned, or of one model, or of the stages done so far."""
    from nash_jax.report.rendering import render_template  # here, for it loads jinja2

    return render_template("summary.txt.j2", report=report).rstrip("\n")


def places(folder: Path) -> str:
    """Where the report and the model are; those that are not there yet are left out."""
    found = {"report": folder / "report.html", "model": folder / "export"}
    return "  ".join(f"{name}: {path}" for name, path in found.items() if path.exists())
