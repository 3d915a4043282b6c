"""Files that were changed after they were written: each of a real run and of its exports, damaged one at a time.

`python tests/damaged_files.py [EVERY [KIND …]]` tries each EVERY-th damage: `python -m nash_jax.verify` and the
folder's reader are called; prints what is not as it should be, and counts.

refused    the reader ends with one line
noted      it goes on, with a line about it
whole      it says nothing and reads what was written: the file is not needed, or only checksums were lost
"""

import contextlib
import faulthandler
import io
import itertools
import json
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from commands import call
from small_run import ROOT, ROWS, make_command, results, start
from stops import run_whole

HANGS = 300  # s
MARKERS = ("nash_jax.json", "done", "checksums.json")  # what has the checksums of others
EXACT = ("cache", "checkpoint", "results")  # kinds whose readers make anew what is damaged
GOOD = ("damages", "refused", "noted", "whole")  # counts that need not be 0

Damage = Callable[[bytes, np.random.Generator, Path], bytes | None]


def flip(content: bytes, rng: np.random.Generator, path: Path) -> bytes:
    """One bit."""
    changed, place = bytearray(content), rng.integers(len(content))
    changed[place] ^= 1 << rng.integers(8)
    return bytes(changed)


def digit(content: bytes, rng: np.random.Generator, path: Path) -> bytes:
    """One digit of a text, as if it were edited; of other files one byte."""
    digits = [place for place, byte in enumerate(content) if byte in b"0123456789"] or range(len(content))
    changed, place = bytearray(content), digits[rng.integers(len(digits))]
    changed[place] = 48 + (changed[place] - 47) % 10
    return bytes(changed)


def zeros(content: bytes, rng: np.random.Generator, path: Path) -> bytes:
    """A part of zeros, as a power failure leaves behind."""
    begin, end = sorted(rng.integers(len(content) + 1, size=2))
    changed = content[:begin] + bytes(end - begin) + content[end:]
    return changed if changed != content else flip(content, rng, path)


def other(content: bytes, rng: np.random.Generator, path: Path) -> bytes:
    """What another file of the folder holds."""
    others = sorted(file for file in path.parent.iterdir() if file.is_file() and file.read_bytes() != content)
    return others[rng.integers(len(others))].read_bytes() if others else flip(content, rng, path)


DAMAGES: dict[str, Damage] = {
    "bit": flip, "digit": digit, "zeros": zeros, "swapped": other,
    "cut": lambda content, rng, path: content[: rng.integers(len(content))],
    "longer": lambda content, rng, path: content + rng.bytes(9),
    "empty": lambda content, rng, path: b"",
    "lost": lambda content, rng, path: None,
}  # fmt: skip


def cases(place: Path) -> Iterator[tuple[str, Path, str]]:
    """Yields the kind of reader, a file and how it is damaged, in a fixed order."""
    for kind in READERS:
        for path in sorted((place / "good").rglob("*")):
            if path.is_file() and path.stat().st_size and _kind(path.relative_to(place / "good")) == kind:
                for how in DAMAGES:
                    yield kind, path.relative_to(place / "good"), how


def _kind(path: Path) -> str:
    """What reads a file: a folder's own reader."""
    first, *rest = path.parts
    if first in ("run", "stopped"):
        if "checkpoints" in rest:
            return "checkpoint"
        if first == "stopped":
            return "stopped" if rest == ["metrics.jsonl"] else ""
        if rest[0].startswith(".") or rest[0] in ("report.html", "report.json", "export", "tensorboard"):
            return ""  # written anew, or tried apart
        if rest[0] == "data" and len(rest) == 3 and rest[1] != "tokenizer":
            return "cache"
        if "model" in rest:
            return {"prune": "model", "retrain": "run"}.get(rest[0], "") if len(rest) < 4 or rest[0] == "prune" else ""
        return "run"
    return first


def make_folders(place: Path) -> list[str]:
    """Makes a run that is done, one that was stopped, exports of its model, results in part; the run's command."""
    import nash_jax

    good = place / "good"
    command = make_command(place)
    run_whole(command, good / "run")
    _stop_training(command, good / "stopped")
    model = nash_jax.load(good / "run" / "export")
    model.save(good / "export")
    for kind in ("hf", "ct2", "onnx", "stablehlo"):
        with contextlib.suppress(nash_jax.errors.UserError):  # an extra that is not installed
            getattr(model, f"save_{kind}")(good / kind)
    (good / "results").mkdir()
    with contextlib.suppress(KeyboardInterrupt):
        _finish_results(good / "results", stop_at=20)
    return command


