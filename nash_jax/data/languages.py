"""Languages of multilingual tokenizers (mBART, mBART-50, NLLB, M2M100).

Such a tokenizer marks a text with the token of its language, which follows EOS in mBART, and comes first in the others.
A code is a language's name for the tokenizer: `de_DE`, `deu_Latn` or `de`.
"""

import contextlib
import re
import sys
from collections.abc import Iterator
from typing import Any, NamedTuple, TypeVar

from nash_jax.config.schema import TaskConfig
from nash_jax.data.tasks import TASKS
from nash_jax.errors import UserError, did_you_mean
from nash_jax.runtime.multihost import is_host0
from nash_jax.spec import ModelSpec

_CODE = re.compile(r"[a-z]{2,8}(_[A-Za-z0-9]+)*")
_SHOWN = 12  # codes shown in a message; NLLB has 202
Options = TypeVar("Options", bound=Any)
SETTINGS = ("config.task.source_language", "config.task.target_language")


class Languages(NamedTuple):
    """Codes of the sources' and the targets' language; None: not known."""

    source: str | None
    target: str | None


def has_languages(tokenizer: Any) -> bool:
    """Whether a tokenizer marks texts with their language."""
    return hasattr(tokenizer, "src_lang") and hasattr(tokenizer, "tgt_lang")


def language_ids(tokenizer: Any) -> dict[str, int]:
    """Returns code → token id of all languages of a multilingual tokenizer."""
    if hasattr(tokenizer, "lang_token_to_id"):  # M2M100's codes are not tokens: the token of `de` is `__de__`
        return dict(tokenizer.lang_code_to_id)
    tokens = [token for token in tokenizer.all_special_tokens if _CODE.fullmatch(token)]
    return dict(zip(tokens, tokenizer.convert_tokens_to_ids(tokens), strict=True))


def find_language(tokenizer: Any, name: Any) -> str | None:
    """Returns the code that is the name, or the only code that begins with it (`de` → `de_DE`); None: there is none.

    Args:
      tokenizer: a multilingual tokenizer.
      name: a code, or its first part.
    """
    codes = language_ids(tokenizer)
    similar = [code for code in codes if code.partition("_")[0] == name]
    if isinstance(name, str) and name in codes:
        return name
    return similar[0] if len(similar) == 1 else None


def stored_languages(tokenizer: Any) -> Languages:
    """Returns a tokenizer's languages if it was saved with both, else none: the hub's name no target.

    Those that the user has set since, as in `tokenizer.src_lang = "de_DE"`, are taken as they are now.
    """
    saved = all(tokenizer.init_kwargs.get(name) for name in ("src_lang", "tgt_lang"))
    return Languages(tokenizer.src_lang, tokenizer.tgt_lang) if saved else Languages(None, None)


def set_languages(tokenizer: Any, languages: Languages) -> None:
    """Marks texts that are tokenized from now on; a language that is None stays as it is.

    Args:
      tokenizer: a multilingual tokenizer.
      languages: codes that it knows.
    """
    if hasattr(tokenizer, "lang_token_to_id"):  # M2M100 would otherwise not skip language tokens when it decodes
        special = set(tokenizer.all_special_tokens)
        missing = [token for token in tokenizer.lang_token_to_id if token not in special]
        tokenizer.add_special_tokens({"extra_special_tokens": missing}, replace_extra_special_tokens=False)
    for name, code in zip(("src_lang", "tgt_lang"), languages, strict=True):
        if code is not None:
            setattr(tokenizer, name, code)
            tokenizer.init_kwargs[name] = code


def choose_languages(tokenizer: Any, task: TaskConfig) -> None:
    """Marks texts with the languages of a task: its settings, the columns of a translation, or the tokenizer's own.

    Args:
      tokenizer: the run's tokenizer; changed if it is multilingual.
      task: the task.

    Raises:
      UserError: for a language that the tokenizer does not know, or none where it needs one, or one where it has none.
    """
    given = Languages(task.source_language or None, task.target_language or None)
    if not has_languages(tokenizer):
        _refuse_languages(tokenizer, given, SETTINGS)
        return
    own = stored_languages(tokenizer)
    by_column = (find_language(tokenizer, name) for name in _translation_columns(task))
    default = Languages(*(code or stored for code, stored in zip(by_column, own, strict=True)))
    chosen = _resolve(tokenizer, given, default, SETTINGS)
    set_languages(tokenizer, chosen)
    if is_host0():
        print(f"languages: {chosen.source} to {chosen.target}", file=sys.stderr, flush=True)


