"""The tokenizer of a run: the checkpoint's own, or one built from the task's data."""

from pathlib import Path
from typing import Any

from nash_jax.errors import UserError

PAD, EOS, UNKNOWN = "<pad>", "</s>", "<unk>"


def load_tokenizer(name: str) -> Any:
    """A `transformers` tokenizer from a folder or a hub name.

    Raises:
      UserError: when there is none.
    """
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(name, trust_remote_code=False)
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"no tokenizer could be loaded from {name!r}: {str(error).splitlines()[0]}",
            "a folder with tokenizer.json or spiece.model, or a name on a reachable hub",
            "name one in config.task.tokenizer",
        ) from error


def build_pronunciation_tokenizer(rows: list[dict[str, Any]]) -> Any:
    """A word-level tokenizer over the letters and phonemes that occur: lower case is a letter each, upper
    case a phoneme each.

    Args:
      rows: training rows.
    """
    from tokenizers import Regex, Tokenizer, models, pre_tokenizers, processors
    from transformers import PreTrainedTokenizerFast

    letters = sorted({c for row in rows for c in row["source"]})
    phonemes = sorted({p for row in rows for text in row["references"] for p in text.split()})
    vocabulary = {token: i for i, token in enumerate([PAD, EOS, UNKNOWN, *letters, *phonemes])}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token=UNKNOWN))
    single_letters = pre_tokenizers.Split(Regex("[a-z']"), "isolated")
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), single_letters])
    tokenizer.post_processor = processors.TemplateProcessing(
        single=f"$A {EOS}", special_tokens=[(EOS, vocabulary[EOS])]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token=PAD, eos_token=EOS, unk_token=UNKNOWN)


def save_tokenizer(tokenizer: Any, folder: Path) -> None:
    """Writes the tokenizer's files into an existing folder."""
    tokenizer.save_pretrained(folder)
