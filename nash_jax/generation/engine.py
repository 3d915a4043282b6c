"""Generation for inputs of any length with few compilations: lengths are padded to buckets."""

import abc
import dataclasses
from collections.abc import Callable, Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from nash_jax.errors import UserError
from nash_jax.generation.beam import beam_search
from nash_jax.generation.cache import Encoded, get_column
from nash_jax.generation.greedy import GreedyState, greedy, start, step
from nash_jax.generation.inputs import PaddedInputs, check_inputs, check_length, length_bucket, pad_inputs
from nash_jax.generation.mesh_weights import place_inputs
from nash_jax.generation.options import GenerationOptions
from nash_jax.generation.outputs import Decoded, ScoredIds, to_host
from nash_jax.generation.program_args import StaticArgs, TracedArgs, make_program_args
from nash_jax.generation.weights import Weights, WeightStore, encode_batch, make_decoder
from nash_jax.models import build
from nash_jax.runtime.mesh import use_mesh
from nash_jax.runtime.sharding import replicated
from nash_jax.spec import ModelSpec

OnToken = Callable[[int], bool | None]  # told each token of a stream; True ends it


class BatchGenerator(abc.ABC):
    """What generates token ids for batches: our engine, or another that has the same calls.

    Attributes:
      spec: the model's architecture.
    """

    spec: ModelSpec

    def generate(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, options: GenerationOptions, *,
        decoder_input_ids: np.ndarray | None = None, row_ids: np.ndarray | None = None, stop_at_eos: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """Generates token ids, identical to `generate` of transformers with the same options.

        Args:
          input_ids: int [B, S].
          attention_mask: [B, S] of 0/1.
          options: generation options; special ids that are None are taken from the spec.
          decoder_input_ids: int [B, P], prompts; the start token is prepended if no row starts with it. None: only the
            start token.
          row_ids: int [B]; when sampling, a row's tokens depend only on its input, the seed and this number. None: 0 to
            B-1.
          stop_at_eos: rows end at EOS; if False, EOS is an ordinary token and all rows get the maximum length.

        Returns:
          int32 [B·n, L], n = num_return_sequences consecutive rows for each input: start token or prompt, generated
          tokens including EOS, padding; L is the length of the longest row.

        Raises:
          UserError: for arrays or options that are not valid for the model or contradict each other.
        """
        inputs = self._pad(input_ids, attention_mask, row_ids)
        return self.generate_padded(inputs, options, decoder_input_ids=decoder_input_ids, stop_at_eos=stop_at_eos)

    def generate_scored(
        self, input_ids: np.ndarray, attention_mask: np.ndarray, options: GenerationOptions, *,
        decoder_input_ids: np.ndarray | None = None,
    ) -> ScoredIds:  # fmt: skip
        """Like `generate`, with the scores of the outputs."""
        inputs = self._pad(input_ids, attention_mask, None)
        return self.score_padded(inputs, options, decoder_input_ids=decoder_input_ids)

    def _pad(self, input_ids: np.ndarray, attention_mask: np.ndarray, row_ids: np.ndarray | None) -> PaddedInputs:
        check_inputs(input_ids, attention_mask, self.spec)
        rows = np.arange(len(input_ids)) if row_ids is None else row_ids
        return pad_inputs(input_ids, attention_mask, rows, self.spec.pad_id)

    def check_options(self, options: GenerationOptions) -> None:  # noqa: B027
        """Refuses options that this generator does not have.

        Raises:
          UserError: naming them.
        """

    @abc.abstractmethod
    def generate_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *,
        decoder_input_ids: np.ndarray | None = None, stop_at_eos: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """Like `generate`, for a padded batch; outputs of padding rows are removed."""

    @abc.abstractmethod
    def score_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *, decoder_input_ids: np.ndarray | None = None
    ) -> ScoredIds:
        """Like `generate_padded`, with the scores of the outputs."""

    @abc.abstractmethod
    def stream_padded(self, inputs: PaddedInputs, options: GenerationOptions, on_token: OnToken) -> np.ndarray:
        """Generates for one input token by token; the ids are those of `generate_padded` with the same options.

        Args:
          inputs: one row.
          options: with one beam and one output.
          on_token: called with each token as soon as it is known, EOS included; if it returns True, no more follow.

        Returns:
          int32 [1, L]: start token, generated tokens.

        Raises:
          UserError: as `generate`, and for more than one row, beam or output.
        """


