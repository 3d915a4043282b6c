"""Systems that generate with an encoder-decoder model: ours and its peers, each run in a process of its own.

Letters: B inputs, S source length, T new tokens.
"""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.generation.options import GenerationOptions
from nash_jax.seq2seq import Seq2Seq, load

Generate = Callable[[np.ndarray, int, int], np.ndarray]  # ids [B, S], T, beams → tokens [B, T]


def _jax(dtype: str) -> Callable[[Path, int], Generate]:
    def start(folder: Path, threads: int) -> Generate:
        model = load(folder, dtype=dtype, verify=False)

        def generate(ids: np.ndarray, tokens: int, beams: int) -> np.ndarray:
            options = GenerationOptions(max_new_tokens=tokens, min_new_tokens=tokens, num_beams=beams)
            return model.engine.generate(ids, np.ones_like(ids), options)[:, 1:]

        return generate

    return start


def _transformers(folder: Path, threads: int) -> Generate:
    import torch
    import transformers

    torch.set_num_threads(threads)
    transformers.logging.set_verbosity_error()
    model = transformers.AutoModelForSeq2SeqLM.from_pretrained(folder, dtype=torch.float32).eval()

    def generate(ids: np.ndarray, tokens: int, beams: int) -> np.ndarray:
        inputs = torch.from_numpy(ids.astype(np.int64))
        with torch.inference_mode():
            found = model.generate(
                inputs, attention_mask=torch.ones_like(inputs), max_new_tokens=tokens, min_new_tokens=tokens,
                num_beams=beams, do_sample=False,
            )  # fmt: skip
        return found[:, 1:].numpy()

    return generate


def _ctranslate2(folder: Path, threads: int) -> Generate:
    import ctranslate2

    translator = ctranslate2.Translator(str(folder), device="cpu", inter_threads=1, intra_threads=threads)

    def generate(ids: np.ndarray, tokens: int, beams: int) -> np.ndarray:
        sources = [[f"<id_{number}>" for number in row] for row in ids.tolist()]
        found = translator.translate_batch(
            sources, beam_size=beams, max_decoding_length=tokens, min_decoding_length=tokens, max_input_length=0
        )
        return np.array([[int(name[4:-1]) for name in row.hypotheses[0]] for row in found])

    return generate


def _onnxruntime(folder: Path, threads: int) -> Generate:
    from nash_jax.export.onnx.run import OnnxModel

    model = OnnxModel(folder, threads)

    def generate(ids: np.ndarray, tokens: int, beams: int) -> np.ndarray:
        mask, found = np.ones_like(ids), np.full((len(ids), 1), model.config["decoder_start_token_id"])
        encoded, cache = model.encode(ids, mask), None
        for _ in range(tokens):
            logits, cache = model.decode(found[:, -1:], encoded, mask, cache)
            logits[:, -1, model.config["eos_token_id"]] = -np.inf
            found = np.concatenate([found, logits[:, -1:].argmax(-1)], axis=1)
        return found[:, 1:]

    return generate


def _save_onnx(quantization: str) -> Callable[[Seq2Seq, Path], None]:
    return lambda model, folder: Seq2Seq(model.spec, model.params).save_onnx(folder, quantization)


def _save_ct2(quantization: str) -> Callable[[Seq2Seq, Path], None]:
    return lambda model, folder: Seq2Seq(model.spec, model.params).save_ct2(folder, quantization)


SYSTEMS: dict[str, tuple[str, Callable[[Seq2Seq, Path], None], Callable[[Path, int], Generate]]] = {
    # name → (package that it needs, writes a model for it, loads the folder with a number of threads)
    "nash_jax": ("jax", Seq2Seq.save, _jax("float32")),
    "nash_jax int8": ("jax", Seq2Seq.save, _jax("int8")),
    "transformers": ("torch", Seq2Seq.save_hf, _transformers),
    "ctranslate2 float32": ("ctranslate2", _save_ct2("float32"), _ctranslate2),
    "ctranslate2 int8": ("ctranslate2", _save_ct2("int8"), _ctranslate2),
    "onnxruntime float32": ("onnxruntime", _save_onnx("float32"), _onnxruntime),
    "onnxruntime int8": ("onnxruntime", _save_onnx("int8"), _onnxruntime),
}
GREEDY_ONLY = ("onnxruntime float32", "onnxruntime int8")
BYTES_PER_WEIGHT = {"nash_jax int8": 1, "ctranslate2 int8": 1, "onnxruntime int8": 1}  # 4 for the others


def limit_threads(threads: int) -> dict[str, str]:
    """Returns the environment of a process whose numeric libraries use so many threads.

    Args:
      threads: number of threads, and of the cores that the process may use.
    """
    names = ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "OPENBLAS_NUM_THREADS")
    return {**os.environ, **dict.fromkeys(names, str(threads)), "HF_HUB_OFFLINE": "1"}


def read_bandwidth() -> Callable[[], Any]:
    """Returns a call that reads 400 MB once: a product of a matrix and a vector."""
    matrix, vector = np.ones((10_000, 10_000), np.float32), np.ones(10_000, np.float32)
    return lambda: matrix @ vector
