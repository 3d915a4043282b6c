"""Compares a format for other engines with our own models, for every family and kind of pruning; prints a table.

python -m nash_jax.export.check --format=onnx [--inputs=200] [--new_tokens=24]

Models are small and random. `shortened`: one of three decoder layers is left. `ragged`: layers keep different heads and
FFN units, and some sub-layers are gone. `trimmed`: a part of the vocabulary is left. Printed are the largest difference
of teacher-forced log-probabilities; how many inputs give the same tokens, in greedy search and with 4 beams where the
engine searches by the same rules; and the size of all files.
"""

import dataclasses
import importlib
import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple, Protocol, runtime_checkable

import numpy as np
from absl import flags

from nash_jax.errors import UserError, require_packages
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.pruning.compact import cut
from nash_jax.pruning.layer_selection import choose_layers, select_layers
from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.spec import FAMILIES, DecoderLayer, EncoderLayer, ModelSpec, dense_spec
from nash_jax.testing import random_params, random_sources
from nash_jax.tree import flatten, unflatten

FORMATS = {  # format → (module with `written`, extra that it needs)
    "ctranslate2": ("nash_jax.export.ct2_checked", "ctranslate2"),
    "onnx": ("nash_jax.export.onnx.checked", "onnx"),
    "stablehlo": ("nash_jax.export.stablehlo.checked", None),
}
SHAPES = ("dense", "shortened", "ragged", "trimmed")


class Written(Protocol):
    """A model as another engine reads it."""

    def logits(self, ids: np.ndarray, mask: np.ndarray, decoder_ids: np.ndarray, /) -> np.ndarray:
        """Ids and mask [B, S], decoder inputs [B, T] → logits or log-probabilities of the next token, [B, T, V].

        Of an engine that says only how probable given tokens are: the log-probabilities of `decoder_ids[:, 1:]`,
        [B, T-1]; the first of them is the start token.
        """

    def greedy(self, ids: np.ndarray, mask: np.ndarray, new_tokens: int, /) -> np.ndarray:
        """Ids and mask [B, S] → start token, generated tokens, padding after EOS, [B, up to 1 + new_tokens]."""


@runtime_checkable
class WithBeams(Written, Protocol):
    """One whose engine has the beam search of `early_stopping=True`."""

    def beams(self, ids: np.ndarray, mask: np.ndarray, new_tokens: int, /) -> np.ndarray:
        """As `greedy`, the best of 4 beams."""


class Row(NamedTuple):
    """One row of the table.

    Attributes:
      family: of the model.
      shape: one of `SHAPES`.
      difference: largest difference of log-probabilities; None: the format refuses the model.
      same: inputs with the same tokens in greedy search.
      same_beams: the same with 4 beams; None: the engine has no such search.
      inputs: inputs compared.
      size: bytes of the files.
      refusal: message of a refusal.
    """

    family: str
    shape: str
    difference: float | None
    same: int
    same_beams: int | None
    inputs: int
    size: int
    refusal: str = ""


def check_model(family: str, shape: str, seed: int = 0) -> tuple[ModelSpec, dict[str, Any]]:
    """Returns a small random model whose outputs differ by input, and its parameters.

    Args:
      family: a key of `FAMILIES`; `custom` has flags that no other family has together.
      shape: one of `SHAPES`.
      seed: NumPy seed.
    """
    own: dict[str, Any] = {"pad_id": 0, "eos_id": 1, "decoder_start_id": 2, "dropout_rate": 0.0}
    if family == "custom":
        own |= {
            "norm": "layer", "pre_norm": False, "bias": True, "activation": "silu", "gated": True, "tied": False,
            "positions": "relative_per_layer", "scaled_attention": True, "decoder_head_dim": 6,
        }  # fmt: skip
    elif "max_positions" in FAMILIES[family]:
        own |= {"max_positions": 96, "embedding_scale": 2.0}
    spec = dense_spec(
        vocab_size=64, d_model=32, d_ff=48, num_heads=4, encoder_layers=3, decoder_layers=3, family=family, **own
    )
    if shape == "ragged":
        spec = dataclasses.replace(spec, encoder=_RAGGED_ENCODER, decoder=_RAGGED_DECODER)
    params = _lively(spec, seed)
    if shape == "trimmed":
        return cut(spec, flatten(params), {"vocab": np.array([0, 1, 2, *range(3, spec.vocab_size, 2)])})
    return select_layers(spec, params, decoder=choose_layers(3, 1)) if shape == "shortened" else (spec, params)


_RAGGED_ENCODER = (EncoderLayer((0, 2), 20), EncoderLayer((), 48), EncoderLayer((1, 2, 3), 0))
_RAGGED_DECODER = (
    DecoderLayer((), (0, 1, 3), 17), DecoderLayer((1, 2), (), 48), DecoderLayer((0, 1, 2, 3), (3,), 0),
)  # fmt: skip


