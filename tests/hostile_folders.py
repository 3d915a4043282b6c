"""Folders that look like models and are not: each is a small good model with one thing that no program would write.

`python tests/hostile_folders.py [EVERY]` loads each EVERY-th of them, prints what is not as it should be, and counts.
"""

import contextlib
import faulthandler
import io
import itertools
import os
import resource
import shutil
import sys
import tempfile
import time
import traceback
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from hostile_files import INDEXES, KINDS, MANIFESTS, ORBAX, SAFETENSORS, TORCH, Change, edit, msgpack_cases, replaced

HANGS = 120  # s
INTERRUPTED = "t5 .nash_jax/commit folder"  # as a save leaves it that was killed: loading completes it

ABSURD = (
    None, True, -1, 0, 2**31, 2**63, 10**400, 1e308, float("nan"), 0.5, "", "abc", "\ud800", [], [[]], {}, {"a": 1},
    [1] * 3, "x" * 10**6,
)  # fmt: skip
CONFIG = {
    "t5": (
        "model_type", "vocab_size", "d_model", "d_kv", "d_ff", "num_layers", "num_decoder_layers", "num_heads",
        "feed_forward_proj", "relative_attention_num_buckets", "relative_attention_max_distance", "layer_norm_epsilon",
        "dropout_rate", "pad_token_id", "eos_token_id", "decoder_start_token_id", "tie_word_embeddings",
    ),
    "bart": (
        "model_type", "vocab_size", "d_model", "encoder_layers", "decoder_layers", "encoder_attention_heads",
        "decoder_attention_heads", "encoder_ffn_dim", "max_position_embeddings", "activation_function",
        "scale_embedding", "dropout", "pad_token_id",
    ),
}  # fmt: skip
SPEC = (
    "spec_version", "vocab_size", "d_model", "head_dim", "num_heads", "encoder", "decoder", "family", "norm",
    "norm_eps", "tied", "positions", "max_positions", "position_buckets", "dropout_rate", "pad_id", "eos_id",
    "encoder_vocab_size",
)  # fmt: skip
GENERATION = ("num_beams", "eos_token_id", "max_new_tokens", "length_penalty", "bad_words_ids", "suppress_tokens")


def cases() -> Iterator[tuple[str, str, Change]]:
    """Yields name, the good folder that it starts from, and the change; in a fixed order."""
    for base, fields in CONFIG.items():
        for field in fields:
            for number, value in enumerate(ABSURD):
                yield f"{base} config {field} {number}", base, edit("config.json", **{field: value})
    for field in SPEC:
        for number, value in enumerate(ABSURD):
            yield f"spec {field} {number}", "export", edit("spec.json", **{field: value})
    for field in GENERATION:
        for number, value in enumerate(ABSURD):
            yield f"generation {field} {number}", "t5", edit("generation_config.json", **{field: value})
    files = {
        "t5": ("config.json", "generation_config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json",
               "nash_jax.json", "adapter_config.json", "model.safetensors.index.json", ".nash_jax/commit"),
        "export": ("spec.json", "params", "params/state", "params/_CHECKPOINT_METADATA", "params/state/_METADATA",
                   "params/state/manifest.ocdbt", "params/state/ocdbt.process_0", "params/orbax.checkpoint"),
    }  # fmt: skip
    for base, names in files.items():
        for name in names:
            for kind, make in KINDS.items():
                yield f"{base} {name} {kind}", base, replaced(make)(name)
    groups = {
        "safetensors": SAFETENSORS,
        "index": INDEXES,
        "torch": TORCH,
        "msgpack": msgpack_cases(),
        "manifest": MANIFESTS,
    }
    for group, changes in groups.items():
        for name, change in changes.items():
            yield f"{group} {name}", "t5", change
    for name, change in ORBAX.items():
        yield f"orbax {name}", "export", change


