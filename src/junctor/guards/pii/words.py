"""The lists of names, places and companies that ship with junctor, and which words are common ones."""

from __future__ import annotations

import unicodedata
from functools import cache
from pathlib import Path

HERE = Path(__file__).parent


@cache
def words(kind: str) -> frozenset[str]:
    """The words of a kind (`words.txt`), small letters, without accents."""
    return _read()[kind]


@cache
def _read() -> dict[str, frozenset[str]]:
    found: dict[str, frozenset[str]] = {}
    for line in (HERE / "words.txt").read_text("utf-8").splitlines():
        kind, colon, rest = line.partition(":")
        if colon and not line.startswith("#"):
            found[kind] = frozenset(word.replace("_", " ") for word in rest.split())
    return found


@cache
def endings() -> tuple[str, ...]:
    """What surnames of many languages end in."""
    return tuple(words("endings"))


@cache
def known_words() -> frozenset[str]:
    """Words that the default encoder's vocabulary holds whole: what is not among them is rare, a name for example."""
    path = HERE.parent.parent / "encoders" / "data" / "vocab.txt"
    return frozenset(word for word in path.read_text("utf-8").splitlines() if word.isalpha())


def plain(word: str) -> str:
    """Small letters without accents, as the lists have them."""
    if word.isascii():
        return word.lower()
    return "".join(c for c in unicodedata.normalize("NFKD", word.lower()) if not unicodedata.combining(c))
