"""The main command with each method but NASH's own: what it leaves behind agrees with itself."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
from commands import call
from html_page import Page
from safetensors.numpy import load_file
from seeds import some
from test_recipe import arguments

import nash_jax
from nash_jax.main import main
from nash_jax.spec import SIDES
from nash_jax.testing import random_batch
from nash_jax.training.writers import read_rows
from nash_jax.tree import count_params

COMMON = {  # what compiles fast, for that is nearly all of the time, and lets gates go far in few steps
    **{f"{phase}.optimizer": "adamw" for phase in ("finetune", "prune", "retrain")},
    **{f"{phase}.eval_every": 10.0 for phase in ("finetune", "prune", "retrain")},
    "model.decoder_layers": 2, "model.dropout_rate": 0.0, "finetune.epochs": 0.0, "retrain.epochs": 0.0,
    "prune.epochs": 0.5, "prune.sparsity_warmup_epochs": 0.1, "prune.gate_learning_rate": 0.6, "prune.sparsity": 0.5,
    "task.max_eval_examples": 32, "evaluate.batch_size": 32, "benchmark.batch_sizes": "(32,)", "benchmark.runs": 3,
    "shorten.decoder_layers": 1,
}  # fmt: skip
OWN = {
    "nash_auto": {},
    "cofi": {"retrain.epochs": 0.04},
    "drop": {"shorten.encoder_layers": 1},
    "none": {"finetune.epochs": 0.04},
}
LAYERS = {"encoder": 2, "decoder": 2}

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module", params=some(["cofi", "drop", "none", "nash_auto"], few=3))
def run(request, tmp_path_factory) -> tuple[str, Path, str]:
    """Method, workdir, and what the command printed."""
    workdir = tmp_path_factory.mktemp(request.param) / "run"
    done = call(main, *arguments(workdir, method=request.param, **COMMON | OWN[request.param]))
    assert done.returncode == 0, done.stderr
    return request.param, workdir, done.stdout + done.stderr


def test_a_run_of_a_method(run, logits) -> None:
    method, workdir, printed = run
    report = json.loads((workdir / "report.json").read_text())
    masks_file = workdir / "prune" / "masks.safetensors"
    masks = load_file(masks_file) if masks_file.exists() else {}
    assert report["method"] == method
    check_params(method, report["params"])
    check_export(workdir, report)
    check_page(method, workdir, report)
    assert report["stages"]["prune"]["steps"] == (34 if masks else 0)
    if masks:
        check_masks(workdir, masks, logits)
        rows = [row for row in read_rows(workdir / "metrics.jsonl") if row["phase"] == "prune"]
        assert ("lambda_1_decoder" in rows[-1]) == (method == "nash_auto")
    counted = [f"{100 * report['params'][f'{side}_sparsity']:.1f} % counted" for side in SIDES]
    assert all(f"{side} sparsity {said}" in printed for side, said in zip(SIDES, counted, strict=True))


def check_params(method, params) -> None:
    expected = {"dense", "pruned", "encoder_sparsity", "decoder_sparsity", "expected_encoder_sparsity"}
    names = ("kept_{}_layers", "dense_{}_layers", "removed_{}_sublayers", "dense_{}_sublayers")
    expected |= {name.format(side) for name in names for side in SIDES}
    expected |= {"expected_decoder_sparsity"} if method in ("nash_auto", "cofi") else set()
    assert params.keys() == expected
    for side, depth in LAYERS.items():
        assert params[f"dense_{side}_layers"] == depth
        assert set(params[f"kept_{side}_layers"]) <= set(range(depth))
    sparsities = [params[f"{side}_sparsity"] for side in SIDES]
    if method == "none":
        assert sparsities == [0, 0] and params["pruned"] == params["dense"]
    else:
        assert all(0 < share < 1 for share in sparsities) and params["pruned"] < params["dense"]
    if method == "drop":
        assert sparsities == [pytest.approx(1 / 2), pytest.approx(1 / 2)]
        assert (params["kept_encoder_layers"], params["kept_decoder_layers"]) == ([0], [0])
    assert (params["expected_encoder_sparsity"] > 0) == (method in ("nash_auto", "cofi"))


def check_export(workdir, report) -> None:
    model, dense = (nash_jax.load(workdir / folder) for folder in ("export", "finetune/model"))
    assert (
        count_params(model.params) == report["params"]["pruned"]
        and count_params(dense.params) == report["params"]["dense"]
    )
    for side in SIDES:  # what the report calls kept is what has anything in the export
        alive = [sum(size for _, size in layer.sublayers().values()) > 0 for layer in getattr(model.spec, side)]
        assert sum(alive) == len(report["params"][f"kept_{side}_layers"])
    assert len(model.generate(["hello"], max_new_tokens=3)) == 1


def check_page(method, workdir, report) -> None:
    page = Page((workdir / "report.html").read_text())
    assert page.faults == [] and "What survived" in page.texts
    [spoken] = [label for label in page.labels() if label.startswith("What survived. ")]
    params, spec = report["params"], nash_jax.load(workdir / "export").spec
    blocks = dict(block.split(": kept ", 1) for block in spoken.removeprefix("What survived. ").split("; "))
    assert blocks.keys() == {"Encoder", "Decoder"} | ({"d_model"} if method == "cofi" else set())
    for side, depth in LAYERS.items():
        said, kept = blocks[side.capitalize()], params[f"kept_{side}_layers"]
        if "the dense model's" in said:
            assert said.startswith(f"{len(kept)} of the dense model's {depth} layers")
            continue
        counts = {axis: 0 for axis in ("heads", "units")}
        for axis, size in spec.sublayers().values():
            counts[axis.rpartition(".")[2]] += size if axis.startswith(side) else 0
        found = {axis: int(number) for number, axis in re.findall(r"(\d+) of \d+ (heads|units)", said)}
        assert found == counts
    if method == "cofi":
        assert blocks["d_model"] == f"{spec.d_model} of 32 dimensions"


def check_masks(workdir, masks, logits) -> None:
    """The trained dense model under the final masks is the compacted one."""
    dense, small = (nash_jax.load(workdir / stage / "model") for stage in ("prune", "compact"))
    assert any(np.any(mask == 0) for mask in masks.values()) and any(np.any(mask % 1) for mask in masks.values())
    batch = random_batch(dense.spec)
    masked = logits(dense.spec, dense.params, batch, masks)
    assert np.abs(masked).max() > 1e-2
    assert np.abs(logits(small.spec, small.params, batch) - masked).max() <= 1e-5 * np.abs(masked).max()
