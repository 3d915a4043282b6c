"""Generation options, with the names and the meaning of `transformers.GenerationConfig`."""

import dataclasses
import math
import numbers
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

from nash_jax.errors import UserError, did_you_mean

DEFAULT_NEW_TOKENS = 64

# fields of transformers that change the output but are not supported here → their inactive value
UNSUPPORTED_FIELDS: dict[str, Any] = {
    "assistant_early_exit": None,
    "constraints": None,
    "diversity_penalty": 0.0,
    "dola_layers": None,
    "epsilon_cutoff": 0.0,
    "eta_cutoff": 0.0,
    "force_words_ids": None,
    "guidance_scale": 1.0,
    "max_time": None,
    "num_beam_groups": 1,
    "penalty_alpha": 0.0,
    "prompt_lookup_num_tokens": None,
    "sequence_bias": None,
    "stop_strings": None,
    "token_healing": False,
    "top_h": None,
    "typical_p": 1.0,
    "use_mtp": False,
    "watermarking_config": None,
}


class _FieldType(NamedTuple):
    """How a value is normalized (`ValueError` if it is not valid), and the expected values in words."""

    read: Callable[[Any], Any]
    expected: str


def _require(holds: bool) -> None:
    if not holds:
        raise ValueError


def _read_int(value: Any, least: int = 0, limit: int = 2**31) -> int:
    _require(isinstance(value, numbers.Integral) and not isinstance(value, bool) and least <= int(value) < limit)
    return int(value)


def _read_float(value: Any, accepts: Callable[[float], bool] = math.isfinite) -> float:
    _require(isinstance(value, numbers.Real) and not isinstance(value, bool) and math.isfinite(value))
    _require(accepts(float(value)))
    return float(value)


def _read_list(value: Any, read: Callable[[Any], Any] = _read_int) -> tuple[Any, ...]:
    _require(isinstance(value, list | tuple))
    return tuple(read(item) for item in value)


def _read_nonempty(value: Any) -> tuple[int, ...]:
    _require(isinstance(value, list | tuple) and len(value) > 0)
    return _read_list(value)


def _read_one_or_more(value: Any) -> tuple[int, ...]:
    return _read_nonempty(value if isinstance(value, list | tuple) else [value])


def _read_lone(value: Any) -> int:
    """An id, or a list of one id as in files of some tools; transformers forces it as well."""
    (found,) = _read_one_or_more(value)
    return int(found)


def _read_bool(value: Any) -> bool:
    _require(isinstance(value, bool))
    return value


def _read_stopping(value: Any) -> bool | str:
    return value if value == "never" else _read_bool(value)


def _read_decay(value: Any) -> tuple[int, float]:
    start, factor = _read_list(value, lambda item: item)
    return _read_int(start), _read_float(factor, lambda x: x > 0)


def _int_at_least(least: int) -> _FieldType:
    return _FieldType(lambda value: _read_int(value, least), f"a whole number, {least} or more")


_ID = _FieldType(_read_int, "a token id")
_IDS = _FieldType(_read_list, "a list of token ids")
_ONE_OR_MORE_IDS = _FieldType(_read_one_or_more, "a token id or a list of them")
_SEQUENCES = _FieldType(lambda value: _read_list(value, _read_nonempty), "a list of non-empty lists of token ids")
_BOOL = _FieldType(_read_bool, "True or False")
_NUMBER = _FieldType(_read_float, "a number")
_POSITIVE = _FieldType(lambda value: _read_float(value, lambda x: x > 0), "a number above 0")
_PROBABILITY = _FieldType(lambda value: _read_float(value, lambda x: 0 <= x <= 1), "a number from 0 to 1")

_MAX_LENGTH = 2**20  # tokens; the cache is allocated for the whole length
_LENGTH = _FieldType(lambda value: _read_int(value, 1, _MAX_LENGTH + 1), f"a whole number from 1 to {_MAX_LENGTH:,}")

