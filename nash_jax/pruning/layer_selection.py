"""Which layers a shortened stack keeps, and the surgery that keeps them."""

import dataclasses
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

from nash_jax.axes import check_params
from nash_jax.errors import UserError
from nash_jax.spec import SIDES, ModelSpec
from nash_jax.tree import flatten, unflatten

FIXED_SELECTIONS = ("uniform", "low", "high", "study")
MEASURED = "importance"
SELECTIONS = (*FIXED_SELECTIONS, MEASURED)

_STUDY = {  # depth → the layers that "To Asymmetry and Beyond" keeps for one to five sixths of it (its section 3)
    8: ("0", "0 7", "0 2 5 7", "0 2 4 5 7", "0 2 3 4 5 7"),
    12: ("0 11", "0 3 8 11", "0 2 4 6 8 10", "0 2 4 5 6 7 8 11", "0 1 2 4 5 6 7 8 10 11"),
    24: (
        "0 5 11 23",
        "0 1 3 7 11 15 19 23",
        "0 2 4 6 8 12 14 16 18 20 22 23",
        "0 1 2 4 6 7 8 12 14 15 16 18 20 21 22 23",
        "0 1 2 3 4 6 7 8 9 12 14 15 16 17 18 19 20 21 22 23",
    ),
}


def choose_layers(num_layers: int, keep: int, selection: str = "uniform") -> list[int]:
    """Increasing indices of the layers to keep.

    `uniform` floor((L-1)/(k-1)·i), for k = 1 the first; `low` the first k; `high`
    the last k (NASH, section 4.1); `study` the lists of "To Asymmetry and Beyond".

    Args:
      num_layers: layers of the stack, L.
      keep: how many of them to keep, k.
      selection: of `FIXED_SELECTIONS`.

    Raises:
      UserError: for k outside 1..L, a selection not of `FIXED_SELECTIONS`, or no list of the study for
        this depth and number.
    """
    _check_number(num_layers, keep)
    if selection == "uniform":
        return [(num_layers - 1) * i // max(keep - 1, 1) for i in range(keep)]
    if selection == "low":
        return list(range(keep))
    if selection == "high":
        return list(range(num_layers - keep, num_layers))
    if selection == "study":
        return list(range(keep)) if keep == num_layers else _study_layers(num_layers, keep)
    raise UserError(f"unknown layer selection {selection!r} by number", f"one of {FIXED_SELECTIONS}")


def _check_number(num_layers: int, keep: int) -> None:
    if not 1 <= keep <= num_layers:
        raise UserError(f"cannot keep {keep} of {num_layers} layers", f"a number from 1 to {num_layers}")


def kept_layers(num_layers: int, keep: int, kept: Sequence[int], selection: str) -> list[int]:
    """The layers named, or else as many as asked for.

    Args:
      num_layers: layers that there are.
      keep: how many to keep; 0: all.
      kept: these, if any are named.
      selection: how to choose, of `FIXED_SELECTIONS`.

    Raises:
      UserError: for more than there are, layers that are not there or not increasing, or another selection.
    """
    if not kept:
        return choose_layers(num_layers, keep or num_layers, selection)
    if list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < num_layers:
        raise UserError(
            f"cannot keep layers {list(kept)} of {num_layers}", f"increasing numbers from 0 to {num_layers - 1}"
        )
    return list(kept)


@dataclasses.dataclass(frozen=True)
class Candidates:
    """Layers of a side that may be kept, before any loss is measured.

    Attributes:
      layers: layers that may be kept, increasing.
      keep: how many of them are kept. Where that is not all, `drop_least_important` chooses.

    Raises:
      UserError: for a number to keep outside 1..number of layers.
    """

    layers: tuple[int, ...]
    keep: int

    def __post_init__(self) -> None:
        _check_number(len(self.layers), self.keep)


def candidates(num_layers: int, keep: int, kept: Sequence[int], selection: str) -> Candidates:
    """As `kept_layers`, for all of `SELECTIONS`; with `importance` all layers are candidates, unless some are named."""
    if selection == MEASURED and not kept:
        return Candidates(tuple(range(num_layers)), keep or num_layers)
    layers = kept_layers(num_layers, keep, kept, selection)
    return Candidates(tuple(layers), len(layers))


Loss = Callable[[Sequence[int], Sequence[int]], float]  # of the encoder's and the decoder's layers that are kept


def drop_least_important(
    sides: Mapping[str, Candidates], loss: Loss
) -> tuple[dict[str, list[int]], list[dict[str, Any]]]:
    """Drops one layer after the other: each time the one whose absence gives the least loss, the first of equals.

    Args:
      sides: `encoder` and `decoder` → layers that may be kept, and how many. While a side has too many, each of its
        layers can be dropped next.
      loss: of the model that keeps these layers.

    Returns:
      Kept layers of each side, and the steps in their order: {"side", "layer": the one dropped, "loss": without it,
      "others": {"encoder.0": the loss without that one instead}}.

    Raises:
      UserError: for a loss that is not finite.
    """
    kept, steps = {side: list(sides[side].layers) for side in SIDES}, []
    while deep := [side for side in SIDES if len(kept[side]) > sides[side].keep]:
        found = {(side, layer): _loss_without(kept, side, layer, loss) for side in deep for layer in kept[side]}
        side, layer = min(found, key=found.__getitem__)
        kept[side].remove(layer)
        value = found.pop((side, layer))
        others = {f"{other}.{index}": its for (other, index), its in found.items()}
        steps.append({"side": side, "layer": layer, "loss": value, "others": others})
    return kept, steps


def _loss_without(kept: Mapping[str, Sequence[int]], side: str, layer: int, loss: Loss) -> float:
    left = {**kept, side: [other for other in kept[side] if other != layer]}
    value = loss(left["encoder"], left["decoder"])
    if not math.isfinite(value):
        raise UserError(f"the loss without {side} layer {layer} is {value}", "a finite loss", "check the dense model")
    return value


def study_sixths(num_layers: int) -> dict[int, list[int]]:
    """The study's lists for a depth: sixths kept, 1 to 6 → layers.

    Raises:
      UserError: for a depth that it has no lists for.
    """
    if num_layers not in _STUDY:
        raise UserError(f"the study has no lists for {num_layers} layers", f"a depth of {', '.join(map(str, _STUDY))}")
    lists = {sixths: list(map(int, text.split())) for sixths, text in enumerate(_STUDY[num_layers], 1)}
    return lists | {6: list(range(num_layers))}


def _study_layers(num_layers: int, keep: int) -> list[int]:
    by_size = {len(layers): layers for layers in study_sixths(num_layers).values()}
    if keep not in by_size:
        raise UserError(
            f"the study has no list of {keep} of {num_layers} layers", f"one of {', '.join(map(str, sorted(by_size)))}"
        )
    return by_size[keep]


def select_layers(
    spec: ModelSpec,
    params: Mapping[str, Any],
    *,
    encoder: Sequence[int] | None = None,
    decoder: Sequence[int] | None = None,
) -> tuple[ModelSpec, dict[str, Any]]:
    """Keeps the named layers of each stack, renumbered from 0; all else (bias tables, norms) stays.

    Args:
      spec: the deep model.
      params: its parameters.
      encoder: encoder layers to keep, in order; None keeps all.
      decoder: decoder layers to keep, in order; None keeps all.

    Returns:
      The shorter spec and its parameters (the arrays are shared, not copied).
    """
    check_params(spec, params)
    kept = {
        "encoder": list(range(len(spec.encoder)) if encoder is None else encoder),
        "decoder": list(range(len(spec.decoder)) if decoder is None else decoder),
    }
    for side, ids in kept.items():
        depth = len(getattr(spec, side))
        if not ids or any(not 0 <= i < depth for i in ids):
            raise UserError(f"cannot keep {side} layers {ids} of {depth}", f"indices from 0 to {depth - 1}")
    new = {}
    for path, leaf in flatten(params).items():
        side, _, rest = path.partition("/layers_")
        if not rest:
            new[path] = leaf
            continue
        index, _, tail = rest.partition("/")
        for position, i in enumerate(kept[side]):
            if i == int(index):
                new[f"{side}/layers_{position}/{tail}"] = leaf
    shorter = dataclasses.replace(
        spec,
        encoder=tuple(spec.encoder[i] for i in kept["encoder"]),
        decoder=tuple(spec.decoder[i] for i in kept["decoder"]),
    )
    return shorter, unflatten(new)
