"""Twenty steps of each kind of training on several meshes of eight fake devices: a program of its own, for tests.

python mesh_runs.py FOLDER [others]: writes results.json.
"""

import json
import sys
from pathlib import Path

import jax
import numpy as np

from nash_jax.config.schema import Config, DistillConfig, PruneConfig, ShortenConfig, TrainConfig
from nash_jax.generation.engine import Engine
from nash_jax.generation.options import GenerationOptions
from nash_jax.pruning.compact import compact
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.runtime.mesh import make_mesh
from nash_jax.runtime.sharding import describe_split, place, place_batch, to_host
from nash_jax.spec import dense_spec
from nash_jax.testing import random_batch, random_params
from nash_jax.training.checkpoint import Checkpointer
from nash_jax.training.phases import PhasePrograms, make_objective

MESHES = ("one", "data:8", "fsdp:8", "data:2,fsdp:2,model:2")
STEPS = 20
SPEC = dense_spec(
    vocab_size=48, d_model=16, d_ff=32, num_heads=4, encoder_layers=1, decoder_layers=2, dropout_rate=0.1, gated=True,
    activation="gelu_tanh",
)  # fmt: skip
COMMON = {"batch_size": 16, "learning_rate": 1e-2, "epochs": 1.0}
CONFIG = Config(
    finetune=TrainConfig(**COMMON, optimizer="adafactor", accumulation=2, average_decay=0.9),
    shorten=ShortenConfig(decoder_layers=1),
    prune=PruneConfig(
        **COMMON, prepruning_epochs=0.0, sparsity_warmup_epochs=0.5, sparsity=0.3,
        distill=DistillConfig(logits=0.5, hidden=0.5),
    ),
    retrain=TrainConfig(**COMMON, optimizer="muon"),
)  # fmt: skip


BATCHES = [random_batch(SPEC, rows=16, source=8, target=8, seed=seed) for seed in range(STEPS)]


def mesh_of(name):
    """A mesh by name; `one` is the first device."""
    return make_mesh("", jax.devices()[:1]) if name == "one" else make_mesh(name)


def device_bytes(tree):
    """Bytes of the arrays on the first device, counted by the shards that lie there."""
    first = jax.local_devices()[0]
    return sum(s.data.nbytes for x in jax.tree.leaves(tree) for s in x.addressable_shards if s.device == first)


def train(mesh, programs, params, teacher, batches):
    """The state after these batches, the loss of each, and how the state is divided at the start."""
    state = programs.start(params, 7)
    shapes = programs.shapes(params)
    found = {
        "bytes": {"params": device_bytes(state["params"]), "opt_state": device_bytes(state["opt_state"])},
        "says": describe_split(shapes, jax.tree.map(lambda x: x.sharding, shapes), mesh),
    }
    step, teacher_params = programs.make_step(state), programs.place_teacher(teacher)
    state, found["losses"] = advance(mesh, step, state, teacher_params, batches[: STEPS // 2])
    middle, (state, more) = state_on_host(state), advance(mesh, step, state, teacher_params, batches[STEPS // 2 :])
    found["losses"] += more
    assert jax.tree.map(lambda x: x.sharding, state) == jax.tree.map(lambda x: x.sharding, shapes)
    return state, found, (middle, shapes, step, teacher_params)


def advance(mesh, step, state, teacher_params, batches):
    """The state after these batches, and the loss of each."""
    losses = []
    for batch in batches:
        state, metrics = step(state, teacher_params, place_batch(mesh, batch))
        losses.append(float(metrics["loss"]))
    return state, losses


def state_on_host(state):
    """A copy: the next step takes the buffers."""
    return jax.tree.map(np.array, state)


def run(name, folder):
    """What one mesh gives: pruning with gates and a teacher, the compact model, and its outputs.

    `fsdp:8` leaves a checkpoint of the half of its steps, from which the last mesh goes on once more.
    """
    mesh, params = mesh_of(name), random_params(SPEC, scale=0.3)
    spec, short = select_layers(SPEC, params, decoder=[0])
    objective = make_objective(CONFIG, spec, STEPS)
    programs = PhasePrograms(CONFIG, "prune", spec, mesh, STEPS, teacher=SPEC, objective=objective)
    start = objective.initial_params(jax.random.key(3)) | {"projection": np.eye(SPEC.d_model, dtype=np.float32)}
    state, found, (middle, shapes, step, teacher) = train(mesh, programs, {"model": short} | start, params, BATCHES)
    if name == "fsdp:8":
        save(folder, jax.tree.map(place, middle, jax.tree.map(lambda x: x.sharding, shapes)))
    if name == MESHES[-1]:
        resumed, _ = Checkpointer(folder).restore(shapes)
        found["resumed"] = advance(mesh, step, resumed, teacher, BATCHES[STEPS // 2 :])[1]
    gates = to_host(state["params"]["gates"])
    masks = objective.final_masks(gates)
    small, small_params = compact(spec, to_host(state["params"]["model"]), masks)
    tokens = generate(Engine(small, small_params, mesh=mesh), 16)
    found |= {"gates": gates["log_alpha"].tolist(), "masks": {key: value.tolist() for key, value in masks.items()}}
    return found | {"spec": small.to_json(), "tokens": tokens}


def save(folder, state):
    """A checkpoint of the middle."""
    checkpointer = Checkpointer(folder)
    checkpointer.save(STEPS // 2, state, {"seconds": 0.0}, None)
    checkpointer.close()


def run_others(name):
    """Optimizers whose state has other shapes than the parameters; averages; outputs from a split state."""
    mesh, params, found = mesh_of(name), random_params(SPEC, scale=0.3), {}
    for phase in ("finetune", "retrain"):
        programs = PhasePrograms(CONFIG, phase, SPEC, mesh, STEPS)
        state, found[phase], _ = train(mesh, programs, {"model": params}, {}, BATCHES)
    engine = Engine(SPEC, params, mesh=mesh)
    engine.update_params(state["params"]["model"])
    sampled = {"do_sample": True, "seed": 5}
    tokens = [generate(engine, rows, **own) for rows, own in ((16, {"num_beams": 2}), (16, sampled), (1, {}))]
    return found | {"tokens": tokens}


def generate(engine, rows, **options):
    """Tokens of the first rows."""
    ids = np.random.default_rng(0).integers(2, SPEC.vocab_size, (16, 8))[:rows]
    return engine.generate(ids, np.ones_like(ids), GenerationOptions(max_new_tokens=7, **options)).tolist()


def resume(first, second, folder):
    """Losses of three steps on one mesh and, from its checkpoint, three on another."""
    params, losses = random_params(SPEC, scale=0.3), []
    for name, part in ((first, BATCHES[:3]), (second, BATCHES[3:6])):
        mesh = mesh_of(name)
        programs = PhasePrograms(CONFIG, "retrain", SPEC, mesh, STEPS)
        state, found = train(mesh, programs, {"model": params}, {}, part, folder if losses else None)
        if not losses:
            checkpointer = Checkpointer(folder)
            checkpointer.save(3, state, {}, None)
            checkpointer.close()
        losses += found["losses"]
    return losses


def main(folder, others):
    assert jax.device_count() == 8
    if others:
        found = {name: run_others(name) for name in (MESHES[0], MESHES[-1])}
    else:
        found = {name: run(name, folder / "checkpoints") for name in MESHES}
    (folder / "results.json").write_text(json.dumps(found))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:] == ["others"])