def _stop_training(command: list[str], workdir: Path) -> None:
    """Ends a run in its first phase, after the first evaluation: the best checkpoint is not the newest.

    The signal lets it save one more. The phase is long, so that it is not done when the signal comes.
    """
    process = start([*command, "--config.finetune.epochs=100", "--config.finetune.eval_every=50"], workdir)
    checkpoints = workdir / "finetune" / "checkpoints"
    while process.poll() is None and not (checkpoints / "400").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGTERM)
    process.communicate()
    assert (checkpoints / "400").exists() and not (workdir / "finetune" / "done").exists()


def _finish_results(folder: Path, stop_at: int = 40) -> str:
    """Goes on with results in part, as `python -m nash_jax.generate` does; the finished file."""
    from nash_jax.batch_generate.resumable import ResumableFile

    results = ResumableFile(folder / "out.txt", {"seed": 1})
    with results.open(40) as output:
        for number in range(40):
            if number == stop_at:
                raise KeyboardInterrupt
            if number not in output:
                output.add({number: [f"line {number}"]})
    return (folder / "out.txt").read_text()


def _read_model(folder: Path) -> Any:
    """All that `load` returns."""
    import nash_jax
    from nash_jax.data.tokenizers import tokenizer_content
    from nash_jax.tree import params_digest

    model = nash_jax.load(folder)
    content = tokenizer_content(model.tokenizer) if model.tokenizer else None
    return model.spec.to_json(), params_digest(model.params), model.generation.to_dict(), json.dumps(content)


def _verify(folder: Path) -> None:
    """For formats that other programs read."""
    from nash_jax.runtime.output_folder import verify_save

    for name in verify_save(folder):
        print(f"note: {name} was edited", file=sys.stderr)


def _read_checkpoint(phase: Path) -> Any:
    """The state that a phase continues from."""
    import jax

    from nash_jax.training.checkpoint import Checkpointer

    checkpoints = Checkpointer(phase / "checkpoints")
    try:
        state, extra = checkpoints.restore(None)  # type: ignore[misc]
    finally:
        checkpoints.close()
    return [np.asarray(leaf).tobytes() for leaf in jax.tree.leaves(state)], json.dumps(extra)


def _read_cache(run: Path, command: list[str]) -> Any:
    """The tokenized texts of all splits, as the run has them."""
    from nash_jax.config.command_line import parse
    from nash_jax.config.parsing import parse_config
    from nash_jax.data.pipeline import tokenize
    from nash_jax.data.sources import load_rows
    from nash_jax.data.tokenizers import load_tokenizer

    task = parse_config(parse(["main", *command[3:]]).config).task
    tokenizer, cache = load_tokenizer(str(run / "data" / "tokenizer")), run / "data"
    tables = [table for rows in load_rows(task).values() for table in tokenize(rows, tokenizer, task, cache)]
    assert len(list(cache.glob("*/state.json"))) == len(ROWS)  # none is made beside the run's own
    return [table.ids.tobytes() for table in tables]


def _read_run(run: Path, command: list[str]) -> Any:
    """What the same command says and writes."""
    from nash_jax import main
    from nash_jax.errors import UserError

    done = call(main.main, *command[3:], f"--workdir={run}")
    if done.returncode == 2 and done.stderr.count("error: ") == 1:
        raise UserError(done.stderr.splitlines()[-1])
    if done.returncode:
        raise RuntimeError(done.stderr)
    print(done.stderr, file=sys.stderr)
    return results(run)


READERS: dict[
    str, tuple[str, Callable[..., Any]]
] = {  # kind → (folder that is read, by the file's first parts; reader)
    "export": ("export", _read_model),
    "hf": ("hf", _read_model),
    "ct2": ("ct2", _verify),
    "onnx": ("onnx", _verify),
    "stablehlo": ("stablehlo", _verify),
    "model": ("run/prune/model", _read_model),
    "checkpoint": ("stopped/finetune", _read_checkpoint),
    "cache": ("run", _read_cache),
    "results": ("results", _finish_results),
    "run": ("run", _read_run),
}


def read(kind: str, folder: Path, command: list[str]) -> tuple[str, Any]:
    """What became of reading a folder, `refused: …`, `read: WHAT IT SAID` or a traceback; and what was read."""
    from nash_jax.errors import UserError

    given = (folder, command) if kind in ("run", "cache") else (folder,)
    try:
        with contextlib.redirect_stdout(io.StringIO()) as out, contextlib.redirect_stderr(out):
            found = READERS[kind][1](*given)
    except UserError as error:
        return f"refused: {error}", None
    except BaseException:
        return traceback.format_exc(), None
    return f"read: {out.getvalue()}", found


