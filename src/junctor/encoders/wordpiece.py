"""BERT's uncased WordPiece tokenisation, exact and fast, without a tokeniser package.

Text is cut at ASCII blanks and ASCII punctuation by one regular expression; each chunk is then looked up in a bounded cache
from chunk to token ids. That cut is always a word boundary for BERT too, so everything difficult (control characters, accents,
case, CJK, foreign blanks and punctuation, the longest-match search) happens once per new chunk and not once per text.

Source: Devlin et al. 2019 (BERT); Wu et al. 2016, section 4.1 (WordPiece). Literal "[MASK]" and its like in a text are plain
text here, never the special token. Characters newer than Unicode 8 may differ from tokenisers with tables of that age.
"""

from __future__ import annotations

import re
import unicodedata
from array import array
from collections.abc import Mapping
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

UNKNOWN = "[UNK]"
LONGEST_WORD = 100
"""A word of more characters is one unknown token, as in BERT."""

HEAD_CHARS = 6_000
TAIL_CHARS = 2_000
"""Of a longer text, only so many first and last characters are read: work is bounded, and both ends have their say."""

_CACHED_CHUNKS = 16_384
_CACHED_CHARACTERS = 4_096
_LONGEST_CACHED = 48
_PUNCTUATION = r"!-/:-@\[-`{-~"
_CHUNK = re.compile(rf"[^ \t\n\r{_PUNCTUATION}]+|[{_PUNCTUATION}]")
_CJK = (
    (0x3400, 0x4DBF),
    (0x4E00, 0x9FFF),
    (0xF900, 0xFAFF),
    (0x20000, 0x2A6DF),
    (0x2A700, 0x2B81F),
    (0x2B920, 0x2CEAF),
    (0x2F800, 0x2FA1F),
)
_DROPPED_CATEGORIES = frozenset(("Cc", "Cf", "Co", "Cs"))


def clip(text: str) -> str:
    """The text itself, or the head and the tail of one that is longer than both together."""
    if len(text) <= HEAD_CHARS + TAIL_CHARS:
        return text
    return f"{text[:HEAD_CHARS]}\n{text[-TAIL_CHARS:]}"


def read_vocabulary(path: Path) -> dict[str, int]:
    """Token -> id from a vocab.txt: one token per line, the id is the line number from 0."""
    lines = path.read_text(encoding="utf-8").split("\n")
    return {token: i for i, token in enumerate(lines) if token}


class WordPiece:
    """Token ids of texts, without [CLS] and [SEP]. Thread-safe: its dicts are only added to or emptied."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._cache = _ChunkCache(vocabulary)

    def ids(self, text: str) -> NDArray[np.uint16]:
        """[T] ids of the whole text; read-only."""
        return np.frombuffer(b"".join(map(self._cache.__getitem__, _CHUNK.findall(text))), np.uint16)


class _ChunkCache(dict[str, bytes]):
    """Chunk -> its ids as uint16 bytes: plain words of the vocabulary from the start, others on demand, reset when full."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        super().__init__()
        self._first = _Pieces({token: i for token, i in vocabulary.items() if not token.startswith("##")})
        self._inner = _Pieces({token[2:]: i for token, i in vocabulary.items() if token.startswith("##")})
        self._unknown = [vocabulary[UNKNOWN]]
        plain = (token for token in vocabulary if token.isascii() and token.isalpha() and token.islower())
        self._plain = {token: array("H", [vocabulary[token]]).tobytes() for token in plain}
        self.update(self._plain)

    def __missing__(self, chunk: str) -> bytes:
        packed = self._plain.get(chunk.lower()) if chunk.isascii() else None
        if packed is None:
            packed = array("H", [i for word in words(chunk) for i in self._ids(word)]).tobytes()
        if len(chunk) <= _LONGEST_CACHED:
            if len(self) >= len(self._plain) + _CACHED_CHUNKS:
                self.clear()
                self.update(self._plain)
            self[chunk] = packed
        return packed

    def _ids(self, word: str) -> list[int]:
        """Greedy longest match from the left; one unknown token when any part of the word has no match."""
        if len(word) > LONGEST_WORD:
            return self._unknown
        ids: list[int] = []
        start, pieces = 0, self._first
        while start < len(word):
            found = pieces.longest_at(word, start)
            if found is None:
                return self._unknown
            ids.append(found[0])
            start, pieces = found[1], self._inner
        return ids


class _Pieces:
    """The pieces that may begin a word, or those that may go on with one."""

    def __init__(self, ids: Mapping[str, int]) -> None:
        self._ids = ids
        self._reach: dict[str, int] = {}  # first two characters -> length of the longest piece that begins so
        for piece in ids:
            self._reach[piece[:2]] = max(self._reach.get(piece[:2], 0), len(piece))

    def longest_at(self, word: str, start: int) -> tuple[int, int] | None:
        """Id and end of the longest piece that `word` has at `start`."""
        reach = self._reach.get(word[start : start + 2], 1)
        for end in range(min(len(word), start + reach), start, -1):
            found = self._ids.get(word[start:end])
            if found is not None:
                return found, end
        return None


def words(text: str) -> list[str]:
    """BERT's basic tokenisation: cleaned, lower-cased, without accents; CJK and punctuation characters stand alone."""
    return text.translate(_NORMALISED).split()


class _Normalised(dict[int, str]):
    """Code point -> what the basic tokenisation makes of it, blanks around what stands alone; filled on demand, bounded."""

    def __missing__(self, code: int) -> str:
        if len(self) >= _CACHED_CHARACTERS:
            self.clear()
        out = self[code] = _normalised(chr(code))
        return out


_NORMALISED = _Normalised()


def _normalised(char: str) -> str:
    if char in "\t\n\r":
        return " "
    if char in "\0\ufffd" or unicodedata.category(char) in _DROPPED_CATEGORIES:
        return ""
    if char.isspace():
        return " "
    bare = "".join(c.lower() for c in unicodedata.normalize("NFD", char) if unicodedata.category(c) != "Mn")
    if is_cjk(ord(char)):
        return f" {bare} "
    return "".join(f" {c} " if is_punctuation(c) else c for c in bare)


def is_punctuation(char: str) -> bool:
    """Unicode punctuation, and every ASCII character that is neither letter, digit, blank nor control."""
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def is_cjk(code: int) -> bool:
    """Ideographs, as BERT counts them; neither kana nor Hangul."""
    return code >= _CJK[0][0] and any(low <= code <= high for low, high in _CJK)