def check_stream(inputs: PaddedInputs, options: GenerationOptions) -> None:
    """Checks that there is one sequence of tokens.

    Raises:
      UserError: for several rows, beams or outputs.
    """
    if (inputs.num_rows, options.num_beams, options.num_return_sequences) != (1, 1, 1):
        found = f"{inputs.num_rows} rows, {options.num_beams} beams, {options.num_return_sequences} outputs"
        raise UserError(found, "one of each, when tokens are given one by one")


def generate_program(model: Any, mesh: Mesh | None = None) -> Any:
    """Returns the jitted program of a generation: (weights, input_ids, attention_mask, traced, static) → `Decoded`.

    Args:
      model: a module of `nash_jax.models`, with a separate LM head.
      mesh: the devices; None: one.
    """

    def generate(
        weights: Weights, input_ids: jax.Array, attention_mask: jax.Array, traced: TracedArgs, static: StaticArgs
    ) -> Decoded:
        encoded = encode_batch(model, weights, input_ids, attention_mask, traced.prompt.shape[1] - 1)
        decode = greedy if static.num_beams == 1 else beam_search
        return decode(make_decoder(model, weights, encoded), static, traced)

    return jax.jit(generate, static_argnums=4, out_shardings=None if mesh is None else replicated(mesh))


