"""Where a model's parameters live on a mesh."""

from jax.sharding import Mesh, NamedSharding

from nash_jax.axes import param_axes
from nash_jax.runtime.sharding import param_shardings
from nash_jax.spec import ModelSpec


def model_shardings(mesh: Mesh, spec: ModelSpec) -> dict[str, NamedSharding]:
    """Returns parameter path → sharding, for every parameter of a model.

    Args:
      mesh: the devices.
      spec: the model.
    """
    return param_shardings(mesh, param_axes(spec), spec.axis_sizes())
