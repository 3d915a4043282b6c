"""The stage `search`: which layers, heads and units make the best model that is as many times as fast as asked.

1. A latency table of the dense model on this device (`benchmark/latency_table.py`), and what narrowing each sub-layer
   and dropping layers does to its outputs (`recipe/search_harm.py`).
2. For each pair of depths the sizes of least harm within the time; of them some candidates, among which are models
   that only drop layers (`recipe/search_space.py`).
3. Each candidate is compacted and timed against the dense model. If it is not as fast as asked, or much faster, its
   sizes are chosen again with less or more time, three times at most.
4. Short trainings: all candidates for an eighth of `config.retrain`, half of them for a quarter more, two for a half
   more; those of least validation loss go on (successive halving, Jamieson and Talwalkar 2016).

What is measured is kept in files: a search that is stopped continues.
"""

import json
import math
import shutil
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np
from safetensors.numpy import save_file

from nash_jax.benchmark.latency import generation_call, random_ids, time_interleaved
from nash_jax.config.schema import Config
from nash_jax.errors import UserError
from nash_jax.generation.engine import Engine
from nash_jax.pruning.compact import compact
from nash_jax.pruning.layer_selection import select_layers
from nash_jax.recipe.calibration import Calibration, first_batches
from nash_jax.recipe.context import Model, RunContext
from nash_jax.recipe.layer_importance import ForcedLoss, tokenize_first
from nash_jax.recipe.prune_at_once import fit_outputs
from nash_jax.recipe.search_harm import Harm, measure_harm
from nash_jax.recipe.search_space import Candidate, Space
from nash_jax.recipe.speed_target import dense_table, setup_of
from nash_jax.recipe.train import train_briefly
from nash_jax.runtime.files import read_json, write_text
from nash_jax.runtime.multihost import barrier, broadcast_from_host0, is_host0
from nash_jax.seq2seq import load

ROUNDS = ((8, 1 / 8), (4, 1 / 4), (2, 1 / 2))  # candidates of a round, and its share of the retraining's steps
TOLERANCE = 1.05  # as many times as fast as asked, and up to this factor faster
_AIM = 1.02  # within the tolerance
_CORRECTIONS = 3
_ROUGHLY = 1.25  # how far a single measurement of a busy machine is trusted
_LONG_ENOUGH = 30.0  # ms of a measurement, which repeats shorter generations


def search(context: RunContext, folder: Path) -> dict[str, Any]:
    """Finds the layers that stay, and the masks of heads and units in them; saves the masks.

    Args:
      context: of the run.
      folder: of the stage.

    Returns:
      `target`, `predicted` and `measured` speedups, `kept_encoder_layers` and `kept_decoder_layers`, `candidates` (what
      each kept, its speeds, its losses), and the `table_errors`, predicted / measured - 1 of other shapes.

    Raises:
      UserError: if no model of the space is as fast as asked.
    """
    spec, params = context.model("finetune")
    target, table = context.config.target_speedup, dense_table(context, folder)
    importance = _importance(context, folder, spec, params)
    space = Space(table, _harm(context, folder, spec, params, importance), context.config.shorten.selection)
    dense = Engine(spec, params, context.config.model.dtype)  # one, so that its generation is compiled once
    _check_reach(context, folder, space, importance, dense)
    timed = _at_speed(context, folder, space, importance, dense)
    fast = [own for own in timed if own.measured >= target] or sorted(timed, key=lambda own: -own.measured)[:1]
    if fast[0].measured < target and is_host0():
        note = f"no model is as fast as asked: {fast[0].measured:.2f} times where {target:g} is asked; it is taken"
        print(f"note: {note}; on an idle machine another may be found", file=sys.stderr, flush=True)
    best, tried = _Tournament(context, folder, importance).run([own.candidate for own in fast])
    found = {own.candidate.name: own for own in timed}
    if is_host0():
        save_file(best.masks(importance), folder / "masks.safetensors")
        shutil.rmtree(folder / "trials", ignore_errors=True)
    slow: list[tuple[Candidate, list[float]]] = [(own.candidate, []) for own in timed if own not in fast]
    return {
        "target": target,
        "predicted": space.dense_ms / best.predicted_ms,
        "measured": found[best.name].measured,
        "kept_encoder_layers": list(best.encoder),
        "kept_decoder_layers": list(best.decoder),
        "candidates": [_describe(own, space, found[own.name], losses, own is best) for own, losses in [*tried, *slow]],
        "table_errors": [float(error) for error in table.check.errors(space.dense_ms)],
    }


def _once(path: Path, make: Callable[[], Any]) -> Any:
    """JSON of a file, or what `make` returns, which is kept there; host 0's on every process."""
    if not broadcast_from_host0(path.exists()):
        made = make()
        if is_host0():
            write_text(path, json.dumps(made))
        return broadcast_from_host0(made)
    return broadcast_from_host0(read_json(path) if is_host0() else None)


