"""The fenced blocks of the documentation, and how a test runs them.

A block of `sh` or `python` is run, in the order of its page and in one folder, unless an HTML comment right before it
says `<!-- not run: REASON -->`; with `<!-- slow -->` it is run by the slow tests alone. Other languages (`text`,
`json`) are not commands.
"""

import dataclasses
import re
import shlex
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
COMMANDS = ("sh", "python")
OUTPUT = ("text", "json", "{eval-rst}", "{toctree}")
PAGES = sorted(
    [
        *(path for path in (ROOT / "docs").rglob("*.md") if "build" not in path.parts),
        *(ROOT / name for name in ("README.md", "CONTRIBUTING.md", "launch/README.md")),
    ]
)
_FENCE = re.compile(
    r"(?:^<!-- (?P<note>[^\n]*?) -->\n)?^```(?P<language>[^\n]*)\n(?P<text>.*?)^```$", re.MULTILINE | re.DOTALL
)


@dataclasses.dataclass(frozen=True)
class Block:
    """A fenced block.

    Attributes:
      page: file it stands in.
      line: of its fence.
      language: what follows the fence.
      text: what is in it.
      note: the comment before it, if any.
    """

    page: Path
    line: int
    language: str
    text: str
    note: str

    @property
    def reason(self) -> str:
        """Why it is not run, or nothing."""
        return self.note.removeprefix("not run: ") if self.note.startswith("not run: ") else ""

    @property
    def is_slow(self) -> bool:
        return self.note == "slow"

    @property
    def place(self) -> str:
        return f"{self.page.relative_to(ROOT)}:{self.line}"


def read_blocks(page: Path) -> list[Block]:
    """All fenced blocks of a page, in order."""
    text = page.read_text()
    blocks = []
    for found in _FENCE.finditer(text):
        line = text.count("\n", 0, found.start("language")) + 1
        blocks.append(Block(page, line, found["language"].strip(), found["text"], found["note"] or ""))
    return blocks


def shell_commands(text: str) -> list[list[str]]:
    """The commands of a block as lists of words, comments and line continuations resolved."""
    lines = text.replace("\\\n", " ").splitlines()
    return [words for line in lines if (words := shlex.split(line, comments=True))]
