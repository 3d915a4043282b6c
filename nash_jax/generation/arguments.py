"""Checks of what a caller of the Python interface passes: one message for a mistake, before any library sees it."""

import os
from collections.abc import Iterable, Mapping, Set
from typing import Any

import numpy as np

from nash_jax.errors import UserError, did_you_mean
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import ModelSpec

DTYPES = ("float32", "bfloat16", "float16", "int8")
ENGINES = ("jax", "ctranslate2", "onnxruntime")  # what generates
_INT_LIMIT = 2**31


def read_texts(texts: Any) -> list[str]:
    """Returns the texts of any ordered iterable, also of a generator, an array or a column of a table.

    Raises:
      UserError: for something else, or naming the first item that is no text.
    """
    if isinstance(texts, str | bytes):
        raise UserError(f"texts is one string, {preview(texts)}", "a list of texts", "write [text]")
    if not isinstance(texts, Iterable) or isinstance(texts, Mapping | Set):
        raise UserError(f"texts is a {type(texts).__name__}", "a list of texts")
    if hasattr(texts, "columns"):  # iterating over a DataFrame gives the names of its columns
        raise UserError(f"texts is a table, a {type(texts).__name__}", "a list of texts", "take one column of it")
    try:
        found = list(texts)
    except TypeError as error:  # an array without dimensions
        raise UserError(f"texts is a {type(texts).__name__}: {error}", "a list of texts") from error
    for number, text in enumerate(found):
        if not isinstance(text, str):
            raise UserError(f"text {number} is {preview(text)}", "a string")
        check_characters(text, f"text {number}")
    return [str(text) for text in found]


def check_characters(text: str, what: str) -> None:
    """Checks that a text consists of whole characters, since tokenizers fail on half a surrogate pair.

    Raises:
      UserError: naming the half.
    """
    try:
        text.encode()
    except UnicodeEncodeError as error:
        half = f"{ord(text[error.start]):04x}"
        raise UserError(f"{what} holds \\u{half}, half of a surrogate pair", "whole characters") from error


def read_ids(value: Any, name: str) -> np.ndarray:
    """Returns token ids as an integer array.

    Raises:
      UserError: for rows of different lengths, or something other than whole numbers.
    """
    try:
        found = np.asarray(value)
    except Exception as error:  # NumPy raises many types, and so do array types of other libraries
        raise UserError(f"{name} is no array: {error}", "whole numbers, rows padded to one length") from error
    if found.dtype.kind not in "iu":
        raise UserError(f"{name} has shape {found.shape} and type {found.dtype}", "whole numbers [batch, length]")
    return found


def read_mask(value: Any) -> np.ndarray:
    """Returns an attention mask as an int32 array.

    Raises:
      UserError: for values other than 0 and 1.
    """
    try:
        found = np.asarray(value)
        is_mask = bool(np.isin(found, (0, 1)).all()) and found.dtype.kind in "biuf"
    except Exception as error:  # as in `read_ids`
        raise UserError(f"attention_mask is no array: {error}", "0 and 1 [batch, length]") from error
    if not is_mask:
        raise UserError(
            f"attention_mask holds other values than 0 and 1, type {found.dtype}", "0 and 1 [batch, length]"
        )
    return found.astype(np.int32)


def read_count(value: Any, name: str) -> int:
    """Returns a positive whole number.

    Raises:
      UserError: for another value.
    """
    if isinstance(value, bool) or not isinstance(value, int | np.integer) or not 1 <= value < _INT_LIMIT:
        raise UserError(f"{name} is {preview(value)}", "a whole number, 1 or more")
    return int(value)


def read_flag(value: Any, name: str) -> bool:
    """Returns True or False; a word would count as True, also "no".

    Raises:
      UserError: for something else.
    """
    if not isinstance(value, bool | np.bool_):
        raise UserError(f"{name} is {preview(value)}", "True or False")
    return bool(value)


def read_dtype(value: Any) -> str:
    """Returns the name of a compute dtype (int8: of weights alone), given by name, as a NumPy or a JAX type.

    Raises:
      UserError: for another type than `DTYPES`.
    """
    try:
        name = value if isinstance(value, str) else np.dtype(value).name if value is not None else None
    except TypeError:
        name = None
    if name not in DTYPES:
        near = did_you_mean(name, DTYPES) if isinstance(name, str) else ""
        raise UserError(f"dtype is {preview(value)}{near}", f"one of {', '.join(DTYPES)}")
    return name


def read_path(value: Any, name: str) -> str:
    """Returns a path or a name on the hub as text.

    Raises:
      UserError: for something else.
    """
    if not isinstance(value, str | os.PathLike) or not os.fspath(value):
        raise UserError(f"{name} is {preview(value)}", "a folder, or a name on the hub")
    text = os.fsdecode(value)
    if "\0" in text:
        raise UserError(f"{name} is {preview(text)}", "a folder, or a name on the hub")
    return text


def check_model_parts(tokenizer: Any, generation: Any) -> None:
    """Checks what a model is given beside its parameters; None is allowed.

    Raises:
      UserError: for something else than a tokenizer or generation options.
    """
    if tokenizer is not None and not (callable(tokenizer) and hasattr(tokenizer, "batch_decode")):
        raise UserError(f"the tokenizer is {preview(tokenizer)}", "a tokenizer of transformers")
    if generation is not None and not isinstance(generation, GenerationOptions):
        raise UserError(f"generation is {preview(generation)}", "nash_jax.generation.options.GenerationOptions")


def check_decoder_inputs(ids: np.ndarray, num_rows: int, spec: ModelSpec) -> None:
    """Checks teacher-forced decoder inputs.

    Raises:
      UserError: for a wrong shape, or ids outside the vocabulary.
    """
    if ids.ndim != 2 or len(ids) != num_rows or ids.size == 0:
        raise UserError(f"decoder_input_ids has shape {ids.shape}", f"[{num_rows}, length], a row for each input")
    if ids.min() < 0 or ids.max() >= spec.vocab_size:
        raise UserError(f"decoder_input_ids hold ids from {ids.min()} to {ids.max()}", f"0 to {spec.vocab_size - 1}")


def preview(value: Any) -> str:
    """Returns the start of a value on one line."""
    try:
        return repr(value)[:60].replace("\n", " ")
    except Exception:  # another library's
        return f"a {type(value).__name__}"
