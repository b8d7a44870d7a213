"""Names of people, companies and places: runs of capitalised words, judged by lists, endings and the words beside them.

Each run gets a score for each kind; the best one counts. A name that is in no list and beside no telling word is found only
when it looks like a name; small letters are never read as one.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import NamedTuple

from junctor.guards.pii.spans import Span
from junctor.guards.pii.words import endings, known_words, plain, words

NAMED = r"[A-ZÀ-ÖØ-ÞĀ-Ž](?<!\w[A-ZÀ-ÖØ-ÞĀ-Ž])[\w'’\-]+"
WORD = re.compile(r"[A-ZÀ-ÖØ-ÞĀ-ŽȘȚΑ-ΩΆΈΉΊΌΎΏА-Я](?<!\w[A-ZÀ-ÖØ-ÞĀ-ŽȘȚΑ-ΩΆΈΉΊΌΎΏА-Я])[\w’'&\-]*")
AFTER_PERSON = re.compile(
    r"(?:'s\b|’s\b| (?:said|says|was born|lives|lived|is the ceo|told|wrote|asked|who|novel|likes|wants|had|flew)\b)"
)
AFTER_COMPANY = re.compile(
    r"\s(?:office|offices|employees|headquarters|shares|stock|orchestra|is a company|announced|products?|is the brainchild)\b",
    re.IGNORECASE,
)
FIRM = re.compile(rf"{NAMED}(?:, {NAMED}){{1,2}},? (?:and|&) {NAMED}|{NAMED} (?:&|and) (?:Sons?|Co|Partners|Associates)\b")
SENTENCE_ENDS = '.!?:;\n\r"“(*->|?'
DIGIT = re.compile(r"\d")
CONTEXT = 32
WORTH_SAYING = 0.2


class Run(NamedTuple):
    """Capitalised words in a row: where, the words as the lists have them, and whether a sentence may begin with them."""

    start: int
    end: int
    words: tuple[str, ...]
    first: bool
    titled: bool


def find_names(text: str) -> Iterator[Span]:
    """People, organisations and places, each with the score of its best reading."""
    if " and " in text or " & " in text:
        yield from (Span(m.start(), m.end(), "organisation", 0.6) for m in FIRM.finditer(text) if _is_firm(m[0]))
    for run in _runs(text):
        found = _judge(text, run)
        if found is not None:
            yield found


def _is_firm(found: str) -> bool:
    """Whether a list of names is one of surnames, as in the names of law firms."""
    names = [plain(w) for w in re.findall(NAMED, found)]
    lasts = sum(w in words("surname") for w in names)
    return lasts * 2 >= len(names)


def _runs(text: str) -> Iterator[Run]:
    """Runs of capitalised words that are not everyday words, with particles such as `van` between them."""
    never = words("not")
    held: list[str] = []
    start = end = 0
    titled = first = False
    for m in WORD.finditer(text):
        word, at, stop = m[0], m.start(), m.end()
        low = plain(word)
        own = low.endswith(("'s", "’s"))
        if own:
            low, stop = low[:-2], stop - 2
        title, everyday = low in words("titles"), low in never or (not low.isalpha() and DIGIT.search(low) is not None)
        if held and (title or everyday or not _joins(text[end:at], held)):
            yield Run(start, end, tuple(held), first, titled)
            held, titled = [], False
        if title or everyday:
            titled = title
            continue
        if not held:
            start, first = at, _opens(text, at)
            titled = titled and text[max(0, at - 2) : at].strip(". ") == ""
        held.append(low)
        end = stop
        if own:
            yield Run(start, end, tuple(held), first, titled)
            held, titled = [], False
    if held:
        yield Run(start, end, tuple(held), first, titled)


def _joins(gap: str, held: list[str]) -> bool:
    """Whether what stands between two capitalised words leaves them one name."""
    if gap in (" ", "  "):
        return True
    if gap == ". ":
        return len(held[-1]) == 1
    return len(gap) < 12 and gap[:1] == " " == gap[-1:] and all(word in words("links") for word in gap.split())


def _opens(text: str, at: int) -> bool:
    """Whether a sentence (or line) may begin here."""
    while at > 0 and text[at - 1] in " \t":
        at -= 1
    return at == 0 or text[at - 1] in SENTENCE_ENDS


def _judge(text: str, run: Run) -> Span | None:
    before = text[max(0, run.start - CONTEXT) : run.start].lower().split()[-2:]
    last = before[-1] if before else ""
    two = " ".join(before).rstrip(",")
    cues = (last.rstrip(","), two, last) if last != "the" or len(before) < 2 else (before[0],)
    person = _person(text, run, cues)
    company = _company(text, run, cues)
    place = _place(run, cues)
    best = max(person, company, place)
    if best < WORTH_SAYING:
        return None
    kind = "person" if best == person else "organisation" if best == company else "place"
    return Span(run.start, run.end, kind, best)


def _person(text: str, run: Run, cues: tuple[str, ...]) -> float:
    if run.titled:
        return 0.95
    sure = not words("sure-person").isdisjoint(cues)
    score = 0.5 if sure and run.words[0] in words("first") else _looks_like_a_person(run)
    if score and 2 <= len(run.words) <= 4:
        score += 0.1
    if len(run.words) > 5:
        score -= 0.3
    if sure:
        score += 0.45
    elif not words("before-person").isdisjoint(cues):
        score += 0.1
    if AFTER_PERSON.match(text, run.end):
        score += 0.25
    return min(score, 0.94)


def _looks_like_a_person(run: Run) -> float:
    """By the words alone."""
    firsts, lasts, common, known = words("first"), words("surname"), words("common"), known_words()
    several = len(run.words) > 1
    head = run.words[0]
    if head in firsts and (several or head not in common):
        return 0.8 if several or not run.first else 0.7
    if any((w in firsts or w in lasts) and w not in common for w in run.words):
        return 0.6
    rare = [w for w in run.words if w not in known]
    if any(len(w) > 4 and w.endswith(endings()) for w in rare):
        return 0.55
    if len(rare) == len(run.words):
        return 0.3 if run.first and not several else 0.42
    return 0.35 if rare and several else 0.0 if run.first else 0.12


def _company(text: str, run: Run, cues: tuple[str, ...]) -> float:
    marks = words("company")
    if len(run.words) > 1 and (run.words[-1].rstrip(".") in marks or (len(run.words) > 2 and run.words[-2] in marks)):
        return 0.92
    if not words("brand").isdisjoint(run.words):
        return 0.85
    score = 0.75 if not words("before-company").isdisjoint(cues) else 0.0
    if AFTER_COMPANY.match(text, run.end):
        score += 0.5
    return min(score, 0.9)


def _place(run: Run, cues: tuple[str, ...]) -> float:
    whole = " ".join(run.words)
    near = not words("before-place").isdisjoint(cues)
    if not words("sure-place").isdisjoint(cues):
        return 0.95
    if whole in words("country") or whole in words("city") or whole in words("state"):
        return 0.93 if near else 0.82
    if not near:
        return 0.0
    return 0.62 if any(w not in known_words() for w in run.words) else 0.45