def _lively(spec: ModelSpec, seed: int) -> dict[str, Any]:
    """Parameters with which logits are some units apart, tokens seldom repeat, and outputs of some inputs end."""
    flat = flatten(random_params(spec, seed, scale=1.0))
    for path, leaf in flat.items():
        name = path.rpartition("/")[2]
        if name.endswith("bias"):
            flat[path] = leaf * np.float32(0.1)
        elif name in ("q", "kv", "qkv", "wi", "lm_head"):
            flat[path] = leaf * np.float32((2 if name == "lm_head" else 1) * spec.d_model**-0.5)
        elif name in ("out", "wo"):
            flat[path] = leaf * np.float32(2 * max(1, leaf.size // spec.d_model) ** -0.5)
        elif path == "shared/embedding" and spec.tied:
            flat[path] = leaf * np.float32(0.4)  # else the last token is its own best successor
    head = flat["shared/embedding"] if spec.tied else flat["lm_head"].T
    head[spec.eos_id] *= 1.5
    return unflatten(flat)


def compare(family: str, shape: str, kind: str, inputs: int, new_tokens: int) -> Row:
    """Writes one model in a format, reads it back with its engine, and compares."""
    spec, params = check_model(family, shape)
    ids, mask = random_sources(spec, 1, rows=inputs, length=14)
    decoder_ids = np.random.default_rng(2).integers(3, spec.vocab_size, (inputs, 8))
    decoder_ids[:, 0] = spec.decoder_start_id
    engine = Engine(spec, params)
    with tempfile.TemporaryDirectory() as folder:
        try:
            found: Written = importlib.import_module(FORMATS[kind][0]).written(Path(folder), spec, params)
        except UserError as error:
            return Row(family, shape, None, 0, None, inputs, 0, str(error))
        size = sum(file.stat().st_size for file in Path(folder).rglob("*") if file.is_file())
        difference = _difference(
            found.logits(ids, mask, decoder_ids), engine.logits(ids, mask, decoder_ids), decoder_ids
        )
        options = GenerationOptions(max_new_tokens=new_tokens)
        same = count_same(engine.generate(ids, mask, options), found.greedy(ids, mask, new_tokens), spec.pad_id)
        same_beams = None
        if isinstance(found, WithBeams):
            ours = engine.generate(ids, mask, options.replace(num_beams=4, early_stopping=True))
            same_beams = count_same(_padded(ours, spec), found.beams(ids, mask, new_tokens), spec.pad_id)
    return Row(family, shape, difference, same, same_beams, inputs, size)


def _difference(theirs: np.ndarray, ours: np.ndarray, decoder_ids: np.ndarray) -> float:
    """Returns the largest difference of log-probabilities, of all tokens or, if there are no others, of the given."""
    expected = log_softmax(ours)
    if theirs.ndim == 2:
        expected = np.take_along_axis(expected[:, :-1], decoder_ids[:, 1:, None], axis=-1)[..., 0]
        return float(np.abs(theirs - expected).max())
    return float(np.abs(log_softmax(theirs) - expected).max())


def _padded(tokens: np.ndarray, spec: ModelSpec) -> np.ndarray:
    """Tokens [B, L] with padding after EOS, where transformers' beam search, and so ours, repeats EOS."""
    is_eos = tokens == spec.eos_id
    return np.where(np.cumsum(is_eos, axis=1) > is_eos, spec.pad_id, tokens)


def count_same(ours: np.ndarray, theirs: np.ndarray, pad_id: int) -> int:
    """Returns the number of equal rows; padding at their ends does not count."""
    width = max(ours.shape[1], theirs.shape[1])
    first, second = (np.pad(x, ((0, 0), (0, width - x.shape[1])), constant_values=pad_id) for x in (ours, theirs))
    return int((first == second).all(axis=1).sum())


def log_softmax(logits: np.ndarray) -> np.ndarray:
    """Returns log-probabilities, float64, of logits [..., V]."""
    shifted = logits.astype(np.float64) - logits.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


HEAD = (
    "| family | model | largest difference of log-probabilities | same tokens, greedy | 4 beams | KiB |",
    "|---|---|---|---|---|---|",
)


def line(row: Row) -> str:
    """Returns a row as a line of Markdown."""
    if row.difference is None:
        return f"| {row.family} | {row.shape} | refused | {row.refusal} | | |"
    beams = "–" if row.same_beams is None else f"{row.same_beams} of {row.inputs}"
    same = f"{row.same} of {row.inputs}"
    return f"| {row.family} | {row.shape} | {row.difference:.1e} | {same} | {beams} | {row.size / 1024:.0f} |"


def run(argv: Sequence[str]) -> None:
    """Prints the table of a format."""
    own = flags.FlagValues()
    flags.DEFINE_enum("format", None, sorted(FORMATS), "", flag_values=own)
    for name, default in {"inputs": 200, "new_tokens": 24}.items():
        flags.DEFINE_integer(name, default, "", lower_bound=1, flag_values=own)
    parse_flags(own, argv, "--format=FORMAT, --inputs=ROWS, --new_tokens=TOKENS")
    kind = own["format"].value
    if kind is None:
        raise UserError("command line: no format", f"--format={'|'.join(sorted(FORMATS))}")
    if extra := FORMATS[kind][1]:
        require_packages(extra)
    inputs, new_tokens = own.flag_values_dict()["inputs"], own.flag_values_dict()["new_tokens"]
    os.environ.setdefault("XLA_FLAGS", "--xla_backend_optimization_level=0")  # many programs, each run once
    print_result(*HEAD)
    for family in FAMILIES:
        for shape in SHAPES:
            print_result(line(compare(family, shape, kind, inputs, new_tokens)))


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__ or "", "take fewer inputs")


if __name__ == "__main__":
    sys.exit(main())
