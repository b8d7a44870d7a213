"""Damaged JSON is read where there is one way to read it, changed where a schema leaves one way, refused otherwise."""

from __future__ import annotations

import contextlib
import json
import socket
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.errors import ConfigError, ReplyRefused, RequestError
from junctor.guards.contracts import Chain
from junctor.guards.mending import Unmendable, mend
from junctor.guards.structured import JsonGuard

from .conftest import DONE, asked, chunk, content_of, heard, replied, streamed

PERSON = {
    "type": "object",
    "properties": {
        "name": {"type": "string"},
        "age": {"type": "integer"},
        "mood": {"enum": ["Good", "bad"]},
        "ok": {"type": "boolean"},
    },
    "required": ["name"],
    "additionalProperties": False,
}


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('```json\n{"a": 1}\n```', {"a": 1}),
        ('Here you are: {"a": 1} I hope it helps.', {"a": 1}),
        ('{"a": 1,}', {"a": 1}),
        ("[1, 2, 3,]", [1, 2, 3]),
        ("{'a': 'x', b: True, \"c\": None}", {"a": "x", "b": True, "c": None}),
        ('{"a": 1, // one\n /* two */ "b": 2 # three\n}', {"a": 1, "b": 2}),
        ("{“a”: “x”}", {"a": "x"}),
        ('{"a": "one\ntwo"}', {"a": "one\ntwo"}),
        ('{"a": "say "hi" to her", "b": 1}', {"a": 'say "hi" to her', "b": 1}),
        ("{'a': 'it's fine'}", {"a": "it's fine"}),
        ('{"a": [1, 2', {"a": [1]}),
        ('{"a": {"b": "tex', {"a": {"b": "tex"}}),
        ('{"a": 1, "b', {"a": 1}),
        ('{"a": 1, "b": tr', {"a": 1}),
        ('{"a": true', {"a": True}),
        ('{"a": 12', {}),
        ('{"b": 1, "a": 1.5e-', {"b": 1}),
        ('{"a": 1\n"b": 2}', {"a": 1, "b": 2}),
        ('{"a": "\\u00e9\\ud83d\\ude00"', {"a": "é😀"}),
    ],
)
def test_damage_is_mended(text: str, value: object) -> None:
    found, mends = mend(text)
    assert found == value
    assert mends


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no json at all",
        '{"a": 1} {"b": 2}',
        '{"a": 1, "a": 2,}',
        '{"a": "x" y, "b": 1',
        "[1,,2]",
        '{"a" 1}',
        '{"a": nope}',
        "{1: 2}",
        "[1 2]",
        "[1}",
        "[" * 500,
        "```json\n{}\n```\n```json\n[]\n```",
    ],
)
def test_what_may_be_read_in_two_ways_is_refused(text: str) -> None:
    with pytest.raises(Unmendable):
        mend(text)


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers(-(10**9), 10**9) | st.floats(-1e6, 1e6) | st.text(max_size=12),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=12,
)


@settings(max_examples=80, deadline=None)
@given(VALUES)
def test_sound_json_is_read_as_it_is(value: object) -> None:
    assert mend(json.dumps(value)) == (value, [])


@settings(max_examples=80, deadline=None)
@given(st.dictionaries(st.text("abc", min_size=1, max_size=3), VALUES, min_size=1, max_size=3), st.data())
def test_a_cut_end_leaves_what_was_whole_and_never_invents(value: dict[str, object], data: st.DataObject) -> None:
    text = json.dumps(value)
    cut = text[: data.draw(st.integers(1, len(text) - 1))]
    found, _ = mend(cut)
    assert part_of(found, value)


def part_of(found: object, whole: object) -> bool:
    """Whether a value is the beginning of another."""
    if isinstance(found, dict):
        return isinstance(whole, dict) and all(key in whole and part_of(inner, whole[key]) for key, inner in found.items())
    if isinstance(found, list):
        return (
            isinstance(whole, list)
            and len(found) <= len(whole)
            and all(part_of(a, b) for a, b in zip(found, whole, strict=False))
        )
    if isinstance(found, str) and isinstance(whole, str):
        return whole.startswith(found.rstrip("�")) or found == whole
    return found == whole