def _importance(context: RunContext, folder: Path, spec: Any, params: Any) -> dict[str, np.ndarray]:
    """Axis of heads or units → importances in the dense model."""
    own = context.config.prune

    def measure() -> dict[str, list[float]]:
        found = _calibration(context, spec, params).importance(own.importance)
        return {axis: found[axis].tolist() for axis, size in spec.sublayers().values() if size}

    return {axis: np.array(row) for axis, row in _once(folder / "importance.json", measure).items()}


def _harm(context: RunContext, folder: Path, spec: Any, params: Any, importance: Mapping[str, np.ndarray]) -> Harm:
    def measure() -> dict[str, Any]:
        settings = context.config.model, context.config.shorten.selection
        return measure_harm(spec, params, _rows(context), importance, *settings).to_json()

    return Harm.from_json(_once(folder / "harm.json", measure))


def _rows(context: RunContext) -> list[dict[str, np.ndarray]]:
    return first_batches(context.batches(context.config.retrain, "retrain"), context.config.prune.importance_rows)


def _calibration(context: RunContext, spec: Any, params: Any) -> Calibration:
    return Calibration(spec, params, _rows(context), context.config.model, "search")


def _check_reach(
    context: RunContext, folder: Path, space: Space, importance: Mapping[str, np.ndarray], dense: Engine
) -> None:
    """Checks that the fastest candidate is as fast as asked: by the table, and roughly as it is measured.

    What a busy machine delays while the table is made can promise any speed.

    Raises:
      UserError: if it is not.
    """
    fastest, config = space.fastest(), context.config

    def measure() -> float:
        cut = select_layers(*context.model("finetune"), encoder=fastest.encoder, decoder=fastest.decoder)
        return _measure(config, dense, Engine(*compact(*cut, fastest.masks(importance)), config.model.dtype))

    measured = float(_once(folder / "reach.json", measure))
    predicted = space.dense_ms / fastest.predicted_ms if fastest.predicted_ms > 0 else math.inf
    if config.target_speedup > min(predicted, _ROUGHLY * measured):
        reach = math.floor(100 * min(predicted, measured)) / 100
        raise UserError(
            f"config.target_speedup is {config.target_speedup:g}",
            f"no more than {reach:g}, the speedup of the smallest model with this width",
        )


def _cut(context: RunContext, candidate: Candidate, importance: Mapping[str, np.ndarray]) -> Model:
    """The compact model of a candidate, its output projections fitted to what is left."""
    spec, params = select_layers(*context.model("finetune"), encoder=candidate.encoder, decoder=candidate.decoder)
    masks = candidate.masks(importance)
    return compact(spec, fit_outputs(_calibration(context, spec, params), spec, params, masks), masks)


class _Tournament:
    """Short trainings of candidates; what is done is kept.

    Args:
      context: of the run.
      folder: of the stage.
      importance: of heads and units.
    """

    def __init__(self, context: RunContext, folder: Path, importance: Mapping[str, np.ndarray]) -> None:
        self._context, self._folder, self._importance = context, folder, importance
        pairs = tokenize_first(context.rows["validation"], context.tokenizer, context.config.task, folder)
        self._loss = ForcedLoss(pairs, context.model("finetune")[0].pad_id, context.config.model)

    def run(self, candidates: Sequence[Candidate]) -> tuple[Candidate, list[tuple[Candidate, list[float]]]]:
        """The best one, and all of them with the validation loss after each of their rounds, the best first."""
        losses: dict[str, list[float]] = {own.name: [] for own in candidates}
        left = list(candidates)
        for number, (count, share) in enumerate(ROUNDS):
            left = left[:count]
            for position, own in enumerate(left, 1):
                title = f"search: round {number + 1} of {len(ROUNDS)}, candidate {position} of {len(left)}, {own.name}"
                losses[own.name].append(self._train(own, number, share, title))
            left.sort(key=lambda own: losses[own.name][-1])
        tried = sorted(candidates, key=lambda own: (-len(losses[own.name]), losses[own.name][-1]))
        return left[0], [(own, losses[own.name]) for own in tried]

    def _train(self, candidate: Candidate, number: int, share: float, title: str) -> float:
        """The validation loss of a candidate after a round."""
        own = self._folder / "trials" / candidate.name.replace(" ", "-")

        def train() -> float:
            if is_host0():
                print(title, file=sys.stderr, flush=True)
            spec, params = self._model(candidate, own, number)
            params = train_briefly(self._context, own / f"round{number}", spec, params, share, self._loss)
            self._context.save(own / f"round{number}", spec, params)
            return self._loss(spec, jax.device_put(params))

        if is_host0():
            own.mkdir(parents=True, exist_ok=True)
        barrier("folder of a trial")
        loss: float = _once(own / f"round{number}.json", train)
        return loss

    def _model(self, candidate: Candidate, own: Path, number: int) -> Model:
        if number == 0:
            return _cut(self._context, candidate, self._importance)
        found = load(own / f"round{number - 1}" / "model")
        return found.spec, dict(found.params)


