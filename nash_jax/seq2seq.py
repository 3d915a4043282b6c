"""The Python interface: `load` and `Seq2Seq`."""

import functools
import json
import os
import sys
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, overload

import numpy as np

from nash_jax.axes import check_params, leaf_shapes
from nash_jax.convert import hf
from nash_jax.convert.generation_config import GENERATION_FILE, load_generation_options
from nash_jax.convert.orbax import load_tree, save_tree
from nash_jax.convert.refused import refuse_other_engines
from nash_jax.data.decoding import decode_outputs, keep_ids
from nash_jax.data.hub import fetch_model
from nash_jax.data.languages import Languages, generation_languages, restored_languages
from nash_jax.data.special_tokens import fill_special_tokens
from nash_jax.data.tokenizers import HUB_FILES, has_tokenizer, load_tokenizer, save_tokenizer
from nash_jax.engines import OTHER_ENGINES
from nash_jax.errors import UserError, require_packages
from nash_jax.export.ct2 import check_quantization, write_ctranslate2
from nash_jax.generation.arguments import (
    ENGINES,
    check_decoder_inputs,
    check_model_parts,
    preview,
    read_count,
    read_dtype,
    read_flag,
    read_ids,
    read_mask,
    read_path,
    read_texts,
)
from nash_jax.generation.engine import BatchGenerator, Engine
from nash_jax.generation.inputs import check_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.outputs import ScoredIds, ScoredTexts
from nash_jax.generation.speculative import SpeculativeEngine
from nash_jax.generation.texts import TextGenerator
from nash_jax.generation.weights import share_params
from nash_jax.runtime.files import check_regular, find_folder, read_small
from nash_jax.runtime.multihost import is_host0
from nash_jax.runtime.output_folder import complete_save, fill_folder, verifying
from nash_jax.runtime.stored import StoredArray, read_stored
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, map_with_path, unflatten


