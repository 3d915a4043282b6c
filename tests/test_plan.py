"""What a config's programs need on other devices: the very programs of a run, compiled from shapes."""

import dataclasses
import importlib.util
import math
import os
import subprocess
import sys
from pathlib import Path

import jax
import pytest
from commands import call

from nash_jax.axes import leaf_shapes
from nash_jax.benchmark import plan
from nash_jax.benchmark.compiled import Costs, compile_costs, find_collectives
from nash_jax.benchmark.plan_configs import documented_memory
from nash_jax.benchmark.plan_programs import (
    fitting_meshes,
    generation_program,
    phase_programs,
    planned_spec,
)
from nash_jax.benchmark.topologies import Topology
from nash_jax.config.schema import (
    Config,
    DistillConfig,
    EvaluateConfig,
    ModelConfig,
    PruneConfig,
    ShortenConfig,
    TaskConfig,
    TrainConfig,
)
from nash_jax.config.shipped import names
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.sharding import place_batch
from nash_jax.spec import preset
from nash_jax.testing import random_batch, random_params
from nash_jax.training.phases import PhasePrograms, make_objective

ROOT = Path(__file__).resolve().parents[1]
SIZES = {"d_model": 32, "d_ff": 64, "num_heads": 4, "encoder_layers": 1, "decoder_layers": 2}
PRUNED = PruneConfig(batch_size=8, distill=DistillConfig(logits=0.5, hidden=0.5))
CONFIG = Config(
    stages="finetune,prune,retrain",
    model=ModelConfig(**SIZES, dropout_rate=0.0),
    task=TaskConfig(max_source_length=16, max_target_length=8, max_new_tokens=7, vocabulary_size=64),
    finetune=TrainConfig(batch_size=8),
    shorten=ShortenConfig(decoder_layers=1),
    prune=PRUNED,
    retrain=TrainConfig(epochs=0.0),
)


def test_the_programs_are_those_of_the_run() -> None:
    """What is lowered from shapes is, word for word, what is lowered from the state that training starts with."""
    mesh, spec = make_mesh("fsdp:2,model:2"), planned_spec(CONFIG)
    planned = phase_programs(CONFIG, spec, mesh)
    assert list(planned) == [
        *(f"{name}: {part}" for name in ("finetune", "prune, distilled") for part in ("gradients", "update"))
    ]
    params = random_params(spec)
    short, short_params = select_layers(spec, params, decoder=[0])
    objective = make_objective(CONFIG, short, 1000)
    programs = PhasePrograms(CONFIG, "prune", short, mesh, 1000, teacher=spec, objective=objective)
    trained = {"model": short_params, **objective.initial_params(jax.random.key(0)), "projection": jax.numpy.eye(32)}
    state = programs.start(trained, 0)
    step, teacher = programs.make_step(state), programs.place_teacher(params)
    batch = place_batch(mesh, random_batch(spec, rows=8, source=16, target=8))
    assert planned["prune, distilled: gradients"]().as_text() == step.lower_gradients(state, teacher, batch).as_text()
    assert planned["prune, distilled: update"]().as_text() == step.lower_update(state).as_text()


def test_beams_of_other_devices_are_not_exchanged() -> None:
    """Each device selects and reorders the beams of its own rows; what all have in the end is the outputs."""
    config = dataclasses.replace(CONFIG, evaluate=EvaluateConfig(batch_size=8, num_beams=4))
    [lower] = generation_program(config, planned_spec(config), make_mesh("data:4")).values()
    found = find_collectives(lower().compile().as_text())
    assert set(found) == {"all-gather", "all-reduce"}
    assert found["all-gather"] == (1, 8 * 9 * 4) and found["all-reduce"][1] <= 16  # int32 [8, 9]; when to end


def test_a_mesh_is_chosen_and_every_program_compiled() -> None:
    small = Config(
        stages="finetune", model=CONFIG.model, task=CONFIG.task, finetune=CONFIG.finetune, evaluate=CONFIG.evaluate
    )
    topology = Topology("cpu:4", jax.devices()[:4], None, "fake")
    assert fitting_meshes(small, 4) == ["data:4", "fsdp:4", "fsdp:2,model:2"]
    rows, reason = plan.plan(small, planned_spec(small), topology, "")
    by_name = {(row.mesh, row.program): row.costs for row in rows}
    assert len(by_name) == len(rows) == 3 * 2 + 1
    assert reason.endswith("fits, fewest bytes exchanged, of data:4, fsdp:4, fsdp:2,model:2")
    whole, divided = (by_name[mesh, "finetune: update"] for mesh in ("data:4", "fsdp:4"))
    assert whole.arguments > 3 * divided.arguments
    exchanged = by_name["fsdp:4", "finetune: gradients"].collectives
    weights = 4 * sum(math.prod(shape) for shape in leaf_shapes(planned_spec(small)).values())
    assert exchanged["all-gather"][1] > weights / 2  # of which matrices are the most
    assert "all-gather" not in by_name["data:4", "finetune: gradients"].collectives
    table = plan.format_rows(rows, None)
    assert table.count("\n") == len(rows) + 1 and "| generate, 64 rows |" in table


@pytest.mark.parametrize(
    "words",
    [
        "RESOURCE_EXHAUSTED: Ran out of memory. Used 40.00G of 15.75G hbm. Exceeded by 24.25G.",
        "RESOURCE_EXHAUSTED: E1000: CompileTimeHbmOom: Ran out of memory on HBM, the total memory required for HLO "
        "temporaries (40.00G) exceeds available HBM (15.75G). HLO module: jit_update.",
    ],
)
def test_what_a_compiler_refuses(words):
    class Lowered:
        def compile(self):
            raise RuntimeError(words)

    costs = compile_costs(Lowered())
    assert costs.total == 40 * 2**30 and costs.refused == words[:200]