_FIELD_TYPES: dict[str, _FieldType] = {
    "max_new_tokens": _LENGTH,
    "max_length": _LENGTH,
    "min_new_tokens": _int_at_least(0),
    "min_length": _int_at_least(0),
    "num_beams": _int_at_least(1),
    "num_return_sequences": _int_at_least(1),
    "length_penalty": _NUMBER,
    "early_stopping": _FieldType(_read_stopping, "True, False or 'never'"),
    "do_sample": _BOOL,
    "temperature": _POSITIVE,
    "top_k": _int_at_least(0),
    "top_p": _PROBABILITY,
    "min_p": _PROBABILITY,
    "repetition_penalty": _POSITIVE,
    "encoder_repetition_penalty": _POSITIVE,
    "no_repeat_ngram_size": _int_at_least(0),
    "encoder_no_repeat_ngram_size": _int_at_least(0),
    "bad_words_ids": _SEQUENCES,
    "allowed_sequences": _SEQUENCES,
    "forced_bos_token_id": _FieldType(_read_lone, "a token id"),
    "forced_eos_token_id": _ONE_OR_MORE_IDS,
    "suppress_tokens": _IDS,
    "begin_suppress_tokens": _IDS,
    "exponential_decay_length_penalty": _FieldType(_read_decay, "[start, factor], a whole number and a number above 0"),
    "remove_invalid_values": _BOOL,
    "renormalize_logits": _BOOL,
    "decoder_start_token_id": _FieldType(_read_int, "one token id for all rows"),
    "bos_token_id": _ONE_OR_MORE_IDS,
    "eos_token_id": _ONE_OR_MORE_IDS,
    "pad_token_id": _ID,
    "seed": _FieldType(lambda value: _read_int(value, limit=2**63), "a whole number, 0 or more"),
}


