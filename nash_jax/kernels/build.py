"""Compiles the kernels where a C++ compiler is, once for each CPU and version of jaxlib, and tells XLA of them."""

import ctypes
import functools
import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
import threading
from pathlib import Path

import jax
import jaxlib

SWITCH = "NASH_JAX_KERNELS"  # environment variable; 0: never use the kernels; 1: say so if they cannot be used
TARGETS = tuple(
    f"nash_jax_{name}"
    for name in ("product", "self_attention", "cross_attention", "argmax", "quantized_product", "sequence_attention")
)
_SOURCES = tuple(Path(__file__).with_name(name) for name in ("decoding.cc", "encoding.cc"))
_COMPILERS = ("c++", "g++", "clang++")
_OPTIONS = ("-std=c++17", "-O3", "-fPIC", "-shared", "-w", "-Wno-psabi")
_FOR_THIS_CPU = (("-march=native",), ("-mcpu=native",), ())  # the first that the compiler knows
_TIMEOUT_S = 120


_lock = threading.Lock()


def is_asked_for() -> bool:
    """Whether the environment asks for the kernels by name."""
    return os.environ.get(SWITCH) == "1"


def kernel_problem() -> str:
    """Returns why the kernels cannot be used; an empty text: they can. The first call may compile, for some seconds."""
    with _lock:
        return _register()


def kernels_used() -> str:
    """Returns the version of the kernels that this process decodes with; `none`: without them, or nothing so far."""
    used = _register.cache_info().currsize and not _register()
    return hashlib.sha256(_read_sources().encode()).hexdigest()[:8] if used else "none"


def _read_sources() -> str:
    """Returns all of the text that is compiled, with what it includes."""
    return "".join(path.read_text() for path in (Path(__file__).with_name("common.h"), *_SOURCES))


@functools.cache
def _register() -> str:
    if os.environ.get(SWITCH) == "0":
        return f"{SWITCH} is 0"
    if jax.default_backend() != "cpu":
        return f"jax runs on {jax.default_backend()}"
    try:
        library = ctypes.CDLL(str(_find_library()))
        for name in TARGETS:
            jax.ffi.register_ffi_target(name, jax.ffi.pycapsule(getattr(library, name)), platform="cpu")
    except (OSError, subprocess.SubprocessError, AttributeError) as error:
        return str(error)
    return ""


def _find_library() -> Path:
    """Returns the compiled library from the user's cache folder, after compiling it if it is not there.

    Raises:
      OSError: if there is no compiler, it fails, or the folder cannot be written.
    """
    root = Path(os.environ.get("XDG_CACHE_HOME", Path.home() / ".cache"))
    library = root / "nash_jax" / "kernels" / f"{_key()}.so"
    if not library.exists():
        library.parent.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=library.parent) as folder:  # renamed: others see all of it, or nothing
            new = Path(folder) / "new.so"
            _compile(new)
            new.replace(library)
    return library


def _key() -> str:
    """Returns a name that changes with the source, the interface of XLA and the instructions of the CPU."""
    parts = [_read_sources(), jaxlib.__version__, *_OPTIONS, platform.machine(), _cpu_features()]
    return hashlib.sha256("\n".join(parts).encode()).hexdigest()[:24]


def _cpu_features() -> str:
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:  # not Linux
        return platform.processor()
    return next((line for line in lines if line.startswith(("flags", "Features"))), "")


def _compile(library: Path) -> None:
    """Compiles the sources.

    Raises:
      OSError: if there is no compiler, or it fails.
    """
    known = os.environ.get("CXX") or next(filter(None, map(shutil.which, _COMPILERS)), None)
    if known is None:
        raise OSError(f"no C++ compiler ({', '.join(_COMPILERS)})")
    for extra in _FOR_THIS_CPU:
        names = [str(path) for path in _SOURCES]
        command = [*known.split(), *_OPTIONS, *extra, "-I", jax.ffi.include_dir(), *names, "-o", str(library)]
        done = subprocess.run(command, capture_output=True, text=True, timeout=_TIMEOUT_S, check=False)
        if done.returncode == 0:
            return
    raise OSError(f"{known} failed: {' '.join(done.stderr.split())[:200]}")
