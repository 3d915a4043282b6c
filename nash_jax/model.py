"""`load` and `Seq2Seq`: what a user holds in Python."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.convert import hf
from nash_jax.convert.generation import GENERATION_FILE, read_generation
from nash_jax.data.hub import fetch_model
from nash_jax.data.tokenizers import HUB_FILES, has_tokenizer, load_tokenizer, save_tokenizer
from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.models import param_axes
from nash_jax.spec import ModelSpec
from nash_jax.training.checkpoint import load_tree, save_tree
from nash_jax.tree import check_shapes
from nash_jax.workdir import barrier, clear, is_main


class Seq2Seq:
    """An encoder-decoder with its tokenizer.

    Attributes:
      spec: its shape.
      params: nested dict of NumPy arrays.
      tokenizer: a `transformers` tokenizer, or None.
      dtype: compute dtype of generation and logits.
      generation: how it generates unless a call says otherwise.
    """

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, Any], tokenizer: Any | None = None, dtype: Any = "float32",
        generation: GenerationOptions | None = None,
    ) -> None:  # fmt: skip
        self.spec, self.params, self.tokenizer, self.dtype = spec, params, tokenizer, dtype
        self.generation = generation or GenerationOptions()
        self._engine: Engine | None = None

    @property
    def engine(self) -> Engine:
        """The jitted functions; made on first use."""
        if self._engine is None:
            self._engine = Engine(self.spec, self.params, self.dtype)
        return self._engine

    def generate(self, texts: Sequence[str], *, max_new_tokens: int = 64, batch_size: int = 16) -> list[str]:
        """Greedy generation from texts, in the order given.

        Args:
          texts: inputs, with their prefix if the model wants one.
          max_new_tokens: tokens to generate at most.
          batch_size: rows generated together; inputs of like length share a batch.

        Raises:
          UserError: without a tokenizer.
        """
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer", "tokenizer files beside it", "or use generate_ids")
        ids = [self.tokenizer(text)["input_ids"] for text in texts]
        out = [""] * len(ids)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        for start in range(0, len(order), batch_size):
            rows = order[start : start + batch_size]
            width = max(len(ids[rows[0]]), 1)
            batch = np.full((len(rows), width), self.spec.pad_id, np.int32)
            mask = np.zeros_like(batch)
            for i, row in enumerate(rows):
                batch[i, : len(ids[row])], mask[i, : len(ids[row])] = ids[row], 1
            tokens = self.generate_ids(batch, mask, max_new_tokens=max_new_tokens)
            decoded = self.tokenizer.batch_decode(tokens, skip_special_tokens=True)
            for row, text in zip(rows, decoded, strict=True):
                out[row] = text
        return out

    def generate_ids(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None, *, max_new_tokens: int = 64
    ) -> np.ndarray:
        """Greedy generation from token ids; the array that `transformers`' `generate` returns.

        Args:
          input_ids: int [B, S].
          attention_mask: [B, S] of 0/1; without it, 0 at padding.
          max_new_tokens: tokens to generate at most.

        Returns:
          int32 [B, 1 + T]: decoder start token, generated tokens, padding after EOS.
        """
        input_ids, attention_mask = self._inputs(input_ids, attention_mask)
        return self.engine.generate(input_ids, attention_mask, max_new_tokens)

    def logits(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None, decoder_input_ids: np.ndarray
    ) -> np.ndarray:
        """Teacher-forced logits, float32 [B, T, V], of ids [B, S], mask [B, S] and decoder inputs [B, T]."""
        input_ids, attention_mask = self._inputs(input_ids, attention_mask)
        return self.engine.logits(input_ids, attention_mask, np.asarray(decoder_input_ids))

    def _inputs(self, input_ids: Any, attention_mask: Any | None) -> tuple[np.ndarray, np.ndarray]:
        input_ids = np.asarray(input_ids)
        if input_ids.ndim != 2:
            raise UserError(f"input_ids has shape {input_ids.shape}", "[batch, length]")
        mask = input_ids != self.spec.pad_id if attention_mask is None else np.asarray(attention_mask)
        if mask.shape != input_ids.shape:
            raise UserError(f"attention_mask has shape {mask.shape}", f"that of input_ids, {input_ids.shape}")
        return input_ids, mask

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes an export: spec.json, Orbax parameters, generation_config.json, tokenizer.

        It appears whole or not at all.
        """

        def write(partial: Path) -> None:
            if is_main():
                (partial / "spec.json").write_text(self.spec.to_json())
                (partial / GENERATION_FILE).write_text(json.dumps(self.generation.to_dict(), indent=1))
            save_tree(partial / "params", self.params)

        self._save(Path(folder), write)

    def save_hf(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that `transformers` loads; a ragged model is padded with zeros to a rectangle.

        Raises:
          UserError: when the family's class in transformers cannot express the model.
        """

        def write(partial: Path) -> None:
            if is_main():
                hf.write_hf(partial, self.spec, self.params, self.generation.to_dict())

        self._save(Path(folder), write)

    def _save(self, folder: Path, write: Any) -> None:
        """`write` into a folder beside, then rename it. Processes of one run all call this, one of them writes."""
        partial = clear(folder.with_name(folder.name + ".partial"))
        write(partial)
        if is_main():
            if self.tokenizer is not None:
                save_tokenizer(self.tokenizer, partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        barrier(f"saved {folder.name}")


def load(name: str | os.PathLike[str], *, dtype: Any = "float32") -> Seq2Seq:
    """A model from a nash_jax export, a folder in the hub's layout, or a hub name.

    Weights come from safetensors, or, where there are none, from an old `pytorch_model.bin`, which needs PyTorch
    and is read as tensors alone. Generation defaults come from the folder's files; a note says which are left out.

    Args:
      name: folder, or name such as "google/flan-t5-small".
      dtype: compute dtype of generation and logits.

    Raises:
      UserError: when there is no such model, or it cannot be used.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = fetch_model(str(name), HUB_FILES)
    if (folder / "spec.json").exists():
        spec, params = _load_export(folder)
    else:
        spec, params = hf.load_hf(folder)
    tokenizer = load_tokenizer(str(folder)) if has_tokenizer(folder) else None
    return Seq2Seq(spec, params, tokenizer, dtype, read_generation(folder))


def _load_export(folder: Path) -> tuple[ModelSpec, dict[str, Any]]:
    try:
        spec = ModelSpec.from_json((folder / "spec.json").read_text())
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{folder / 'spec.json'}: {error}") from error
    params, sizes = load_tree(folder / "params"), spec.axis_sizes()
    check_shapes(params, {p: tuple(sizes[a] for a in axes) for p, axes in param_axes(spec).items()}, str(folder))
    return spec, params