@settings(max_examples=100, deadline=None)
@given(st.text("{}[]\"',:\\ \n#/*truefalsn01.eE-`“”u", max_size=40))
def test_any_text_is_mended_or_refused_and_nothing_else(text: str) -> None:
    with contextlib.suppress(Unmendable):
        json.dumps(mend(text)[0])


@pytest.mark.parametrize("piece", ['{"a":[', "'", '"', "/*", "#", "{a:", "\\u12", "```", "[1,"])
def test_mending_takes_no_longer_than_the_text_is(piece: str) -> None:
    began = time.process_time()
    with pytest.raises(Unmendable):
        mend("x " + piece * 20_000 + " }]")
    assert time.process_time() - began < 5


def guard(**settings_: object) -> Chain:
    return Chain([JsonGuard.from_settings(settings_)])


def held(chain: Chain, text: str, **more: object) -> object:
    """What comes through of a reply."""
    request, noticed = chain.before(asked("hi", **more))
    return content_of(chain.after(request, replied(text), noticed))


def wanted(schema: object) -> dict[str, object]:
    return {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}


def test_a_sound_reply_keeps_its_very_bytes() -> None:
    chain = guard()
    request, noticed = chain.before(asked("hi", response_format=wanted(PERSON)))
    body = replied('{ "name" :"Ana" }')
    assert chain.after(request, body, noticed) is body


@pytest.mark.parametrize(
    ("text", "value"),
    [
        ('{"name": "Ana", "age": "41"}', {"name": "Ana", "age": 41}),
        ('{"name": 7, "ok": "TRUE"}', {"name": "7", "ok": True}),
        ('{"name": "A", "mood": "GOOD"}', {"name": "A", "mood": "Good"}),
        ("{'name': 'A', 'age': '3',", {"name": "A", "age": 3}),
    ],
)
def test_values_are_changed_where_there_is_one_way(text: str, value: object) -> None:
    assert json.loads(held(guard(), text, response_format=wanted(PERSON))) == value


@pytest.mark.parametrize(
    "text",
    ['{"name": "A", "age": "about 40"}', '{"age": 1}', '{"name": "A", "extra": 1}', '{"name": "A", "age": "4.5"}', "[]", '"x"'],
)
def test_what_does_not_fit_is_refused_without_repeating_it(text: str) -> None:
    with pytest.raises(ReplyRefused) as refused:
        held(guard(), text, response_format=wanted(PERSON))
    assert refused.value.http_status == 502
    assert "about" not in str(refused.value)
    assert "extra" not in str(refused.value)


def test_mending_and_coercing_can_be_switched_off() -> None:
    for settings_, text in (({"mend": False}, '{"name": "A",}'), ({"coerce": False}, '{"name": 7}')):
        with pytest.raises(ReplyRefused):
            held(guard(**settings_), text, response_format=wanted(PERSON))


def test_a_schema_of_the_alias_holds_for_every_reply() -> None:
    assert json.loads(held(guard(schema=PERSON), "{name: 'A'}")) == {"name": "A"}


def test_without_a_schema_replies_and_streams_pass() -> None:
    chain = guard()
    request, noticed = chain.before(asked("hi"))
    assert chain.after(request, replied("plain words"), noticed) == replied("plain words")
    assert chain.filters(request, noticed) == []


@pytest.mark.parametrize(
    "more", [{"tool_calls": [{"id": "1", "function": {"name": "f", "arguments": "{}"}}]}, {"refusal": "no"}]
)
def test_calls_of_tools_and_refusals_are_no_json(more: dict[str, object]) -> None:
    chain = guard()
    request, noticed = chain.before(asked("hi", response_format={"type": "json_object"}))
    assert chain.after(request, replied(None, **more), noticed) == replied(None, **more)


