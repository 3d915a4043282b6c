"""What a process does before its first output: no package that is not needed, no program but that of the generation."""

import os
import subprocess
import sys

import pytest
from test_generate_cli import byte_tokenizer

from nash_jax.kernels.build import kernel_problem
from nash_jax.seq2seq import Seq2Seq
from nash_jax.testing import lively_model

PROGRAM = """
import sys
import nash_jax
model = nash_jax.load(sys.argv[1])
assert model.generate(["a text"], max_new_tokens=4)
print(" ".join(sorted({name.partition(".")[0] for name in sys.modules})))
"""


@pytest.fixture(scope="module")
def place(tmp_path_factory):
    place, tokenizer = tmp_path_factory.mktemp("models"), byte_tokenizer()
    model = Seq2Seq(*lively_model(0, layers=2, vocab_size=len(tokenizer)), tokenizer)
    model.save(place / "export")
    model.save_hf(place / "hf")
    return place


def first_output(folder) -> tuple[list[str], str]:
    """Packages that a process has imported after its first output, and what it logged."""
    environment = os.environ | {"JAX_LOG_COMPILES": "1"}
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, str(folder)], capture_output=True, text=True, check=True, env=environment
    )
    return done.stdout.split(), done.stderr


@pytest.mark.parametrize("kind", ["export", "hf"])
def test_the_first_output_needs_few_packages_and_one_program(kind, place):
    packages, log = first_output(place / kind)
    assert "jax" in packages
    unwanted = {"torch", "tensorflow", "datasets", "pandas", "pyarrow", "grain", "optax", "matplotlib", "ctranslate2"}
    assert not unwanted & set(packages)
    if kind == "hf":
        assert "orbax" not in packages
    programs = [line for line in log.splitlines() if "Finished XLA compilation" in line]
    assert len(programs) == (1 if not kernel_problem() else len(programs)), programs
