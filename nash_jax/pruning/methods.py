"""The pruning methods: the layers dropped before training, the gates trained, and the sparsity they reach.

nash       NASH: some decoder layers stay; gates over the encoder's heads and units reach a sparsity
nash_auto  NASH-auto: gates over the decoder's sub-layers too, which leave the size of k layers
cofi       CoFi: gates over heads, units, sub-layers and d_model of both sides reach one sparsity
latency    gates over heads, units and sub-layers of both sides pay milliseconds, to reach `target_speedup`
oneshot    as nash, but heads and units are closed at once, by importance, without training
auto       what `target_speedup` asks: layers, heads and units of either side by a search over measured times
drop       "To Asymmetry and Beyond": some layers of either side stay, and no gates
scratch    the shape that `drop` leaves, trained from random weights: what pruning has to be better than
none       plain fine-tuning
"""

import dataclasses
from collections.abc import Mapping

from nash_jax.axes import param_axes
from nash_jax.errors import UserError, did_you_mean
from nash_jax.pruning.gates import ENCODER_GATES, HardConcreteGates, gate_groups
from nash_jax.pruning.lagrangian import Constraint, size_terms
from nash_jax.spec import SIDES, ModelSpec

_DECODER_SUBLAYERS = r"decoder\.\d+\.\w+"
_SIZES = (r".*\.heads", r".*\.units", r"\w+\.\d+\.\w+")


@dataclasses.dataclass(frozen=True)
class Method:
    """A way of pruning.

    Attributes:
      shortens: layers are dropped before anything is trained.
      counts_layers: `config.shorten.decoder_layers` says how many decoder layers are wanted.
      gates: patterns of the axes and sub-layers that have gates; empty: no gates.
      trains_gates: gates are trained; otherwise they are closed at once, by importance.
      searches: the stage `search` finds what stays, layers, heads and units.
      prices_time: what gates pay for is milliseconds of a latency table instead of parameters.
    """

    shortens: bool
    counts_layers: bool
    gates: tuple[str, ...] = ()
    trains_gates: bool = True
    searches: bool = False
    prices_time: bool = False

    @property
    def has_target(self) -> bool:
        """Whether `config.target_speedup` says how much is to go."""
        return self.searches or self.prices_time


METHODS = {
    "nash": Method(shortens=True, counts_layers=True, gates=ENCODER_GATES),
    "nash_auto": Method(shortens=False, counts_layers=True, gates=(*ENCODER_GATES, _DECODER_SUBLAYERS)),
    "cofi": Method(shortens=False, counts_layers=False, gates=(*_SIZES, "embed")),
    "latency": Method(shortens=False, counts_layers=False, gates=_SIZES, prices_time=True),
    "oneshot": Method(shortens=True, counts_layers=True, gates=ENCODER_GATES, trains_gates=False),
    "auto": Method(shortens=True, counts_layers=False, searches=True),
    "drop": Method(shortens=True, counts_layers=True),
    "scratch": Method(shortens=True, counts_layers=True),
    "none": Method(shortens=False, counts_layers=False),
}


def target_sparsities(method: str, sparsity: float, decoder_share: float = 1.0) -> dict[str, float]:
    """Part of the model (`encoder`, `decoder`, or empty for both) → share of its parameters that gates are to remove.

    Args:
      method: of `METHODS`, with gates.
      sparsity: `config.prune.sparsity`; of `latency`, which has another target, what its gates would pay in parameters.
      decoder_share: k / L, decoder layers wanted of those there are; of `nash_auto` alone.
    """
    if method in ("cofi", "latency"):
        return {"": sparsity}
    return {"encoder": sparsity} | ({"decoder": 1 - decoder_share} if method == "nash_auto" else {})


def make_gates(spec: ModelSpec, method: str = "nash", units_droprate: float = 0.5) -> HardConcreteGates:
    """The gates that a method puts on a model.

    Args:
      spec: the model.
      method: of `METHODS`, with gates.
      units_droprate: initial share of closed FFN gates.

    Raises:
      UserError: for another method, or another share than one between 0 and 1.
    """
    if method not in METHODS or not METHODS[method].gates:
        known = [name for name, entry in METHODS.items() if entry.gates]
        raise UserError(f"no gates for the method {method!r}{did_you_mean(str(method), known)}", f"one of {known}")
    if not 0 < units_droprate < 1:
        raise UserError(f"units_droprate is {units_droprate}", "a share between 0 and 1")
    groups = gate_groups(param_axes(spec), spec.axis_sizes(), METHODS[method].gates, units_droprate)
    return HardConcreteGates(groups)


def make_constraints(spec: ModelSpec, targets: Mapping[str, float]) -> dict[str, Constraint]:
    """One constraint for each part of a model.

    Args:
      spec: the model.
      targets: part (`encoder`, `decoder`, or empty for both) → share of its parameters to remove.

    Raises:
      UserError: for another part, or another share than one from 0 to 1.
    """
    for part, target in targets.items():
        if part not in ("", *SIDES) or not 0 <= target <= 1:
            raise UserError(f"the target of {part!r} is {target}", "encoder, decoder or '', and a share from 0 to 1")
    axes, sizes = param_axes(spec), spec.axis_sizes()
    return {part: Constraint(size_terms(axes, sizes, part), sizes, target) for part, target in targets.items()}
