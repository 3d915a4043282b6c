"""One thing that no program would write, done to a folder of a good model: the forms that files of weights can take."""

import json
import os
import pickle
import shutil
import struct
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

Change = Callable[[Path], Any]


def edit(name: str, **fields: Any) -> Change:
    """Sets fields of a JSON file."""

    def change(folder: Path) -> None:
        found = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps(found | fields))

    return change


def write(name: str, content: bytes) -> Change:
    """Replaces a file."""

    def change(folder: Path) -> None:
        (folder / name).unlink(missing_ok=True)
        (folder / name).write_bytes(content)

    return change


def remove(path: Path) -> None:
    """Whatever it is."""
    shutil.rmtree(path) if path.is_dir() and not path.is_symlink() else path.unlink(missing_ok=True)


def instead(name: str, content: bytes) -> Change:
    """Weights in another file than the good one."""

    def change(folder: Path) -> None:
        remove(folder / "model.safetensors")
        (folder / name).write_bytes(content)

    return change


def replaced(make: Change) -> Callable[[str], Change]:
    """A file's place is taken by something else."""

    def changed(name: str) -> Change:
        def change(folder: Path) -> None:
            remove(folder / name)
            (folder / name).parent.mkdir(exist_ok=True, parents=True)
            make(folder / name)

        return change

    return changed


KINDS: dict[str, Change] = {
    "folder": Path.mkdir,
    "pipe": os.mkfifo,
    "loop": lambda path: path.symlink_to(path.name),
    "link to nothing": lambda path: path.symlink_to("nowhere"),
    "endless": lambda path: path.symlink_to("/dev/zero"),
    "terminal": lambda path: path.symlink_to("/dev/tty"),
    "its own folder": lambda path: path.symlink_to("."),
    "empty": Path.touch,
    "noise": lambda path: path.write_bytes(np.random.default_rng(0).bytes(5000)),
    "NUL": lambda path: path.write_bytes(b"\0" * 10**6),
    "deep": lambda path: path.write_text('{"a":' * 10**5),
    "deep list": lambda path: path.write_text("[" * 10**6),
    "number": lambda path: path.write_text("9" * 10**5),
    "sparse": lambda path: (path.touch(), os.truncate(path, 2**36)),
    "pointer": lambda path: path.write_text("version https://git-lfs.github.com/spec/v1\n"),
}


def header(content: Any, data: bytes = b"", length: int | None = None) -> Change:
    """A safetensors file of this header."""
    text = content if isinstance(content, bytes) else json.dumps(content).encode()
    return write("model.safetensors", struct.pack("<Q", len(text) if length is None else length) + text + data)


def entry(**fields: Any) -> dict[str, Any]:
    """One tensor of a header, with other fields."""
    return {"shared.weight": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]} | fields}


def sparse_safetensors(folder: Path) -> None:
    """A consistent file of 64 GiB that takes no room: much more than config.json describes."""
    size = 2**36
    header(entry(dtype="I8", shape=[size], data_offsets=[0, size]))(folder)
    os.truncate(folder / "model.safetensors", (folder / "model.safetensors").stat().st_size + size)


