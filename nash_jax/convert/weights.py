"""Reads the weights of a folder in the hub's layout: safetensors, PyTorch's or Flax' files, single or sharded.

Safetensors are mapped, not read: which parts of a file are read, and when, is up to those who take the weights.
"""

import importlib.util
import json
import os
import re
import zipfile
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import ml_dtypes
import numpy as np
from safetensors import SafetensorError, safe_open

from nash_jax.convert.flax_weights import read_flax
from nash_jax.errors import UserError
from nash_jax.runtime.files import check_not_pointer, read_json, read_small

Tensors = Iterator[tuple[str, np.ndarray]]


def read_weights(folder: Path, num_params: int | None = None) -> dict[str, np.ndarray]:
    """Finds all tensors of a checkpoint, as they are stored; all their types are exact in float32 but float64.

    Integer tensors, such as position ids stored by old versions, are ignored. Names that a wrapper of PyTorch changed
    (`torch.compile`, `DistributedDataParallel`) are restored, with a printed note. Values are not looked at:
    `check_finite` is for those who read them.

    Args:
      folder: folder of the checkpoint.
      num_params: parameters of the model that the folder describes; files that hold many times as much are not read.

    Returns:
      Weight name → array; of safetensors, a view of the mapped file.

    Raises:
      UserError: if there are no weights, or those of an adapter; or a file is missing, broken or contains other objects
        than tensors; or there is much more than the model has.
    """
    for stem, suffix, read in _formats():
        files = _files(folder, stem, suffix)
        if files:
            _check_files(files, num_params)
            state: dict[str, np.ndarray] = {}
            for file in files:
                state.update(_checked(file, read))
            return _plain_names(folder, state)
    have = sorted(p.name for p in folder.iterdir())
    raise UserError(
        f"{folder} has no model.safetensors (it has {have})",
        "safetensors weights or their index; or an old pytorch_model.bin or flax_model.msgpack",
    )


def _check_files(files: Sequence[Path], num_params: int | None) -> None:
    """Checks that shards are files that are there, and not many times larger than a model of so many parameters."""
    for file in files:
        if not file.is_file():
            what = "is no file" if os.path.lexists(file) else "is missing"
            raise UserError(f"{file} {what}", "every shard that the index names")
    size = sum(file.stat().st_size for file in files)
    if num_params is not None and size > _EXTRA + 16 * num_params:  # 12 with the state of an optimizer
        raise UserError(
            f"{files[0]} has {size:,} bytes{' with the other shards' * (len(files) > 1)}",
            f"about {4 * num_params:,}, for the {num_params:,} parameters that config.json describes",
        )


_EXTRA = 256 << 20  # bytes of files that are small in any case


def _formats() -> list[tuple[str, str, Callable[[Path], Tensors]]]:
    """Stem, suffix and reader of files, by preference; those of PyTorch come last where it is not installed."""
    torch, flax = ("pytorch_model", "bin", _torch_file), ("flax_model", "msgpack", read_flax)
    others = [torch, flax] if importlib.util.find_spec("torch") else [flax, torch]
    return [("model", "safetensors", _safetensors), *others]


def refuse_adapter(folder: Path) -> None:
    """Refuses a folder with only the adapter of another model (PEFT: LoRA and others).

    Raises:
      UserError: naming the other model.
    """
    settings = folder / "adapter_config.json"
    if not settings.is_file():
        return
    if any(_files(folder, stem, suffix) for stem, suffix, _ in _formats()):
        print(f"note: {settings}: the adapter is not applied; merge_and_unload() of PEFT makes one model of both")
        return
    base = re.search(r'"base_model_name_or_path":\s*"([^"]*)"', read_small(settings))
    raise UserError(f"{folder} holds an adapter (PEFT){f' of {base[1]}' if base else ''}, not a model", *_MERGE)


_MERGE = ("all weights of a model", "merge it with PEFT: merge_and_unload(), then save_pretrained(FOLDER)")


_ADAPTED = ("lora_", "ia3_", ".base_layer.", ".modules_to_save.", "prompt_encoder.")  # parts of names, by PEFT

