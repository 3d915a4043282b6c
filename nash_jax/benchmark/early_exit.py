"""At which decoder layer each token is decided already, and what ending there could save.

python -m nash_jax.benchmark.early_exit --model=FOLDER [--pruned=FOLDER] --input=FILE

  --pruned          another model with the same tokenizer, for the same table
  --input           a file of texts, one a line
  --rows            texts at most (200)
  --batch_size      rows decoded together, which wait for the last of them (8); 1 is always shown too
  --max_new_tokens  tokens of an output at most (64)

A token's exit is the first layer from which on the LM head, after the final norm, has the last layer's best token at
every layer. That is known only afterwards, so what is saved is a bound that no rule reaches, and the layers of an
output are its share of the time only if reading them is all that costs. "Confident Adaptive Language Modeling"
(Schuster et al. 2022) has rules that come near it, for T5.
"""

import functools
import sys
from collections.abc import Sequence
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from absl import flags

from nash_jax.benchmark.latency import generation_call, random_ids, time_interleaved
from nash_jax.benchmark.texts import read_lines, share_tokenizer
from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.models import build
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.runtime.command import parse_flags, print_result, run_command
from nash_jax.seq2seq import Seq2Seq, load
from nash_jax.spec import ModelSpec


@functools.partial(jax.jit, static_argnums=0)
def best_by_layer(
    spec: ModelSpec, params: Any, input_ids: jax.Array, attention_mask: jax.Array, decoder_input_ids: jax.Array
) -> jax.Array:
    """The best token after each decoder layer, int32 [L, B, T].

    Args:
      spec: the model.
      params: its parameters.
      input_ids: [B, S].
      attention_mask: [B, S].
      decoder_input_ids: [B, T].
    """

    def of(model: Any) -> jax.Array:
        encoded, _ = model.encode(input_ids, attention_mask)
        _, hidden = model.decode(decoder_input_ids, encoded, attention_mask)
        return jnp.stack([jnp.argmax(model.early_logits(x), axis=-1) for x in hidden])

    found: jax.Array = nn.apply(of, build(spec))({"params": params}).astype(jnp.int32)
    return found


def exits(best: np.ndarray) -> np.ndarray:
    """The first layer, from 1, from which on each layer has the last one's token; int [B, T].

    Args:
      best: [L, B, T].
    """
    differs = best != best[-1]
    numbers = np.arange(1, len(best) + 1)[:, None, None]
    return np.max(np.where(differs, numbers, 0), axis=0) + 1


def layers_needed(exit_layers: np.ndarray, counts: np.ndarray) -> tuple[float, float]:
    """Mean number of layers of a token, if rows end alone, and if a step ends when its last row does.

    Args:
      exit_layers: int [B, T].
      counts: where rows have not ended, bool [B, T].
    """
    together = np.where(counts, exit_layers, 0).max(axis=0)
    return float(exit_layers[counts].mean()), float(together[counts.any(axis=0)].mean())


def measure(model: Seq2Seq, texts: Sequence[str], batch_size: int, max_new_tokens: int) -> dict[str, Any]:
    """Exits of all tokens that a model generates greedily for some texts.

    Args:
      model: with a tokenizer.
      texts: inputs.
      batch_size: rows decoded together.
      max_new_tokens: of an output.

    Returns:
      `layers`, `alone` and `together` (mean layers of a token), `histogram` (share of the tokens by exit), and the
      mean `source_length` and `new_tokens`.

    Raises:
      UserError: for a model without tokenizer.
    """
    spec, params, tokenizer = model.engine.spec, model.engine.params, model.tokenizer
    if tokenizer is None:
        raise UserError("this model has no tokenizer", "tokenizer files in the same folder")
    found: list[tuple[np.ndarray, np.ndarray]] = []
    lengths = []
    for start in range(0, len(texts), batch_size):
        batch = tokenizer(list(texts[start : start + batch_size]), padding=True, return_tensors="np")
        ids, mask = batch["input_ids"], batch["attention_mask"]
        outputs = model.generate_ids(ids, mask, max_new_tokens=max_new_tokens, num_beams=1)
        ends = np.cumsum(outputs[:, 1:] == spec.eos_id, axis=1)
        counts = (ends - (outputs[:, 1:] == spec.eos_id)) == 0
        best = np.asarray(best_by_layer(spec, params, ids, mask, outputs[:, :-1]))
        found.append((exits(best), counts))
        lengths.append((mask.sum(axis=1).mean(), counts.sum(axis=1).mean()))
    pairs = [layers_needed(*pair) for pair in found]
    weights = [counts.sum() for _, counts in found], [counts.any(axis=0).sum() for _, counts in found]
    alone, together = (float(np.average([pair[i] for pair in pairs], weights=weights[i])) for i in range(2))
    all_exits = np.concatenate([own[counts] for own, counts in found])
    shares = np.bincount(all_exits, minlength=len(spec.decoder) + 1)[1:] / len(all_exits)
    source, new = np.mean(lengths, axis=0)
    return {
        "layers": len(spec.decoder), "alone": alone, "together": together, "histogram": shares.tolist(),
        "source_length": max(1, round(source)), "new_tokens": max(1, round(new)),
    }  # fmt: skip


