"""Settings and rows of data that nobody would write: taken, or refused in one line.

`python tests/absurd_settings.py [SETTINGS [FILES]]` reads so many tasks of files with random rows (500), and starts
runs with so many random command lines (500), each with one to three settings that may be absurd; prints what ended with
a traceback, and counts. A run that starts is stopped after some seconds.
"""

import csv
import io
import json
import os
import random
import re
import resource
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from commands import call
from small_run import SETTINGS, make_flags

SECONDS = 6  # s of a run that starts
GOOD = ("settings", "files", "refused", "ran", "stopped in training", "out of memory", "read")
NUMBERS = (
    "0", "1", "2", "3", "-1", "7.5", "1e-9", "0.5", "1e400", "-0.0", "nan", "inf", "1e308", "9" * 400, "2147483648",
    "1_000", "0x10", "٣",
)  # fmt: skip
TEXTS = (
    "", " ", "None", "True", "False", "(", "[]", "{}", "(1,)", "(1,2,3)", "[[1]]", "a=b", "a\0b", "\ud800", "../x",
    "/dev/zero", "/dev/null", "x" * 5000, "<script>", "data", "finetune,prune", "drop", "hf,onnx", "adamw", "bfloat16",
    "rouge", "\u202e", "=", "--", "%s", "{0}", "~", "*", "a\nb",
)  # fmt: skip


def absurd_flags(number: int) -> list[str]:
    """One to three settings of a command line."""
    from nash_jax.config.schema import default_config

    rng, names = random.Random(number), sorted(_names(default_config()))
    chosen = rng.sample(names, rng.choice((1, 1, 2, 3)))
    values = [rng.choice(rng.choice((NUMBERS, TEXTS))) for _ in chosen]
    return [f"--config.{name}={value}" for name, value in zip(chosen, values, strict=True)]


def _names(config: Mapping[str, Any], before: str = "") -> Iterator[str]:
    """Dotted names of all settings."""
    for name, value in config.items():
        yield from _names(value, f"{before}{name}.") if hasattr(value, "items") else [f"{before}{name}"]


def outcome(done: Any) -> str:
    """The name under which what a command did is counted."""
    lines = [line for line in done.stderr.splitlines() if "error: " in line]
    # Python prints "Exception ignored in …" where the signal of this script falls into a callback of a library
    told = re.sub(r"Exception ignored in.*?KeyboardInterrupt: ?", "", done.stderr, flags=re.DOTALL)
    stopped = done.returncode == 130  # by this script, in the middle of anything
    if ("Traceback" in told and not stopped) or (done.returncode and len(lines) != 1):
        return "tracebacks"
    names = {0: "ran", 2: "refused", 3: "out of memory", 130: "stopped in training"}
    return names.get(done.returncode, f"status {done.returncode}")


def try_settings(place: Path, count: int) -> Counter[str]:
    """Starts runs, and counts how they ended."""
    from nash_jax import main

    rows, found = {"train": 16, "validation": 4, "test": 4}, Counter[str](tracebacks=0)
    flags = make_flags(place, rows, SETTINGS | {"finetune.epochs": 1})
    signal.signal(signal.SIGALRM, lambda *_: signal.raise_signal(signal.SIGINT))
    signal.signal(signal.SIGINT, signal.default_int_handler)
    for number in range(count):
        own = absurd_flags(number)
        print(number, own, dict(found), file=sys.stderr, flush=True)
        signal.alarm(SECONDS)
        stages = [] if any("config.stages=" in flag for flag in own) else ["--config.stages=data,finetune"]
        done = call(main.main, *flags, *stages, f"--workdir={place}/run{number}", *own)
        signal.alarm(0)
        found.update(["settings", kind := outcome(done)])
        if kind not in GOOD:
            print(own, kind, done.stderr[-3000:], flush=True)
    return found


ODD_TEXTS = (
    "a", "word", "", " ", "\0", "a\0b", "\ufeff", "\ud83d", "\u202eabc", "</script>", "\r\n", "a\nb", '"', "x" * 10000,
    "\U0010ffff", "1", "null", "٣",
)  # fmt: skip
ODD_VALUES: tuple[Any, ...] = (
    None, True, 0, -1, 2**63, 10**400, 1e308, float("nan"), float("inf"), [], [[]], {}, {"a": {"b": [1]}}, ["a", 1],
    [None],
)  # fmt: skip
ODD_LINES = (
    b"", b"{", b"[]", b"null", b"3", b'"a"', b"\xff\xfe", b"\xef\xbb\xbf{}", b'{"a":' * 10**4, b"[" * 10**5, b"\r",
    b"\0" * 100, b"9" * 10**5, b'{"source": "a", "source": "b"}', b'{"source"', b",,,", b'"', b'"a\n', b"source,target",
)  # fmt: skip


