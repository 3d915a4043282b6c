"""What a draft is worth: generations of a model alone and with a draft, of the same texts, in turn.

python -m nash_jax.benchmark.speculation --model=FOLDER --draft=FOLDER --input=FILE

  --input           a file of texts, one a line
  --batch_sizes     such as 1,8 (1)
  --rows            texts at most (200)
  --max_new_tokens  tokens of an output at most (64)
  --runs            how often all texts are generated, each way (5)

For each batch size it prints the tokens that a pass of the model gives, the ratio of times with its smallest and
largest value, and how many outputs differ: none should.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from nash_jax.benchmark.latency import time_interleaved
from nash_jax.benchmark.texts import read_lines, share_tokenizer
from nash_jax.errors import UserError
from nash_jax.generation.speculative import BLOCK
from nash_jax.runtime.command import parse_flags, print_result, read_batch_sizes, run_command
from nash_jax.runtime.compilation import enable_cache
from nash_jax.seq2seq import Seq2Seq, load


def measure(
    model: Seq2Seq, draft: Seq2Seq, texts: Sequence[str], batch_size: int, max_new_tokens: int, runs: int
) -> dict[str, Any]:
    """Generates all texts alone and with a draft, in turn.

    Args:
      model: whose greedy outputs are wanted.
      draft: a small model with the same tokens.
      texts: inputs.
      batch_size: texts generated together.
      max_new_tokens: of an output.
      runs: of each way.

    Returns:
      `tokens_of_pass`, `speedup` (median, smallest, largest ratio of a run), `differing` outputs, `rows`.
    """
    options: dict[str, Any] = {"batch_size": batch_size, "max_new_tokens": max_new_tokens, "progress": False}
    calls = {name: functools.partial(model.generate, texts, **options, draft=own) for name, own in _ways(draft)}
    differing = sum(a != b for a, b in zip(calls["alone"](), calls["drafted"](), strict=True))
    ms = time_interleaved(calls, runs)
    ratios = ms["alone"] / ms["drafted"]
    return {
        "rows": len(texts), "differing": differing, "tokens_of_pass": model.speculative(draft).tokens_of_pass,
        "speedup": tuple(float(pick(ratios)) for pick in (np.median, np.min, np.max)),
    }  # fmt: skip


def _ways(draft: Seq2Seq) -> tuple[tuple[str, Seq2Seq | None], ...]:
    return ("alone", None), ("drafted", draft)


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    for name in ("model", "draft", "input"):
        flags.DEFINE_string(name, "", "", flag_values=own)
    flags.DEFINE_list("batch_sizes", ["1"], "", flag_values=own)
    for name, default in (("rows", 200), ("max_new_tokens", 64), ("runs", 5)):
        flags.DEFINE_integer(name, default, "", lower_bound=1, flag_values=own)
    parse_flags(own, argv, "--model=FOLDER, --draft=FOLDER, --input=FILE, --batch_sizes=…, --rows=…")
    given = own.flag_values_dict()
    for name in ("model", "draft", "input"):
        if not given[name]:
            raise UserError(f"command line: no --{name}", "--model=FOLDER --draft=FOLDER --input=FILE")
    return given | {"batch_sizes": read_batch_sizes(given["batch_sizes"])}


def run(argv: Sequence[str]) -> None:
    """Prints a row of a Markdown table for each batch size."""
    given = _parse(argv)
    enable_cache()
    texts = read_lines(given["input"], given["rows"])
    model, draft = load(given["model"]), load(given["draft"])
    share_tokenizer([model, draft])
    print_result("| batch | texts | differing | tokens a pass | speedup |", "|---|---|---|---|---|")
    for size in given["batch_sizes"]:
        found = measure(model, draft, texts, size, given["max_new_tokens"], given["runs"])
        middle, least, most = found["speedup"]
        cells = [size, found["rows"], found["differing"], f"{found['tokens_of_pass']:.2f} of {BLOCK}"]
        print_result(f"| {' | '.join(map(str, cells))} | {middle:.2f}× ({least:.2f}–{most:.2f}) |")


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__ or "", "take fewer or shorter texts")


if __name__ == "__main__":
    sys.exit(main())
