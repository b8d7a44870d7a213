"""What is recognised by its form: addresses of mail, web and machines, numbers of cards, accounts, people and phones, secrets.

Where a form has check digits they are checked (Luhn for cards, mod 97 for IBANs). Every pattern is anchored, so that each of
its matches is tried once and a text costs time in proportion to its length.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from junctor.guards.pii.spans import Span

EMAIL = re.compile(r"(?<![\w.%+\-])[\w][\w.%+\-']{0,63}@(?:[^\W_](?:[\w\-]{0,61}[^\W_])?\.){1,8}[^\W\d_]{2,24}(?![\w@])")
URL = re.compile(r"\b(?:https?|ftp)://[^\s<>\"'\]\[{}|\\^`]{3,2000}|\bwww\.[^\s<>\"'\]\[{}|\\^`]{3,2000}", re.IGNORECASE)
DOMAIN = re.compile(
    r"(?<![\w@.\-/])(?:[a-z0-9](?:[a-z0-9\-]{0,61}[a-z0-9])?\.){1,5}(?:com|org|net|edu|gov|info|biz|io)\b(?![@\w])",
    re.IGNORECASE,
)
IP4 = re.compile(r"(?<![\w.])(?:\d{1,3}\.){3}\d{1,3}(?![\w]|\.\d)")
IP6 = re.compile(r"(?<![\w:.])(?:[0-9a-f]{0,4}:){2,7}[0-9a-f]{0,4}(?![\w:])", re.IGNORECASE)
IBAN = re.compile(r"(?<![\w])[A-Z]{2}\d{2}(?: ?[A-Z0-9]{4}){2,7}(?: ?[A-Z0-9]{1,4})?(?!\w)", re.IGNORECASE)
DIGITS = re.compile(r"(?<![\w.,+$€£¥@#\-/])(?:\+|\(\+?|00)?\d(?:[ .\-/()]{0,3}\d){5,24}(?![\w@]|[.,\-/]\d)")
SSN = re.compile(r"(?<![\w\-])(?!000|666|9\d\d)\d{3}([\- ])(?!00)\d{2}\1(?!0000)\d{4}(?![\w\-])")
SECRET = re.compile(
    r"(?<![\w\-])(?:sk-(?:[a-z]+-)?[\w\-]{20,200}|gh[pousr]_\w{30,200}|github_pat_\w{30,200}|AKIA[A-Z0-9]{16}|xox[abpr]-[\w\-]{10,200}"
    r"|AIza[\w\-]{35}|glpat-[\w\-]{20}|eyJ[\w\-]{10,2000}\.eyJ[\w\-]{10,4000}\.[\w\-]{10,1000})(?![\w])"
    r"|-----BEGIN [A-Z ]{0,20}PRIVATE KEY-----[\s\w+/=:,\-]{0,8000}?-----END [A-Z ]{0,20}PRIVATE KEY-----"
)
MONTH = (
    "(?:jan(?:uary)?|feb(?:ruary)?|mar(?:ch)?|apr(?:il)?|may|june?|july?|aug(?:ust)?|sept?(?:ember)?|oct(?:ober)?"
    "|nov(?:ember)?|dec(?:ember)?)"
)
DATE = re.compile(
    r"(?<![\w./\-])(?:\d{4}[\-/.](?:1[0-2]|0?[1-9])[\-/.](?:3[01]|[12]\d|0?[1-9])(?:[ T]\d{1,2}:\d{2}(?::\d{2})?)?"
    r"|(?:3[01]|[12]\d|0?[1-9])[\-/.](?:3[01]|[12]\d|0?[1-9])[\-/.](?:\d{4}|\d{2}))(?![\w]|[./\-]\d)"
)
WRITTEN_DATE = re.compile(
    rf"\b(?:{MONTH}\.? (?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)?(?:,? \d{{4}})?"
    rf"|(?:3[01]|[12]\d|0?[1-9])(?:st|nd|rd|th)? (?:of )?{MONTH}\.?(?:,? \d{{4}})?)(?!\w)",
    re.IGNORECASE,
)
DIGIT = re.compile(r"\d")
ABOUT_PHONES = re.compile(
    r"\b(?:phone|tel|telephone|call|cell|mobile|fax|whatsapp|text me|reach|contact|dial|sms|ring)\b", re.IGNORECASE
)
ABOUT_CARDS = re.compile(r"\b(?:card|cc|visa|mastercard|amex|maestro|credit|debit)\b", re.IGNORECASE)
ABOUT_SSN = re.compile(r"\b(?:ssn|social security|social insurance)\b", re.IGNORECASE)
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


def find_forms(text: str) -> Iterator[Span]:
    """Everything that shows by its form; spans may overlap (a card is also a run of digits that a phone could be)."""
    if "@" in text:
        yield from (Span(m.start(), m.end(), "email") for m in EMAIL.finditer(text))
    if "://" in text or "www." in text:
        yield from (_url(m) for m in URL.finditer(text))
    if "." in text:
        yield from (Span(m.start(), m.end(), "url", 0.6) for m in DOMAIN.finditer(text))
    if "-" in text or "_" in text or "AKIA" in text or "AIza" in text or "eyJ" in text:
        yield from (Span(m.start(), m.end(), "secret") for m in SECRET.finditer(text))
    if ":" in text:
        yield from (Span(m.start(), m.end(), "ip", 0.95) for m in IP6.finditer(text) if _is_ip6(m[0]))
    if DIGIT.search(text) is not None:
        yield from _numbers(text)
        yield from (Span(m.start(), m.end(), "date", 0.75) for m in WRITTEN_DATE.finditer(text))


def _numbers(text: str) -> Iterator[Span]:
    for m in IP4.finditer(text):
        if all(int(part) <= FIRST_OCTET_MOST for part in m[0].split(".")):
            yield Span(m.start(), m.end(), "ip", 0.95)
    for m in IBAN.finditer(text):
        plain = m[0].replace(" ", "").upper()
        if IBAN_LENGTHS[0] <= len(plain) <= IBAN_LENGTHS[1] and mod97(plain):
            yield Span(m.start(), m.end(), "iban")
    for m in DATE.finditer(text):
        yield Span(m.start(), m.end(), "date", 0.9)
    for m in SSN.finditer(text):
        sure = m[1] == "-" or ABOUT_SSN.search(text, max(0, m.start() - BEFORE), m.start()) is not None
        yield Span(m.start(), m.end(), "ssn", 0.96 if sure else 0.55)
    for m in DIGITS.finditer(text):
        found = _digits(text, m)
        if found is not None:
            yield found


def _digits(text: str, m: re.Match[str]) -> Span | None:
    """What a run of digits with separators is: a card, a phone number, or nothing that we know."""
    run = m[0]
    digits = "".join([c for c in run if c.isdecimal()])
    if CARD_LENGTHS[0] <= len(digits) <= CARD_LENGTHS[1] and not run.startswith("+") and luhn(digits):
        about = ABOUT_CARDS.search(text, max(0, m.start() - BEFORE), m.start())
        return Span(m.start(), m.end(), "card", 0.98 if about else 0.93)
    if not PHONE_LENGTHS[0] <= len(digits) <= PHONE_LENGTHS[1]:
        return None
    return Span(m.start(), m.end(), "phone", _phone_score(text, m, run, digits))


def _phone_score(text: str, m: re.Match[str], run: str, digits: str) -> float:
    """How much a run of 7 to 15 digits looks like a phone number."""
    score = 0.25
    if run.startswith(("+", "(", "00")):
        score += 0.5
    elif len(run) > len(digits):
        score += 0.3 if "/" not in run else 0.1
    elif digits[0] == "0":
        score += 0.15
    if ABOUT_PHONES.search(text, max(0, m.start() - BEFORE), m.start()) is not None:
        score += 0.4
    return min(score, 0.9)


def _url(m: re.Match[str]) -> Span:
    return Span(m.start(), m.start() + len(m[0].rstrip(".,;:!?)")), "url")


def _is_ip6(found: str) -> bool:
    groups = found.split(":")
    if "::" in found:
        return found.count("::") == 1 and any(groups) and ":::" not in found
    return len(groups) == 8 and all(groups)
