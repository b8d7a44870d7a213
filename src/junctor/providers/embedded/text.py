"""The text specialist: counts, turns round, sorts and cuts words and letters.

Limits: one operation per question; the text must stand in quotes, after a colon, or after "the word"; it knows no meanings.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from fractions import Fraction

from junctor.providers.embedded.answer import Answer, declined
from junctor.providers.embedded.wordlists import listed

_QUOTED = re.compile(r"[\"“]([^\"”]{1,400})[\"”]|(?<!\w)['‘]([^'’]{1,400})['’](?!\w)")
_NAMED = re.compile(r"\b(?:the )?(?:word|phrase|term|name|letters of|string)s? (\w+)", re.IGNORECASE)
_AFTER_COLON = re.compile(r":\s*([^:?]{2,400}?)[.?!]?\s*$")
_WORD = re.compile(r"[^\W\d_]+(?:'[^\W\d_]+)?")
_ORDINALS = {
    name: i + 1 for i, name in enumerate(listed("first second third fourth fifth sixth seventh eighth ninth tenth"))
} | {"last": -1}
_NTH = re.compile(r"\b(\d+(?:st|nd|rd|th)|" + "|".join(_ORDINALS) + r") (word|letter|character)")
_LETTER = re.compile(r"\bletter ['\"“‘]?([a-z])['\"”’]?(?!\w)|['\"“‘]([a-z])['\"”’]", re.IGNORECASE)


def parts(text: str) -> tuple[str, list[str]]:
    """The instruction, in lower case, and the texts that it speaks of; single quoted letters stay in the instruction."""
    found = [a or b for a, b in _QUOTED.findall(text)]
    subjects = [part for part in found if len(part) > 1]
    if subjects:
        return _QUOTED.sub(lambda m: m.group() if len(m[1] or m[2]) == 1 else " _ ", text).lower(), subjects
    colon = _AFTER_COLON.search(text)
    if colon:
        return text[: colon.start()].lower(), [colon[1]]
    named = _NAMED.search(text)
    if named:
        return (text[: named.start(1)] + " _ " + text[named.end(1) :]).lower(), [named[1]]
    return text.lower(), []


def _number(value: int) -> Answer:
    return Answer(str(value), Fraction(value))


def _count_letter(instruction: str, subject: str) -> Answer:
    letter = _LETTER.search(instruction)
    if letter is None:
        return declined("tell which letter to count")
    return _number(subject.lower().count((letter[1] or letter[2]).lower()))


def _nth(instruction: str, subject: str) -> Answer:
    match = _NTH.search(instruction)
    assert match is not None
    place = _ORDINALS.get(match[1]) or int(re.sub(r"\D", "", match[1]))
    pieces = _WORD.findall(subject) if match[2] == "word" else [c for c in subject if c.isalpha()]
    if not 0 < abs(place) <= len(pieces):
        return declined(f"find a {match[1]} {match[2]}")
    return Answer(pieces[place - 1 if place > 0 else place])


def _sorted(_: str, subject: str) -> Answer:
    pieces = _WORD.findall(subject)
    if len(pieces) == 1:
        return Answer("".join(sorted(pieces[0].lower())))
    return Answer(" ".join(sorted(pieces, key=str.lower)))


def _longest(_: str, subject: str) -> Answer:
    pieces = _WORD.findall(subject)
    return Answer(max(pieces, key=len)) if pieces else declined("find a word")


def _palindrome(_: str, subject: str) -> Answer:
    letters = [c for c in subject.lower() if c.isalnum()]
    return Answer("Yes" if letters == letters[::-1] else "No")


_Operation = Callable[[str, str], Answer]
_OPERATIONS: tuple[tuple[re.Pattern[str], _Operation], ...] = tuple(
    (re.compile(pattern), operation)
    for pattern, operation in (
        (r"palindrome|same (?:forwards|backwards|in both)", _palindrome),
        (r"(?:how many times|occurrences?|how often|count).*\bletter\b|how many ['\"“‘][a-z]['\"”’]", _count_letter),
        (r"\bvowels?\b", lambda _, s: _number(sum(c in "aeiou" for c in s.lower()))),
        (r"\bconsonants?\b", lambda _, s: _number(sum(c.isalpha() and c not in "aeiou" for c in s.lower()))),
        (_NTH.pattern, _nth),
        (r"revers|backwards?|back to front|right to left", lambda _, s: Answer(s[::-1])),
        (r"(?:how many|number of|count|length).*\b(?:letters|characters)", lambda _, s: _number(sum(map(str.isalpha, s)))),
        (r"(?:how many|number of|count).*\bwords", lambda _, s: _number(len(_WORD.findall(s)))),
        (r"upper ?case|capital letters|capitals|all caps", lambda _, s: Answer(s.upper())),
        (r"lower ?case|small letters", lambda _, s: Answer(s.lower())),
        (r"alphabetical|\bsort\b|a to z|dictionary order", _sorted),
        (r"longest word", _longest),
    )
)


def solve(text: str) -> Answer:
    """Do the first operation that the instruction names."""
    instruction, subjects = parts(text)
    if len(subjects) >= 2 and ("anagram" in instruction or "same letters" in instruction):
        first, second = (sorted(c for c in s.lower() if c.isalnum()) for s in subjects[:2])
        return Answer("Yes" if first == second else "No")
    if not subjects:
        return declined("find the text to work on")
    for pattern, operation in _OPERATIONS:
        if pattern.search(instruction):
            return operation(instruction, subjects[-1])
    return declined("tell what to do with the text")
