"""Gates over the prunable axes of a model, as a Flax module of their own."""

import dataclasses
import re
from collections.abc import Iterable, Mapping

import flax.linen as nn
import jax
import jax.numpy as jnp

from nash_jax.errors import UserError
from nash_jax.pruning import hard_concrete

Masks = dict[str, jax.Array]

ENCODER_GATES = (r"encoder\.\d+\.attention\.heads", r"encoder\.\d+\.ffn\.units")  # what NASH gates


@dataclasses.dataclass(frozen=True)
class GateGroup:
    """The gates of one prunable axis (a layer's heads), or the lone gate of one sub-layer.

    Attributes:
      name: name of the axis or sub-layer, and of its mask.
      size: number of gates.
      droprate: share of gates closed at the start; None starts them open (log_alpha 10).
    """

    name: str
    size: int
    droprate: float | None = None


def gate_groups(
    axes: Mapping[str, tuple[str, ...]], sizes: Mapping[str, int], patterns: Iterable[str], units_droprate: float = 0.5
) -> tuple[GateGroup, ...]:
    r"""Gate groups for every prunable name that a pattern matches in full.

    Args:
      axes: parameter path → axis names (`param_axes(spec)`).
      sizes: axis name → size (`spec.axis_sizes()`).
      patterns: regular expressions over axis names (`encoder\.\d+\.ffn\.units`), sub-layer names
        (`decoder\.\d+\.ffn`) and `embed`.
      units_droprate: initial droprate of FFN units; all other gates start open.

    Raises:
      UserError: when nothing matches.
    """
    names: dict[str, int] = {}
    for path_axes in axes.values():
        for axis in path_axes:
            if "." in axis:
                names[axis.rpartition(".")[0]] = 1
            if "." in axis or axis == "embed":
                names[axis] = sizes[axis]
    patterns = tuple(patterns)
    chosen = [n for n in sorted(names) if any(re.fullmatch(p, n) for p in patterns)]
    if not chosen:
        raise UserError(f"nothing in the model matches the gates {patterns}", "axes or sub-layers that it has")
    return tuple(GateGroup(n, names[n], units_droprate if n.endswith(".units") else None) for n in chosen)


class HardConcreteGates(nn.Module):
    """All gates in one flat `log_alpha` [G], so that sampling and updating them is one fused operation.

    Apply with `method="sample"` and an rng stream `gates`, or with `probs` or `rows`.
    """

    groups: tuple[GateGroup, ...]

    def setup(self) -> None:
        self.log_alpha = self.param("log_alpha", self._init)

    def _init(self, rng: jax.Array) -> jax.Array:
        parts = [
            hard_concrete.initial_log_alpha(jax.random.fold_in(rng, i), g.size, g.droprate)
            for i, g in enumerate(self.groups)
        ]
        return jnp.concatenate(parts)

    def split(self, flat: jax.Array) -> Masks:
        """[G] → one array for each group; lone gates become scalars."""
        out, start = {}, 0
        for g in self.groups:
            part = flat[start : start + g.size]
            out[g.name] = part if _is_axis(g.name) else part[0]
            start += g.size
        return out

    def sample(self) -> Masks:
        """Random masks of training: group name → values in [0, 1], [size] or a scalar."""
        noise = hard_concrete.sample_noise(self.make_rng("gates"), self.log_alpha.shape)
        return self.split(hard_concrete.sample(self.log_alpha, noise))

    def probs(self) -> Masks:
        """P(gate ≠ 0) of every gate."""
        return self.split(hard_concrete.prob_nonzero(self.log_alpha))

    def rows(self) -> Masks:
        """`log_alpha` by group."""
        return self.split(self.log_alpha)

    def __call__(self) -> Masks:
        return self.probs()


def _is_axis(name: str) -> bool:
    """Whether a prunable name is an axis (heads, units, embed) rather than a whole sub-layer."""
    return name == "embed" or name.rpartition(".")[2] in ("heads", "units")
