"""The frame that all report pages share: one self-contained HTML file of titled sections."""

from collections.abc import Mapping
from typing import Any

from nash_jax.report.markup import Markup, tag
from nash_jax.report.style import CSS


def whole_page(title: str, header: Markup, main: Markup, footer: str) -> str:
    """The file's text: no script, no external resource."""
    viewport = tag("meta", name="viewport", content="width=device-width, initial-scale=1")
    head = tag("head", tag("meta", charset="utf-8"), viewport, tag("title", title), tag("style", Markup(CSS)))
    end = tag("footer", tag("p", f"Written by nash_jax. {footer}"))
    return f"<!DOCTYPE html>\n{tag('html', head, tag('body', header, main, end), lang='en')}\n"


def page_header(kind: str, title: Any, verdict: str, facts: Mapping[str, Any]) -> Markup:
    """What the page is about, in one sentence, and what it was measured with; facts that are None are left out."""
    items = (tag("li", tag("b", name), " ", value) for name, value in facts.items() if value is not None)
    return tag(
        "header",
        tag("p", f"nash_jax · {kind}", class_="eyebrow"),
        tag("h1", title),
        tag("p", verdict, class_="verdict"),
        tag("ul", *items, class_="facts"),
    )


def titled(title: str, lead: str, *content: Markup) -> Markup:
    """A titled section, nothing at all where all its content is empty."""
    if not any(content):
        return Markup("")
    return tag("section", tag("h2", title), tag("p", lead, class_="lead") if lead else Markup(""), *content)


def figure_box(svg: str, caption: str = "") -> Markup:
    """A figure that scrolls sideways in its own box, nothing where there is none."""
    if not svg:
        return Markup("")
    box = tag("div", Markup(svg), class_="scroll", tabindex="0", role="region", aria_label="Figure, may scroll")
    return tag("figure", box, tag("figcaption", caption) if caption else Markup(""))
