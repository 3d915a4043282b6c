"""What `import nash_jax` adds to XLA_FLAGS, and that sums are right with it."""

import os
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import pytest

from nash_jax.runtime.xla_flags import is_affected, set_xla_flags

ROOT = Path(__file__).resolve().parents[1]
FLAG = "--xla_cpu_experimental_ynn_fusion_type="
ADDED = f"{FLAG}individual_dot"
SUM = """
import os
import nash_jax
import jax, jax.numpy as jnp

assert not jax._src.xla_bridge.backends_are_initialized()
ids = jnp.arange(32_769, dtype=jnp.float32)
rows = jnp.stack((ids, jnp.zeros_like(ids), jnp.zeros_like(ids)), axis=1)
sums = jax.jit(jax.vmap(lambda row: jnp.sum((jnp.eye(3, dtype=jnp.float32) @ row) ** 2)))(rows)
print(jax.device_count(), float(sums[-1]), os.environ.get("XLA_FLAGS", ""), sep="\\n")
"""


@pytest.mark.parametrize("given", ["", "--xla_force_host_platform_device_count=2"])
def test_sums_are_right_beside_a_user_s_own_flags(given):
    """A vmapped sum of squares of 32,769 rows: jaxlib 0.10.2 alone gives 1065369600 or so for 32,768²."""
    done = subprocess.run(
        [sys.executable, "-c", SUM], cwd=ROOT, env=os.environ | {"XLA_FLAGS": given}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stderr
    devices, found, flags = done.stdout.splitlines()
    assert float(found) == 32_768**2
    added = [ADDED] if is_affected(metadata.version("jaxlib")) else []
    assert flags.split() == [*given.split(), *added] and devices == ("2" if given else "1")


@pytest.mark.parametrize(
    ("given", "becomes"),
    [
        ("", ADDED),
        ("--xla_dump_to=here", f"--xla_dump_to=here {ADDED}"),
        (f"{FLAG}dot", f"{FLAG}dot"),
        (f"{FLAG} --xla_dump_to=here", f"{FLAG} --xla_dump_to=here"),
    ],
)
def test_a_user_s_own_value_stays(monkeypatch, given, becomes):
    monkeypatch.setattr("nash_jax.runtime.xla_flags._jaxlib_version", lambda: "0.10.2")
    monkeypatch.setenv("XLA_FLAGS", given)
    set_xla_flags()
    set_xla_flags()
    assert os.environ["XLA_FLAGS"] == becomes


def test_other_versions_get_no_flag(monkeypatch):
    """One that a version does not know would end the process."""
    assert [v for v in ("0.9.2", "0.10.0", "0.10.2", "0.11.0", "0.12.0.1", "0.100.0", "1.0", "") if is_affected(v)] == [
        "0.10.0", "0.10.2", "0.11.0"
    ]  # fmt: skip
    monkeypatch.setattr("nash_jax.runtime.xla_flags._jaxlib_version", lambda: "0.12.0")
    monkeypatch.delenv("XLA_FLAGS")
    set_xla_flags()
    assert "XLA_FLAGS" not in os.environ