class Seq2Seq:
    """An encoder-decoder model with its tokenizer.

    Attributes:
      spec: architecture.
      params: nested dict of NumPy arrays, or of `StoredArray` where it was loaded with `lazy`. Once a model has
        generated on a CPU they are read-only views of what it generates with. What is packed for the kernels is then
        unpacked at each reading: read them once, not in a loop. To change them, assign others of the same shapes.
      tokenizer: a `transformers` tokenizer, or None.
      dtype: compute dtype of generation and logits; or int8, as of `load`.
      generation: default generation options.
    """

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, Any], tokenizer: Any | None = None, dtype: Any = "float32",
        generation: GenerationOptions | None = None,
    ) -> None:  # fmt: skip
        check_params(spec, params)
        check_model_parts(tokenizer, generation)
        self.spec, self.tokenizer, self.dtype = spec, tokenizer, read_dtype(dtype)
        self._own = unflatten(flatten(params))  # empty: the engine holds them
        self.generation = GenerationOptions() if generation is None else generation
        self._engine: Engine | None = None
        self._generator: BatchGenerator | None = None
        self._speculative: tuple[Seq2Seq, SpeculativeEngine] | None = None  # the last draft

    @property
    def params(self) -> dict[str, Any]:
        """The parameters, nested."""
        own, engine = self._own, self._engine
        return own if own or engine is None else unflatten(engine.weights.host_params())

    @params.setter
    def params(self, params: Mapping[str, Any]) -> None:
        check_params(self.spec, params)
        self._own = unflatten(flatten(params))
        if self._engine is not None:
            self._engine.update_params(share_params(self._own, self.dtype))
            self._drop_shared(self._engine)

    @property
    def engine(self) -> Engine:
        """The jitted functions; created on first use."""
        if self._engine is None:
            self._engine = Engine(self.spec, share_params(self._own, self.dtype), self.dtype)
            self._drop_shared(self._engine)
        return self._engine

    def _drop_shared(self, engine: Engine) -> None:
        if engine.weights.holds_params:
            self._own = {}

    @property
    def generator(self) -> BatchGenerator:
        """What `generate` and `generate_ids` run: the jitted functions, or the engine that `load` was told."""
        return self._generator or self.engine

    @overload
    def generate(
        self, texts: Iterable[str], *, batch_size: int = ..., progress: bool | None = ...,
        labels: Iterable[str] | None = ..., source_lang: str | None = ..., target_lang: str | None = ...,
        skip_special_tokens: bool = ..., keep_tokens: Sequence[str] = ..., draft: "Seq2Seq | None" = ...,
        return_scores: Literal[False] = ..., **options: Any,
    ) -> list[str]: ...  # fmt: skip

    @overload
    def generate(
        self, texts: Iterable[str], *, batch_size: int = ..., progress: bool | None = ...,
        labels: Iterable[str] | None = ..., source_lang: str | None = ..., target_lang: str | None = ...,
        skip_special_tokens: bool = ..., keep_tokens: Sequence[str] = ..., draft: "Seq2Seq | None" = ...,
        return_scores: Literal[True], **options: Any,
    ) -> ScoredTexts: ...  # fmt: skip

    def generate(
        self, texts: Iterable[str], *, batch_size: int = 16, progress: bool | None = None,
        labels: Iterable[str] | None = None, source_lang: str | None = None, target_lang: str | None = None,
        skip_special_tokens: bool = True, keep_tokens: Sequence[str] = (), draft: "Seq2Seq | None" = None,
        return_scores: bool = False, **options: Any,
    ) -> list[str] | ScoredTexts:  # fmt: skip
        """Generates texts; outputs are in the order of the inputs, and inputs are not truncated.

        Args:
          texts: inputs, including a prefix if the model needs one; also a generator, an array or a column.
          batch_size: inputs generated together; inputs of similar length share a batch.
          progress: whether to show a progress bar; None: only after some seconds.
          labels: every output is one of these texts; None: any text. A greedy search may miss the most probable label;
            with num_beams, as many labels are compared to their end.
          source_lang: language of the texts in a multilingual tokenizer, such as `de_DE` (mBART), `deu_Latn` (NLLB) or
            `de` (M2M100); None: the one that the tokenizer was saved with.
          target_lang: the same for the outputs; not needed if `forced_bos_token_id` is a language.
          skip_special_tokens: leave special tokens out of the outputs.
          keep_tokens: special tokens that stay in the outputs all the same, such as ["<sep>"].
          draft: a small model with the same tokens, such as this one pruned: it drafts tokens that this model verifies
            several at once. The outputs are this model's greedy ones (`nash_jax.generation.speculative`).
          return_scores: also return log-probabilities.
          **options: fields of `GenerationOptions`, named as in `transformers`; the default is `self.generation`.

        Returns:
          One text for each input; with num_return_sequences=n, n consecutive texts. With return_scores=True these texts
          and their scores, `nash_jax.generation.outputs.ScoredTexts`.

        Raises:
          UserError: for a model without tokenizer, an item that is no text, options or labels that are not valid, or
            languages that are not known.
        """
        if self.tokenizer is None:
            raise UserError("this model has no tokenizer", "tokenizer files in the same folder", "or use generate_ids")
        given, batch_size = read_texts(texts), read_count(batch_size, "batch_size")
        skip_special_tokens = read_flag(skip_special_tokens, "skip_special_tokens")
        return_scores = read_flag(return_scores, "return_scores")
        progress = None if progress is None else read_flag(progress, "progress")
        chosen = self.generation.replace(**options)
        keep_ids(self.tokenizer, keep_tokens)  # before anything is generated
        decode = functools.partial(
            decode_outputs, self.tokenizer, skip_special_tokens=skip_special_tokens, keep_tokens=keep_tokens,
            eos_ids=chosen.eos_token_id or (self.spec.eos_id,),
        )  # fmt: skip
        with restored_languages(self.tokenizer):
            languages = Languages(source_lang, target_lang)
            chosen = generation_languages(self.tokenizer, self.spec, languages, chosen)
            generator = TextGenerator(self._generator_with(draft), self.tokenizer, chosen, labels, decode)
            sources = self.tokenizer(given, verbose=False)["input_ids"] if given else []
        return (generator.scored if return_scores else generator.texts)(sources, batch_size, progress)

    @overload
    def generate_ids(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None = ..., *,
        decoder_input_ids: np.ndarray | None = ..., draft: "Seq2Seq | None" = ...,
        return_scores: Literal[False] = ..., **options: Any,
    ) -> np.ndarray: ...  # fmt: skip

    @overload
    def generate_ids(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None = ..., *,
        decoder_input_ids: np.ndarray | None = ..., draft: "Seq2Seq | None" = ...,
        return_scores: Literal[True], **options: Any,
    ) -> ScoredIds: ...  # fmt: skip

    def generate_ids(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None = None, *,
        decoder_input_ids: np.ndarray | None = None, draft: "Seq2Seq | None" = None, return_scores: bool = False,
        **options: Any,
    ) -> np.ndarray | ScoredIds:  # fmt: skip
        """Generates token ids; the result is equal to that of `generate` of `transformers`.

        Args:
          input_ids: int [B, S].
          attention_mask: [B, S] of 0/1; None: 0 at padding tokens, unless padding has the id of EOS.
          decoder_input_ids: int [B, P], prompts; the start token is prepended if no row starts with it.
          draft: as for `generate`.
          return_scores: also return log-probabilities.
          **options: as for `generate`.

        Returns:
          int32 [B·n, L], n = num_return_sequences rows for each input: decoder start token or prompt, generated tokens,
          padding after EOS (EOS instead of padding in beam search if the padding id is 0, as in transformers). With
          return_scores=True these ids and their scores, `nash_jax.generation.outputs.ScoredIds`.

        Raises:
          UserError: for arrays or options that are not valid for the model or contradict each other.
        """
        chosen = self.generation.replace(**options)
        inputs = self._inputs(input_ids, attention_mask, chosen)
        prompts = None if decoder_input_ids is None else read_ids(decoder_input_ids, "decoder_input_ids")
        scored = read_flag(return_scores, "return_scores")
        generator = self._generator_with(draft)
        generate = generator.generate_scored if scored else generator.generate
        return generate(*inputs, chosen, decoder_input_ids=prompts)

    def _generator_with(self, draft: "Seq2Seq | None") -> BatchGenerator:
        return self.generator if draft is None else self.speculative(draft)

    def speculative(self, draft: "Seq2Seq") -> SpeculativeEngine:
        """What generates with a draft: both models together, compiled once as long as the draft stays the same.

        Args:
          draft: a small model with the same tokens.

        Raises:
          UserError: for something else, and for a model that another engine generates for.
        """
        if not isinstance(draft, Seq2Seq):
            raise UserError(f"draft is a {type(draft).__name__}", "a model that nash_jax.load returned")
        if self._generator is not None:
            raise UserError("a draft with another engine", "engine='jax', or no draft")
        if self._speculative is None or self._speculative[0] is not draft:
            self._speculative = draft, SpeculativeEngine(self.engine, draft.engine)
        return self._speculative[1]

    def logits(
        self, input_ids: np.ndarray, attention_mask: np.ndarray | None, decoder_input_ids: np.ndarray
    ) -> np.ndarray:
        """Returns teacher-forced logits, float32 [B, T, V], for ids [B, S], mask [B, S] and decoder inputs [B, T].

        Raises:
          UserError: for arrays that are not valid for the model or contradict each other.
        """
        inputs = self._inputs(input_ids, attention_mask, self.generation)
        targets = read_ids(decoder_input_ids, "decoder_input_ids")
        check_decoder_inputs(targets, len(inputs[0]), self.spec)
        return self.engine.logits(*inputs, targets)

    def _inputs(
        self, input_ids: Any, attention_mask: Any | None, options: GenerationOptions
    ) -> tuple[np.ndarray, np.ndarray]:
        """Returns arrays; without a mask, padding is masked, unless its id is an EOS id, which a text may hold."""
        input_ids = read_ids(input_ids, "input_ids")
        if attention_mask is None:
            pad_id = self.spec.pad_id if options.pad_token_id is None else options.pad_token_id
            is_eos = pad_id in (options.eos_token_id or (self.spec.eos_id,))
            attention_mask = np.ones(input_ids.shape, bool) if is_eos else input_ids != pad_id
        mask = read_mask(attention_mask)
        check_inputs(input_ids, mask, self.spec)
        return input_ids, mask

    def save(self, folder: str | os.PathLike[str]) -> None:
        """Writes an export: spec.json, Orbax parameters, generation_config.json, tokenizer.

        All of its files appear, or none. Files in the folder that no save wrote stay as they are; an earlier save's are
        replaced. All processes of a run must call it.

        Args:
          folder: created if missing; `~` and symbolic links are followed.

        Raises:
          UserError: if the folder cannot be written, or another program's file has the name of one to write.
        """
        with fill_folder(folder) as new:
            if is_host0():
                (new / "spec.json").write_text(self.spec.to_json(), encoding="utf-8")
                (new / GENERATION_FILE).write_text(json.dumps(self.generation.to_dict(), indent=1), encoding="utf-8")
                self._write_tokenizer(new)
            save_tree(new / "params", self.params)

    def save_hf(self, folder: str | os.PathLike[str]) -> None:
        """Writes a folder that `transformers` loads; a ragged model is padded with zeros to uniform layers.

        The folder is treated as by `save`.

        Args:
          folder: as of `save`.

        Raises:
          UserError: if the family's class in transformers cannot express the model, and as `save`.
        """
        hf.check_expressible(self.spec)  # raises in all processes, so that none waits for another
        with fill_folder(folder) as new:
            if is_host0():
                hf.write_hf(new, self.spec, self.params, self.generation.to_dict())
                self._write_tokenizer(new)

    def save_ct2(self, folder: str | os.PathLike[str], quantization: str = "float32") -> None:
        """Writes a folder that `ctranslate2.Translator` loads, with the tokenizer and generation_config.json beside.

        The folder is treated as by `save`. A model of ragged layers keeps its widths (`nash_jax.export.ct2`).

        Args:
          folder: as of `save`.
          quantization: type of the stored weights: float32, int8, int8_float32, int16 or float16.

        Raises:
          UserError: for another quantization, if the package ctranslate2 is not installed, and as `save`.
        """
        check_quantization(quantization)
        with fill_folder(folder) as new:
            if is_host0():
                write_ctranslate2(new, self.spec, self.params, self.tokenizer, quantization)
                (new / GENERATION_FILE).write_text(json.dumps(self.generation.to_dict(), indent=1), encoding="utf-8")
                self._write_tokenizer(new)

    def save_onnx(self, folder: str | os.PathLike[str], quantization: str = "float32") -> None:
        """Writes ONNX graphs, in the files that ONNX Runtime programs, transformers.js and optimum read.

        Needs the extra `onnx`. The folder is treated as by `save`.

        Args:
          folder: as of `save`.
          quantization: "float32", or "int8": weights of 8 bits, inputs of matrix products rounded as they come.

        Raises:
          UserError: for another quantization, without the extra, and as `save`.
        """
        require_packages("onnx")
        from nash_jax.export.onnx import folder as onnx_folder

        onnx_folder.check_quantization(quantization)  # raises in all processes, so that none waits for another
        with fill_folder(folder) as new:
            if is_host0():
                onnx_folder.write_onnx(new, self.spec, self.params, self.generation.to_dict(), quantization)
                self._write_tokenizer(new)

    def save_stablehlo(
        self, folder: str | os.PathLike[str], platforms: Sequence[str] = ("cpu", "cuda", "tpu"), **options: Any
    ) -> None:
        """Writes programs that jax alone runs: encoding, logits and greedy generation, for several platforms at once.

        The folder is treated as by `save`.

        Args:
          folder: as of `save`.
          platforms: cpu, cuda, rocm, tpu, or some of them.
          **options: fields of `GenerationOptions`, which later calls cannot change; the default is `self.generation`.

        Raises:
          UserError: for options other than greedy search, other platforms, int8, and as `save`.
        """
        from nash_jax.export.stablehlo.folder import check_settings, write_stablehlo

        chosen = self.generation.replace(**options)
        check_settings(chosen, platforms, self.dtype)  # raises in all processes, so that none waits for another
        with fill_folder(folder) as new:
            if is_host0():
                write_stablehlo(new, self.spec, self.params, chosen, self.dtype, platforms)
                self._write_tokenizer(new)

    def _write_tokenizer(self, folder: Path) -> None:
        if self.tokenizer is not None:
            save_tokenizer(self.tokenizer, folder)


