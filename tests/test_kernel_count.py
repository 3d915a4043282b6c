"""Kernels of a decoding step: how they are counted, and that a GPU's program does not have more of them than it had."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from nash_jax.benchmark import kernels
from nash_jax.generation.engine import Engine
from nash_jax.generation.inputs import pad_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.spec import preset
from nash_jax.testing import lively_model, random_sources

TEXT = """HloModule jit_loop, is_scheduled=true
%sum (a: f32[], b: f32[]) -> f32[] {
  %a = f32[] parameter(0)
  %b = f32[] parameter(1)
  ROOT %add.1 = f32[] add(%a, %b)
}
%commands (x: f32[4,8]) -> f32[4,8] {
  %x = f32[4,8]{1,0} parameter(0)
  ROOT %gemm = f32[4,8]{1,0} custom-call(%x, %x), custom_call_target="__cublas$gemm"
}
%body (state: (s32[], f32[4,8], /*index=2*/bf16[8])) -> (s32[], f32[4,8], bf16[8]) {
  %state = (s32[], f32[4,8]{1,0}, /*index=2*/bf16[8]{0}) parameter(0)
  %x.1 = f32[4,8]{1,0} get-tuple-element(%state), index=1
  %scale = bf16[8]{0} get-tuple-element(%state), index=2
  %fused = f32[4,8]{1,0} fusion(%x.1, %scale), kind=kLoop, calls=%some
  %made = f32[4,8]{1,0} call(%fused), to_apply=%commands
  ROOT %out = (s32[], f32[4,8]{1,0}, bf16[8]{0}) tuple(%x.1, %made, %scale)
}
ENTRY %main (p: f32[4,8]) -> f32[4,8] {
  %p = f32[4,8]{1,0} parameter(0)
  %loop = (s32[], f32[4,8]{1,0}, /*index=2*/bf16[8]{0}) while(%p), condition=%cond, body=%body
  ROOT %found = f32[4,8]{1,0} get-tuple-element(%loop), index=1
}
"""


def test_kernels_of_a_loop_are_counted():
    found = kernels.count_step(TEXT, 7)
    assert found.kinds == {"fusion": 1, "custom-call __cublas$gemm": 1}
    assert found.bytes == (128 + 16 + 128) + (128 + 128 + 128)
    assert found.temporary == 7


def test_a_loop_that_xla_compiled_has_kernels():
    def loop(x, w):
        return jax.lax.fori_loop(0, 5, lambda _, y: jnp.sort(jnp.tanh(y @ w), axis=1), x)

    x = jnp.ones((8, 64))
    text = jax.jit(loop).lower(x, jnp.ones((64, 64))).compile().as_text()
    assert sum(kernels.count_step(text, 0).kinds.values()) >= 2


def test_a_second_row_of_padding_changes_no_token():
    spec, params = lively_model(0)
    (ids, mask), engine = random_sources(spec, 1, rows=1), Engine(spec, params)
    inputs = [pad_inputs(ids, mask, np.arange(1), spec.pad_id, platform) for platform in ("cpu", "gpu")]
    assert [len(x.input_ids) for x in inputs] == [1, 2]
    options = GenerationOptions(max_new_tokens=8)
    found = [engine.generate_padded(x, options) for x in inputs]
    np.testing.assert_array_equal(*found)


@pytest.mark.parametrize(("batch_size", "num_beams", "most"), [(1, 1, 14), (8, 1, 14), (1, 4, 14), (8, 4, 15)])
def test_a_step_on_a_gpu_has_no_more_kernels(batch_size, num_beams, most):
    """Of T5-base, a layer; from two depths, so that what a step does once is left out."""
    if problem := kernels.cuda_problem():
        pytest.skip(problem)
    spec = dataclasses.replace(preset("t5-base"), encoder=preset("t5-base").encoder[:1])
    given = {"batch_size": batch_size, "num_beams": num_beams, "source_length": 64, "new_tokens": 16}
    counts = [
        sum(kernels.count_kernels(dataclasses.replace(spec, decoder=spec.decoder[:n]), "h200", given).kinds.values())
        for n in (1, 2)
    ]
    assert counts[1] - counts[0] <= most


def test_mistakes(capsys):
    assert kernels.main(["kernels", "--preset=t5-base", "--device=h100"]) == 2
    assert "--device is 'h100'; expected one of h200" in capsys.readouterr().err
    assert kernels.main(["kernels"]) == 2
    assert "command line: no model, or two" in capsys.readouterr().err
