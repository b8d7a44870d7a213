"""Street addresses and postal codes: a number beside a street's name, and the lines that follow it."""

from __future__ import annotations

import re
from collections.abc import Iterator

from junctor.guards.pii.spans import Span

CAPITAL = "A-ZÀ-ÖØ-ÞĀ-ŽȘȚΑ-ΩΆΈΉΊΌΎΏА-Я"
NAME = (
    rf"(?:[{CAPITAL}][\w'’.\-]*|de|la|le|del|van|von|der|da|do|dos|di|dei|degli|e|of|den|tee|tie|út|tér|kj|nad"
    r"|\d{1,3}(?:st|nd|rd|th))"
)
STREETS = (
    r"(?:street|st|avenue|ave|av|road|rd|boulevard|blvd|lane|ln|drive|dr|court|ct|place|pl|square|sq|terrace|way|parkway|pkwy|highway|hwy"
    r"|circle|cir|trail|crescent|close|alley|row|route|plaza|bridge|causeway|mews|grove|gardens|quay|walk|rise|track|esplanade)"
)
TAIL = (
    r"(?:gatan|gata|vagen|vägen|väg|vej|veien|vegen|gade|straat|laan|weg|plein|kade|dijk|strasse|straße|gasse|platz|allee|ring|damm|ufer"
    r"|katu|tie|polku|utca|koz|ulica|stigen|lokka|holmen|tun|braut|stræti|gränd|backen|graben|steig|promenaden|stien|svingen"
    r"|bakken|kroken|stubben)"
)
HEADS = (
    r"(?:rue|avenue|boulevard|place|chemin|impasse|via|viale|piazza|corso|calle|avenida|plaza|paseo|carrera|rua|travessa|praça"
    r"|ul\.|ulica|al\.|os\.|rúa|camino|strada|C/)"
)
MORE = (
    r"(?:[ \t]{0,2},?[ \t]{0,2}\n?[ \t?>]{0,8}"
    r"(?:(?:apt|apartment|suite|ste|unit|flat|floor|fl|room|rm|bldg|building)\.?\s?#?[\w\-]{1,6}|#\s?\d{1,5}))?"
)
CODE = r"(?:[A-Z]{1,2}-?)?\d{2,5}(?:[ \-]\d{2,4}|[ ]?[A-Z]{1,2})?\b(?![ \-]\d)"
STATE = r"[A-Z]{2,3}"
SAME_LINE = (
    rf"(?:,?[ \t]{{1,3}}(?!Phone|Tel|Fax){NAME}(?: {NAME}){{0,3}})?(?:,?[ \t]{{1,3}}{STATE}\b)?(?:,?[ \t]{{1,3}}{CODE})?"
)
NEXT_LINE = (
    rf"(?:[ \t]{{0,3}},?[ \t]{{0,3}}\n[ \t?>,]{{0,8}}(?:{STATE}\b(?:[, ]{{1,2}}{CODE})?"
    rf"|(?:{NAME}(?: \(?{NAME}\)?){{0,4}},?)(?: {STATE}\b)?(?: {CODE})?|{CODE})(?=[ \t]*(?:[\n.,?!]|\Z|[a-z])))"
)
TOWN = rf"{SAME_LINE}{NEXT_LINE}{{0,4}}"
NUMBERED = re.compile(
    rf"\d(?<![\w.,$€£#/\-]\d)\d{{0,5}}[A-Za-z]?,? (?P<name>{NAME}(?: {NAME}){{0,5}}?)"
    rf"(?:(?P<sure>(?i: {STREETS}\b\.?)|(?i:{TAIL})\b)|(?P<open>(?= \d{{1,4}}[A-Za-z]?\b)))"
    rf"(?: \d{{1,4}}[A-Za-z]?\b)?(?i:{MORE}){TOWN}"
)
HEADED = re.compile(rf"\b(?i:{HEADS}) (?:{NAME} ){{1,4}}\d{{1,4}}[A-Za-z]?\b(?i:{MORE}){TOWN}")
HEAD_NAMES = (
    "rue avenue boulevard place chemin via viale piazza calle avenida paseo rua ul. ulica al. os. c/ camino strada corso plaza"
)
HEAD_WORDS = tuple(f"{name} " for name in HEAD_NAMES.split())
TAILED = re.compile(rf"[{CAPITAL}][\w'’\-]{{3,30}} \d{{1,4}}[A-Za-z]?\b(?i:{MORE}){TOWN}")
TAILS = tuple(TAIL[3:-1].split("|"))
CORNER = re.compile(rf"\bthe corner of (?:\w[\w'’.\-]* ){{1,6}}and (?:{NAME} ?){{1,5}}")
MILITARY = re.compile(
    r"\b(?:PSC|CMR|Unit|USNS|USNV|USS|USCGC)\s[\w ]{2,24},?(?:\s?Box \d{1,5})?,?\s+(?:APO|FPO|DPO),?\s(?:A[AEP])\s\d{5}\b",
    re.IGNORECASE,
)
BOX = re.compile(
    r"\bP\.? ?O\.? ?Box \d{1,6}\b(?:,? [A-Z][\w'’\-]*){0,3}(?:,? [A-Z]{2})?(?: \d{4,5}(?:-\d{4})?)?", re.IGNORECASE
)
AFTER_HINT = re.compile(
    rf"(?i:\b(?:address(?:es)?(?: is| to| of [\w ]{{1,30}} is|:)?|live at|lives at|located at|you off at"
    r"|meet you at|office is at|sent? to|the same:|here they are:))\s+"
    rf"(?P<address>\d{{1,6}} {NAME}(?: {NAME}){{0,4}}(?: \d{{1,4}})?(?i:{MORE}){TOWN})"
)
POSTCODE = re.compile(
    r"(?i:\b(?:zip(?: ?code)?|post(?:al)? ?code|postcode)\b)(?:\s*(?:is|:|=|to)\s*|\s+)"
    r"(?P<code>[A-Z0-9][A-Z0-9 \-]{2,9}[A-Z0-9])\b"
)
DIGIT = re.compile(r"\d")