def load(
    name: str | os.PathLike[str],
    *,
    dtype: Any = "float32",
    verify: bool = True,
    engine: str = "jax",
    lazy: bool = False,
) -> Seq2Seq:
    """Loads a model from a nash_jax export, a folder in the hub's layout, or the hub.

    Weights are read from safetensors, or, if there are none, from `pytorch_model.bin`, which needs PyTorch and is read
    with its weights-only reader, or from `flax_model.msgpack`. Generation defaults are read from the folder; a note
    lists unsupported ones.

    Args:
      name: folder, or hub name such as "google/flan-t5-small".
      dtype: compute dtype of generation and logits; or "int8", on CPUs: all matrices, and what the encoder multiplies
        by them, rounded to 8 bits, which is faster.
      verify: compare the files of a folder that nash_jax saved with the checksums in its manifest.
      engine: what generates: "jax"; or on CPUs "ctranslate2" or "onnxruntime" (greedy search alone), each with dtypes
        of its own (`nash_jax.engines.ct2.DTYPES`, `nash_jax.engines.ort.DTYPES`). Logits are always jax's, in float32
        then.
      lazy: leave the weights in their files, which must stay there: each is a `nash_jax.runtime.stored.StoredArray`, of
        which a process reads what its devices need (`nash_jax.runtime.sharding.place_params`).

    Raises:
      UserError: if there is no such model or engine, it is not supported, or a file was changed since it was saved.
    """
    if not isinstance(engine, str) or engine not in ENGINES:
        raise UserError(f"engine is {preview(engine)}", f"one of {', '.join(ENGINES)}")
    name = read_path(name, "the model")
    own = read_dtype(dtype if engine == "jax" else "float32")
    folder = find_folder(name) or fetch_model(name, HUB_FILES)
    complete_save(folder)
    model = (_load_verified if verify else _load_folder)(folder, own, read_flag(lazy, "lazy"))
    if engine in OTHER_ENGINES:
        model._generator = OTHER_ENGINES[engine](model.spec, read_stored(model.params), dtype)
    return model


