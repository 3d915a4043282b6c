"""A study as one self-contained HTML page."""

from collections.abc import Callable, Mapping, Sequence

from nash_jax.report.markup import Markup, table, tag
from nash_jax.report.page import figure_box, page_header, titled, whole_page
from nash_jax.study import figures as study_figures
from nash_jax.study.matched import matched_table
from nash_jax.study.records import Record, Subject, state_sentence, subject_title, subjects
from nash_jax.study.table_files import table_html
from nash_jax.study.tables import Table, combined_table, latency_table, published_table, quality_table

_FIGURES: Sequence[tuple[str, Callable[[Subject, str], str], str]] = (
    (
        "speed",
        study_figures.quality_against_speed,
        "Upper right is better where higher scores are. Bars: sample standard deviation over seeds. At any speedup, "
        "the front is the best quality that a group at least as fast has.",
    ),
    ("depth", study_figures.quality_against_depth, "Groups of the method “drop” only."),
    ("batch", study_figures.speed_against_batch, ""),
    ("length", study_figures.speed_against_length, "Groups with all encoder layers."),
    (
        "size",
        study_figures.length_against_size,
        "Outputs that grow or shrink with pruning change the time to generate.",
    ),
)


def study_page(name: str, records: Sequence[Record], states: Mapping[str, str]) -> str:
    """The page's text; whatever is missing is left out. Every string that came in is escaped."""
    found = subjects(records)
    body = [_states_section(states)]
    body += [_subject_section(subject, subject_title(subject, found), number) for number, subject in enumerate(found)]
    header = page_header("pruning study", name or "Unnamed study", state_sentence(states), _facts(records))
    footer = "The same numbers for programs: tables/*.csv, study.json."
    return whole_page(f"{name or 'study'} · nash_jax study", header, tag("main", *body), footer)


def _facts(records: Sequence[Record]) -> dict[str, str | None]:
    """What the cells ran on, every value once."""
    facts: dict[str, str | None] = {}
    for field in ("task", "model", "method", "device", "dtype"):
        values = dict.fromkeys(str(record[field]) for record in records if record.get(field))
        facts[field] = ", ".join(values) or None
    return facts


def _states_section(states: Mapping[str, str]) -> Markup:
    left = [(cell, state) for cell, state in states.items() if state != "done"]
    if not left:
        return Markup("")
    body = table(["cell", "state"], left, label="Cells that are not done")
    lead = "The tables and figures below hold the cells that are done."
    return titled("Cells not done", lead, tag("details", tag("summary", f"{len(left)} cells"), body))


def _subject_section(subject: Subject, title: str, number: int) -> Markup:
    figures = [figure_box(paint(subject, f"study{number}-{name}"), caption) for name, paint, caption in _FIGURES]
    return titled(
        title,
        "",
        _part("Quality and speed", combined_table(subject)),
        _part("At equal speed", matched_table(subject)),
        _part("Beside what was published", published_table(subject)),
        *figures,
        _folded("All metrics", quality_table(subject)),
        _folded("All times", latency_table(subject)),
    )


def _part(title: str, one: Table | None) -> Markup:
    if one is None:
        return Markup("")
    return tag("div", tag("h3", title), tag("p", one.lead, class_="lead"), table_html(one))


def _folded(title: str, one: Table | None) -> Markup:
    if one is None:
        return Markup("")
    return tag("details", tag("summary", title), tag("p", one.lead, class_="lead"), table_html(one))