HLO = """
  %ag = f32[8,128]{1,0:T(8,128)} all-gather(f32[1,128]{1,0} %p), replica_groups={}, dimensions={0}
  %s = (bf16[4,16]{1,0}, bf16[32,16]{1,0}) all-gather-start(bf16[4,16]{1,0} %q), dimensions={0}
  %d = bf16[32,16]{1,0} all-gather-done((bf16[4,16]{1,0}, bf16[32,16]{1,0}) %s)
  %ar = (f32[], s32[3]{0}) all-reduce(f32[] %a, s32[3]{0} %b), to_apply=%add
  %c = (f32[2]{0}, f32[2]{0}, u32[], u32[]) collective-permute-start(f32[2]{0} %x)
  %f = f32[9]{0} fusion(f32[9]{0} %all-reduce.3), kind=kLoop, calls=%fused
"""


def test_collectives_are_counted() -> None:
    assert find_collectives(HLO) == {
        "all-gather": (2, 8 * 128 * 4 + 32 * 16 * 2), "all-reduce": (1, 4 + 3 * 4), "collective-permute": (1, 8),
    }  # fmt: skip


def test_what_does_not_fit_is_last() -> None:
    roomy, tight = Costs(10, 5, {}, None, 2.0), Costs(10, 50, {}, None, 1.0)
    assert plan.fits(roomy, 20) and not plan.fits(tight, 20) and plan.fits(tight, None)
    ranks = [plan._rank([plan.Row("m", "p", costs)], 20) for costs in (tight, roomy)]
    assert sorted(ranks) == ranks[::-1]
    refused = Costs(0, 30, {}, None, None, "Ran out of memory")
    assert not plan.fits(refused, None)
    assert "| no | none |" in plan.format_rows([plan.Row("m", "p", refused)], 20)


@pytest.mark.parametrize(("init", "depth"), [("google-t5/t5-base", 12), ("t5-11b", 24), ("somebody/else", None)])
def test_shapes_by_name(init: str, depth: int | None) -> None:
    config = Config(model=ModelConfig(init=init))
    if depth is None:
        with pytest.raises(plan.UserError, match="'somebody/else', whose shape is not here; expected a folder"):
            planned_spec(config)
    else:
        assert len(planned_spec(config).encoder) == depth


@pytest.mark.parametrize(("name", "billions"), [("t5-3b", 2.85), ("t5-11b", 11.3)])
def test_largest_presets(name: str, billions: float) -> None:
    """The numbers of parameters that Raffel et al. 2020, section 3.7, round."""
    count = sum(math.prod(shape) for shape in leaf_shapes(preset(name)).values())
    assert count / 1e9 == pytest.approx(billions, rel=0.01)


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        ([], "error: no --topology; expected --topology=v5e:4x4"),
        (["--topology=v5:4x4"], "error: --topology is 'v5:4x4' (did you mean 'v5p'?); expected a kind and a size"),
        (["--topology=cpu:64"], "error: --topology is 'cpu:64', with 4 fake devices; expected no more than there are"),
        (["--topology=cpu:4", "--mesh=data:3"], "error: config.mesh is 'data:3', 3 devices; expected sizes whose"),
    ],
)
def test_mistakes(flags: list[str], message: str) -> None:
    done = call(plan.main, "--config=configs/local.py", "--config.task.train_file=rows.jsonl", *flags)
    assert done.returncode == 2 and done.stderr.startswith(message), done.stderr


@pytest.mark.full
@pytest.mark.parametrize("name", [name for name in names() if documented_memory(name)])
def test_every_config_for_an_accelerator_compiles(name: str) -> None:
    """All programs, with a small model on two fake devices; `plan_configs` compiles them at full size."""
    small = [f"--config.model.{size}={number}" for size, number in (SIZES | {"decoder_layers": 4}).items()]
    done = call(plan.main, f"--config={name}", "--config.model.init=", *small, "--topology=cpu:2", "--mesh=data:2")
    assert done.returncode == 0, done.stderr
    rows = [row.split(" | ") for row in done.stdout.splitlines() if row.startswith("| data:2")]
    assert {"prune: gradients", "prune: update"} <= {row[1] for row in rows} and rows[-1][1].startswith("generate")
    assert all(row[4] == "yes" for row in rows)


@pytest.mark.slow
@pytest.mark.skipif(
    importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed: pip install 'nash_jax[aot]'"
)
def test_a_slice_of_tpus() -> None:
    """The command, for four chips that are not here: what TPUs' compiler alone says is there."""
    flags = ["--config=configs/local.py", *(f"--config.model.{name}={size}" for name, size in SIZES.items())]
    flags += ["--config.task.train_file=rows.jsonl", "--config.shorten.decoder_layers=1"]
    flags += ["--config.stages=finetune", "--config.task.vocabulary_size=64", "--config.finetune.optimizer=adamw"]
    command = [sys.executable, "-m", "nash_jax.benchmark.plan", *flags, "--topology=v5e:2x2", "--mesh=fsdp:2,model:2"]
    environment = {name: value for name, value in os.environ.items() if name != "XLA_FLAGS"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    head, _, _, *rows = done.stdout.strip().splitlines()
    assert head == "4 × TPU v5 lite of 16.0 GiB"
    assert [row.split(" | ")[1] for row in rows] == ["finetune: gradients", "finetune: update", "generate, 64 rows"]
    assert all("| yes |" in row and not row.endswith("|  |") for row in rows)  # it fits, and there is a time
