"""The fact specialist: looks a question up among some 230 facts with BM25 and reads out the best one.

Limits: it matches words, not meanings, so a question in other words finds the wrong fact or none; it cannot reckon. Below
`SURE` it hedges, below `GUESS` it says that it does not know.

Source of the score: Robertson & Zaragoza, "The Probabilistic Relevance Framework: BM25 and Beyond", 2009, eq. 3.15.
"""

from __future__ import annotations

import math
import re
import unicodedata
from collections import Counter, defaultdict
from dataclasses import dataclass
from fractions import Fraction
from functools import cache

from junctor.providers.embedded.answer import Answer
from junctor.providers.embedded.knowledge import FACTS
from junctor.providers.embedded.wordlists import listed

K1, B = 1.2, 0.75
SURE, GUESS = 5.5, 3.0
LONGEST_QUESTION = 60

_WORD = re.compile(r"[a-z0-9]+")
_STOP = frozenset(
    listed(
        "a an and are as at be by can could did do does for from had has have i in is it its just me my of on or "
        "our please s so tell than thanks that the their this to was we were what which who will with would you "
        "your"
    )
)


@dataclass(frozen=True, slots=True)
class Index:
    """answers: (sentence, answer) per fact; postings: word -> [(fact, BM25 weight of the word in it)]."""

    answers: list[tuple[str, str]]
    postings: dict[str, list[tuple[int, float]]]


def terms(text: str) -> list[str]:
    """The words that count: lower case, accents and stop words dropped, a plural s cut off."""
    plain = unicodedata.normalize("NFKD", text.lower()).encode("ascii", "ignore").decode()
    return [w[:-1] if len(w) > 3 and w.endswith("s") else w for w in _WORD.findall(plain) if w not in _STOP]


@cache
def index() -> Index:
    """The inverted index over all facts; built once."""
    answers: list[tuple[str, str]] = []
    documents: list[Counter[str]] = []
    for sentence, said, pairs in FACTS.values():
        for subject, answer in pairs.items():
            line = sentence.format(s=subject, a=answer)
            answers.append((line[0].upper() + line[1:], answer))
            documents.append(Counter(terms(f"{said} {subject}")))
    return Index(answers, _postings(documents))


def _postings(documents: list[Counter[str]]) -> dict[str, list[tuple[int, float]]]:
    lengths = [sum(d.values()) for d in documents]
    mean = sum(lengths) / len(lengths)
    seen = Counter(word for d in documents for word in d)
    out: dict[str, list[tuple[int, float]]] = defaultdict(list)
    for i, document in enumerate(documents):
        norm = K1 * (1 - B + B * lengths[i] / mean)
        for word, count in document.items():
            idf = math.log(1 + (len(documents) - seen[word] + 0.5) / (seen[word] + 0.5))
            out[word].append((i, idf * count * (K1 + 1) / (count + norm)))
    return dict(out)


def best(text: str) -> tuple[int, float, int]:
    """(fact, its score, postings read) for a question; fact -1 when no word is known."""
    table = index()
    scores: dict[int, float] = {}
    work = 0
    for word in terms(text)[:LONGEST_QUESTION]:
        found = table.postings.get(word, ())
        work += len(found)
        for i, weight in found:
            scores[i] = scores.get(i, 0.0) + weight
    if not scores:
        return -1, 0.0, work
    top = max(scores, key=scores.__getitem__)
    return top, scores[top], work


def solve(text: str) -> Answer:
    """Read out the best fact, hedge, or say that it is not known."""
    top, score, work = best(text)
    if score < GUESS:
        return Answer("I do not know.", sure=False, work=max(work, 1))
    sentence, answer = index().answers[top]
    number = Fraction(answer) if answer.isdigit() else None
    if score < SURE:
        return Answer(f"I am not certain, but perhaps it is {answer}.", number, sure=False, work=work)
    return Answer(sentence, number, work=work)