@dataclasses.dataclass(frozen=True)
class GenerationOptions:
    """Generation options. Hashable: lists become tuples, and a single BOS or EOS id becomes a tuple.

    Attributes:
      max_new_tokens: maximum number of generated tokens; overrides `max_length`. If both are None, it is
        `DEFAULT_NEW_TOKENS` = 64, since transformers' default of 20 truncates summaries.
      max_length: maximum total length, including the prompt (the decoder's start token).
      min_new_tokens: minimum number of generated tokens; overrides `min_length`.
      min_length: minimum total length, including the prompt.
      num_beams: number of beams; 1: greedy search or sampling.
      num_return_sequences: sequences returned for each input.
      length_penalty: exponent of the length by which a finished beam's score is divided.
      early_stopping: when beam search stops: at `num_beams` finished beams (True), when better ones are unlikely
        (False) or impossible ("never").
      do_sample: sample tokens; if False, the best token is chosen and the next four options have no effect.
      temperature: scores are divided by it.
      top_k: sample among this many best tokens (and tokens with the same score as the last); 0: among all.
      top_p: sample among the most probable tokens with at least this total probability.
      min_p: sample among tokens with at least this fraction of the best token's probability; None: off.
      repetition_penalty: values above 1 make tokens of the output less likely.
      encoder_repetition_penalty: values above 1 make tokens of the input more likely.
      no_repeat_ngram_size: n-grams of this size occur only once; 0: off.
      encoder_no_repeat_ngram_size: n-grams of this size of the input do not occur; 0: off.
      bad_words_ids: token sequences that are never generated.
      allowed_sequences: outputs are always one of these token sequences, each with its EOS, whatever the maximum and
        minimum lengths are; options that forbid or force tokens have no effect then. Not an option of transformers.
      forced_bos_token_id: first token after the decoder's start token.
      forced_eos_token_id: last token when `max_length` is reached; an int or a list.
      suppress_tokens: ids that are never generated.
      begin_suppress_tokens: ids that are not generated as the first token.
      exponential_decay_length_penalty: (start, factor): after `start` new tokens EOS becomes more likely.
      remove_invalid_values: NaN scores become 0, infinite ones the largest finite values.
      renormalize_logits: scores are normalized to log-probabilities after all processors.
      decoder_start_token_id: first token of the decoder; None: from the spec.
      bos_token_id: beginning-of-sequence ids; None: none.
      eos_token_id: each of these ids ends a row; an int or a list; None: from the spec.
      pad_token_id: fills rows that have ended; None: from the spec.
      seed: of sampling; not an option of transformers.

    Raises:
      UserError: for a value with a wrong type or out of range, or values that contradict each other.
    """

    max_new_tokens: int | None = None
    max_length: int | None = None
    min_new_tokens: int | None = None
    min_length: int = 0
    num_beams: int = 1
    num_return_sequences: int = 1
    length_penalty: float = 1.0
    early_stopping: bool | str = False
    do_sample: bool = False
    temperature: float = 1.0
    top_k: int = 50
    top_p: float = 1.0
    min_p: float | None = None
    repetition_penalty: float = 1.0
    encoder_repetition_penalty: float = 1.0
    no_repeat_ngram_size: int = 0
    encoder_no_repeat_ngram_size: int = 0
    bad_words_ids: tuple[tuple[int, ...], ...] = ()
    allowed_sequences: tuple[tuple[int, ...], ...] = ()
    forced_bos_token_id: int | None = None
    forced_eos_token_id: tuple[int, ...] | None = None
    suppress_tokens: tuple[int, ...] = ()
    begin_suppress_tokens: tuple[int, ...] = ()
    exponential_decay_length_penalty: tuple[int, float] | None = None
    remove_invalid_values: bool = False
    renormalize_logits: bool = False
    decoder_start_token_id: int | None = None
    bos_token_id: tuple[int, ...] | None = None
    eos_token_id: tuple[int, ...] | None = None
    pad_token_id: int | None = None
    seed: int = 0

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            object.__setattr__(self, field.name, _read(field, getattr(self, field.name)))
        self._check_sequences()
        self._check_forced()

    def _check_sequences(self) -> None:
        """Greedy search returns one sequence, beam search at most `num_beams`."""
        count = self.num_return_sequences
        if self.num_beams == 1 and not self.do_sample and count > 1:
            raise UserError(f"num_return_sequences is {count}", "1 in greedy search", "set num_beams or do_sample")
        if 1 < self.num_beams < count:
            raise UserError(f"num_return_sequences is {count}", f"no more than num_beams={self.num_beams}")
        outputs = len(set(self.allowed_sequences))
        if self.num_beams > 1 and 0 < outputs < count:
            raise UserError(f"num_return_sequences is {count}", f"no more than the {outputs} outputs that are allowed")

    def _check_forced(self) -> None:
        """A step that forces only suppressed tokens would have no token to choose."""
        forced = {"forced_bos_token_id": self.forced_bos_token_id, "forced_eos_token_id": self.forced_eos_token_id}
        for name, ids in forced.items():
            if ids is not None and set(_read_one_or_more(ids)) <= set(self.suppress_tokens):
                raise UserError(f"{name}={ids} is in suppress_tokens too", "a token in one of the two")

    def replace(self, **changes: Any) -> "GenerationOptions":
        """Returns the same options with some changed.

        Raises:
          UserError: for an unknown name, or a value that is not valid for its option.
        """
        for name in changes:
            if name in UNSUPPORTED_FIELDS:
                raise UserError(f"generation option {name!r} of transformers is not supported", do="leave it out")
            if name not in _FIELD_TYPES:
                raise UserError(f"there is no generation option {name!r}{did_you_mean(name, _FIELD_TYPES)}")
        return dataclasses.replace(self, **changes)

    def for_allowed_sequences(self) -> "GenerationOptions":
        """Returns the options with which every allowed sequence can be generated; the same if none are named."""
        if not self.allowed_sequences:
            return self
        longest = max(map(len, self.allowed_sequences))
        return self.replace(**_TOKEN_RULES, max_new_tokens=longest)

    def length_limits(self, prompt_length: int) -> tuple[int, int]:
        """Returns the minimum and maximum total length, including the prompt.

        `max_new_tokens` overrides `max_length`, and `min_new_tokens` overrides `min_length`. If neither maximum is set,
        it is the prompt plus DEFAULT_NEW_TOKENS. If the minimum exceeds the maximum, the maximum applies.

        Args:
          prompt_length: number of tokens the decoder starts from; 1 for only the start token.

        Raises:
          UserError: if `max_length` leaves no room for a new token.
        """
        longest = prompt_length + (self.max_new_tokens or DEFAULT_NEW_TOKENS)
        if self.max_new_tokens is None and self.max_length is not None:
            longest = self.max_length
        if longest <= prompt_length:
            raise UserError(
                f"max_length is {longest} and the decoder starts from {prompt_length} tokens",
                "a greater max_length",
                "set max_new_tokens, which does not count them",
            )
        shortest = self.min_length if self.min_new_tokens is None else prompt_length + self.min_new_tokens
        return shortest, longest

    def to_dict(self) -> dict[str, Any]:
        """Returns the values that differ from the defaults, in the format of `generation_config.json`."""
        values = {field.name: getattr(self, field.name) for field in dataclasses.fields(self)}
        return {name: _to_json(name, value) for name, value in values.items() if value != _DEFAULTS[name]}


