"""Times of many models in turn, with the weights of one of them in memory at a time.

Another engine is a class with the calls of `TimedModel`, and an entry of `ENGINES`.
"""

import contextlib
import dataclasses
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager
from typing import Any, NamedTuple, Protocol

import numpy as np

from nash_jax.axes import leaf_shapes
from nash_jax.benchmark.latency import Call, encoding_call, generation_call, random_ids
from nash_jax.benchmark.latency_entries import ENCODING, GENERATION
from nash_jax.engines.ct2 import CTranslate2Engine
from nash_jax.generation.engine import Engine
from nash_jax.runtime.progress import Progress
from nash_jax.spec import ModelSpec
from nash_jax.tree import unflatten

_ENOUGH_MS, _ENOUGH_CALLS = 100.0, 50  # a visit repeats its calls until it has one of the two
_POOL = (0.05 * np.random.default_rng(0).normal(size=1_000_003)).astype(np.float32)


class Setup(NamedTuple):
    """What is timed.

    Attributes:
      engine: a name of `ENGINES`.
      dtype: compute dtype.
      batch_size: rows.
      source_length: tokens of every input.
      new_tokens: tokens of every output; rows do not end early.
    """

    engine: str = "jax"
    dtype: str = "float32"
    batch_size: int = 1
    source_length: int = 256
    new_tokens: int = 64


class TimedModel(Protocol):
    """A model in an engine, compiled once and loaded again and again."""

    def loaded(self) -> AbstractContextManager[dict[str, Call]]:
        """Within the block the weights are in memory; `GENERATION` → call to time, and `ENCODING` if there is one."""


class JaxModel:
    """A model in our engine; weights are arbitrary numbers.

    Args:
      spec: its shape.
      setup: what is timed.
    """

    def __init__(self, spec: ModelSpec, setup: Setup) -> None:
        self._spec = dataclasses.replace(spec, tied=False)  # as the engine has it
        self._setup, self._engine = setup, Engine(self._spec, _weights(self._spec), setup.dtype)
        self._engine.weights.clear()

    @contextlib.contextmanager
    def loaded(self) -> Iterator[dict[str, Call]]:
        """As `TimedModel.loaded`."""
        setup = self._setup
        ids = random_ids(self._spec.source_vocab_size, setup.batch_size, setup.source_length)
        self._engine.update_params(_weights(self._spec))
        yield {
            GENERATION: generation_call(self._engine, ids, setup.new_tokens),
            ENCODING: encoding_call(self._engine, ids, setup.new_tokens),
        }
        self._engine.weights.clear()


class CTranslate2Model:
    """A model in CTranslate2, written and loaded anew each time: it has its weights in memory, or none.

    Args:
      spec: its shape.
      setup: what is timed.
    """

    def __init__(self, spec: ModelSpec, setup: Setup) -> None:
        self._spec, self._setup = dataclasses.replace(spec, tied=False), setup

    @contextlib.contextmanager
    def loaded(self) -> Iterator[dict[str, Call]]:
        """As `TimedModel.loaded`."""
        setup = self._setup
        engine = CTranslate2Engine(self._spec, _weights(self._spec), setup.dtype)
        ids = random_ids(self._spec.source_vocab_size, setup.batch_size, setup.source_length)
        yield {GENERATION: generation_call(engine, ids, setup.new_tokens)}


def _weights(spec: ModelSpec) -> Any:
    """Parameters, float32, that are quickly made."""
    return unflatten({path: np.resize(_POOL, shape) for path, shape in leaf_shapes(spec).items()})


ENGINES: dict[str, tuple[tuple[str, ...], Callable[[ModelSpec, Setup], TimedModel]]] = {
    "jax": (("jax", "jaxlib", "flax"), JaxModel),  # packages whose versions count, and what makes a model
    "ctranslate2": (("ctranslate2",), CTranslate2Model),
}


def compile_models(specs: Sequence[ModelSpec], setup: Setup, title: str) -> list[TimedModel]:
    """Returns models in the engine of a setup, each called once, two at a time.

    Args:
      specs: shapes.
      setup: engine, sizes and lengths.
      title: of the progress bar.
    """
    bar, models = Progress(title, len(specs), 0, unit="model"), []
    with ThreadPoolExecutor(2) as pool:
        for model in pool.map(lambda spec: _compiled(spec, setup), specs):
            models.append(model)
            bar.update(len(models))
    bar.close()
    return models


def _compiled(spec: ModelSpec, setup: Setup) -> TimedModel:
    model = ENGINES[setup.engine][1](spec, setup)
    with model.loaded() as calls:
        for call in calls.values():
            call()
    return model


def time_models(models: Sequence[TimedModel], visits: int, title: str) -> list[dict[str, float]]:
    """Times compiled models in turn, in another order each time.

    Args:
      models: from `compile_models`.
      visits: how often each is loaded and timed.
      title: of the progress bar.

    Returns:
      For each model `GENERATION`, and `ENCODING` if the engine has it → milliseconds of the fastest call: what other
      programs take from the machine makes calls longer, never shorter.
    """
    times: list[dict[str, float]] = [{} for _ in models]
    rng, bar, done = np.random.default_rng(0), Progress(title, len(models) * visits, 0, unit="visit"), 0
    for _ in range(visits):
        for index in rng.permutation(len(models)):
            own = times[index]
            own |= {what: min(ms, own.get(what, ms)) for what, ms in _visit(models[index]).items()}
            bar.update(done := done + 1)
    bar.close()
    return times


def _visit(model: TimedModel) -> dict[str, float]:
    """Milliseconds of the fastest of consecutive calls; the first finds other weights in the processor's cache."""
    with model.loaded() as calls:
        return {what: min(_time_calls(call)) for what, call in calls.items()}


def _time_calls(call: Call) -> list[float]:
    """Milliseconds of consecutive calls: one that is long, or several."""
    found: list[float] = []
    while sum(found) < _ENOUGH_MS and len(found) < _ENOUGH_CALLS:
        begun = time.perf_counter()
        call()
        found.append(1000 * (time.perf_counter() - begun))
    return found