def judge(kind: str, path: Path, outcome: str, found: Any, expected: list[Any]) -> str:
    """The name under which a damage is counted."""
    if outcome.startswith("refused: "):
        return "refused"
    if not outcome.startswith("read: "):
        return "tracebacks"
    said = path.name in outcome or f"{path.parent.name} …" in outcome or "is damaged" in outcome
    if found in expected:
        return "noted" if said else "whole"
    return "noted" if said and kind not in EXACT else "silently used"


def _checksums(path: Path) -> Any:
    """What a manifest says of files."""
    from nash_jax.runtime.output_folder import read_manifest

    return read_manifest(path.parent) or path.read_bytes()


def is_missed(good: Path, base: Path, path: Path, how: str) -> bool:
    """Whether `python -m nash_jax.verify` says nothing about a damaged file that a manifest or a marker names."""
    from nash_jax import verify

    if path.name in MARKERS and (how == "lost" or _checksums(base.parent / path) == _checksums(good / path)):
        return False  # with it goes what it should be compared with; or who wrote it is not what it was
    if path == Path("run/config.json"):
        return False  # the same command compares it with its settings
    done = call(verify.main, str(base))
    return not ("damaged  " in done.stdout or "edited   " in done.stdout)


def try_case(place: Path, kind: str, path: Path, how: str, expected: list[Any], command: list[str]) -> list[str]:
    """Damages a file of a copy; the names under which that is counted."""
    base = place / "copy" / path.parts[0]
    shutil.copytree(place / "good" / path.parts[0], base)
    target, rng = place / "copy" / path, np.random.default_rng(sum(map(ord, f"{path}{how}")))
    changed = DAMAGES[how](target.read_bytes(), rng, target)
    target.unlink() if changed is None else target.write_bytes(changed)
    try:
        missed = kind != "results" and is_missed(place / "good", base, path, how)
        outcome, found = read(kind, place / "copy" / READERS[kind][0], command)
        counted = [judge(kind, path, outcome, found, expected), *(["missed by verify"] if missed else [])]
        if set(counted) - set(GOOD) or os.environ.get("SHOW") in counted:
            print(f"{path} {how}: {', '.join(counted)}: {outcome if outcome[:4] == 'Trac' else outcome[:300]}")
    finally:
        shutil.rmtree(place / "copy")
    return ["damages", *counted]


def count_damages(place: Path, every: int, kinds: list[str]) -> Counter[str]:
    """Tries damages, and counts what came of them."""
    command, expected = make_folders(place), dict[str, list[Any]]()
    for kind, (folder, _) in READERS.items():
        if kind in kinds and (place / "good" / folder).exists():
            shutil.copytree(place / "good", place / "whole")
            outcome, found = read(kind, place / "whole" / folder, command)
            assert outcome.startswith("read: "), outcome
            expected[kind] = [found]
            if kind == "checkpoint":  # the older one is as good
                newest = max((place / "whole" / folder / "checkpoints").glob("[0-9]*"), key=lambda path: int(path.name))
                shutil.rmtree(newest)
                expected[kind].append(read(kind, place / "whole" / folder, command)[1])
            shutil.rmtree(place / "whole")
    found = Counter[str](dict.fromkeys(["silently used", "missed by verify", "tracebacks", "over 60 s"], 0))
    for kind, path, how in itertools.islice((case for case in cases(place) if case[0] in expected), 0, None, every):
        faulthandler.dump_traceback_later(HANGS, exit=True)
        print(kind, path, how, file=sys.stderr, flush=True)
        begun = time.monotonic()
        found.update(try_case(place, kind, path, how, expected[kind], command))
        found["over 60 s"] += time.monotonic() - begun > 60
    faulthandler.cancel_dump_traceback_later()
    return found


def main(every: str = "1", *kinds: str) -> int:
    """Prints the counts; 1 if anything was not as it should be."""
    resource.setrlimit(resource.RLIMIT_AS, (24 << 30, 24 << 30))  # a fault shall not cost the machine its memory
    os.environ |= {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(ROOT):
        found = count_damages(Path(place), int(every), list(kinds or READERS))
    print(", ".join(f"{count} {name}" for name, count in found.items()))
    return int(any(count for name, count in found.items() if name not in GOOD))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