HINTS = ("address", "live", "located", "you off at", "meet you at", "office is", "sent", "send", "same:", "they are")


def find_addresses(text: str, low: str) -> Iterator[Span]:
    """Addresses and postal codes; a text without a digit has only street corners. `low`: the text in small letters."""
    if " corner of " in low:
        yield from (Span(m.start(), m.start() + len(m[0].rstrip(" .,")), "address", 0.9) for m in CORNER.finditer(text))
    if DIGIT.search(text) is None:
        return
    if any(map(low.__contains__, HEAD_WORDS)):
        yield from (Span(m.start(), m.end(), "address", 0.8) for m in HEADED.finditer(text))
    for m in TAILED.finditer(text):
        if m[0].partition(" ")[0].lower().endswith(TAILS):
            yield Span(m.start(), m.end(), "address", 0.8)
    for m in NUMBERED.finditer(text):
        yield Span(m.start(), m.end(), "address", 0.97 if m["sure"] else 0.66)
    yield from _by_signs(text, low)


def _by_signs(text: str, low: str) -> Iterator[Span]:
    """What is looked for only where a word announces it."""
    if "apo" in low or "fpo" in low or "dpo" in low:
        yield from (Span(m.start(), m.end(), "address", 0.99) for m in MILITARY.finditer(text))
    if "box" in low:
        yield from (Span(m.start(), m.end(), "address", 0.9) for m in BOX.finditer(text))
    if any(map(low.__contains__, HINTS)):
        yield from (Span(m.start("address"), m.end("address"), "address", 0.85) for m in AFTER_HINT.finditer(text))
    if "zip" in low or "post" in low:
        found = (m for m in POSTCODE.finditer(text) if DIGIT.search(m["code"]))
        yield from (Span(m.start("code"), m.end("code"), "postcode", 0.97) for m in found)
