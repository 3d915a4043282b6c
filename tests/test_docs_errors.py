"""docs/errors.md is what docs/make_errors.py makes of the messages that the tests assert."""

import sys

import pytest
from doc_blocks import ROOT

sys.path.append(str(ROOT / "docs"))

import make_errors


def test_the_page_is_up_to_date():
    assert (ROOT / "docs" / "errors.md").read_text() == make_errors.page(), "run python docs/make_errors.py"


@pytest.mark.parametrize(
    ("pattern", "text"),
    [
        (r"^a\.jsonl:\d+: no column 'x'$", "a.jsonl:…: no column 'x'"),
        (r"method is 'nsah' .did you mean", "method is 'nsah' .did you mean"),
        (r"asked of 6; .*; expected [^;]+ layers", "asked of 6; …; expected … layers"),
        (r"\(did you mean 'nash'\?\)", "(did you mean 'nash'?)"),
    ],
)
def test_patterns_are_read_as_text(pattern, text):
    assert make_errors.readable(pattern) == text


def test_a_message_without_a_meaning_is_refused(monkeypatch):
    monkeypatch.setattr(make_errors, "tables", lambda: dict.fromkeys([*_keys(), "a new mistake"], "its message"))
    with pytest.raises(SystemExit, match=r"no meaning of .'a new mistake'."):
        make_errors.page()


def test_a_meaning_without_a_message_is_refused(monkeypatch):
    monkeypatch.setattr(make_errors, "tables", lambda: {key: "its message" for key in _keys() if key != "no config"})
    with pytest.raises(SystemExit, match="no test asserts the message of 'no config'"):
        make_errors.page()


def _keys():
    return {key for rows in make_errors.MEANING.values() for key in rows if not key.startswith("match:")}
