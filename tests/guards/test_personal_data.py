"""What is found in a text, with its kind; what looks alike and is none; and that it never takes long."""

from __future__ import annotations

import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.guards import pii
from junctor.guards.pii.figures import luhn, mod97
from junctor.guards.pii.spans import Span, settled


def seen(text: str) -> list[tuple[str, str]]:
    return [(text[s.start : s.end], s.kind) for s in pii.find(text)]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("write to ana.b+x@mail.example.org, please", ("ana.b+x@mail.example.org", "email")),
        ("call +44 20 7946 0958 now", ("+44 20 7946 0958", "phone")),
        ("my phone is 555-123-4567.", ("555-123-4567", "phone")),
        ("card 4111 1111 1111 1111", ("4111 1111 1111 1111", "card")),
        ("pay from GB29 NWBK 6016 1331 9268 19.", ("GB29 NWBK 6016 1331 9268 19", "iban")),
        ("ssn 078-05-1120", ("078-05-1120", "ssn")),
        ("from 192.168.10.4 today", ("192.168.10.4", "ip")),
        ("ping 2001:db8::8a2e:370:7334", ("2001:db8::8a2e:370:7334", "ip")),
        ("see https://example.org/a?b=c.", ("https://example.org/a?b=c", "url")),
        ("born 12/31/1999", ("12/31/1999", "date")),
        ("born on 3 May 1980", ("3 May 1980", "date")),
        ("the key is sk-abcdefghijklmnopqrstuvwx", ("sk-abcdefghijklmnopqrstuvwx", "secret")),
        ("I live at 12 Main Street, Springfield, IL 62704", ("12 Main Street, Springfield, IL 62704", "address")),
        ("zip code: 75534-030", ("75534-030", "postcode")),
        ("My name is Tomasz Zieliński", ("Tomasz Zieliński", "person")),
        ("Dr. Okonkwo will see you", ("Okonkwo", "person")),
        ("I work for Acme Holdings Ltd", ("Acme Holdings Ltd", "organisation")),
        ("we moved to Stavanger", ("Stavanger", "place")),
    ],
)
def test_each_kind_is_found(text: str, found: tuple[str, str]) -> None:
    assert found in seen(text)


@pytest.mark.parametrize(
    "text",
    [
        "card 4111 1111 1111 1112",
        "version 300.1.2.4",
        "it cost $1,234,567.89 in 2019",
        "a@b",
        "What is the capital of it all?",
        "Please write a Python function that sorts a list.",
        "use a ratio of 16:9 at 10:30:15",
    ],
)
def test_what_only_looks_like_it_is_left_alone(text: str) -> None:
    assert seen(text) == []


@pytest.mark.parametrize(("text", "kind"), [("GB29 NWBK 6016 1331 9268 18", "iban"), ("ssn 000-05-1120", "ssn")])
def test_wrong_check_digits_and_numbers_that_nobody_has_are_not_of_the_kind(text: str, kind: str) -> None:
    assert kind not in {found for _, found in seen(text)}


def test_only_the_kinds_asked_for_come_back() -> None:
    text = "Tomasz Kowalski, ana@example.org"
    assert {s.kind for s in pii.find(text, frozenset({"email"}))} == {"email"}
    assert {s.kind for s in pii.find(text)} == {"email", "person"}


def test_check_digits() -> None:
    assert luhn("4111111111111111")
    assert not luhn("4111111111111112")
    assert mod97("GB29NWBK60161331926819")
    assert not mod97("GB29NWBK60161331926818")


def test_of_spans_that_overlap_the_surer_then_the_longer_stays() -> None:
    spans = [Span(0, 5, "phone", 0.5), Span(3, 9, "card", 0.9), Span(9, 12, "date", 0.2), Span(9, 14, "url", 0.2)]
    assert settled(spans) == [Span(3, 9, "card", 0.9), Span(9, 14, "url", 0.2)]


@settings(max_examples=80, deadline=None)
@given(st.text(st.characters(codec="utf-8"), max_size=120))
def test_any_text_gives_spans_in_order_within_it(text: str) -> None:
    spans = pii.find(text)
    ends = [0]
    for span in spans:
        assert ends[-1] <= span.start < span.end <= len(text)
        ends.append(span.end)


HARD = [
    "a ",
    "A ",
    "1 ",
    "Aa Bb ",
    "a@",
    "a.b",
    "1.1.",
    "12 Ab ",
    "Aa\n1 ",
    "the corner of a ",
    "AA11 ",
    "zip a",
    "eyJ",
    "www.",
    "live at 1 Aa ",
]


@pytest.mark.parametrize("piece", HARD)
def test_time_grows_with_length_and_no_faster(piece: str) -> None:
    def seconds(size: int) -> float:
        text = piece * (size // len(piece))
        return min(_timed(text) for _ in range(2))

    small, large = seconds(2_000), seconds(32_000)
    assert large < 100 * max(small, 1e-4)  # 16 times the text; a square would be 256 times


def _timed(text: str) -> float:
    began = time.process_time()
    pii.find(text)
    return time.process_time() - began
