"""A CTranslate2 folder for nash_jax.export.check."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from nash_jax.export.ct2 import write_ctranslate2
from nash_jax.export.vocabulary import token_names
from nash_jax.spec import ModelSpec


class CheckedFolder:
    """A folder that CTranslate2 has loaded; ids instead of names of tokens."""

    def __init__(self, folder: Path, spec: ModelSpec) -> None:
        import ctranslate2

        self._spec, self._names = spec, token_names(None, max(spec.vocab_size, spec.source_vocab_size))
        self._translator = ctranslate2.Translator(str(folder), compute_type="float32", intra_threads=1)

    def logits(self, ids: np.ndarray, mask: np.ndarray, decoder_ids: np.ndarray) -> np.ndarray:
        """Log-probabilities of the decoder's inputs after the first, [B, T-1]."""
        found = self._translator.score_batch(self._sources(ids, mask), [self._named(row[1:]) for row in decoder_ids])
        return np.array([row.log_probs[:-1] for row in found])  # the last is that of EOS

    def greedy(self, ids: np.ndarray, mask: np.ndarray, new_tokens: int) -> np.ndarray:
        """Start token, tokens to EOS, padding, [B, up to 1 + new_tokens]."""
        return self._generate(ids, mask, new_tokens, 1)

    def beams(self, ids: np.ndarray, mask: np.ndarray, new_tokens: int) -> np.ndarray:
        """As `greedy`, the best of 4 beams."""
        return self._generate(ids, mask, new_tokens, 4)

    def _generate(self, ids: np.ndarray, mask: np.ndarray, new_tokens: int, beam_size: int) -> np.ndarray:
        found = self._translator.translate_batch(
            self._sources(ids, mask), beam_size=beam_size, max_decoding_length=new_tokens, min_decoding_length=0,
            return_end_token=True,
        )  # fmt: skip
        rows = [[self._names.index(name) for name in row.hypotheses[0]] for row in found]
        tokens = np.full((len(rows), 1 + new_tokens), self._spec.pad_id)
        tokens[:, 0] = self._spec.decoder_start_id
        for row, own in zip(tokens, rows, strict=True):
            row[1 : 1 + len(own)] = own
        return tokens

    def _sources(self, ids: np.ndarray, mask: np.ndarray) -> list[list[str]]:
        return [self._named(row[kept > 0]) for row, kept in zip(ids, mask, strict=True)]

    def _named(self, ids: np.ndarray) -> list[str]:
        return [self._names[number] for number in ids]


def written(folder: Path, spec: ModelSpec, params: Mapping[str, Any]) -> CheckedFolder:
    """Writes a model to an empty folder and loads it in CTranslate2."""
    write_ctranslate2(folder, spec, params, None)
    return CheckedFolder(folder, spec)
