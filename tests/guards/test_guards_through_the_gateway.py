"""A configuration file with guards, a real gateway, a real upstream."""

from __future__ import annotations

import json
from typing import Any

import pytest

from .conftest import DONE, as_events, as_json, chunk, content_of, heard, replied

PII = '[guards.private]\nuse = "pii"\n'
JSON = '[guards.shape]\nuse = "json"\n'
CARD = "4111 1111 1111 1111"
MAIL = "ana@example.org"
SCHEMA = {"type": "object", "properties": {"age": {"type": "integer"}}, "required": ["age"], "additionalProperties": False}
WANTED = {"type": "json_schema", "json_schema": {"name": "x", "schema": SCHEMA}}


def echo(body: dict[str, Any]) -> tuple[int, bytes, str]:
    """Says back what it heard, as it was asked."""
    said = body["messages"][-1]["content"]
    if not body.get("stream"):
        return as_json(replied(f"I heard: {said}"))
    text = f"I heard: {said}"
    return as_events(b"".join(chunk({"content": c}) for c in text) + chunk({}, finish="stop") + DONE)


@pytest.mark.parametrize("stream", [False, True])
async def test_a_mask_goes_up_and_is_undone_on_the_way_down(door, upstream, stream: bool) -> None:
    url, got = await upstream(echo)
    gate = await door(url, PII, ["private"])
    said = f"Mail {MAIL}, pay with {CARD}, mail {MAIL} again"
    status, body, headers = await gate.post({"messages": [{"role": "user", "content": said}], "stream": stream})
    assert status == 200
    assert (heard(body)["content"] if stream else content_of(body)) == f"I heard: {said}"
    assert got[0]["messages"][0]["content"] == "Mail <EMAIL_1>, pay with <CARD_1>, mail <EMAIL_1> again"
    assert headers["x-junctor-guards"] == "private: card 1, email 2"
    written = gate.journal()
    assert b"<EMAIL_1>" in written
    assert MAIL.encode() not in written
    assert CARD.encode() not in written


async def test_what_is_blocked_is_a_400_that_does_not_repeat_it(door, upstream) -> None:
    url, got = await upstream(echo)
    gate = await door(url, PII + 'settings = {mode = "off", kinds = {card = "block"}}\n', ["private"])
    status, body, _ = await gate.post({"messages": [{"role": "user", "content": f"pay with {CARD}"}]})
    assert status == 400
    assert json.loads(body)["error"]["code"] == "content_refused"
    assert b"1111" not in body
    assert not got
    status, _, _ = await gate.post({"messages": [{"role": "user", "content": f"mail {MAIL}"}]})
    assert status == 200
    assert got[0]["messages"][0]["content"] == f"mail {MAIL}"


@pytest.mark.parametrize("stream", [False, True])
async def test_json_is_mended_whole_and_streamed(door, upstream, stream: bool) -> None:
    broken = "Sure!\n```json\n{'age': '41', }\n```"

    def answer(body: dict[str, Any]) -> tuple[int, bytes, str]:
        if not body.get("stream"):
            return as_json(replied(broken))
        return as_events(b"".join(chunk({"content": c}) for c in broken) + chunk({}, finish="stop") + DONE)

    url, _ = await upstream(answer)
    gate = await door(url, JSON, ["shape"])
    call = {"messages": [{"role": "user", "content": "how old?"}], "response_format": WANTED, "stream": stream}
    status, body, _ = await gate.post(call)
    assert status == 200
    found = heard(body) if stream else {"content": content_of(body), "done": True, "finish": "stop"}
    assert json.loads(found["content"]) == {"age": 41}
    assert found["done"]
    assert found["finish"] == "stop"


@pytest.mark.parametrize("streams", ["hold", "check"])
async def test_what_cannot_be_mended_is_a_502_and_in_a_stream_an_error_event(door, upstream, streams: str) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, bytes, str]:
        if not body.get("stream"):
            return as_json(replied('{"age": "a secret"}'))
        return as_events(chunk({"content": '{"age": "a secret"}'}) + chunk({}, finish="stop") + DONE)

    url, _ = await upstream(answer)
    gate = await door(url, JSON + f'settings = {{streams = "{streams}"}}\n', ["shape"])
    call = {"messages": [{"role": "user", "content": "how old?"}], "response_format": WANTED}
    status, body, headers = await gate.post(call)
    assert (status, json.loads(body)["error"]["code"]) == (502, "reply_refused")
    assert headers["x-should-retry"] == "false"
    assert b"properties.age.type" in body
    assert b"secret" not in body
    status, body, _ = await gate.post({**call, "stream": True})
    found = heard(body)
    assert status == 200
    assert not found["done"]
    assert found["error"]["code"] == "reply_refused"
    assert ("secret" in found["content"]) == (streams == "check")


async def test_a_schema_that_is_none_is_a_400_of_its_field(door, upstream) -> None:
    url, got = await upstream(echo)
    gate = await door(url, JSON, ["shape"])
    wanted = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wrong"}}}
    status, body, _ = await gate.post({"messages": [{"role": "user", "content": "x"}], "response_format": wanted})
    assert (status, json.loads(body)["error"]["param"]) == (400, "response_format.json_schema.schema")
    assert not got


@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.parametrize("names", [["private", "shape"], ["shape", "private"]])
async def test_masks_and_json_together(door, upstream, names: list[str], stream: bool) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, bytes, str]:
        text = '{"mail": "<EMAIL_1>",}'
        if stream:
            return as_events(b"".join(chunk({"content": c}) for c in text) + chunk({}, finish="stop") + DONE)
        return as_json(replied(text))

    url, _ = await upstream(answer)
    gate = await door(url, PII + JSON, names)
    call = {"messages": [{"role": "user", "content": f"mine is {MAIL}"}], "response_format": {"type": "json_object"}}
    status, body, _ = await gate.post({**call, "stream": stream})
    said = heard(body)["content"] if stream else content_of(body)
    assert (status, json.loads(said)) == (200, {"mail": MAIL})


async def test_what_is_embedded_is_masked_and_blocked_too(door, upstream) -> None:
    def answer(body: dict[str, Any]) -> tuple[int, bytes, str]:
        rows = [{"object": "embedding", "index": i, "embedding": [1.0]} for i in range(len(body["input"]))]
        return as_json(json.dumps({"object": "list", "data": rows, "model": "m", "usage": {"prompt_tokens": 1}}).encode())

    url, got = await upstream(answer)
    gate = await door(url, PII + 'settings = {kinds = {card = "block"}}\n' + JSON, ["private", "shape"])
    status, body, _ = await gate.post({"input": [f"I am {MAIL}", "no more"]}, "/v1/embeddings")
    assert status == 200, body
    assert got[0]["input"] == ["I am <EMAIL_1>", "no more"]
    assert "messages" not in got[0]
    status, _, _ = await gate.post({"input": CARD}, "/v1/embeddings")
    assert status == 400
    assert MAIL.encode() not in gate.journal()
