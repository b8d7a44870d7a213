"""The calendar specialist: weekdays, days between two dates, and a date some days or weeks away from another.

Limits: needs the year; reads 03/04/2024 month first, whatever was meant; knows no months or years as spans, no holidays.
"""

from __future__ import annotations

import re
from datetime import date, timedelta
from fractions import Fraction

from junctor.providers.embedded.answer import Answer, declined
from junctor.providers.embedded.numbers import words_to_digits
from junctor.providers.embedded.wordlists import listed

MONTHS = listed("january february march april may june july august september october november december")
WEEKDAYS = listed("Monday Tuesday Wednesday Thursday Friday Saturday Sunday")
_MONTH = {name: i + 1 for i, name in enumerate(MONTHS)} | {name[:3]: i + 1 for i, name in enumerate(MONTHS)}
_NAMES = "|".join(sorted(_MONTH, key=len, reverse=True))
_DATE = re.compile(
    r"\b(?P<y1>\d{4})-(?P<m1>\d{1,2})-(?P<d1>\d{1,2})\b"
    r"|\b(?P<m2>\d{1,2})/(?P<d2>\d{1,2})/(?P<y2>\d{4})\b"
    rf"|\b(?P<m3>{_NAMES})\.? (?:the )?(?P<d3>\d{{1,2}})(?:st|nd|rd|th)?,? (?P<y3>\d{{4}})\b"
    rf"|\b(?P<d4>\d{{1,2}})(?:st|nd|rd|th)?(?: of)? (?P<m4>{_NAMES})\.?,? (?P<y4>\d{{4}})\b"
)
_SPAN = re.compile(r"(\d{1,6}) (day|week|fortnight)s?\b")
_WEEKDAY = re.compile(r"day of the week|weekday|(?:which|what) day (?:was|is|will|did|does)|on (?:which|what) day")
_DAYS = {"day": 1, "week": 7, "fortnight": 14}


def find_dates(text: str) -> list[date]:
    """All dates of a text in lower case, in order; impossible ones are left out."""
    found = []
    for match in _DATE.finditer(text):
        groups = {name[0]: value for name, value in match.groupdict().items() if value}
        month = _MONTH.get(groups["m"]) or int(groups["m"])
        try:
            found.append(date(int(groups["y"]), month, int(groups["d"])))
        except ValueError:
            continue
    return found


def solve(text: str) -> Answer:
    """Answer the one calendar question that the text seems to ask."""
    text = words_to_digits(text.lower())
    found = find_dates(text)
    if not found:
        return declined("find a full date")
    rest = _DATE.sub(" ", text)
    if len(found) >= 2:
        return _between(found[0], found[1])
    span = _SPAN.search(rest)
    if span:
        return _away(found[0], span, rest, wants_weekday=bool(_WEEKDAY.search(rest)))
    if _WEEKDAY.search(rest):
        return Answer(WEEKDAYS[found[0].weekday()])
    return declined("tell what to do with this date")


def _between(first: date, second: date) -> Answer:
    days = abs((second - first).days)
    return Answer(f"{days} days", Fraction(days))


def _away(start: date, span: re.Match[str], text: str, *, wants_weekday: bool) -> Answer:
    days = int(span[1]) * _DAYS[span[2]]
    back = re.search(r"\b(before|earlier|ago|prior|back)\b", text) is not None
    try:
        end = start + timedelta(days=-days if back else days)
    except OverflowError:
        return declined("count that far")
    return Answer(WEEKDAYS[end.weekday()] if wants_weekday else end.isoformat())
