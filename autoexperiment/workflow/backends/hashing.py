"""Text as rows of numbers: words and pairs of neighbouring words, hashed into a fixed number of columns."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Sequence
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]
_WORD = re.compile(r"\w+|[^\w\s]")
_BREAK = "\x1f"  # between the words of a pair; no word has it


def features(texts: Sequence[str], n_features: int) -> Array:
    """Signed counts of each text's words and pairs, shape (len(texts), n_features), float32.

    Case does not count. A column's number and sign come from a hash, so that equal words count alike on every machine;
    words that share a column disturb each other. Each row is scaled to a mean square of 1, whatever the text's length;
    a text whose counts cancel out is a row of zeros. Source: Weinberger et al. 2009, section 2.
    """
    rows = np.zeros((len(texts), n_features), np.float64)
    for row, text in zip(rows, texts, strict=True):
        for term in _terms(text):
            column, sign = _place(term, n_features)
            row[column] += sign
    lengths = np.sqrt(np.mean(np.square(rows), axis=1, keepdims=True))
    scaled: Array = np.divide(rows, lengths, out=np.zeros_like(rows), where=lengths > 0)
    return scaled.astype(np.float32)


def _terms(text: str) -> list[str]:
    words = _WORD.findall(text.lower())
    return [*words, *(_BREAK.join(pair) for pair in pairwise(words))]


@lru_cache(maxsize=1 << 16)
def _place(term: str, n_features: int) -> tuple[int, int]:
    number = int.from_bytes(hashlib.blake2b(term.encode(), digest_size=8).digest(), "big")
    return (number >> 1) % n_features, 1 if number & 1 else -1
