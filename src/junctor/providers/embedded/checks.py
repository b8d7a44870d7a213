"""Judging an answer against what the task knows to be right: tolerant of form, not of value."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from datetime import date

Check = Callable[[str], float]
NEAR = 0.5
LONGEST = 300

_NUMBER = re.compile(r"-?(?:\d{1,3}(?:,\d{3})+|\d+)(?:\.\d+)?(?:e[+-]?\d+)?", re.IGNORECASE)
_MONTHS = (
    "january", "february", "march", "april", "may", "june",
    "july", "august", "september", "october", "november", "december",
)  # fmt: skip


def numbers_in(text: str) -> list[float]:
    """All numbers that a text names, in order."""
    return [float(found.replace(",", "")) for found in _NUMBER.findall(text)]


def number_check(right: float) -> Check:
    """The last number of the answer: 1 within 1e-4 of the right one (integers exactly), 0.5 within one per cent, else 0."""
    whole = right == int(right)

    def check(answer: str) -> float:
        found = numbers_in(answer[:LONGEST])
        if not found:
            return 0.0
        gap = abs(found[-1] - right)
        if gap <= (1e-9 * abs(right) if whole else max(1e-4 * abs(right), 0.005)):
            return 1.0
        return NEAR if gap <= 0.01 * abs(right) else 0.0

    return check


def plain(text: str) -> str:
    """Letters and digits only, lower case, accents dropped, single spaces."""
    bare = unicodedata.normalize("NFKD", text.replace("ł", "l")).encode("ascii", "ignore").decode()
    return re.sub(r"[^a-z0-9]+", " ", bare.lower()).strip()


def phrase_check(*right: str) -> Check:
    """One of the right phrases stands in the answer as whole words."""
    wanted = [f" {plain(phrase)} " for phrase in right]

    def check(answer: str) -> float:
        said = f" {plain(answer[:LONGEST])} "
        return float(any(phrase in said for phrase in wanted))

    return check


def exact_check(right: str) -> Check:
    """The answer is the right text, quotes and a closing full stop aside; 0.5 when only the case differs."""

    def check(answer: str) -> float:
        said = " ".join(answer.strip().strip("'\"“”‘’.").replace(",", " ").split())
        wanted = " ".join(right.replace(",", " ").split())
        if said == wanted:
            return 1.0
        return NEAR if said.lower() == wanted.lower() else 0.0

    return check


def date_check(right: date) -> Check:
    """The right date as 2024-03-05, March 5, 2024 or 5 March 2024."""
    month = _MONTHS[right.month - 1]
    spoken = phrase_check(f"{month} {right.day} {right.year}", f"{right.day} {month} {right.year}")

    def check(answer: str) -> float:
        return 1.0 if right.isoformat() in answer[:LONGEST] else spoken(answer)

    return check
