"""What the other engines share: generation options that they refuse, limits of length, threads."""

import os
from collections.abc import Iterable

from nash_jax.errors import UserError
from nash_jax.generation.options import DEFAULT_NEW_TOKENS, GenerationOptions
from nash_jax.spec import ModelSpec


def refuse_options(engine: str, options: GenerationOptions, without: Iterable[str], spec: ModelSpec, has: str) -> None:
    """Refuses options that an engine does not have, and another start token than the model's.

    Args:
      engine: what it is called.
      options: generation options.
      without: those that must have their defaults.
      spec: of the model.
      has: what it has instead, for the message.

    Raises:
      UserError: naming the options.
    """
    default = GenerationOptions()
    wrong = [name for name in without if getattr(options, name) != getattr(default, name)]
    if options.decoder_start_token_id not in (None, spec.decoder_start_id):
        wrong.append("decoder_start_token_id")
    if wrong:
        raise UserError(f"{engine} has no {', '.join(wrong)}", has, "leave out --engine")


def num_threads() -> int:
    """Threads of an engine: OMP_NUM_THREADS, or the cores that this process may use."""
    return int(os.environ.get("OMP_NUM_THREADS") or len(os.sched_getaffinity(0)))


def length_limits(options: GenerationOptions, prefix: int) -> tuple[int, int]:
    """Returns the largest and the smallest number of tokens after the start token.

    Args:
      options: generation options.
      prefix: how many of these tokens are a prompt's.
    """
    new = DEFAULT_NEW_TOKENS if options.max_new_tokens is None else options.max_new_tokens
    by_length = options.max_new_tokens is None and options.max_length is not None
    longest = options.max_length - 1 if by_length and options.max_length else prefix + new
    if options.min_new_tokens is not None:
        return longest, prefix + options.min_new_tokens
    return longest, max(options.min_length - 1, 0)