_DEPENDENT = ("num_return_sequences", "forced_bos_token_id", "forced_eos_token_id")  # valid or not depending on others
_TOKEN_RULES: dict[str, Any] = {  # options that can forbid a token → their inactive value
    "max_length": None,
    "min_new_tokens": None,
    "min_length": 0,
    "no_repeat_ngram_size": 0,
    "encoder_no_repeat_ngram_size": 0,
    "bad_words_ids": (),
    "forced_bos_token_id": None,
    "forced_eos_token_id": None,
    "suppress_tokens": (),
    "begin_suppress_tokens": (),
}
_DEFAULTS = {field.name: field.default for field in dataclasses.fields(GenerationOptions)}


def _read(field: Any, value: Any) -> Any:
    """Normalizes a value; None means the default, unless that is a number."""
    if value is None and not isinstance(field.default, int | float):
        return field.default
    kind = _FIELD_TYPES[field.name]
    try:
        return kind.read(value)
    except (ValueError, TypeError, OverflowError):
        raise UserError(f"generation option {field.name} is {value!r}", kind.expected) from None


def _to_json(name: str, value: Any) -> Any:
    if _FIELD_TYPES[name] is _ONE_OR_MORE_IDS and len(value) == 1:
        return value[0]
    return _lists(value)


def _lists(value: Any) -> Any:
    return [_lists(item) for item in value] if isinstance(value, tuple) else value


def options_from_files(
    generation_config: Mapping[str, Any] | None, model_config: Mapping[str, Any]
) -> GenerationOptions:
    """Returns the options that come with a checkpoint, read as in transformers 5.

    If there is a `generation_config.json`, only it is read. Older checkpoints have these fields in `config.json` (its
    `task_specific_params` are not applied). Null means the default. Fields that do not change the output, and fields
    unknown to transformers, are ignored. As in transformers, the decoder starts from `bos_token_id` if there is no
    `decoder_start_token_id`; other missing special ids are taken from the spec.

    Args:
      generation_config: parsed `generation_config.json`, if there is one.
      model_config: parsed `config.json`.

    Raises:
      UserError: for a value that is not valid for its option, or an unsupported field that changes the output.
    """
    source = "config.json" if generation_config is None else "generation_config.json"
    fields = _legacy_fields(model_config) if generation_config is None else generation_config
    _refuse_unsupported(fields, source)
    try:
        options = GenerationOptions(**{n: v for n, v in fields.items() if n in _FIELD_TYPES and v is not None})
    except UserError as error:
        raise UserError(f"{source}: {error}") from error
    if options.decoder_start_token_id is None and options.bos_token_id is not None:
        return options.replace(decoder_start_token_id=options.bos_token_id[0])
    return options


def _legacy_fields(config: Mapping[str, Any]) -> dict[str, Any]:
    """Generation fields of a `config.json`, without `seed`, which is one of training."""
    fields = {name: value for name, value in config.items() if name != "seed"}
    if fields.get("force_bos_token_to_be_generated"):  # name used by BART's first checkpoints
        fields["forced_bos_token_id"] = fields.get("bos_token_id")
    return fields


def unsupported_fields(fields: Mapping[str, Any]) -> dict[str, Any]:
    """Returns the fields of a file, with values, that change transformers' output and are not supported here.

    Args:
      fields: fields of a `generation_config.json` or an old `config.json`.
    """
    return {
        name: fields[name] for name, neutral in UNSUPPORTED_FIELDS.items() if fields.get(name) not in (None, neutral)
    }


def unusable_fields(fields: Mapping[str, Any]) -> dict[str, str]:
    """Returns the options in a file whose values cannot be used → why; without them, the rest can be.

    Args:
      fields: fields of a `generation_config.json` or an old `config.json`; others than options are not looked at.
    """
    wrong: dict[str, str] = {}
    usable: dict[str, Any] = {}
    for name in sorted(_FIELD_TYPES, key=lambda name: name in _DEPENDENT):
        given = {name: fields[name]} if fields.get(name) is not None else {}
        try:
            GenerationOptions(**usable, **given)
            usable |= given
        except UserError as error:
            wrong[name] = str(error)
    return wrong


def _refuse_unsupported(fields: Mapping[str, Any], source: str) -> None:
    for name, value in unsupported_fields(fields).items():
        raise UserError(
            f"{source} sets {name} to {value!r}, which is not supported",
            f"{name} unset or {UNSUPPORTED_FIELDS[name]!r}",
            "remove it from the file; the output will differ from transformers",
        )
