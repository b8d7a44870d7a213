"""What is recognised by its form: addresses of mail, web and machines, numbers of cards, accounts, people and phones, secrets.

Where a form has check digits they are checked (Luhn for cards, mod 97 for IBANs). Every pattern is anchored, so that each of
its matches is tried once and a text costs time in proportion to its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from junctor.guards.pii.spans import Span

AT_DOMAIN = re.compile(r"@(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])")
LOCAL_CHARS = 64
URL = re.compile(r"\b(?:https?|ftp)://[^\s<>\"'\]\[{}|\\^`]{3,2000}|\bwww\.[^\s<>\"'\]\[{}|\\^`]{3,2000}", re.IGNORECASE)
ENDINGS = (".com", ".org", ".net", ".edu", ".gov", ".info", ".biz", ".io")
DOMAIN = re.compile(
    r"(?<![\w@.\-/])(?:[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?\.){1,5}(?:com|org|net|edu|gov|info|biz|io)\b(?![@\w])",
    re.IGNORECASE,
)
# A pattern that begins with a digit finds its places quickly; what must not stand before it is looked at second.
IP4 = re.compile(r"\d(?<![\w.]\d)\d{0,2}(?:\.\d{1,3}){3}(?![\w]|\.\d)")
IP6 = re.compile(r"(?<![\w:.])(?:[0-9a-fA-F]{0,4}:){2,7}[0-9a-fA-F]{0,4}(?![\w:])")
IBAN = re.compile(r"[A-Za-z](?<!\w[A-Za-z])[A-Za-z]\d{2}(?: ?[A-Za-z0-9]{4}){2,7}(?: ?[A-Za-z0-9]{1,4})?(?!\w)")
NUMERIC = re.compile(r"\d[\d .\-/():]{4,}\d")
DIGITS = re.compile(r"[\d+(](?<![\w.,+$€£¥@#\-/][\d+(])(?:(?<=\()\+)?\d?(?:[ .\-/()]{0,3}\d){5,24}(?![\w@]|[.,\-/]\d)")
SSN = re.compile(r"\d(?<![\w\-]\d)(?<!9)(?!(?<=0)00|(?<=6)66)\d{2}([\- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w\-])")
SECRET_SIGNS = ("sk-", "gh", "AKIA", "xox", "AIza", "glpat-", "eyJ", "-----BEGIN")
SECRET = re.compile(
    r"(?<![\w\-])(?:sk-(?:[a-z]+-)?[\w\-]{20,200}|gh[pousr]_\w{30,200}|github_pat_\w{30,200}|AKIA[A-Z0-9]{16}"
    r"|xox[abpr]-[\w\-]{10,200}|AIza[\w\-]{35}|glpat-[\w\-]{20}|eyJ[\w\-]{10,2000}\.eyJ[\w\-]{10,4000}\.[\w\-]{10,1000})(?![\w])"
    r"|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[\s\w+/=:,\-]{0,8000}?-----END [A-Z ]{0,20}PRIVATE KEY-----"
)
DATE = re.compile(
    r"\d(?<![\w./\-]\d)(?:\d{3}[\-/.](?:1[0-2]|0?[1-9])[\-/.](?:3[01]|[12]\d|0?[1-9])(?:[ T]\d{1,2}:\d{2}(?::\d{2})?)?"
    r"|\d?(?<!00)[\-/.](?:3[01]|[12]\d|0?[1-9])[\-/.](?:\d{4}|\d{2}))(?![\w]|[./\-]\d)"
)
MONTHS = ("jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec")
MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?)"
)
DAY_MONTH = re.compile(rf"\d(?<!\w\d)\d?(?:st|nd|rd|th)? (?:of )?(?:{MONTH}|{MONTH.title()})\.?(?:,? \d{{4}})?(?!\w)")
MONTH_DAY = re.compile(
    r"[JFMASONDjfmasond](?<!\w[JFMASONDjfmasond])[a-zA-Z]{2,8}\.? (?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?(?:,? \d{4})?(?!\w)"
)
DIGIT = re.compile(r"\d")
ABOUT_PHONES = frozenset(
    {
        "phone",
        "tel",
        "telephone",
        "call",
        "cell",
        "mobile",
        "fax",
        "whatsapp",
        "reach",
        "contact",
        "dial",
        "sms",
        "answering",
        "numbers",
    }
)
ABOUT_CARDS = frozenset({"card", "cc", "visa", "mastercard", "amex", "maestro", "credit", "debit"})
ABOUT_SSN = frozenset({"ssn", "social"})
BLANKS = str.maketrans(":#.,()-", "       ")
BEFORE = 48
IBAN_LENGTHS = (15, 34)
CARD_LENGTHS = (12, 19)
PHONE_LENGTHS = (7, 15)
FIRST_OCTET_MOST = 255


def luhn(digits: str) -> bool:
    """Whether the last digit of a card number is the check digit of the others."""
    doubled = (0, 2, 4, 6, 8, 1, 3, 5, 7, 9)
    odd = sum(int(d) for d in digits[::-2])
    return (odd + sum(doubled[int(d)] for d in digits[-2::-2])) % 10 == 0


def mod97(iban: str) -> bool:
    """Whether an account number (letters and digits only, capitals) has the check digits that ISO 13616 asks for."""
    turned = iban[4:] + iban[:4]
    return int("".join(str(int(c, 36)) for c in turned)) % 97 == 1


def find_forms(text: str, low: str) -> Iterator[Span]:
    """Everything that shows by its form; spans may overlap (a card is also a run of digits that a phone could be).

    `low` is the text in small letters. Each pattern is tried only where the text has a sign of it.
    """
    if "@" in text:
        yield from _emails(text)
    if "://" in text or "www." in low:
        yield from (_url(m) for m in URL.finditer(text))
    if "." in text and any(map(low.__contains__, ENDINGS)):
        yield from (Span(m.start(), m.end(), "url", 0.6) for m in DOMAIN.finditer(text))
    if any(map(text.__contains__, SECRET_SIGNS)):
        yield from (Span(m.start(), m.end(), "secret") for m in SECRET.finditer(text))
    if ":" in text and ("::" in text or text.count(":") >= 7):
        yield from (Span(m.start(), m.end(), "ip", 0.95) for m in IP6.finditer(text) if _is_ip6(m[0]))
    if DIGIT.search(text) is not None:
        if NUMERIC.search(text) is not None:
            yield from _numbers(text, low)
        yield from (Span(m.start(), m.end(), "iban") for m in IBAN.finditer(text) if _is_iban(m[0]))
        yield from (Span(m.start(), m.end(), "date", 0.75) for m in DAY_MONTH.finditer(text))
        yield from (Span(m.start(), m.end(), "date", 0.75) for m in MONTH_DAY.finditer(text) if m[0][:3].lower() in MONTHS)


def _emails(text: str) -> Iterator[Span]:
    """Each @ with a domain behind it, and what stands before it."""
    for m in AT_DOMAIN.finditer(text):
        start = m.start()
        least = max(0, start - LOCAL_CHARS)
        while start > least and (text[start - 1].isalnum() or text[start - 1] in "._%+-'"):
            start -= 1
        while start < m.start() and not text[start].isalnum():
            start += 1
        if start < m.start():
            yield Span(start, m.end(), "email")


def _about(low: str, at: int, telling: frozenset[str]) -> bool:
    """Whether one of the words shortly before a place is one of these."""
    return not telling.isdisjoint(low[max(0, at - BEFORE) : at].translate(BLANKS).split())


def _numbers(text: str, low: str) -> Iterator[Span]:
    for m in IP4.finditer(text):
        if all(int(part) <= FIRST_OCTET_MOST for part in m[0].split(".")):
            yield Span(m.start(), m.end(), "ip", 0.95)
    for m in DATE.finditer(text):
        yield Span(m.start(), m.end(), "date", 0.9)
    for m in SSN.finditer(text):
        sure = m[1] == "-" or _about(low, m.start(), ABOUT_SSN)
        yield Span(m.start(), m.end(), "ssn", 0.96 if sure else 0.55)
    for m in DIGITS.finditer(text):
        found = _digits(low, m)
        if found is not None:
            yield found


def _digits(low: str, m: re.Match[str]) -> Span | None:
    """What a run of digits with separators is: a card, a phone number, or nothing that we know."""
    run = m[0]
    digits = "".join([c for c in run if c.isdecimal()])
    if CARD_LENGTHS[0] <= len(digits) <= CARD_LENGTHS[1] and not run.startswith("+") and luhn(digits):
        about = _about(low, m.start(), ABOUT_CARDS)
        return Span(m.start(), m.end(), "card", 0.98 if about else 0.93)
    if not PHONE_LENGTHS[0] <= len(digits) <= PHONE_LENGTHS[1]:
        return None
    return Span(m.start(), m.end(), "phone", _phone_score(low, m, run, digits))


def _phone_score(low: str, m: re.Match[str], run: str, digits: str) -> float:
    """How much a run of 7 to 15 digits looks like a phone number."""
    score = 0.25
    if run.startswith(("+", "(", "00")):
        score += 0.5
    elif len(run) > len(digits):
        score += 0.45 if "/" not in run and len(digits) > 7 else 0.3
    elif digits[0] == "0":
        score += 0.15
    if _about(low, m.start(), ABOUT_PHONES):
        score += 0.4
    return min(score, 0.9)


def _is_iban(found: str) -> bool:
    plain = found.replace(" ", "").upper()
    return IBAN_LENGTHS[0] <= len(plain) <= IBAN_LENGTHS[1] and plain.isascii() and mod97(plain)


def _url(m: re.Match[str]) -> Span:
    return Span(m.start(), m.start() + len(m[0].rstrip(".,;:!?)")), "url")


def _is_ip6(found: str) -> bool:
    groups = found.split(":")
    if "::" in found:
        return found.count("::") == 1 and any(groups) and ":::" not in found
    return len(groups) == 8 and all(groups)
