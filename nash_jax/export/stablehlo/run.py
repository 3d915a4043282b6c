"""Runs StableHLO programs of `save_stablehlo`: one file that needs jax and safetensors only, to copy or to run.

python run.py FOLDER ID ID ID …     prints the generated ids for one input

Letters: B batch, S source length, T target length, L output length, D d_model, V vocabulary size.
"""

import json
import sys
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax import export
from safetensors.numpy import load_file


class StableHloModel:
    """A folder with StableHLO programs, its weights on the default device.

    Attributes:
      facts: fields of programs.json.
    """

    def __init__(self, folder: str | Path) -> None:
        place = find_programs(Path(folder))
        self.facts: dict[str, Any] = json.loads((place / "programs.json").read_text(encoding="utf-8"))
        self.weights = jax.device_put(load_file(place / "weights.safetensors"))
        self._programs = {
            name: jax.jit(export.deserialize(bytearray((place / f"{name}.bin").read_bytes())).call)
            for name in self.facts["programs"]
        }

    def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Ids and mask [B, S] → the encoder's output, float32 [B, S, D]."""
        return self._run("encode", input_ids, attention_mask)

    def logits(self, input_ids: np.ndarray, attention_mask: np.ndarray, decoder_input_ids: np.ndarray) -> np.ndarray:
        """Teacher-forced logits, float32 [B, T, V]."""
        return self._run("logits", input_ids, attention_mask, decoder_input_ids)

    def greedy(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int | None = None
    ) -> np.ndarray:
        """Generates: start token, tokens to EOS, padding, int32 [B, L]; at most as many tokens as when it was saved."""
        limit = self.facts["max_new_tokens"]
        new_tokens = limit if max_new_tokens is None else max_new_tokens
        if new_tokens > limit:
            raise ValueError(f"max_new_tokens is {new_tokens}; this program was saved for at most {limit}")
        return self._run("generate", input_ids, attention_mask, np.int32(new_tokens))

    def _run(self, name: str, *inputs: Any) -> np.ndarray:
        arrays = [np.asarray(given, np.int32) for given in inputs]
        longest, limit = max(array.shape[-1] for array in arrays if array.ndim), self.facts["max_positions"]
        if limit is not None and longest > limit:
            raise ValueError(f"{longest} tokens; this model has {limit} positions")
        return np.asarray(self._programs[name](self.weights, *arrays))


def find_programs(folder: Path) -> Path:
    """The programs in a folder.

    Raises:
      FileNotFoundError: for a folder that `save_stablehlo` did not write; it says what to do.
    """
    if not (folder / "stablehlo" / "programs.json").exists():
        found = "a folder without stablehlo/programs.json" if folder.is_dir() else "not a folder"
        do = 'nash_jax.load("EXPORT").save_stablehlo("FOLDER") writes one'
        raise FileNotFoundError(f"{folder} is {found}; expected a folder of save_stablehlo; {do}")
    return folder / "stablehlo"


def main() -> None:
    """Prints the ids generated for one input."""
    folder, *ids = sys.argv[1:] or [""]
    if not ids or not all(token.isdecimal() for token in ids):
        sys.exit("expected a folder of save_stablehlo and the token ids of one input: run.py FOLDER 4 5 6 1")
    try:
        find_programs(Path(folder))
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    given = np.array([[int(token) for token in ids]])
    print(*StableHloModel(folder).greedy(given, np.ones_like(given))[0])


if __name__ == "__main__":
    main()
