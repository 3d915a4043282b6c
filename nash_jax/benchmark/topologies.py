"""Devices that are not here, to compile for: TPU slices by libtpu, NVIDIA GPUs by jax's CUDA plugin, fake CPUs."""

import contextlib
import math
import os
from typing import Any, NamedTuple

import jax

from nash_jax.errors import UserError, did_you_mean
from nash_jax.runtime.peaks import peak_flops

_GIB = 2**30
_FORCED = "xla_force_host_platform_device_count"  # the number of fake devices, given by the user
_EXPECTED = "a kind and a size: v5e:4x4, v6e:16x16, h200:8, or cpu:8 for fake devices"
_H200 = """
gpu_device_info {
  threads_per_block_limit: 1024  threads_per_warp: 32  threads_per_core_limit: 2048  core_count: 132  fpus_per_core: 128
  shared_memory_per_block: 49152  shared_memory_per_core: 233472  shared_memory_per_block_optin: 232448
  registers_per_core_limit: 65536  registers_per_block_limit: 65536
  block_dim_limit_x: 2147483647  block_dim_limit_y: 65535  block_dim_limit_z: 65535
  memory_bandwidth: 4800000000000  l2_cache_size: 52428800  clock_rate_ghz: 1.98  device_memory_size: 150000000000
  cuda_compute_capability { major: 9 minor: 0 }
}
platform_name: "CUDA"  dnn_version_info { major: 9 minor: 8 patch: 0 }  device_description_str: "NVIDIA H200"
"""  # of one chip, as XLA describes it


class Topology(NamedTuple):
    """What is compiled for.

    Attributes:
      name: as it was given.
      devices: of the slice or the machine.
      memory: bytes of one device; None where there is no limit to compare with.
      chip: what the device is called.
    """

    name: str
    devices: Any
    memory: int | None
    chip: str


_NO_MACHINE = {  # to ask about itself, or that only one process could use; libtpu says so at length
    "TPU_SKIP_MDS_QUERY": "1", "ALLOW_MULTIPLE_LIBTPU_LOAD": "1", "TPU_STDERR_LOG_LEVEL": "3", "TPU_MIN_LOG_LEVEL": "3",
}  # fmt: skip
_TPU_MEMORY = {"v4": 32 * _GIB, "v5e": 16 * _GIB, "v5p": 95 * _GIB, "v6e": 32 * _GIB}
_GPUS = {"h200": (_H200, 141_000_000_000)}
GPUS = tuple(_GPUS)  # kinds that `gpu_devices` knows
_DEVICE_KINDS = {"v4": "TPU v4", "v5e": "TPU v5 lite", "v5p": "TPU v5", "v6e": "TPU v6 lite", "h200": "NVIDIA H200"}
_KINDS = (*_TPU_MEMORY, *_GPUS, "cpu")


def find_topology(name: str) -> Topology:
    """Returns the devices of that name. To be called before jax is used: the process sees only CPUs then.

    Args:
      name: such as `v5e:4x4`, `h200:8` or `cpu:8`.

    Raises:
      UserError: for another name, a size that the kind does not have, or a missing package.
    """
    _, memory = describe_topology(name)
    kind, _, size = name.partition(":")
    jax.config.update("jax_platforms", "cpu")
    if kind == "cpu":
        return Topology(name, _fake_devices(name, size), None, "fake CPU device")
    devices = _tpu(name) if kind in _TPU_MEMORY else _gpu(name, kind, size)
    return Topology(name, devices, memory, devices[0].device_kind)


def describe_topology(name: str) -> tuple[int, int | None]:
    """Returns how many devices a topology has, and the bytes of one (None: no limit); no compiler is asked.

    Args:
      name: as `find_topology` takes it.

    Raises:
      UserError: for another name.
    """
    kind, _, size = name.partition(":")
    sides = size.split("x")
    if kind not in _KINDS or not all(side.isdecimal() and int(side) for side in sides):
        raise UserError(f"--topology is {name!r}{did_you_mean(kind, _KINDS)}", _EXPECTED)
    memory = _TPU_MEMORY.get(kind) or (_GPUS[kind][1] if kind in _GPUS else None)
    return math.prod(map(int, sides)), memory


def topology_peak(name: str) -> float | None:
    """Returns the operations a second of one device in bfloat16, as its maker says; None of fake devices.

    Args:
      name: as `find_topology` takes it.
    """
    return peak_flops(_DEVICE_KINDS.get(name.partition(":")[0], ""))


def _fake_devices(name: str, size: str) -> Any:
    count = int(size) if size.isdecimal() else 0
    if _FORCED not in os.environ.get("XLA_FLAGS", ""):
        with contextlib.suppress(RuntimeError):  # they have been counted before
            jax.config.update("jax_num_cpu_devices", count)
    if not 0 < count <= jax.device_count():
        raise UserError(f"--topology is {name!r}, with {jax.device_count()} fake devices", "no more than there are")
    return jax.devices()[:count]


def _tpu(name: str) -> Any:
    from jax.experimental import topologies  # here and below, for it looks for plugins

    for variable, value in _NO_MACHINE.items():
        os.environ.setdefault(variable, value)
    try:
        return topologies.get_topology_desc(platform="tpu", topology_name=name).devices
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        raise _unknown(name, error, "libtpu") from error


def gpu_devices(kind: str, count: int = 1) -> Any:
    """Returns so many GPUs that are not here.

    Args:
      kind: of `GPUS`.
      count: of devices in one machine.

    Raises:
      RuntimeError, ValueError, FileNotFoundError: from jax, where its CUDA plugin is missing or refuses.
    """
    from jax.experimental import topologies

    topology = f"1x1x{count}"
    return topologies.get_topology_desc(platform="cuda", target_config=_GPUS[kind][0], topology=topology).devices


def _gpu(name: str, kind: str, size: str) -> Any:
    if not size.isdecimal() or int(size) == 0:
        raise UserError(f"--topology is {name!r}", _EXPECTED)
    try:
        return gpu_devices(kind, int(size))
    except (RuntimeError, ValueError, FileNotFoundError) as error:
        raise _unknown(name, error, "jax[cuda13]") from error


def _unknown(name: str, error: Exception, package: str) -> UserError:
    reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
    return UserError(
        f"--topology is {name!r}: {reason[:200]}", _EXPECTED, f"is {package} installed? pip install 'nash_jax[aot]'"
    )
