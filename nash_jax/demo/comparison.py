"""Two models answer one text, one after the other; every token is told as soon as it is there."""

import threading
import time
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from nash_jax.data.decoding import decode_outputs
from nash_jax.data.languages import Languages, generation_languages, restored_languages
from nash_jax.errors import UserError
from nash_jax.generation.arguments import check_characters
from nash_jax.generation.inputs import PaddedInputs, check_inputs, length_bucket, pad_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.seq2seq import Seq2Seq
from nash_jax.tree import flatten

Event = dict[str, Any]
Tell = Callable[[Event], None]
_WARM_TOKENS = 2  # generated once for each new shape, so that no compilation is timed


class Stopwatch:
    """Milliseconds since it was made, without those in which it was paused."""

    def __init__(self) -> None:
        self._begun, self._paused = time.perf_counter(), 0.0

    def read(self) -> float:
        """Returns the milliseconds until now."""
        return 1000 * (time.perf_counter() - self._begun - self._paused)

    def pause_for(self, work: Callable[[], Any]) -> Any:
        """Does what is not to be timed, and returns its result."""
        begun = time.perf_counter()
        result = work()
        self._paused += time.perf_counter() - begun
        return result


class Contestant:
    """One of the models.

    Args:
      name: what the page calls it.
      model: with a tokenizer.
      prefix: put before every text.
      options: options of `generate`, beside those of the model; the search is always greedy.

    Raises:
      UserError: for a model without tokenizer, or options that are not valid.
    """

    def __init__(self, name: str, model: Seq2Seq, prefix: str = "", options: Mapping[str, Any] | None = None) -> None:
        if model.tokenizer is None:
            raise UserError(f"the {name} model has no tokenizer", "tokenizer files in the same folder")
        self.name, self.model, self._prefix = name, model, prefix
        self._options = model.generation.replace(num_beams=1, num_return_sequences=1, **(options or {}))
        model.generator.check_options(self._options)
        self._warm: set[int] = set()  # lengths of inputs that programs are compiled for

    @property
    def num_params(self) -> int:
        """Returns the number of parameters."""
        return sum(leaf.size for leaf in flatten(self.model.params).values())

    def answer(self, text: str, tell: Tell, stopped: threading.Event) -> None:
        """Generates for a text; tells `begin`, then `token` for each token, then `end` with the times.

        The times are those of generation, from ids to ids; what is done with a token in between does not count.

        Args:
          text: any.
          tell: called in this thread.
          stopped: set by another thread to end it.

        Raises:
          UserError: for a text that the model cannot read.
        """
        inputs, options = self._read(text)
        self._warm_up(inputs, options)
        tell({"event": "begin", "model": self.name})
        ids = [self.model.spec.decoder_start_id]
        times: list[float] = []
        watch = Stopwatch()

        def on_token(token: int) -> bool:
            times.append(watch.read())
            ids.append(token)
            watch.pause_for(lambda: tell({
                "event": "token", "model": self.name, "text": self._decode(ids).rstrip("\N{REPLACEMENT CHARACTER}"),
                "tokens": len(times), "ms": times[-1],
            }))  # fmt: skip
            return stopped.is_set()

        found = self.model.generator.stream_padded(inputs, options, on_token)
        total = watch.read()
        tell({
            "event": "end", "model": self.name, "text": self._decode(found[0].tolist()), "tokens": len(times),
            "first_ms": times[0] if times else total, "ms": total,
        })  # fmt: skip

    def _read(self, text: str) -> tuple[PaddedInputs, GenerationOptions]:
        """Returns the ids of a text, and the options for the languages of its tokenizer."""
        check_characters(text, "the text")
        tokenizer: Any = self.model.tokenizer
        spec = self.model.spec
        with restored_languages(tokenizer):
            options = generation_languages(tokenizer, spec, Languages(None, None), self._options)
            ids = np.array(tokenizer([self._prefix + text], verbose=False)["input_ids"], np.int32)
        ids = ids if ids.size else np.array([[spec.pad_id]], np.int32)
        mask = np.ones_like(ids)
        check_inputs(ids, mask, spec)
        return pad_inputs(ids, mask, np.arange(1), spec.pad_id), options

    def _warm_up(self, inputs: PaddedInputs, options: GenerationOptions) -> None:
        bucket, told = length_bucket(inputs.input_ids.shape[1]), []

        def on_token(token: int) -> bool:
            told.append(token)
            return len(told) >= _WARM_TOKENS

        if bucket not in self._warm:
            self.model.generator.stream_padded(inputs, options, on_token)
            self._warm.add(bucket)

    def _decode(self, ids: list[int]) -> str:
        return decode_outputs(self.model.tokenizer, np.array([ids]))[0]


class Comparison:
    """The models, of which only one works at a time: two at once would slow each other down.

    Args:
      contestants: in the order in which they answer.
    """

    def __init__(self, contestants: list[Contestant]) -> None:
        self.contestants, self._lock = contestants, threading.Lock()

    def answer(self, text: str, tell: Tell, stopped: threading.Event) -> None:
        """All models answer a text, after those that others asked for; ends early when `stopped` is set.

        Args:
          text: any.
          tell: called in this thread with the events of `Contestant.answer`, or one `error`.
          stopped: set by another thread when nobody listens any more.
        """
        with self._lock:
            try:
                for contestant in self.contestants:
                    if not stopped.is_set():
                        contestant.answer(text, tell, stopped)
            except UserError as error:
                tell({"event": "error", "text": str(error)})
