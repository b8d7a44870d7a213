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
from collections.abc import Iterator, Mapping
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
_LONGEST_CACHED = 48
_PUNCTUATION = r"!-/:-@\[-`{-~"
_CHUNK = re.compile(rf"[^ \t\n\r{_PUNCTUATION}]+|[{_PUNCTUATION}]")
_CJK = ((0x4E00, 0x9FFF), (0x3400, 0x4DBF), (0x20000, 0x2A6DF), (0x2A700, 0x2B81F), (0x2B920, 0x2CEAF))
_CJK_COMPATIBILITY = ((0xF900, 0xFAFF), (0x2F800, 0x2FA1F))
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
    """Token ids of texts, without [CLS] and [SEP]. Thread-safe: the cache is a dict that is only ever added to or emptied."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        self._cache = _ChunkCache(vocabulary)

    def ids(self, text: str) -> NDArray[np.uint16]:
        """[T] ids of the whole text; read-only."""
        return np.frombuffer(b"".join(map(self._cache.__getitem__, _CHUNK.findall(text))), np.uint16)


class _ChunkCache(dict[str, bytes]):
    """Chunk -> its ids as uint16 bytes, filled on demand and emptied when full."""

    def __init__(self, vocabulary: Mapping[str, int]) -> None:
        super().__init__()
        self._whole = {token: i for token, i in vocabulary.items() if not token.startswith("##")}
        self._inner = {token[2:]: i for token, i in vocabulary.items() if token.startswith("##")}
        self._longest = max(map(len, vocabulary))
        self._unknown = [vocabulary[UNKNOWN]]

    def __missing__(self, chunk: str) -> bytes:
        ids = [i for word in words(chunk) for i in self._pieces(word)]
        packed = np.array(ids, np.uint16).tobytes()
        if len(chunk) <= _LONGEST_CACHED:
            if len(self) >= _CACHED_CHUNKS:
                self.clear()
            self[chunk] = packed
        return packed

    def _pieces(self, word: str) -> list[int]:
        """Greedy longest match from the left; one unknown token when any part of the word has no match."""
        if len(word) > LONGEST_WORD:
            return self._unknown
        ids: list[int] = []
        start, table = 0, self._whole
        while start < len(word):
            for end in range(min(len(word), start + self._longest), start, -1):
                if (found := table.get(word[start:end])) is not None:
                    break
            else:
                return self._unknown
            ids.append(found)
            start, table = end, self._inner
        return ids


def words(text: str) -> Iterator[str]:
    """BERT's basic tokenisation: cleaned, lower-cased, without accents; CJK and punctuation characters stand alone."""
    for part in _normalised(text).split():
        start = 0
        for i, char in enumerate(part):
            if is_punctuation(char):
                yield from filter(None, (part[start:i], char))
                start = i + 1
        if start < len(part):
            yield part[start:]


def is_punctuation(char: str) -> bool:
    """Unicode punctuation, and every ASCII character that is neither letter, digit, blank nor control."""
    if char.isascii():
        return char.isprintable() and not char.isalnum() and char != " "
    return unicodedata.category(char).startswith("P")


def _normalised(text: str) -> str:
    if text.isascii() and text.isprintable():
        return text.lower()
    spaced = "".join(map(_cleaned, text))
    bare = (c for c in unicodedata.normalize("NFD", spaced) if unicodedata.category(c) != "Mn")
    return "".join(c.lower() for c in bare)  # one by one: a word-final sigma must not change


def _cleaned(char: str) -> str:
    if char in "\t\n\r":
        return " "
    if char in "\0\ufffd" or unicodedata.category(char) in _DROPPED_CATEGORIES:
        return ""
    if char.isspace():
        return " "
    return f" {char} " if _is_cjk(ord(char)) else char


def _is_cjk(code: int) -> bool:
    return code >= 0x3400 and any(low <= code <= high for low, high in (*_CJK, *_CJK_COMPATIBILITY))
