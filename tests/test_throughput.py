"""Operations of a step against those that a program holds, and rates of a loop by a clock that is set."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nash_jax.models import build
from nash_jax.models.flops import forward_flops
from nash_jax.runtime.peaks import peak_flops
from nash_jax.testing import lively_model, random_params, random_spec
from nash_jax.training.throughput import StepFlops, Throughput


def product_flops(jaxpr) -> float:
    """Operations of all matrix products of a program, by the shapes of each."""
    total = 0.0
    for eqn in jaxpr.eqns:
        for value in eqn.params.values():
            for inner in jax.tree.leaves(value, is_leaf=lambda x: hasattr(x, "eqns") or hasattr(x, "jaxpr")):
                if hasattr(inner, "eqns") or hasattr(inner, "jaxpr"):
                    total += product_flops(getattr(inner, "jaxpr", inner))
        if eqn.primitive.name == "dot_general":
            (contracted, _), _ = eqn.params["dimension_numbers"]
            shape = eqn.invars[0].aval.shape
            total += 2 * math.prod(eqn.outvars[0].aval.shape) * math.prod(shape[axis] for axis in contracted)
    return total


@pytest.mark.parametrize("seed", range(6))
def test_operations_are_those_of_the_program(seed):
    """Ragged layers, gated and plain, all kinds of positions; no padding."""
    spec = random_spec(seed)
    params = random_params(spec)
    sources, targets = jnp.ones((3, 7), jnp.int32), jnp.ones((3, 5), jnp.int32)
    model = build(spec)
    program = jax.make_jaxpr(lambda p: model.apply({"params": p}, sources, sources > 0, targets))(params)
    counted = forward_flops(spec, np.full(3, 7), np.full(3, 5))
    assert counted.encoder + counted.decoder == product_flops(program.jaxpr)


def batch(*lengths: tuple[int, int]) -> dict[str, np.ndarray]:
    """Rows of so many source and target tokens, padded to 8."""
    ids = [np.arange(8) < np.asarray(side)[:, None] for side in zip(*lengths, strict=True)]
    return dict(zip(("input_ids", "labels"), (2 * rows.astype(np.int32) for rows in ids), strict=True))


def test_a_step_is_three_passes_and_one_of_a_teacher():
    spec, _ = lively_model(0)
    teacher, _ = lively_model(0, layers=2)
    sources, targets = StepFlops(spec).lengths(batch((4, 2), (8, 3)))
    assert sources.tolist() == [4, 8] and targets.tolist() == [2, 3]
    own, taught = (forward_flops(each, sources, targets) for each in (spec, teacher))
    plain = StepFlops(spec)(sources, targets)
    assert plain == 3 * (own.encoder + own.decoder)
    assert StepFlops(spec, teacher)(sources, targets) == plain + taught.encoder + taught.decoder
    frozen = StepFlops(spec, teacher, frozen_encoder=True, shared_encoder=True)(sources, targets)
    assert frozen == own.encoder + 3 * own.decoder + taught.decoder


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def run_step(throughput, clock, rows, waits, seconds, typical=True):
    with throughput.waiting():
        clock.now += waits
    clock.now += seconds - waits
    throughput.end_step(rows, typical=typical)


def test_rates_leave_out_what_compiled_and_what_is_between_steps():
    spec, _ = lively_model(0)
    flops, clock = StepFlops(spec), Clock()
    throughput = Throughput(flops, peak=2e6, clock=clock)
    run_step(throughput, clock, batch((8, 8)), waits=3, seconds=90, typical=False)
    assert throughput.rates() == {} and throughput.overall() == {} and throughput.describe() == ""
    run_step(throughput, clock, batch((4, 2), (8, 3)), waits=0.5, seconds=2)
    clock.now += 1000  # an evaluation
    run_step(throughput, clock, batch((4, 3), (8, 4)), waits=0.5, seconds=2)
    step = flops(np.array([4, 8]), np.array([2, 3])) + flops(np.array([4, 8]), np.array([3, 4]))
    rates = throughput.rates()
    assert rates == pytest.approx(
        {"tokens_per_second": 36 / 4, "gflops_per_second": step / 4e9, "utilization": step / 8e6, "input_wait": 0.25}
    )
    assert throughput.describe() == f"9 tokens/s, {100 * step / 8e6:.0f} % of peak, 25 % waiting for input"
    run_step(throughput, clock, batch((8, 4)), waits=0, seconds=1)
    assert throughput.rates()["tokens_per_second"] == 12 and throughput.describe().startswith("12 tokens/s")
    assert "waiting" not in throughput.describe()
    assert throughput.overall()["tokens_per_second"] == pytest.approx(48 / 5)


def test_without_a_peak_there_is_no_utilization():
    spec, _ = lively_model(0)
    clock = Clock()
    throughput = Throughput(StepFlops(spec), None, clock)
    run_step(throughput, clock, batch((8, 8)), waits=0, seconds=2)
    assert "utilization" not in throughput.rates() and throughput.describe() == "8 tokens/s"


def test_peaks_of_kinds():
    assert peak_flops("TPU v5 lite") == 197e12 and peak_flops("TPU v5p") == 459e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == 989e12 and peak_flops("NVIDIA L40S") == 362e12
    assert peak_flops("cpu") is None