def layer_share(model: Seq2Seq, batch_size: int, source_length: int, new_tokens: int, runs: int = 9) -> float:
    """Share of a generation's time that one decoder layer takes: from the model, and its first layer alone, in turn.

    Args:
      model: the model.
      batch_size: rows.
      source_length: tokens of an input.
      new_tokens: tokens of an output.
      runs: timed generations of each.
    """
    depth = len(model.spec.decoder)
    if depth == 1:
        return 0.0
    first = Engine(*select_layers(model.spec, model.params, decoder=[0]), model.dtype)
    ids = random_ids(model.spec.source_vocab_size, batch_size, source_length)
    calls = {n: generation_call(e, ids, new_tokens) for n, e in (("all", model.engine), ("first", first))}
    ms = time_interleaved(calls, runs)
    return float(np.median((ms["all"] - ms["first"]) / ms["all"])) / (depth - 1)


def _parse(argv: Sequence[str]) -> dict[str, Any]:
    own = flags.FlagValues()
    for name in ("model", "pruned", "input"):
        flags.DEFINE_string(name, "", "", flag_values=own)
    for name, default in (("rows", 200), ("batch_size", 8), ("max_new_tokens", 64)):
        flags.DEFINE_integer(name, default, "", lower_bound=1, flag_values=own)
    parse_flags(
        own, argv, "--model=FOLDER, --pruned=FOLDER, --input=FILE, --rows=…, --batch_size=…, --max_new_tokens=…"
    )
    given = own.flag_values_dict()
    for name in ("model", "input"):
        if not given[name]:
            raise UserError(f"command line: no --{name}", "--model=FOLDER --input=FILE")
    return given


def run(argv: Sequence[str]) -> None:
    """Prints for each model the exits, and what ending there could save at batch 1 and at the batch size."""
    given = _parse(argv)
    texts = read_lines(given["input"], given["rows"])
    models = {name: load(given[name]) for name in ("model", "pruned") if given[name]}
    share_tokenizer(models.values())
    print_result("| model | batch | decoder layers | needed | time that ending there could save |", "|---" * 5 + "|")
    shares = []
    for name, model in models.items():
        found = measure(model, texts, given["batch_size"], given["max_new_tokens"])
        for batch_size, needed in ((1, found["alone"]), (given["batch_size"], found["together"])):
            share = layer_share(model, batch_size, found["source_length"], found["new_tokens"])
            saved = (found["layers"] - needed) * share
            print_result(f"| {name} | {batch_size} | {found['layers']} | {needed:.2f} | {saved:.1%} |")
        by_layer = ", ".join(f"{number}: {part:.1%}" for number, part in enumerate(found["histogram"], 1))
        shares.append(f"{name}: share of the tokens by the layer that decides them: {by_layer}")
    print_result("", *shares)


def main(argv: Sequence[str] = sys.argv) -> int:
    """Exit status: see `run_command`."""
    return run_command(run, argv, __doc__ or "", "take fewer or shorter texts")


if __name__ == "__main__":
    sys.exit(main())
