"""The Python interface: `load` and `Seq2Seq`."""

import json
import os
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.axes import param_axes
from nash_jax.convert import hf
from nash_jax.convert.generation_config import GENERATION_FILE, load_generation_options
from nash_jax.convert.orbax import load_tree, save_tree
from nash_jax.data.decoding import decode_outputs, keep_ids
from nash_jax.data.hub import fetch_model
from nash_jax.data.tokenizers import HUB_FILES, has_tokenizer, load_tokenizer, save_tokenizer
from nash_jax.errors import UserError
from nash_jax.generation.batching import generate_batches, group_by_input
from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import check_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.runtime.files import clear_folder
from nash_jax.runtime.multihost import barrier, is_host0
from nash_jax.spec import ModelSpec
from nash_jax.tree import check_shapes


class Seq2Seq:
    """An encoder-decoder model with its tokenizer.

    Attributes:
      spec: architecture.
      params: nested dict of NumPy arrays.
      tokenizer: a `transformers` tokenizer, or None.
      dtype: compute dtype of generation and logits.
      generation: default generation options.
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
        """The jitted functions; created on first use."""
        if self._engine is None:
            self._engine = Engine(self.spec, self.params, self.dtype)
        return self._engine

    def generate(
        self, texts: Sequence[str], *, batch_size: int = 16, progress: bool | None = None,
        skip_special_tokens: bool = True, keep_tokens: Sequence[str] = (), **options: Any,
    ) -> list[str]:  # fmt: skip
        """Generates texts; outputs are in the order of the inputs, and inputs are not truncated.

        Args:
          texts: inputs, including a prefix if the model needs one.
          batch_size: inputs generated together; inputs of similar length share a batch.
          progress: whether to show a progress bar; None: only after some seconds.
          skip_special_tokens: leave special tokens out of the outputs.
          keep_tokens: special tokens that stay in the outputs all the same, such as ["<sep>"].
          **options: fields of `GenerationOptions`, named as in `transformers`; the default is `self.generation`.

        Returns:
          One text for each input; with num_return_sequences=n, n consecutive texts.

        Raises:
          UserError: for a model without tokenizer, or options that are not valid.
        """
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer", "tokenizer files in the same folder", "or use generate_ids")
        if isinstance(texts, str):
            raise UserError("texts is one string", "a list of texts", f"write generate([{texts[:20]!r}…])")
        chosen = self.generation.replace(**options)
        keep_ids(self.tokenizer, keep_tokens)  # before anything is generated
        sources = self.tokenizer(list(texts))["input_ids"] if len(texts) else []
        outputs: dict[int, list[str]] = {}
        for numbers, tokens in generate_batches(self.engine, sources, chosen, batch_size, progress):
            decoded = decode_outputs(self.tokenizer, tokens, skip_special_tokens, keep_tokens)
            outputs |= group_by_input(numbers, decoded)
        return [text for number in range(len(texts)) for text in outputs[number]]

    def generate_ids(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None, *,
        decoder_input_ids: np.ndarray | None = None, **options: Any,
    ) -> np.ndarray:  # fmt: skip
        """Generates token ids; the result is equal to that of `generate` of `transformers`.

        Args:
          input_ids: int [B, S].
          attention_mask: [B, S] of 0/1; None: 0 at padding tokens.
          decoder_input_ids: int [B, P], prompts; the start token is prepended if no row starts with it.
          **options: as for `generate`.

        Returns:
          int32 [B·n, L], n = num_return_sequences rows for each input: decoder start token or prompt, generated tokens,
          padding after EOS (EOS instead of padding in beam search if the padding id is 0, as in transformers).

        Raises:
          UserError: for arrays or options that are not valid for the model or contradict each other.
        """
        chosen = self.generation.replace(**options)
        inputs = self._inputs(input_ids, attention_mask)
        return self.engine.generate(*inputs, chosen, decoder_input_ids=decoder_input_ids)

    def logits(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None, decoder_input_ids: np.ndarray
    ) -> np.ndarray:
        """Returns teacher-forced logits, float32 [B, T, V], for ids [B, S], mask [B, S] and decoder inputs [B, T]."""
        return self.engine.logits(*self._inputs(input_ids, attention_mask), np.asarray(decoder_input_ids))

    def _inputs(self, input_ids: Any, attention_mask: Any | None) -> tuple[np.ndarray, np.ndarray]:
        input_ids = np.asarray(input_ids)
        mask = input_ids != self.spec.pad_id if attention_mask is None else np.asarray(attention_mask)
        check_inputs(input_ids, mask, self.spec)
        return input_ids, mask

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes an export atomically: spec.json, Orbax parameters, generation_config.json, tokenizer."""

        def write(partial: Path) -> None:
            if is_host0():
                (partial / "spec.json").write_text(self.spec.to_json())
                (partial / GENERATION_FILE).write_text(json.dumps(self.generation.to_dict(), indent=1))
            save_tree(partial / "params", self.params)

        self._save(Path(folder), write)

    def save_hf(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that `transformers` loads; a ragged model is padded with zeros to uniform layers.

        Raises:
          UserError: if the family's class in transformers cannot express the model.
        """

        def write(partial: Path) -> None:
            if is_host0():
                hf.write_hf(partial, self.spec, self.params, self.generation.to_dict())

        hf.check_expressible(self.spec)  # raises in all processes, so that none waits for another
        self._save(Path(folder), write)

    def _save(self, folder: Path, write: Any) -> None:
        """Writes to a temporary folder and renames it. All processes of a run call this; one of them writes."""
        partial = clear_folder(folder.with_name(folder.name + ".partial"))
        write(partial)
        if is_host0():
            if self.tokenizer is not None:
                save_tokenizer(self.tokenizer, partial)
            shutil.rmtree(folder, ignore_errors=True)
            partial.rename(folder)
        barrier(f"saved {folder.name}")


def load(name: str | os.PathLike[str], *, dtype: Any = "float32") -> Seq2Seq:
    """Loads a model from a nash_jax export, a folder in the hub's layout, or the hub.

    Weights are read from safetensors, or, if there are none, from `pytorch_model.bin`, which needs PyTorch and is read
    with its weights-only reader. Generation defaults are read from the folder; a note lists unsupported ones.

    Args:
      name: folder, or hub name such as "google/flan-t5-small".
      dtype: compute dtype of generation and logits.

    Raises:
      UserError: if there is no such model, or it is not supported.
    """
    folder = Path(name).expanduser()
    if not folder.is_dir():
        folder = fetch_model(str(name), HUB_FILES)
    if (folder / "spec.json").exists():
        spec, params = _load_export(folder)
    else:
        spec, params = hf.load_hf(folder)
    tokenizer = load_tokenizer(str(folder)) if has_tokenizer(folder) else None
    return Seq2Seq(spec, params, tokenizer, dtype, load_generation_options(folder))


def _load_export(folder: Path) -> tuple[ModelSpec, dict[str, Any]]:
    try:
        spec = ModelSpec.from_json((folder / "spec.json").read_text())
    except (OSError, UnicodeDecodeError, UserError) as error:
        raise UserError(f"{folder / 'spec.json'}: {error}") from error
    params, sizes = load_tree(folder / "params"), spec.axis_sizes()
    check_shapes(params, {p: tuple(sizes[a] for a in axes) for p, axes in param_axes(spec).items()}, str(folder))
    return spec, params
