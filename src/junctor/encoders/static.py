"""The default encoder: a table of token vectors distilled from all-MiniLM-L6-v2. Tens of microseconds a text, numpy only.

A text's vector is the unit-length sum of its tokens' rows. The row of token t is w_t (v_t - mean) M: v_t is what MiniLM makes
of the token alone, w_t falls with how frequent it is, and M [384, 256] is fitted so that the sums point where MiniLM's sentence
vectors point. Rows ship as int8 with one scale each. scripts/distill_encoder.py makes the files; docs/encoders.md says how well
the table does and what else was tried.

Source: the model2vec method (Tulkens & van Dongen 2024), with a fitted map in place of its principal components; Arora et al.
2017 (smooth inverse frequency, here of a token's rank by Zipf's law).
"""

from __future__ import annotations

import hashlib
import re
import threading
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from junctor.encoders.base import Encoder
from junctor.encoders.wordpiece import WordPiece, clip, read_vocabulary
from junctor.errors import ArtefactError

DATA = Path(__file__).parent / "data"
TABLE_FILE = "static.safetensors"
ORIGIN_FILE = "origin.safetensors"
VOCABULARY_FILE = "vocab.txt"
SMOOTHING = 3e-4

_NO_WORD = re.compile(r"\[(PAD|UNK|CLS|SEP|MASK|unused\d+)\]")


@dataclass(frozen=True, slots=True)
class StaticTable:
    """The rows [V, D] as int8, what one step of each is worth [V], how texts become row numbers, and a digest of the files."""

    rows: NDArray[np.int8]
    scales: NDArray[np.float32]
    tokens: WordPiece
    digest: str


class StaticEncoder(Encoder):
    """Sum of token rows, unit length. The files are read at the first text, once per encoder.

    Of a text over 8,000 characters the first 6,000 and the last 2,000 are read (`wordpiece.clip`).
    """

    name: ClassVar[str] = "static"
    dim = 256

    def __init__(self, folder: Path = DATA) -> None:
        self._folder = folder
        self._lock = threading.Lock()
        self._table: StaticTable | None = None

    @property
    def table(self) -> StaticTable:
        """The table, read now if it was not; raises ArtefactError when its files are missing or damaged."""
        if self._table is None:
            with self._lock:
                if self._table is None:
                    self._table = read_table(self._folder)
        return self._table

    @property
    def digest(self) -> str:
        """Of the table and vocabulary files and of the way that they are used."""
        return self.table.digest

    def encode(self, texts: Sequence[str]) -> NDArray[np.float32]:
        """[N, dim] for N texts; each row is exactly what `encode_one` gives."""
        out = np.empty((len(texts), self.dim), np.float32)
        for i, text in enumerate(texts):
            out[i] = self.encode_one(text)
        return out

    def encode_one(self, text: str) -> NDArray[np.float32]:
        """[dim] for one text."""
        table = self._table or self.table
        ids = table.tokens.ids(clip(text))
        vector: NDArray[np.float32] = table.scales.take(ids).dot(table.rows.take(ids, axis=0).astype(np.float32))
        norm = float(vector.dot(vector)) ** 0.5
        if norm > 0:
            vector /= norm
        return vector


def token_weights(vocabulary: Mapping[str, int]) -> NDArray[np.float32]:
    """[V] w = a / (a + p) with p the token's share by Zipf's law; 0 for special and unused tokens, which say nothing."""
    shares = 1 / np.arange(1, len(vocabulary) + 1)
    weights = SMOOTHING / (SMOOTHING + shares / shares.sum())
    weights[[i for token, i in vocabulary.items() if _NO_WORD.fullmatch(token)]] = 0
    out: NDArray[np.float32] = weights.astype(np.float32)
    return out


def quantise(rows: NDArray[np.floating]) -> tuple[NDArray[np.int8], NDArray[np.float32]]:
    """Int8 rows and their scales: row = scale * int8, the largest of each row is 127; a zero row has scale 0."""
    scales = np.abs(rows).max(axis=1) / 127
    return np.rint(rows / np.where(scales > 0, scales, 1)[:, None]).astype(np.int8), scales.astype(np.float32)


def read_table(folder: Path) -> StaticTable:
    """From static.safetensors (`rows`, `scales`) and vocab.txt; raises ArtefactError naming the file that does not fit."""
    from safetensors import SafetensorError
    from safetensors.numpy import load

    path = folder / TABLE_FILE
    fix = "reinstall junctor, or run scripts/distill_encoder.py"
    try:
        raw, words = path.read_bytes(), (folder / VOCABULARY_FILE).read_bytes()
        arrays = load(raw)
        rows, scales = arrays["rows"], arrays["scales"]
        vocabulary = read_vocabulary(folder / VOCABULARY_FILE)
    except (OSError, KeyError, SafetensorError, UnicodeDecodeError) as error:
        raise ArtefactError(f"the static table cannot be read: {error}", field=str(path), fix=fix) from error
    if rows.dtype != np.int8 or rows.shape != (len(vocabulary), StaticEncoder.dim) or scales.shape != (len(vocabulary),):
        raise ArtefactError(f"the static table has shape {rows.shape} {rows.dtype}", field=str(path), fix=fix)
    digest = hashlib.blake2b(b"static-1\0" + raw + words, digest_size=8).hexdigest()
    return StaticTable(rows, scales.astype(np.float32), WordPiece(vocabulary), digest)
