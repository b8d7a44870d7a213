"""What two questions must share, word by word, before their vectors are compared.

A vector of a text is a sum of its words' vectors: it hardly tells 8 from 6, on from off, or who did what to whom. So two
questions can only be the same when what such a vector does not see is the same:

    facts    numbers, quoted texts, names (capitals inside a sentence), negations, words of direction and of comparison
    words    the facts, and all other words in their order, but for those that only make a question polite or grammatical
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from typing import Literal

Agreement = Literal["words", "facts"]

_POLITE = re.compile(
    r"\b(?:(?:can|could|would|will) (?:you|u|i)(?: (?:please|kindly))?(?: (?:tell|show) me)?(?! (?:not|n't))"
    r"|i(?: would|'d|’d)(?: really)? like (?:to know|you to|to)|i (?:just )?(?:want|wanna|need|have)(?: to)?(?: know)?(?=\s)"
    r"|please|pls|kindly|thanks?(?: you)?|let me know|tell me|show me|hey|hi|hello|ok|okay)\b"
)
_WORD = re.compile(r"\d+(?:[.,:/]\d+)*|[^\W\d_]+(?:['’][^\W\d_]+)?|[^\w\s]")
_QUOTED = re.compile(r"\"[^\"]*\"|“[^”]*”|`[^`]*`|«[^»]*»")
_NAME = re.compile(r"(?<=[^\s.!?:;\"“(\[])\s+([A-Z][\w’'-]*)|\b([A-Z]{2,}\w*)\b|\b(\w*[a-z][A-Z]\w*)\b")
_LIGHT = frozenset(("a", "an", "the", "is", "are", "am", "be", "do", "does", "to", "of", "for", "at", "s", "really", "just"))
_MARKS = frozenset(".,;:!?\"'’“”()[]…-–—")
_NEGATIONS = "not no never none nothing nobody without except neither nor cannot unless stop"
_DIRECTIONS = "from to into on off up down in out before after over under above below until since between by"
_ORDER = "first last next previous left right more less most least than highest lowest best worst all only every any both"
_WHO_AND_WHAT = "who whom whose what when where why which how my your his her their our"
_WHEN = "did was were had will today tomorrow yesterday tonight now later"
_DAYS = "monday tuesday wednesday thursday friday saturday sunday"
_NUMBERS = "zero one two three four five six seven eight nine ten half twice dozen"
_TELLING = frozenset(f"{_NEGATIONS} {_DIRECTIONS} {_ORDER} {_WHO_AND_WHAT} {_WHEN} {_DAYS} {_NUMBERS}".split())


def _plain(word: str) -> str:
    """A word without its possessive and plural s."""
    word = word.replace("’", "'").removesuffix("'s")
    if len(word) > 3 and word.endswith("s") and not word.endswith(("ss", "us", "is")):
        return word[:-1]
    return word


def words(text: str) -> tuple[str, ...]:
    """What remains of a text, in its order."""
    found: list[str] = [*_QUOTED.findall(text), "|"]
    lowered = text.lower().replace("’", "'")
    asks = _POLITE.sub(" ", lowered)
    said = _WORD.findall(asks if asks.strip(" ?!.,") else lowered)
    found += [_plain(word) for word in said if word not in _LIGHT and word not in _MARKS]
    return tuple(found)


def facts(text: str) -> tuple[str, ...]:
    """What a vector does not see, in its order."""
    found = [*_QUOTED.findall(text), "|"]
    found += ["".join(groups).lower() for groups in _NAME.findall(text)]
    found.append("|")
    for word in _WORD.findall(text.lower().replace("’", "'")):
        if word[0].isdigit() or word in _TELLING or word.endswith("n't"):
            found.append(word)
        elif not word.isalnum() and word not in _MARKS and "'" not in word:
            found.append(word)  # +, <, $, …: code and sums
    return tuple(found)


SIGNATURES: Mapping[Agreement, Callable[[str], tuple[str, ...]]] = {"words": words, "facts": facts}