@pytest.mark.parametrize(
    "schema", [{"type": "wrong"}, {"$ref": "#/nowhere"}, {"pattern": "("}, {"type": "object", "x": {"a": 1}, "minimum": "x"}]
)
def test_a_schema_that_is_none_is_the_callers_mistake(schema: object) -> None:
    with pytest.raises(RequestError, match=r"response_format\.json_schema\.schema"):
        guard().before(asked("hi", response_format=wanted(schema)))
    with pytest.raises(ConfigError, match="schema"):
        guard(schema=schema)


def test_a_schema_fetches_nothing() -> None:
    with socket.socket() as listening:
        listening.bind(("127.0.0.1", 0))
        listening.listen()
        listening.settimeout(0.2)
        for url in (f"http://127.0.0.1:{listening.getsockname()[1]}/x.json", "file:///etc/passwd"):
            with pytest.raises(RequestError):
                guard().before(asked("hi", response_format=wanted({"$ref": url})))
        with pytest.raises(TimeoutError):
            listening.accept()


def test_a_pattern_that_backtracks_ends_soon() -> None:
    schema = {"type": "object", "properties": {"a": {"type": "string", "pattern": r"^(?=(a+)+$)((a+)+)\1$"}}}
    began = time.process_time()
    with pytest.raises(ReplyRefused):
        held(guard(), json.dumps({"a": "a" * 5_000 + "b"}), response_format=wanted(schema))
    assert time.process_time() - began < 5


def test_a_held_stream_comes_as_it_was_when_it_was_sound() -> None:
    chain = guard()
    request, noticed = chain.before(asked("hi", response_format=wanted(PERSON)))
    events = [
        chunk({"role": "assistant", "content": ""}),
        *(chunk({"content": c}) for c in '{"name": "A"}'),
        chunk({}, finish="stop"),
        DONE,
    ]
    held_back = chain.filters(request, noticed)[0]
    assert all(held_back.push(event) == b"" for event in events[:-1])
    assert held_back.push(DONE) == b"".join(events)


def test_a_mended_stream_keeps_choices_apart_and_its_usage() -> None:
    chain = guard()
    request, noticed = chain.before(asked("hi", response_format=wanted(PERSON), n=2))
    usage = b'data: {"id": "c", "choices": [], "usage": {"total_tokens": 3}}\n\n'
    pieces = [
        chunk({"content": '{"name": "A"'}, 0),
        chunk({"content": "{'name': 'B'}"}, 1),
        chunk({"content": ",}"}, 0),
        chunk({}, 0, "stop"),
        chunk({}, 1, "length"),
        usage,
        DONE,
    ]
    out = streamed(chain, request, noticed, pieces)
    said: dict[int, str] = {}
    ends: dict[int, str] = {}
    for event in out.split(b"\n\n"):
        if event.startswith(b"data: {"):
            for choice in json.loads(event[6:])["choices"]:
                said[choice["index"]] = said.get(choice["index"], "") + (choice["delta"].get("content") or "")
                if choice["finish_reason"]:
                    ends[choice["index"]] = choice["finish_reason"]
    assert {index: json.loads(text) for index, text in said.items()} == {0: {"name": "A"}, 1: {"name": "B"}}
    assert ends == {0: "stop", 1: "length"}
    assert out.endswith(usage + DONE)


def test_a_checked_stream_passes_at_once_and_is_refused_at_its_end() -> None:
    chain = guard(streams="check")
    request, noticed = chain.before(asked("hi", response_format=wanted(PERSON)))
    passing = chain.filters(request, noticed)[0]
    event = chunk({"content": "{'name': 1}"})
    assert passing.push(event) == event
    with pytest.raises(ReplyRefused):
        passing.push(DONE)
    sound = chain.filters(request, noticed)[0]
    assert heard(sound.push(chunk({"content": '{"name": "A"}'})) + sound.push(DONE) + sound.end())["done"]
