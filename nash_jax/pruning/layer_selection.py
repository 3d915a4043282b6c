"""Which layers a shortened stack keeps, and the surgery that keeps them."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from nash_jax.errors import UserError
from nash_jax.spec import ModelSpec
from nash_jax.tree import flatten, unflatten

SELECTIONS = ("uniform", "low", "high")


def choose_layers(num_layers: int, keep: int, selection: str = "uniform") -> list[int]:
    """Increasing indices of the layers to keep.

    `uniform` floor((L-1)/(k-1)·i), the middle layer for k = 1 being the first; `low` the first k; `high`
    the last k (NASH, section 4.1).

    Raises:
      UserError: for k outside 1..L or an unknown selection.
    """
    if not 1 <= keep <= num_layers:
        raise UserError(f"{keep} layers asked of {num_layers}", f"a number from 1 to {num_layers}")
    if selection == "uniform":
        return [(num_layers - 1) * i // max(keep - 1, 1) for i in range(keep)]
    if selection == "low":
        return list(range(keep))
    if selection == "high":
        return list(range(num_layers - keep, num_layers))
    raise UserError(f"unknown layer selection {selection!r}", f"one of {SELECTIONS}")


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
