"""What comes out of a study: tables, figures, one page, and a table for the terminal.

    write_study(folder, "flan-t5-large on samsum", records, {"drop-6-3-s57": "done", "cofi-60-s57": "waiting"})

A record is the dict that the study's runner keeps of a cell (docs/study.md); states are "done", "running", "waiting",
"tried: score", "diverged: reason" or "failed: reason". Any subset of the records, none at all, and records with parts
missing are fine. What loads pandas and matplotlib is imported by the functions that need it.
"""

import dataclasses
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from nash_jax.report.numbers import is_number
from nash_jax.report.visible import visible, visible_in
from nash_jax.runtime.files import write_text
from nash_jax.spec import SIDES
from nash_jax.study.records import Comparison, Record, comparison_title, comparisons, state_sentence, timed_seconds

_FACTS = ("task", "model", "method", "device", "dtype")


@dataclasses.dataclass(frozen=True)
class Protocol:
    """What a study says beside its records.

    Attributes:
      contrasts: of `protocol.compare`.
      withdrawn: contrasts that the study once had.
      trials: group → what `trials.choose` says of it.
    """

    contrasts: Sequence[Mapping[str, Any]] = ()
    withdrawn: Sequence[Mapping[str, Any]] = ()
    trials: Mapping[str, Mapping[str, Any]] = dataclasses.field(default_factory=dict)


_NOTHING = Protocol()


def write_study(
    folder: Path, name: str, records: Sequence[Record], states: Mapping[str, str], said: Protocol = _NOTHING
) -> None:
    """Writes `tables/*.csv`, `tables/*.md`, `report.html` and `study.json`, each whole or not at all.

    Args:
      folder: made where it is not there; what an earlier call wrote is replaced.
      name: the study's name, the page's title.
      records: of the cells done, in the order in which groups shall be shown.
      states: cell → state, of all cells planned.
      said: contrasts and trials.
    """
    from nash_jax.study.table_files import TABLES, benchmark_csv, cells_csv, protocol_files, tables_csv, tables_markdown

    (folder / "tables").mkdir(parents=True, exist_ok=True)
    whole = {"name": name, "states": dict(states)} | dataclasses.asdict(said) | {"records": list(records)}
    name, records, states = visible(name), visible_in(records), visible_in(states)
    said = Protocol(*map(visible_in, (said.contrasts, said.withdrawn, said.trials)))
    found = comparisons(records)
    files = {"cells.csv": cells_csv(records, states), "benchmark.csv": benchmark_csv(records)}
    for kind, build in TABLES.items():
        tables = [table for table in map(build, found) if table is not None]
        files |= {f"{kind}.csv": tables_csv(tables), f"{kind}.md": tables_markdown(f"{name}: {kind}", tables)}
    for file, text in (files | protocol_files(name, said.contrasts, said.withdrawn, said.trials)).items():
        write_text(folder / "tables" / file, text)
    write_text(folder / "study.json", json.dumps(whole, indent=1))
    write_text(folder / "report.html", study_page(name, records, states, said))


def study_page(name: str, records: Sequence[Record], states: Mapping[str, str], said: Protocol = _NOTHING) -> str:
    """A study as one self-contained HTML page; what is missing is left out, every string that came in is escaped."""
    from nash_jax.report.rendering import render_template
    from nash_jax.report.tables import make_frame
    from nash_jax.study import contrast_table
    from nash_jax.study import figures as study_figures
    from nash_jax.study.contrast_figure import forest_plot
    from nash_jax.study.effort import trials_frame
    from nash_jax.study.table_files import TABLES

    found = comparisons(records)
    left = [(cell, state) for cell, state in states.items() if not state.startswith(("done", "tried", "diverged"))]
    seen = {field: {str(r[field]): None for r in records if r.get(field)} for field in _FACTS}
    parts = [
        {
            "title": comparison_title(one, found),
            "tables": {kind: build(one) for kind, build in TABLES.items()},
            "figures": {kind: draw(one, f"study{i}-{kind}") for kind, draw in study_figures.FIGURES.items()},
        }
        for i, one in enumerate(found)
    ]
    return render_template(
        "study.html.j2",
        name=name,
        state=state_sentence(states),
        seen={field: ", ".join(values) or None for field, values in seen.items()},
        left=make_frame("Cells that are not done", left, ["cell", "state"]),
        contrasts=contrast_table.contrast_frame(said.contrasts),
        contrasts_lead=contrast_table.LEAD,
        contrasts_said=contrast_table.sentences(said.contrasts, said.withdrawn),
        forest=forest_plot(said.contrasts, "contrasts"),
        trials=trials_frame(said.trials),
        comparisons=parts,
    )


def console_summary(records: Sequence[Record], states: Mapping[str, str], said: Protocol = _NOTHING) -> str:
    """How far the study is, a line a group: layers kept, main metric, its change, speedups; trials and contrasts."""
    from nash_jax.study.contrast_table import contrast_lines
    from nash_jax.study.effort import trial_lines

    found = comparisons(records)
    lines = [state_sentence(states)]
    lines += [f"  {cell}: {state}" for cell, state in states.items() if state.startswith("failed")]
    for one in found:
        lines += ["", comparison_title(one, found), _group_lines(one)]
    lines += ["", *trial_lines(said.trials)] if said.trials else []
    lines += ["", *contrast_lines(said.contrasts, said.withdrawn)] if said.contrasts else []
    timed = [record for record in records if not record.get("metrics") and is_number(record.get("seconds"))]
    runs, whole = sum(map(timed_seconds, timed)), sum(record["seconds"] for record in timed)
    if runs:
        lines += ["", f"timed runs took {runs:.0f} s of {whole:.0f} s ({whole / runs:.2f} times as long)"]
    return "\n".join(lines)


def _group_lines(one: Comparison) -> str:
    """The combined table in its shortest form: layers as "24/12", setups as "b1 512→64"."""
    from nash_jax.report.console import align
    from nash_jax.study.tables import cell_text, combined_table, setup_key

    table = combined_table(one)
    if table is None:
        return "  nothing measured"
    text = table.frame().map(cell_text)
    text.columns = [column.key for column in table.columns]
    titles = {column.key: column.title for column in table.columns if column.key in ("impact", one.metric)}
    beams = len({setup.num_beams for setup in one.setups}) > 1
    for s in one.setups:
        short = f"b{s.batch_size} {s.source_length}→{s.new_tokens}" + (f" k{s.num_beams}" if beams else "")
        titles[f"speedup_{setup_key(s)}"] = short
    layers = text[f"{SIDES[0]}_layers"] + "/" + text[f"{SIDES[1]}_layers"]
    body = zip("  " + text["group"], layers, *(text[key] for key in titles), strict=True)
    return align([["  group", "enc/dec", *titles.values()], *body])
