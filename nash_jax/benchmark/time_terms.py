"""Gates that pay milliseconds: a latency table as the size terms of a constraint.

A sub-layer costs a part because it is there and a part for each head or unit. Both are read off the line through the
table's times of one head or unit and of all; in between a curve may differ a little.
"""

import numpy as np

from nash_jax.benchmark.latency_entries import sublayer_ms
from nash_jax.benchmark.latency_store import LatencyTable
from nash_jax.benchmark.latency_table import predict
from nash_jax.errors import UserError
from nash_jax.pruning.lagrangian import Constraint, SizeTerm, prunable_size
from nash_jax.spec import ModelSpec

_LEAST = 1e-6  # of a generation, that a sub-layer costs
_LEAST_SHARE = 0.01  # of a sub-layer, that its heads or units cost


def time_terms(table: LatencyTable, spec: ModelSpec) -> tuple[SizeTerm, ...]:
    """Returns the size terms of all sub-layers, in milliseconds of a generation of the table's setup.

    Whole sub-layers cost what the table says. No cost is negative, and none is 0: a gate that costs nothing would close
    for nothing.

    Args:
      table: of the model's family and width.
      spec: the model that gates are put on.
    """
    terms, least = list[SizeTerm](), _LEAST * predict(table, spec)
    for name, (axis, size) in spec.sublayers().items():
        if size:
            one, whole = (max(sublayer_ms(table.curves, name, n), least) for n in (1, size))
            slope = (whole - one) / max(size - 1, 1)
            each = float(np.clip(slope, _LEAST_SHARE * whole / size, whole / size))
            terms += [SizeTerm(whole - each * size, (), name), SizeTerm(each, (axis,), name)]
    return tuple(terms)


def time_constraint(table: LatencyTable, spec: ModelSpec, speedup: float) -> Constraint:
    """Returns the constraint under which a model becomes so many times as fast, by the table.

    Its sparsity is the share of the sub-layers' milliseconds that are gone.

    Args:
      table: of the model's family and width.
      spec: the model that gates are put on.
      speedup: the model's time over that of what is left.

    Raises:
      UserError: if the model without any sub-layers would not be as fast.
    """
    terms, sizes, whole = time_terms(table, spec), spec.axis_sizes(), predict(table, spec)
    prunable = prunable_size(terms, sizes)
    left = whole / speedup - (whole - prunable)
    if left <= 0:
        raise UserError(
            f"config.target_speedup is {speedup:g}",
            f"less than {whole / (whole - prunable):.2f}, the speedup of this model without any sub-layers",
        )
    return Constraint(terms, sizes, 1 - left / prunable)
