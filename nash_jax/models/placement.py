"""Where a model's parameters live on a mesh."""

from collections.abc import Mapping
from typing import Any

import jax
from jax.sharding import Mesh, NamedSharding

from nash_jax.axes import param_axes
from nash_jax.runtime.sharding import param_shardings, place_params
from nash_jax.spec import ModelSpec


def model_shardings(mesh: Mesh, spec: ModelSpec) -> dict[str, NamedSharding]:
    """Returns parameter path → sharding, for every parameter of a model.

    Args:
      mesh: the devices.
      spec: the model.
    """
    return param_shardings(mesh, param_axes(spec), spec.axis_sizes())


def place_model(spec: ModelSpec, params: Mapping[str, Any], mesh: Mesh | None) -> dict[str, Any]:
    """A model's parameters, or some of them, where they are computed with.

    Args:
      spec: the model.
      params: arrays of the host, stored ones, or those that are there already.
      mesh: the devices that they are split over; None: they are whole on the first.
    """
    return jax.device_put(dict(params)) if mesh is None else place_params(mesh, params, model_shardings(mesh, spec))