def random_file(rng: random.Random, ending: str) -> bytes:
    """Rows of a file: good ones, odd values, odd lines; sometimes no row, a very long line, or another encoding."""
    lines = [_row(rng, ending) if rng.random() < 0.9 else rng.choice(ODD_LINES) for _ in range(rng.randrange(40))]
    if rng.random() < 0.02:
        lines.append(_encode({"source": "x" * 10_000_000, "target": "y"}, ending))
    head = b"source,target\n" if ending == "csv" and rng.random() < 0.9 else b""
    content = head + rng.choice((b"\n", b"\n", b"\r\n", b"\r", b"\n\n")).join(lines)
    if rng.random() < 0.1:
        content = content.decode("utf-8", "replace").encode(rng.choice(("utf-8-sig", "utf-16", "latin-1")), "replace")
    return content[: rng.randrange(len(content) + 1)] if rng.random() < 0.1 else content


def _row(rng: random.Random, ending: str) -> bytes:
    names = ["source", "target"] if rng.random() < 0.9 else rng.sample(["source", "target", "", "a\0", "x" * 999], 3)
    good = rng.random() < 0.5
    values = [f"w{rng.randrange(10**6)}" if good else rng.choice(rng.choice((ODD_TEXTS, ODD_VALUES))) for _ in names]
    return _encode(dict(zip(names, values, strict=True)), ending)


def _encode(row: dict[str, Any], ending: str) -> bytes:
    if ending == "jsonl":
        return json.dumps(row, ensure_ascii="\ud83d" in repr(row)).encode("utf-8", "surrogatepass")
    text = io.StringIO()
    csv.writer(text).writerow(row.values())
    return text.getvalue().encode("utf-8", "surrogatepass").rstrip(b"\r\n")


def read_rows(folder: Path, ending: str, seed: int) -> str:
    """Reads a task of such files; the name under which that is counted."""
    from nash_jax.config.schema import TaskConfig
    from nash_jax.data.pipeline import tokenize
    from nash_jax.data.sources import load_rows
    from nash_jax.data.tokenizers import build_pronunciation_tokenizer
    from nash_jax.errors import UserError

    rng, files = random.Random(seed), {}
    for split in ("train", "validation", "test"):
        files[f"{split}_file"] = str(folder / f"{split}.{ending}")
        Path(files[f"{split}_file"]).write_bytes(random_file(rng, ending))
    share = rng.choice((0.0, 1.0))
    task = TaskConfig(
        name="own", source="files", prefix="", source_column="source", target_column="target", max_source_length=8,
        max_target_length=8, max_dropped=share, **files,
    )  # fmt: skip
    try:
        rows = load_rows(task)
        tokenizer = build_pronunciation_tokenizer([{"source": "abc", "references": ["A B"]}])
        for own in rows.values():
            tokenize(own, tokenizer, task, folder / "data")
    except UserError as error:
        return "tracebacks" if "\n" in str(error) else "refused"
    return "read"


def try_rows(place: Path, count: int) -> Counter[str]:
    """Reads files, and counts what came of them."""
    import traceback

    found = Counter[str](tracebacks=0)
    for number in range(count):
        folder = place / f"files{number}"
        folder.mkdir()
        print("files", number, file=sys.stderr, flush=True)
        begun = time.process_time()
        try:
            kind = read_rows(folder, ("jsonl", "csv")[number % 2], number)
        except Exception:
            kind = "tracebacks"
            print(number, traceback.format_exc()[-3000:])
        found.update(["files", kind, *(["over 60 s"] if time.process_time() - begun > 60 else [])])
    return found


def main(settings: str = "500", files: str = "500") -> int:
    """Prints the counts; 1 if anything was not as it should be."""
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))  # a fault shall not cost the machine its memory
    os.environ |= {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    wrong = 0
    for attempt, count in ((try_rows, files), (try_settings, settings)):
        with tempfile.TemporaryDirectory() as place:
            found = attempt(Path(place), int(count))
        print(", ".join(f"{number} {name}" for name, number in found.items()), flush=True)
        wrong += sum(number for name, number in found.items() if name not in GOOD)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
