"""Writes docs/errors.md from the messages that the tests assert: `python docs/make_errors.py`.

Messages are read from the sources of the tests, which are not run; their meaning is in error_meanings.py. A message
that a test of the two commands asserts, and that has no meaning there, is an error, and so is a meaning without a
message.
"""

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

from error_meanings import MEANING

HERE = Path(__file__).resolve().parent
TESTS = HERE.parent / "tests"
TABLES = {"test_errors.py": ("SAYS",), "test_generate_cli.py": ("FLAGS", "FILES")}
CUT = 80  # the tests cut longer messages, to fit a line
HEAD = """# When something is wrong

<!-- Written by docs/make_errors.py from the messages that the tests assert. -->

A mistake ends the run with one line on stderr, `error: what was found; what was expected; what to do`, and exit status
2. Settings, devices, workdir, rows, model and tokenizer are checked in this order, before training. Finished work is
kept: the corrected command continues from there. A workdir can be used with other settings until its first stage is
done. In Python the text is in a `nash_jax.UserError`. Exit status 3 means that memory ran out. A traceback (status 1)
is a bug of nash_jax: please report it.

Every message below is asserted by a test. `…` stands for text that differs.
"""
OTHER = """
## Other messages

Parts of other messages, each with the test that causes it.

| message | test |
|---|---|
"""


@functools.cache
def sources() -> dict[str, ast.Module]:
    """File name → syntax tree, of every test file."""
    return {path.name: ast.parse(path.read_text()) for path in sorted(TESTS.glob("test_*.py"))}


def tables() -> dict[str, str]:
    """Key → message, of the tables in the tests of the two commands."""
    found = {}
    for file, names in TABLES.items():
        for node in sources()[file].body:
            if isinstance(node, ast.Assign) and getattr(node.targets[0], "id", "") in names:
                for key, message in ast.literal_eval(node.value).items():
                    found[key if isinstance(key, str) else " ".join(key)] = message
    return found


def raised() -> dict[str, str]:
    """Message → `file::test`, of every `pytest.raises(UserError, match=TEXT)`."""
    found: dict[str, str] = {}
    for file, tree in sources().items():
        for test in tree.body:
            if isinstance(test, ast.FunctionDef):
                for pattern in _patterns(test):
                    found.setdefault(readable(pattern), f"{file}::{test.name}")
    return {message: test for message, test in found.items() if len(message.replace("…", "").strip()) > 15}


def _patterns(test: ast.FunctionDef) -> Iterator[str]:
    for node in ast.walk(test):
        if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "raises" and "UserError" in ast.dump(node):
            for keyword in node.keywords:
                text = _text(keyword.value)
                if keyword.arg == "match" and text:
                    yield text


def _text(node: ast.expr) -> str:
    """A literal string, with … for what is put into an f-string; nothing for other expressions."""
    if isinstance(node, ast.Constant):
        return str(node.value)
    if isinstance(node, ast.JoinedStr):
        return "".join(str(part.value) if isinstance(part, ast.Constant) else "…" for part in node.values)
    return ""


def readable(pattern: str) -> str:
    """A regular expression as the text that it stands for."""
    text = re.sub(r"^\^|(?<!\\)\$$|\\n$", "", pattern)
    text = re.sub(r"(?<!\\)\([^()|]*\|[^()]*\)", "…", text)
    text = re.sub(r"(\.[*+]\??|\\d\+?|\[[^\]]*\](?<!\\\])[*+]\??|\(\?:[^)]*\)\??)", "…", text)
    text = re.sub(r"\\(.)", r"\1", text)
    return re.sub(r"…(\W?…)+", "…", text)


@functools.cache
def literals() -> tuple[str, ...]:
    """Every string of the tests, as text."""
    nodes = (node for tree in sources().values() for node in ast.walk(tree))
    found = (_text(node) for node in nodes if isinstance(node, ast.Constant | ast.JoinedStr))
    return tuple(readable(text) for text in found if text)


def shown(message: str) -> str:
    """The message as a cell of a table."""
    text = message.removeprefix("error: ").replace("{}/", "").replace("{}", "out").lstrip("/:")
    last = text.rpartition(" ")[2]
    if not text.endswith("…") and (len(message) >= CUT or (len(message) > 70 and len(last) < 3 and last.isalpha())):
        text = text.removesuffix(last) + "…"
    text = re.sub(r"^ ", "… ", re.sub(r" $", " …", text))
    return f"`{' '.join(text.split())}`".replace("|", "\\|")


def page() -> str:
    """The whole page.

    Raises:
      SystemExit: naming messages without a meaning, or meanings without a message.
    """
    messages, others, texts = tables(), raised(), literals()
    lines, known = [HEAD], set()
    for section, rows in MEANING.items():
        lines.append(f"\n## {section}\n\n| what is wrong | message | what to do |\n|---|---|---|\n")
        for key, (wrong, do) in rows.items():
            if key.startswith("match:"):
                part = key.removeprefix("match:")
                message = min((text for text in texts if part in text), key=len, default=None)
            else:
                message = messages.get(key)
            if message is None:
                raise SystemExit(f"no test asserts the message of {key!r}; expected one; change error_meanings.py")
            known.add(key)
            lines.append(f"| {wrong} | {shown(message)} | {do} |\n")
    if missing := sorted(set(messages) - known):
        raise SystemExit(f"no meaning of {missing}; expected one in error_meanings.py")
    rows = sorted((shown(message), test) for message, test in others.items())
    return "".join(lines) + OTHER + "".join(f"| {message} | `{test}` |\n" for message, test in rows)


if __name__ == "__main__":
    (HERE / "errors.md").write_text(page())