SAFETENSORS: dict[str, Change] = {
    "length": header({}, length=2**63), "length beyond": header({}, length=10**6), "list": header([]),
    "deep": header(b'{"a":' * 10**5), "no offsets": header({"a": {"dtype": "F32", "shape": [1]}}),
    "offsets beyond": header(entry(data_offsets=[0, 800]), bytes(8)),
    "offsets backwards": header(entry(data_offsets=[8, 0]), bytes(8)),
    "offsets negative": header(entry(data_offsets=[-8, 0]), bytes(8)),
    "offsets huge": header(entry(data_offsets=[2**64 - 8, 2**64]), bytes(8)),
    "overlapping": header(entry() | {"b": entry()["shared.weight"]}, bytes(8)),
    "a hole": header(entry(data_offsets=[8, 16]), bytes(16)),
    "shape huge": header(entry(shape=[2**40, 2**40]), bytes(8)), "shape negative": header(entry(shape=[-2]), bytes(8)),
    "shape of text": header(entry(shape="2"), bytes(8)), "no values": header(entry(shape=[0], data_offsets=[0, 0])),
    "dimensions": header(entry(shape=[1] * 1000 + [2]), bytes(8)), "twice": header(b'{"a":{},"a":{}}'),
    "metadata": header({"__metadata__": {"format": ["pt"]}} | entry(), bytes(8)),
    "larger than said": sparse_safetensors,
    **{
        f"type {dtype}": header(entry(dtype=dtype, shape=[8 // size], data_offsets=[0, 8]), bytes(8))
        for dtype, size in {
            "BOOL": 1, "U8": 1, "I64": 8, "U64": 8, "C64": 8, "F8_E4M3": 1, "F8_E5M2": 1, "F4": 1, "F64": 8, "X": 1,
        }.items()
    },
}  # fmt: skip


def index(content: Any) -> Change:
    """Shards instead of one file."""

    def change(folder: Path) -> None:
        remove(folder / "model.safetensors")
        text = content if isinstance(content, bytes) else json.dumps(content).encode()
        (folder / "model.safetensors.index.json").write_bytes(text)

    return change


INDEXES: dict[str, Change] = {
    "list": index([]), "no map": index({}), "map of lists": index({"weight_map": {"a": ["b"]}}),
    "map of numbers": index({"weight_map": {"a": 3}}), "map is a list": index({"weight_map": ["a"]}),
    "outside": index({"weight_map": {"a": "../secret.safetensors"}}), "empty name": index({"weight_map": {"a": ""}}),
    "itself": index({"weight_map": {"a": "model.safetensors.index.json"}}),
    "absolute": index({"weight_map": {"a": "/dev/zero"}}),
    "parent": index({"weight_map": {"a": ".."}}), "here": index({"weight_map": {"a": "."}}),
    "NUL": index({"weight_map": {"a": "x\0y"}}), "surrogate": index({"weight_map": {"a": "\ud800"}}),
    "long": index({"weight_map": {"a": "x" * 5000}}), "deep": index(b'{"weight_map":' * 10**5),
}  # fmt: skip


def torch_file(make: Callable[[Any, dict[str, Any]], Any]) -> Change:
    """Saves with PyTorch what is made of the good weights."""

    def change(folder: Path) -> None:
        import torch
        from safetensors.torch import load_file

        state = load_file(folder / "model.safetensors")
        remove(folder / "model.safetensors")
        torch.save(make(torch, state), folder / "pytorch_model.bin")

    return change


def one(make: Callable[[Any, Any], Any]) -> Change:
    """The same, with one weight changed."""
    return torch_file(lambda torch, state: {n: make(torch, t) if n == "shared.weight" else t for n, t in state.items()})


def bomb(folder: Path) -> None:
    """A zip of 1 MiB that holds 1 GiB."""
    torch_file(lambda torch, state: {"shared.weight": torch.zeros(2**28)})(folder)
    path = folder / "pytorch_model.bin"
    with zipfile.ZipFile(path) as old, zipfile.ZipFile(folder / "new", "w", zipfile.ZIP_DEFLATED) as new:
        for name in old.namelist():
            new.writestr(name, old.read(name))
    (folder / "new").rename(path)


class _Call:
    def __reduce__(self) -> Any:
        return os.system, ("touch executed",)


TORCH: dict[str, Change] = {
    "sparse": one(lambda torch, t: t.to_sparse()), "meta": one(lambda torch, t: t.to("meta")),
    "quantized": one(lambda torch, t: torch.quantize_per_tensor(t, 0.1, 0, torch.qint8)),
    "float8": one(lambda torch, t: t.to(torch.float8_e4m3fn)), "complex": one(lambda torch, t: t.to(torch.complex64)),
    "bool": one(lambda torch, t: t > 0), "int": one(lambda torch, t: t.int()), "scalar": one(lambda torch, t: t.sum()),
    "expanded": one(lambda torch, t: torch.zeros(1).expand(2**20, 2**20)), "none": one(lambda torch, t: t[:0]),
    "overlapping": one(lambda torch, t: torch.zeros(100).as_strided((2**17, 2**17), (0, 0))),
    "not finite": one(lambda torch, t: t * float("inf")),
    "integer keys": torch_file(lambda torch, s: dict(enumerate(s.values()))),
    "list": torch_file(lambda torch, s: list(s.values())), "nested": torch_file(lambda torch, s: {"model": s}),
    "a tensor": torch_file(lambda torch, s: s["shared.weight"]), "nothing": torch_file(lambda torch, s: {}),
    "itself": torch_file(lambda torch, s: s | {"loop": [s]}), "bomb": bomb,
    "numbers": torch_file(lambda torch, s: dict.fromkeys(s, 3.0)),
    "code": instead("pytorch_model.bin", pickle.dumps(_Call())),
    "deep": instead("pytorch_model.bin", b"\x80\x02" + b"]" * 10**5),
}  # fmt: skip


def array(shape: Any, dtype: str = "float32", data: bytes = b"") -> bytes:
    """An array as Flax packs it, in a dict."""
    import msgpack

    inner = msgpack.packb((shape, dtype, data))
    return msgpack.packb({"shared": {"embedding": msgpack.ExtType(1, inner)}})


def msgpack_cases() -> dict[str, Change]:
    """Needs msgpack, which Flax brings."""
    import msgpack

    pack = msgpack.packb
    contents = {
        "nothing": b"", "a number": pack(3), "a list": pack([1]), "deep": b"\x81\xa1a" * 10**5,
        "long map": b"\xdf\xff\xff\xff\xff", "long list": b"\xdd\xff\xff\xff\xff",
        "long text": b"\xdb\xff\xff\xff\xff", "integer keys": pack({1: {2: 3}}),
        "huge": array((2**40, 2**20)), "negative": array((-1,)), "object": array((1,), "object", bytes(8)),
        "void": array((1,), "V8", bytes(8)), "no type": array((1,), "x", bytes(8)), "shape of text": array("abc"),
        "complex": array((1,), "complex64", bytes(8)), "float8": array((8,), "float8_e4m3fn", bytes(8)),
        "chunks": pack({"a": {"__msgpack_chunked_array__": True, "shape": {"0": 2**40}, "chunks": {}}}),
        "extension": pack({"a": msgpack.ExtType(99, b"x")}), "half": array((2,), data=bytes(8))[:-3],
    }  # fmt: skip
    return {name: instead("flax_model.msgpack", content) for name, content in contents.items()}


def stored(spec: dict[str, Any], shapes: dict[str, tuple[int, ...]], **options: Any) -> Change:
    """An export whose arrays are constant, and so take next to nothing on disk."""

    def change(folder: Path) -> None:
        import tensorstore as ts

        edit("spec.json", **spec)(folder)
        base = {"driver": "ocdbt", "base": f"file://{folder / 'params' / 'state'}"}
        for name, shape in shapes.items():
            metadata = {"shape": shape, "data_type": "float32"} | options
            ts.open(
                {"driver": "zarr3", "kvstore": base | {"path": f"{name}/"}, "metadata": metadata},
                create=True, delete_existing=True,
            ).result()  # fmt: skip

    return change


def chunks(*shape: int) -> dict[str, Any]:
    """A regular grid of chunks of this shape."""
    return {"chunk_grid": {"name": "regular", "configuration": {"chunk_shape": shape}}}


ORBAX: dict[str, Change] = {
    "claims 4 TiB": stored(
        {"vocab_size": 2**24, "d_model": 2**16}, {"shared.embedding": (2**24, 2**16)}, **chunks(1024, 2**16)
    ),
    "claims 512 MiB": stored({"vocab_size": 2**24}, {"shared.embedding": (2**24, 8)}, **chunks(1024, 8)),
    "claims 128 MiB": stored({"vocab_size": 2**22}, {"shared.embedding": (2**22, 8)}, **chunks(2**22, 8)),
    "another shape": stored({}, {"shared.embedding": (2**40, 8)}, **chunks(2**20, 8)),
    "large chunks": stored({}, {"shared.embedding": (9, 8)}, **chunks(2**13, 2**13)),
    "dimensions": stored({}, {"shared.embedding": (1,) * 32}, **chunks(*(1,) * 32)),
    "no values": stored({}, {"shared.embedding": (0, 8)}, **chunks(1, 8)),
    "bool": stored({}, {"shared.embedding": (9, 8)}, data_type="bool", **chunks(9, 8)),
    "zeros": stored({}, {"shared.embedding": (9, 8)}, **chunks(9, 8)),
}  # fmt: skip


def manifest(files: Any, **others: Any) -> Change:
    """A manifest of these files."""
    return write("nash_jax.json", json.dumps({"manifest_version": 1, "files": files} | others).encode())


MANIFESTS: dict[str, Change] = {
    "list": manifest([]), "numbers": manifest({"config.json": 3}),
    "size of text": manifest({"a": {"size": "x", "sha256": ""}}),
    "outside": manifest({"../secret.safetensors": {"size": 5, "sha256": ""}}),
    "absolute": manifest({"/etc/passwd": {"size": os.stat("/etc/passwd").st_size, "sha256": ""}}),
    "device": manifest({"/dev/zero": {"size": 0, "sha256": ""}}), "NUL": manifest({"a\0b": {"size": 0, "sha256": ""}}),
    "surrogate": manifest({"\ud800": {"size": 0, "sha256": ""}}),
    "itself": manifest({"nash_jax.json": {"size": 1, "sha256": ""}}),
    "infinite": write("nash_jax.json", b'{"manifest_version": 1, "files": {"a": {"size": Infinity, "sha256": ""}}}'),
    "version": manifest({}, manifest_version=[]), "long": manifest({"x" * 5000: {"size": 0, "sha256": ""}}),
}  # fmt: skip