def _translation_columns(task: TaskConfig) -> tuple[str, str]:
    """Names of the columns of a translation, without those that they lie in; empty for other tasks.

    Raises:
      UserError: for a mixture of translations of several pairs: a run has one pair of languages.
    """
    columns: tuple[str, ...] = ("", "")
    if task.form == "translation":
        columns = (task.source_column, task.target_column)
    elif task.form == "auto":
        names = [name.strip() for name in (task.mixture or task.name).split(",")]
        pairs = {TASKS[n].form.columns for n in names if n in TASKS and TASKS[n].recipe == "translation"}
        if len(pairs) > 1:
            raise UserError(
                f"config.task.mixture is {task.mixture!r}, with {len(pairs)} pairs of languages",
                "translations of one pair: a multilingual model is told one source and one target language",
            )
        columns = next(iter(pairs), columns)
    source, target = (column.rpartition(".")[2] for column in columns)
    return source, target


def generation_languages(
    tokenizer: Any, spec: ModelSpec, given: Languages, options: Options,
    settings: tuple[str, str] = ("source_lang", "target_lang"),
) -> Options:  # fmt: skip
    """Marks texts that are tokenized from now on with their language; returns the options for the target language.

    If the options already make outputs begin with a language, as transformers does it, no target is needed, and the
    source is what the tokenizer says.

    Args:
      tokenizer: of a model that generates; changed if it is multilingual.
      spec: of the model.
      given: languages asked for; without languages in the tokenizer, none.
      options: `GenerationOptions`.
      settings: what the user sets for the source and for the target, for messages.

    Raises:
      UserError: as `choose_languages`.
    """
    if not has_languages(tokenizer):
        _refuse_languages(tokenizer, given, settings)
        return options
    start_id = options.decoder_start_token_id
    first_ids = {options.forced_bos_token_id, spec.decoder_start_id if start_id is None else start_id}
    if given.target is None and first_ids & set(language_ids(tokenizer).values()):
        own = Languages(tokenizer.src_lang, tokenizer.src_lang)
        set_languages(tokenizer, _resolve(tokenizer, given, own, settings))
        return options
    set_languages(tokenizer, _resolve(tokenizer, given, stored_languages(tokenizer), settings))
    return options.replace(**target_options(tokenizer, spec.wraps_labels))


@contextlib.contextmanager
def restored_languages(tokenizer: Any) -> Iterator[None]:
    """Leaves a tokenizer's languages after the context as they were before."""
    names = ("src_lang", "tgt_lang") if has_languages(tokenizer) else ()
    before = {name: (getattr(tokenizer, name), tokenizer.init_kwargs.get(name)) for name in names}
    try:
        yield
    finally:
        for name, (value, initial) in before.items():
            setattr(tokenizer, name, value)
            tokenizer.init_kwargs[name] = initial


def target_options(tokenizer: Any, wraps_labels: bool) -> dict[str, Any]:
    """Returns the generation options with which outputs are in the language of a tokenizer's targets.

    Args:
      tokenizer: a multilingual tokenizer with a target language.
      wraps_labels: the decoder begins with the last token of a target (mBART).
    """
    language = language_ids(tokenizer)[tokenizer.tgt_lang]
    if wraps_labels and tokenizer(text_target="")["input_ids"][-1] == language:
        return {"decoder_start_token_id": language, "forced_bos_token_id": None}
    return {"forced_bos_token_id": language}


def _resolve(tokenizer: Any, given: Languages, default: Languages, settings: tuple[str, str]) -> Languages:
    """Returns codes that the tokenizer knows, of what is given or else the default."""
    found = []
    for name, other, setting, side in zip(given, default, settings, ("source", "target"), strict=True):
        code = find_language(tokenizer, name) if name else other
        if code is None:
            codes = language_ids(tokenizer)
            first = str(name).partition("_")[0]
            near = [code for code in codes if code.partition("_")[0] == first] or codes
            what = f"{setting} is {name!r}{did_you_mean(str(name), near)}" if name else f"no {side} language"
            raise UserError(what, f"a language of the tokenizer: {_some(codes)}", "" if name else f"set {setting}")
        found.append(code)
    return Languages(*found)


def _some(codes: dict[str, int]) -> str:
    return ", ".join(list(codes)[:_SHOWN]) + f" … ({len(codes)})" * (len(codes) > _SHOWN)


def _refuse_languages(tokenizer: Any, given: Languages, settings: tuple[str, str]) -> None:
    for name, setting in zip(given, settings, strict=True):
        if name:
            raise UserError(
                f"{setting} is {name!r}, and the tokenizer ({type(tokenizer).__name__}) has no languages",
                "a multilingual model, such as mBART or NLLB",
                "leave it out",
            )