def make_bases(folder: Path) -> None:
    """Writes the good models, without manifests, as another program does."""
    import nash_jax
    from nash_jax.data.tokenizers import build_pronunciation_tokenizer
    from nash_jax.spec import dense_spec
    from nash_jax.testing import random_params

    tokenizer = build_pronunciation_tokenizer([{"source": "tact", "references": ["T AE K T"]}])
    sizes = {"vocab_size": len(tokenizer), "d_model": 8, "d_ff": 12, "num_heads": 2, "encoder_layers": 1}
    for family in ("t5", "bart"):
        spec = dense_spec(
            **sizes, decoder_layers=1, family=family, **({"max_positions": 16} if family == "bart" else {})
        )
        model = nash_jax.Seq2Seq(spec, random_params(spec), tokenizer)
        model.save_hf(folder / family)
        if family == "t5":
            model.save(folder / "export")
    for base in ("t5", "bart", "export"):
        (folder / base / "nash_jax.json").unlink()


_OPENED: list[str] = []


def _watch(inside: Path) -> None:
    """Notes every file that Python opens outside of a folder and of what the interpreter itself reads."""
    allowed = (
        str(inside),
        sys.prefix,
        sys.base_prefix,
        str(Path(__file__).parents[1]),
        "/proc",
        "/sys",
        "/dev/null",
        "/usr",
    )

    def note(event: str, args: tuple[Any, ...]) -> None:
        if event == "open" and isinstance(args[0], str) and args[0].startswith("/") and not args[0].startswith(allowed):
            _OPENED.append(args[0])

    sys.addaudithook(note)


def _peak() -> float:
    """MiB that this process had at most since the last call."""
    status = Path("/proc/self/status").read_text()
    Path("/proc/self/clear_refs").write_text("5")
    return int(status.split("VmHWM:")[1].split()[0]) / 1024


def load_case(folder: Path) -> str:
    """`loaded`, the message of a UserError, or the traceback of anything else."""
    import nash_jax

    try:
        with contextlib.redirect_stdout(io.StringIO()):
            nash_jax.load(folder)
    except nash_jax.errors.UserError as error:
        return f"refused: {error}"
    except BaseException:
        return traceback.format_exc()
    return "loaded"


def contents(folder: Path) -> set[tuple[str, int]]:
    """What lies in a folder, with the times of the last change."""
    return {(str(path), path.lstat().st_mtime_ns) for path in folder.rglob("*")}


def count_cases(place: Path, every: int) -> Counter[str]:
    """Loads cases, and counts what came of them; of each that went wrong a line is printed."""
    make_bases(place / "bases")
    assert {load_case(place / "bases" / base) for base in ("t5", "bart", "export")} == {"loaded"}
    (place / "secret.safetensors").write_bytes(b"mine!")
    _watch(place / "folder")
    found = Counter[str]()
    for name, base, change in itertools.islice(cases(), 0, None, every):
        folder = place / "folder"
        shutil.copytree(place / "bases" / base, folder)
        change(folder)
        before = contents(place)
        _OPENED.clear()
        _peak()
        faulthandler.dump_traceback_later(HANGS, exit=True)
        print(name, file=sys.stderr, flush=True)
        begun = time.monotonic()
        outcome = load_case(folder)
        wrong = {
            "tracebacks": outcome != "loaded" and not outcome.startswith("refused: "),
            "over 10 s": time.monotonic() - begun > 10,
            "beyond 1 GiB": _peak() > 1024,
            "opened a file outside": bool(_OPENED),
            "changed something": (contents(place) != before and name != "t5 .nash_jax/commit folder")
            or Path("executed").exists(),
        }
        found += Counter(
            {"folders": 1, outcome.partition(":")[0]: outcome == "loaded" or outcome.startswith("refused")}
        )
        for kind, is_so in wrong.items():
            found[kind] += is_so
        if any(wrong.values()):
            print(name, [kind for kind, is_so in wrong.items() if is_so], _OPENED, outcome)
        shutil.rmtree(folder)
    faulthandler.cancel_dump_traceback_later()
    return found


def main(every: str = "1") -> int:
    """Prints the counts; 1 if anything was not as it should be."""
    resource.setrlimit(resource.RLIMIT_AS, (12 << 30, 12 << 30))  # a fault shall not cost the machine its memory
    os.environ |= {"HF_HUB_OFFLINE": "1", "JAX_PLATFORMS": "cpu"}
    with tempfile.TemporaryDirectory() as place, contextlib.chdir(place):
        found = count_cases(Path(place), int(every))
    print(", ".join(f"{count} {name}" for name, count in found.items()))
    return int(any(count for name, count in found.items() if name not in ("folders", "refused", "loaded")))


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
