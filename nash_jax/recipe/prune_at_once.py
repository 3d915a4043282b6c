"""Pruning without training: importances on some rows, masks under the budget, outputs fitted to what is left."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from jax.sharding import Mesh
from safetensors.numpy import load_file, save_file

from nash_jax.axes import mask_sites, param_axes
from nash_jax.errors import UserError
from nash_jax.models.placement import place_model
from nash_jax.pruning.budget import close_least_important, initial_log_alpha
from nash_jax.pruning.compact import fold
from nash_jax.pruning.gates import HardConcreteGates
from nash_jax.pruning.lagrangian import Constraint
from nash_jax.pruning.least_squares import refitted_outputs
from nash_jax.pruning.methods import METHODS, make_constraints, make_gates, target_sparsities
from nash_jax.recipe.calibration import Calibration, first_batches, gram_groups
from nash_jax.recipe.context import RunContext
from nash_jax.recipe.layer_importance import ForcedLoss, tokenize_first
from nash_jax.runtime.files import read_json, write_text
from nash_jax.runtime.multihost import broadcast_from_host0, is_host0
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten


def prune_at_once(context: RunContext, folder: Path) -> dict[str, Any]:
    """Masks by importance, and a model whose outputs are fitted to them; saves both, as training with gates does.

    Args:
      context: of the run.
      folder: of the stage.

    Returns:
      `losses` per target token on the first validation rows: of the model as it came (`before`), `cut`, and `fitted`;
      `importance` of whole layers and sub-layers.
    """
    spec, params = context.stored("shorten")
    calibration = _calibrate(context, spec, params)
    masks, found = _masks_of(context, spec, calibration)
    fitted = fit_outputs(calibration, spec, params, masks)
    context.save(folder, spec, fitted)
    if is_host0():
        save_file(masks, folder / "masks.safetensors")
    pairs = tokenize_first(context.rows["validation"], context.tokenizer_of("prune"), context.config.task, folder)
    loss = ForcedLoss(pairs, spec.pad_id, context.config.model, context.split_mesh)
    models = {"before": (params, {}), "cut": (params, masks), "fitted": (fitted, masks)}
    losses = {name: loss(spec, _masked(spec, *model, context.split_mesh)) for name, model in models.items()}
    return {"steps": 0, "expected_encoder_sparsity": 0.0, "losses": losses, "importance": _coarse(found)}


def _masks_of(
    context: RunContext, spec: ModelSpec, calibration: Calibration
) -> tuple[dict[str, np.ndarray], Mapping[str, np.ndarray]]:
    """Masks that the search found, or those of least importance under the budget; and the importances."""
    own, method = context.config.prune, context.config.method
    if METHODS[method].searches:
        return dict(load_file(context.workdir.stage("search") / "masks.safetensors")), {}
    constraints = make_constraints(spec, target_sparsities(method, own.sparsity))
    found = calibration.importance(own.importance)
    return _agreed(close_least_important(_of_gates(found, make_gates(spec, method)), list(constraints.values()))), found


def fit_outputs(
    calibration: Calibration, spec: ModelSpec, params: Mapping[str, Any], masks: Mapping[str, np.ndarray]
) -> dict[str, Any]:
    """Parameters whose output projections are fitted to what masks leave, as `refit_outputs` does.

    What is fitted is split over the calibration's mesh where it has one, and all else as it came.

    Args:
      calibration: of the model, with the rows to fit on.
      spec: the model.
      params: its parameters.
      masks: of heads and units, zeros and ones.
    """
    flat = flatten(params)
    for group in gram_groups(spec, [axis for axis, mask in masks.items() if not mask.all()]):
        fitted: Mapping[str, Any] = refitted_outputs(spec, params, masks, calibration.grams(group))
        flat |= fitted if calibration.mesh is None else flatten(place_model(spec, unflatten(fitted), calibration.mesh))
    return unflatten(flat)


def importance_start(
    context: RunContext, folder: Path, spec: ModelSpec, params: Any, gates: HardConcreteGates,
    constraints: Mapping[str, Constraint],
) -> dict[str, np.ndarray]:  # fmt: skip
    """log_alpha of each gate, by importance; the same on every process.

    It is measured once, however often a run is stopped.

    Args:
      context: of the run.
      folder: of the stage.
      spec: the model that gates are trained on.
      params: its parameters.
      gates: the gates.
      constraints: part → constraint.
    """
    path = folder / "start.json"
    if broadcast_from_host0(path.exists()):
        return _agreed(read_json(path) if is_host0() else {})
    found = _calibrate(context, spec, params).importance(context.config.prune.importance)
    start = _agreed(initial_log_alpha(_of_gates(found, gates), list(constraints.values())))
    if is_host0():
        write_text(path, json.dumps({name: value.tolist() for name, value in start.items()}))
    return start


def _calibrate(context: RunContext, spec: ModelSpec, params: Any) -> Calibration:
    own = context.config.prune
    rows = first_batches(context.batches(own, "prune"), own.importance_rows)
    return Calibration(spec, params, rows, context.config.model, mesh=context.split_mesh)


def _of_gates(found: Mapping[str, np.ndarray], gates: HardConcreteGates) -> dict[str, np.ndarray]:
    """What gates need of the importances.

    Raises:
      UserError: for values that are not finite.
    """
    values = {group.name: found[group.name] for group in gates.groups}
    for name, value in values.items():
        if not np.isfinite(value).all():
            raise UserError(f"the importance of {name} is not finite", "finite losses", "check the dense model")
    return values


def _agreed(arrays: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
    """The main process's float32 arrays."""
    lists = broadcast_from_host0({name: np.asarray(value).tolist() for name, value in arrays.items()})
    return {name: np.asarray(value, np.float32) for name, value in lists.items()}


def _masked(spec: ModelSpec, params: Any, masks: Mapping[str, np.ndarray], mesh: Mesh | None) -> Any:
    """Parameters on the devices with the masks of heads and units folded in."""
    return place_model(spec, unflatten(fold(params, masks, param_axes(spec), mask_sites(spec))), mesh)


def _coarse(found: Mapping[str, np.ndarray]) -> dict[str, float]:
    """Importance of whole layers and sub-layers."""
    return {name: float(value) for name, value in found.items() if np.ndim(value) == 0}