_WRAPPERS = (  # parts of names, by torch.compile, DDP, FSDP, activation checkpointing and Lightning Fabric
    "_orig_mod", "module", "_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_forward_module",
)  # fmt: skip


def _plain_names(folder: Path, state: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
    """Removes what wrappers of PyTorch add to the names of weights, and refuses weights of an adapter."""
    if adapter := [name for mark in _ADAPTED for name in state if mark in name]:
        raise UserError(f"{folder} has weights of an adapter (PEFT), {adapter[0]}", *_MERGE)
    names = {name: ".".join(part for part in name.split(".") if part not in _WRAPPERS) for name in state}
    found = [wrapper for wrapper in _WRAPPERS if any(wrapper in name.split(".") for name in state)]
    if found:
        print(f"note: {folder}: the names of the weights are read without {' and '.join(f'{x}.' for x in found)}")
    if len(set(names.values())) < len(state):
        raise UserError(f"{folder} has weights that differ only by {found}", "each weight once")
    return {names[name]: tensor for name, tensor in state.items()}


def _files(folder: Path, stem: str, suffix: str) -> list[Path]:
    """Returns the file of that name, or the shards that its index lists."""
    whole, index = folder / f"{stem}.{suffix}", folder / f"{stem}.{suffix}.index.json"
    if os.path.lexists(whole):
        return [whole]
    if not os.path.lexists(index):
        return []
    try:
        names = sorted(set(read_json(index)["weight_map"].values()))
        outside = [name for name in names if Path(name).name != name or not name.isprintable() or len(name) > 200]
    except (KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{index} is not an index of shards: {error!r}", "the file as it was saved") from error
    if outside or not names:
        raise UserError(f"{index} names the shards {outside or names}", "files in the same folder", "download it again")
    return [folder / name for name in names]


def _checked(file: Path, read: Callable[[Path], Tensors]) -> dict[str, np.ndarray]:
    check_not_pointer(file)
    found = dict(read(file))
    for name, tensor in found.items():
        if name.endswith(".weight") and tensor.dtype in (np.int8, np.uint8):
            raise _quantized(file, f"{name} is {tensor.dtype}")
        if tensor.dtype.kind not in "iub" and tensor.dtype.name not in _FLOATS:
            raise _quantized(file, f"{name} is {tensor.dtype}")
    return {name: tensor for name, tensor in found.items() if tensor.dtype.name in _FLOATS}


_FLOATS = ("float16", "bfloat16", "float32", "float64")


def check_finite(name: str, values: np.ndarray, source: str) -> None:
    """Checks the values of a weight, or of a part of it.

    Args:
      name: of the weight.
      values: its values.
      source: of the checkpoint, for messages.

    Raises:
      UserError: if some are inf or NaN.
    """
    finite = np.isfinite(values)
    if not finite.all():
        raise UserError(
            f"{source}: {name} holds {finite.size - np.count_nonzero(finite):,} values that are inf or NaN",
            "finite weights",
            "float16 overflows above 65,504: save it in float32 or bfloat16",
        )


def _safetensors(file: Path) -> Tensors:
    """Views of the mapped file, whose layout is checked by the library."""
    try:
        with safe_open(file, framework="np"):
            pass
        content = np.memmap(file, np.uint8, "r")
        start = 8 + int.from_bytes(content[:8].tobytes(), "little")
        header = json.loads(content[8:start].tobytes())
    except (SafetensorError, OSError, ValueError) as error:
        raise UserError(
            f"{file} cannot be read: {error}", "a complete safetensors file", "download it again"
        ) from error
    for name, entry in header.items():
        if name != "__metadata__":
            if entry["dtype"] not in _DTYPES:  # of a type that NumPy does not have, such as float8
                raise _quantized(file, f"{name} is {entry['dtype']}")
            begin, end = (start + offset for offset in entry["data_offsets"])
            yield name, content[begin:end].view(_DTYPES[entry["dtype"]]).reshape(entry["shape"])


_DTYPES = {  # names in safetensors
    "F64": np.float64, "F32": np.float32, "F16": np.float16, "BF16": ml_dtypes.bfloat16, "BOOL": np.bool_,
    "I64": np.int64, "I32": np.int32, "I16": np.int16, "I8": np.int8,
    "U64": np.uint64, "U32": np.uint32, "U16": np.uint16, "U8": np.uint8,
}  # fmt: skip


def _quantized(file: Path, what: str) -> UserError:
    return UserError(
        f"{file} holds quantized weights: {what}",
        "float32, bfloat16 or float16",
        "save the model as it was before, or dequantize() it in transformers",
    )


def _torch_file(file: Path) -> Tensors:
    """Reads a PyTorch checkpoint with PyTorch's weights-only reader, which runs no code of the file."""
    torch = _torch(file)
    try:
        _check_packing(file)
        state = torch.load(file, map_location="cpu", weights_only=True)
    except UserError:
        raise
    except Exception as error:  # torch raises many types; the message names what was refused
        raise UserError(
            f"{file} cannot be read by the weights-only reader: {_refusal(error)}",
            "a complete state dict of tensors",
            "code in such a file is never run",
        ) from error
    if not isinstance(state, dict) or not all(isinstance(t, torch.Tensor) for t in state.values()):
        inner = [name for name, value in state.items() if isinstance(value, dict)] if isinstance(state, dict) else []
        do = f"save its {' or '.join(map(repr, inner[:3]))} alone" if inner else ""
        raise UserError(f"{file} holds a {type(state).__name__}, not only tensors", "a state dict of tensors", do)
    for name, tensor in state.items():
        yield str(name), _as_array(torch, file, str(name), tensor)


def _as_array(torch: Any, file: Path, name: str, tensor: Any) -> np.ndarray:
    """One weight, if it is a plain one."""
    plain = tensor.layout == torch.strided and tensor.device.type == "cpu" and not tensor.is_quantized
    if not plain or tensor.is_complex() or (tensor.is_floating_point() and tensor.dtype.itemsize == 1):
        what = f"{tensor.dtype}, {tensor.layout}, on {tensor.device}"
        raise _quantized(file, f"{name} is {what}")
    if tensor.numel() * tensor.element_size() > tensor.untyped_storage().nbytes():
        raise UserError(f"{file}: {name} repeats its values to {tuple(tensor.shape)}", "weights that are all stored")
    return (tensor.float() if tensor.is_floating_point() else tensor).detach().numpy()


def _check_packing(file: Path) -> None:
    """Refuses a file that is packed again: PyTorch stores its zip as it is, and a packed one may unpack to anything."""
    if not zipfile.is_zipfile(file):
        return
    with zipfile.ZipFile(file) as archive:
        size = sum(entry.file_size for entry in archive.infolist())
    if size > 2 * file.stat().st_size + (1 << 20):
        raise UserError(f"{file} unpacks to {size:,} bytes", "a file as PyTorch writes it", "save it again")


def _torch(file: Path) -> Any:
    """Returns PyTorch, if its version has a safe weights-only reader."""
    try:
        import torch
    except ImportError as error:
        raise UserError(
            f"{file} needs PyTorch to be read",
            "model.safetensors",
            "pip install torch, or save it as safetensors where PyTorch is",
        ) from error
    check_torch_version(torch.__version__, file)
    return torch


def check_torch_version(version: str, file: Path) -> None:
    """Refuses PyTorch before 2.6, whose weights-only reader can be made to run code (CVE-2025-32434).

    Raises:
      UserError: for such a version.
    """
    major, minor = (int(part) for part in re.findall(r"\d+", version)[:2])
    if (major, minor) < (2, 6):
        raise UserError(f"PyTorch {version} cannot read {file} safely", "2.6 or newer", "pip install -U torch")


def _refusal(error: Exception) -> str:
    """Returns why the reader refused a file, without its advice to read the file unsafely."""
    text = str(error)
    if asked := re.search(r"GLOBAL ([\w.]+)", text):
        return f"it asks for {asked[1]}"
    if not text or "weights_only" in text:
        return "it is not a PyTorch file"
    return text.splitlines()[0].split(". ")[0]
