"""Runs of several processes: how they find each other, wait for each other and agree on values."""

import functools
import json
import math
import os
import time
from typing import Any

import jax
import numpy as np
from jax.experimental import multihost_utils

from nash_jax.errors import UserError
from nash_jax.runtime.peers import peer_timeout, stop_watching, watch_peers

# what a launcher sets for each process of a run of several: launch/README.md
_PROCESS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")
_DETECT = "NASH_JAX_DISTRIBUTED"
_LAST_SECONDS = 2.0  # that process 0 stays longer than the others
_SHUTDOWN_SECONDS = 60  # a process that failed waits so long for the others, then all end


def start_distributed() -> None:
    """Joins this process to a run of several, before any backend is used; in a run of one it does nothing.

    The environment says how: JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and
    JAX_PROCESS_ID, of which `jax` itself reads the first alone; or NASH_JAX_DISTRIBUTED=1 where `jax` finds
    all three (Slurm, Open MPI, Cloud TPU, Kubernetes).

    Raises:
      UserError: when the environment does not say enough.
    """
    detect, missing = os.environ.get(_DETECT), [name for name in _PROCESS if not os.environ.get(name)]
    if not detect and len(missing) == len(_PROCESS):
        return
    expected = f"{', '.join(_PROCESS)}; or {_DETECT}=1 under Slurm, Open MPI or on a Cloud TPU"
    if not detect and missing:
        raise UserError(f"{missing[0]} is not set", expected)
    # jax would catch SIGTERM and run until killed; every stage is resumable, so end at once
    jax.config.update("jax_enable_preemption_service", False)
    timeout = peer_timeout()
    if hasattr(jax.config, "jax_enable_recoverability"):  # else jax aborts all when another than process 0 ends
        jax.config.update("jax_enable_recoverability", True)
    initialize = functools.partial(
        jax.distributed.initialize,
        shutdown_timeout_seconds=_SHUTDOWN_SECONDS,
        heartbeat_timeout_seconds=2 * math.ceil(timeout),  # of jax itself, which names no process
    )
    try:
        if detect:
            initialize()
        else:  # nothing to detect: the process takes all devices of its host, or those in JAX_LOCAL_DEVICE_IDS
            address, count, index = (os.environ[name] for name in _PROCESS)
            initialize(address, int(count), int(index), cluster_detection_method="deactivate")
    except (ValueError, TypeError) as error:
        raise UserError(f"the processes of this run do not find each other: {error}", expected) from error
    watch_peers(jax.process_index(), jax.process_count(), timeout)


def end_together() -> None:
    """Ends what joined the processes, process 0 last: it keeps the store, without which jax aborts the others.

    Processes call this together, at the end of what they do.
    """
    if jax.process_count() == 1:
        return
    barrier("end")
    stop_watching()
    if is_host0():
        time.sleep(_LAST_SECONDS)
    else:
        jax.distributed.shutdown()


def is_host0() -> bool:
    """Whether this process writes the files that one process writes."""
    return jax.process_index() == 0


def barrier(name: str) -> None:
    """Waits for all processes."""
    if jax.process_count() > 1:
        multihost_utils.sync_global_devices(name)


def broadcast_from_host0(value: Any) -> Any:
    """Host 0's JSON-able value, on every process, so that all take the same decision.

    Processes call this together. A shared file system may show a new file late, and floats may differ between hosts.
    """
    if jax.process_count() == 1:
        return value
    text = np.frombuffer(json.dumps(value).encode(), np.uint8)
    size = int(multihost_utils.broadcast_one_to_all(np.int32(text.size)))
    return json.loads(multihost_utils.broadcast_one_to_all(np.resize(text, size)).tobytes())
