"""Which layers a shortened stack keeps, and the surgery that keeps them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nash_jax.errors import UserError
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten

SELECTIONS = ("uniform", "low", "high", "study")

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

    `uniform` floor((L-1)/(k-1)·i), the middle layer for k = 1 being the first; `low` the first k; `high`
    the last k (NASH, section 4.1); `study` the lists of "To Asymmetry and Beyond".

    Raises:
      UserError: for k outside 1..L, an unknown selection, or a depth or number that the study has no list for.
    """
    if not 1 <= keep <= num_layers:
        raise UserError(f"{keep} layers asked of {num_layers}", f"a number from 1 to {num_layers}")
    if selection == "uniform":
        return [(num_layers - 1) * i // max(keep - 1, 1) for i in range(keep)]
    if selection == "low":
        return list(range(keep))
    if selection == "high":
        return list(range(num_layers - keep, num_layers))
    if selection == "study":
        return list(range(keep)) if keep == num_layers else _study_layers(num_layers, keep)
    raise UserError(f"unknown layer selection {selection!r}", f"one of {SELECTIONS}")


def kept_layers(num_layers: int, keep: int, kept: Sequence[int], selection: str) -> list[int]:
    """The layers named, or else as many as asked for.

    Args:
      num_layers: layers that there are.
      keep: how many to keep; 0: all.
      kept: these, if any are named.
      selection: how to choose.

    Raises:
      UserError: for more than there are, or layers that are not there, not increasing, or none of `SELECTIONS`.
    """
    if not kept:
        return choose_layers(num_layers, keep or num_layers, selection)
    if list(kept) != sorted(set(kept)) or not 0 <= kept[0] <= kept[-1] < num_layers:
        raise UserError(f"layers {list(kept)} asked of {num_layers}", f"increasing numbers from 0 to {num_layers - 1}")
    return list(kept)


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
    kept = {
        "encoder": list(range(len(spec.encoder)) if encoder is None else encoder),
        "decoder": list(range(len(spec.decoder)) if decoder is None else decoder),
    }
    for side, ids in kept.items():
        depth = len(getattr(spec, side))
        if any(not 0 <= i < depth for i in ids):
            raise UserError(f"{side} layers {ids} asked of {depth}", f"indices from 0 to {depth - 1}")
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