class Engine(BatchGenerator):
    """Generates with a model: parameters on the device in the compute dtype, and jitted functions.

    Args:
      spec: the model's architecture.
      params: its parameters.
      dtype: compute dtype; or "int8", on CPUs: float32, with all matrices rounded to 8 bits.
      kernels: decode with the kernels of `nash_jax.kernels`, where they can be used; None: where they are also faster.
      mesh: devices that parameters and rows are split over, without kernels; None or of one device: the first device.

    Raises:
      UserError: for int8 on another device than a CPU.
    """

    def __init__(
        self, spec: ModelSpec, params: Mapping[str, Any], dtype: Any = jnp.float32, kernels: bool | None = None,
        mesh: Mesh | None = None,
    ) -> None:  # fmt: skip
        self.spec = dataclasses.replace(spec, tied=False)  # a separate head decodes faster than a tied table
        self._mesh = mesh if mesh is not None and mesh.size > 1 else None
        self.weights = WeightStore(dtype, kernels, self.spec, self._mesh)
        self.model = build(self.spec, dtype=self.weights.dtype)
        self._encode = jax.jit(self._encode_fn, static_argnums=3)
        self._generate = generate_program(self.model, self._mesh)
        self._start = jax.jit(self._start_fn, static_argnums=4)
        self._step = jax.jit(self._step_fn, static_argnums=4, donate_argnums=2)
        self._logits = jax.jit(lambda params, *inputs: self.model.apply({"params": params}, *inputs))
        self.update_params(params)

    def update_params(self, params: Mapping[str, Any]) -> None:
        """Replaces the parameters by others with the same shapes (tied or untied); nothing is recompiled."""
        self.weights.update(params)

    @property
    def params(self) -> dict[str, Any]:
        """The parameters on the device."""
        return self.weights.params

    @property
    def dtype(self) -> str:
        """The compute dtype, or "int8"."""
        return "int8" if self.weights.int8 else self.weights.dtype.name

    def _encode_fn(self, weights: Weights, input_ids: jax.Array, attention_mask: jax.Array, max_length: int) -> Any:
        return encode_batch(self.model, weights, input_ids, attention_mask, max_length)

    def _run(self, inputs: PaddedInputs, traced: TracedArgs, static: StaticArgs) -> Decoded:
        weights = self.weights.of_rows(len(inputs.input_ids) * static.rows_of_input)
        ids: Any = inputs.input_ids
        mask: Any = inputs.attention_mask
        if self._mesh is not None:
            ids, mask, traced = place_inputs(self._mesh, inputs, traced)
        with use_mesh(self._mesh):
            found: Decoded = self._generate(weights, ids, mask, traced, static)
        return found

    def generate_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *,
        decoder_input_ids: np.ndarray | None = None, stop_at_eos: bool = True,
    ) -> np.ndarray:  # fmt: skip
        """As `BatchGenerator.generate_padded`."""
        static, traced = make_program_args(self.spec, options, inputs, decoder_input_ids, stop_at_eos)
        found = self._run(inputs, traced, static)
        return np.asarray(found.tokens)[: inputs.num_rows * static.num_return_sequences, : int(found.width)]

    def stream_padded(self, inputs: PaddedInputs, options: GenerationOptions, on_token: OnToken) -> np.ndarray:
        """As `BatchGenerator.stream_padded`; the step of `generate` is compiled alone, and called for each token."""
        check_stream(inputs, options)
        static, traced = make_program_args(self.spec, options, inputs, None, True)
        longest, ends, traced = int(traced.max_length), set(traced.eos_ids.tolist()), jax.device_put(traced)
        weights = self.weights.of_rows(1)
        encoded, state = self._start(weights, inputs.input_ids, inputs.attention_mask, traced, static)
        found = np.asarray(state.tokens)[:1, : int(state.length)].tolist()[0]
        while len(found) < longest:
            token, state = self._step(weights, encoded, state, traced, static)
            found.append(int(np.asarray(token)[0]))
            if on_token(found[-1]) or found[-1] in ends:
                break
        return np.array([found], np.int32)

    def _start_fn(
        self, weights: Weights, input_ids: jax.Array, attention_mask: jax.Array, traced: TracedArgs, static: StaticArgs
    ) -> tuple[Encoded, GreedyState]:
        encoded = self._encode_fn(weights, input_ids, attention_mask, traced.prompt.shape[1] - 1)
        return encoded, start(make_decoder(self.model, weights, encoded), static, traced)

    def _step_fn(
        self, weights: Weights, encoded: Encoded, state: GreedyState, traced: TracedArgs, static: StaticArgs
    ) -> tuple[jax.Array, GreedyState]:
        state = step(make_decoder(self.model, weights, encoded), static, traced, state)
        return get_column(state.tokens, state.length - 1), state

    def score_padded(
        self, inputs: PaddedInputs, options: GenerationOptions, *, decoder_input_ids: np.ndarray | None = None
    ) -> ScoredIds:
        """As `BatchGenerator.score_padded`; another program is compiled for it."""
        static, traced = make_program_args(self.spec, options, inputs, decoder_input_ids, True, return_scores=True)
        found = self._run(inputs, traced, static)
        return to_host(found, inputs.num_rows * static.num_return_sequences, int(traced.prompt_length))

    def encode_only(self, input_ids: np.ndarray, attention_mask: np.ndarray, max_new_tokens: int) -> Any:
        """Runs the part of `generate` before the first token and waits for it; used for timing."""
        inputs = pad_inputs(input_ids, attention_mask, np.arange(len(input_ids)), self.spec.pad_id)
        max_length = length_bucket(max_new_tokens)
        weights = self.weights.of_rows(len(inputs.input_ids))
        return jax.block_until_ready(self._encode(weights, inputs.input_ids, inputs.attention_mask, max_length))

    def logits(self, input_ids: np.ndarray, attention_mask: np.ndarray, decoder_input_ids: np.ndarray) -> np.ndarray:
        """Returns teacher-forced logits, float32 [B, T, V]."""
        check_inputs(input_ids, attention_mask, self.spec)
        check_length("decoder_input_ids are", decoder_input_ids.shape[1], self.spec)
        inputs = (jnp.asarray(x, jnp.int32) for x in (input_ids, attention_mask, decoder_input_ids))
        return np.asarray(self._logits(self.params, *inputs))
