"""HTML pages read back."""

import html.parser

VOID = {"meta", "br"}


class Page(html.parser.HTMLParser):
    """Elements, ids, texts and the complaints of a strict reader."""

    def __init__(self, text):
        super().__init__()
        self.open, self.elements, self.texts, self.faults = [], [], [], []
        self.feed(text)
        self.close()
        self.faults += [f"never closed: {name}" for name in self.open]

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attrs):
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag):
        if not self.open or self.open.pop() != tag:
            self.faults.append(f"closes what is not open: {tag}")

    def handle_data(self, data):
        if data.strip() and "style" not in self.open:
            self.texts.append(" ".join(data.split()))

    def count(self, tag):
        return sum(name == tag for name, _ in self.elements)

    def labels(self):
        return [attrs["aria-label"] for tag, attrs in self.elements if tag == "svg"]