def _load_verified(folder: Path, dtype: str, lazy: bool) -> Seq2Seq:
    with verifying(folder) as edited:
        model = _load_folder(folder, dtype, lazy)
    for file in edited():
        print(f"note: {folder / file} was edited since it was saved", file=sys.stderr)
    return model


def _load_folder(folder: Path, dtype: Any, lazy: bool) -> Seq2Seq:
    """Reads the model of an export, or of a folder in the hub's layout."""
    check_regular(folder, ["params"])
    refuse_other_engines(folder)
    own = (folder / "spec.json").exists()
    spec, params = _load_export(folder, lazy) if own else hf.load_hf(folder, lazy=lazy)
    tokenizer = fill_special_tokens(load_tokenizer(str(folder)), spec) if has_tokenizer(folder) else None
    return Seq2Seq(spec, params, tokenizer, dtype, load_generation_options(folder, spec.vocab_size))


def _load_export(folder: Path, lazy: bool) -> tuple[ModelSpec, dict[str, Any]]:
    try:
        spec = ModelSpec.from_json(read_small(folder / "spec.json"))
    except UserError as error:
        raise UserError(f"{folder / 'spec.json'}: {error}") from error
    params = load_tree(folder / "params", leaf_shapes(spec), lazy=lazy)
    return spec, map_with_path(functools.partial(_finite, folder), params)


def _finite(folder: Path, path: str, leaf: Any) -> Any:
    """The parameter, where it is finite; of a stored one each part is checked when it is read."""
    if isinstance(leaf, StoredArray):
        return StoredArray(leaf.shape, lambda index: _finite(folder, path, leaf[index]), leaf.dtype)
    if not np.isfinite(leaf).all():
        raise UserError(f"{folder}: {path} holds values that are inf or NaN", "finite weights")
    return leaf
