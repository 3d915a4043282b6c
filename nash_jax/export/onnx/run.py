"""Greedy search with ONNX Runtime: one file that needs neither jax nor nash_jax, to copy or to run.

python run.py FOLDER "a text" …     (numpy, onnxruntime; for texts also tokenizers)

The folder is one of `save_onnx`, in float32 or int8. Of its generation_config.json, the ids of special tokens,
`forced_bos_token_id`, `max_new_tokens` and `max_length` are read.

Letters: B batch, S source length, T target length, V vocabulary size.
"""

import json
import sys
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class OnnxModel:
    """A folder with ONNX graphs.

    Attributes:
      config: fields of config.json and generation_config.json.
    """

    def __init__(self, folder: str | Path, threads: int = 0) -> None:
        """Loads the graphs; `threads` 0: as many as there are cores.

        Raises:
          FileNotFoundError: for a folder without graphs.
        """
        self.folder = Path(folder)
        check_folder(self.folder)
        self.config: dict[str, Any] = {}
        for name in ("config.json", "generation_config.json"):
            self.config |= json.loads((self.folder / name).read_text(encoding="utf-8"))
        self.encoder, self.decoder = (self._load(name, threads) for name in ("encoder_model", "decoder_model_merged"))
        self._outputs = [output.name for output in self.decoder.get_outputs()]

    def _load(self, name: str, threads: int) -> onnxruntime.InferenceSession:
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        return onnxruntime.InferenceSession(
            str(graph_files(self.folder, name)[0]), options, providers=["CPUExecutionProvider"]
        )

    def encode(self, input_ids: np.ndarray, attention_mask: np.ndarray) -> np.ndarray:
        """Ids and mask [B, S] → the encoder's output [B, S, D]."""
        feeds = {"input_ids": input_ids.astype(np.int64), "attention_mask": attention_mask.astype(np.int64)}
        return self.encoder.run(None, feeds)[0]

    def decode(
        self, ids: np.ndarray, encoded: np.ndarray, mask: np.ndarray, cache: dict[str, np.ndarray] | None
    ) -> tuple[np.ndarray, dict[str, np.ndarray]]:
        """New tokens [B, T], the encoder's output, its mask and the cache → logits [B, T, V] and the new cache."""
        feeds = {
            "input_ids": ids.astype(np.int64),
            "encoder_hidden_states": encoded,
            "encoder_attention_mask": mask.astype(np.int64),
            "use_cache_branch": np.array([cache is not None]),
            **(cache or self._empty_cache(len(ids))),
        }
        found = dict(zip(self._outputs, self.decoder.run(None, feeds), strict=True))
        logits = found.pop("logits")
        new = {name.replace("present", "past_key_values"): value for name, value in found.items()}
        # the encoder's keys and values do not change; after the first call these outputs are empty
        kept = {name: value for name, value in (cache or {}).items() if ".encoder." in name}
        return logits, new | kept

    def _empty_cache(self, rows: int) -> dict[str, np.ndarray]:
        inputs = [given for given in self.decoder.get_inputs() if given.name.startswith("past")]
        return {given.name: np.zeros((rows, given.shape[1], 0, given.shape[3]), np.float32) for given in inputs}

    def logits(self, input_ids: np.ndarray, attention_mask: np.ndarray, decoder_input_ids: np.ndarray) -> np.ndarray:
        """Teacher-forced logits [B, T, V]."""
        encoded = self.encode(input_ids, attention_mask)
        return self.decode(decoder_input_ids, encoded, attention_mask, None)[0]

    def greedy(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int | None = None
    ) -> np.ndarray:
        """Generates: the start token, tokens to EOS, padding, int64 [B, T]; without a limit, 20 tokens in all."""
        get = self.config.get
        eos_ids = np.ravel(self.config["eos_token_id"])
        limit = max_new_tokens or get("max_new_tokens") or get("max_length", 20) - 1
        tokens = np.full((len(input_ids), 1), self.config["decoder_start_token_id"], np.int64)
        done, cache = np.zeros(len(tokens), bool), None
        encoded = self.encode(input_ids, attention_mask)
        for number in range(limit):
            logits, cache = self.decode(tokens[:, -1:], encoded, attention_mask, cache)
            chosen = logits[:, -1].argmax(-1)
            if number == 0 and get("forced_bos_token_id") is not None:
                chosen[:] = get("forced_bos_token_id")
            chosen = np.where(done, self.config["pad_token_id"], chosen)
            tokens = np.concatenate([tokens, chosen[:, None]], axis=1)
            done |= np.isin(chosen, eos_ids)
            if done.all():
                break
        return tokens


def graph_files(folder: Path, name: str) -> list[Path]:
    """The graphs of this name that there are, float32 before int8."""
    files = [folder / "onnx" / f"{name}{ending}.onnx" for ending in ("", "_quantized")]
    return [file for file in files if file.exists()]


def check_folder(folder: Path) -> None:
    """Raises FileNotFoundError, which says what to do, for what `save_onnx` did not write."""
    if not graph_files(folder, "encoder_model"):
        found = "a folder without onnx/encoder_model*.onnx" if folder.is_dir() else "not a folder"
        do = 'nash_jax.load("EXPORT").save_onnx("FOLDER") writes one'
        raise FileNotFoundError(f"{folder} is {found}; expected a folder of save_onnx; {do}")


def main() -> None:
    """Prints the output of each text."""
    from tokenizers import Tokenizer

    if len(sys.argv) < 3:
        sys.exit('expected a folder of save_onnx and texts: run.py FOLDER "a text" …')
    folder, *texts = sys.argv[1:]
    try:
        check_folder(Path(folder))
    except FileNotFoundError as error:
        sys.exit(f"error: {error}")
    model, tokenizer = OnnxModel(folder), Tokenizer.from_file(str(Path(folder) / "tokenizer.json"))
    for text in texts:
        ids = np.array([tokenizer.encode(text).ids])
        print(tokenizer.decode(model.greedy(ids, np.ones_like(ids))[0]))


if __name__ == "__main__":
    main()