class _Timed(NamedTuple):
    """A candidate and how fast it is.

    Attributes:
      candidate: with the sizes that came nearest.
      measured: its speedup.
      tries: (milliseconds by the table, speedup) of all sizes that were timed, in their order.
    """

    candidate: Candidate
    measured: float
    tries: list[tuple[float, float]]


def _at_speed(
    context: RunContext, folder: Path, space: Space, importance: Mapping[str, np.ndarray], dense: Engine
) -> list[_Timed]:
    """All candidates, each with sizes that make it as fast as asked, as near as it comes."""
    target = context.config.target_speedup
    found: list[_Timed] = []
    candidates = space.candidates(space.dense_ms / target)
    for number, first in enumerate(candidates, 1):
        tries: list[tuple[Candidate, float]] = []
        candidate: Candidate | None = first
        while candidate is not None and len(tries) <= _CORRECTIONS:
            own = candidate

            def measure(own: Candidate = own) -> float:
                engine = Engine(*_cut(context, own, importance), context.config.model.dtype)
                return _measure(context.config, dense, engine)

            name = f"speed-{first.name.replace(' ', '-')}-{len(tries)}.json"
            tries.append((own, float(_once(folder / name, measure))))
            if is_host0():
                print(
                    f"search: candidate {number} of {len(candidates)}, {own.name}: {tries[-1][1]:.2f} times as fast",
                    file=sys.stderr, flush=True,
                )  # fmt: skip
            if target <= tries[-1][1] <= TOLERANCE * target or (own.plain and tries[-1][1] > target):
                break
            ms = next_budget([(other.predicted_ms, speed) for other, speed in tries], _AIM * target)
            candidate = space.candidate(*first.depths, ms)
        best = min(tries, key=lambda pair: (pair[1] < target, abs(pair[1] - _AIM * target)))
        found.append(_Timed(*best, [(other.predicted_ms, speed) for other, speed in tries]))
    return found


def next_budget(tries: Sequence[tuple[float, float]], wanted: float) -> float:
    """Milliseconds by the table of sizes that should have a speedup: on the line through the last two tries.

    Args:
      tries: (milliseconds by the table, speedup that was measured) of what was tried, at least one.
      wanted: speedup.

    Example:
      >>> next_budget([(10.0, 2.0)], 2.5)
      8.0
    """
    last, speed = tries[-1]
    proportional = last * speed / wanted
    if len(tries) == 1:
        return proportional
    before, its_speed = tries[-2]
    gained = 1 / its_speed - 1 / speed
    rises = gained * (before - last) > 0  # if not, other programs have disturbed a measurement
    ms = last + (1 / wanted - 1 / speed) * (before - last) / gained if rises else proportional
    return float(np.clip(ms, 0.5 * last, 1.5 * last))


def _measure(config: Config, dense: Engine, other: Engine) -> float:
    """How many times as fast as the dense model another one is: the median ratio of measurements in turn."""
    setup = setup_of(config)
    ids = random_ids(dense.spec.source_vocab_size, setup.batch_size, setup.source_length)
    calls = {name: generation_call(e, ids, setup.new_tokens) for name, e in (("dense", dense), ("other", other))}
    ms = time_interleaved(calls, config.benchmark.runs, at_least_ms=_LONG_ENOUGH)
    return float(np.median(ms["dense"] / ms["other"]))


def _describe(candidate: Candidate, space: Space, timed: _Timed, losses: Sequence[float], won: bool) -> dict[str, Any]:
    """A candidate for the report."""
    shares = {}
    for side in ("encoder", "decoder"):
        own = {name: size for name, size in candidate.sizes.items() if name.startswith(side)}
        whole = {name: size for name, (_, size) in space.dense.sublayers().items()}
        shares[f"{side}_share"] = float(np.mean([size / whole[name] for name, size in own.items()]))
    return {
        "name": candidate.name, "encoder_layers": list(candidate.encoder), "decoder_layers": list(candidate.decoder),
        **shares, "predicted": space.dense_ms / candidate.predicted_ms, "measured": timed.measured,
        "tries": [{"predicted": space.dense_ms / ms, "measured": speed} for ms, speed in timed.tries],
        "harm": candidate.harm, "losses": list(losses), "chosen": won,
    }  # fmt: skip
