"""Limits on the length of an output, as other engines than ours take them."""

from nash_jax.generation.options import DEFAULT_NEW_TOKENS, GenerationOptions


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
