"""Every error is answered in the shape of the API whose path was called."""

from __future__ import annotations

import asyncio
import json
from typing import Any

import pytest

from junctor.errors import (
    Forbidden,
    NoTarget,
    Overloaded,
    RateLimited,
    RequestTooLarge,
    Unauthorised,
    UnknownModel,
    UpstreamRefused,
    UpstreamTimeout,
)
from junctor.gateway.wires.every import every_wire, shape_of
from junctor.gateway.wires.messages import error_object
from junctor.gateway.wires.response_store import MemoryStore

from .conftest import completion

PATHS = ["/v1/chat/completions", "/v1/messages", "/v1/messages/count_tokens", "/v1/responses", "/v1/embeddings"]


def anthropic_shape(found: Any) -> bool:
    return found["type"] == "error" and {"type", "message"} <= found["error"].keys()


async def test_bad_bytes(saying, gateway) -> None:
    served = await gateway(await saying(completion({"content": "pong"})))
    for path in PATHS:
        for body in (b"", b"[]", b"{", b'{"model": 5}', b"\xff", b'{"model": "auto"}'):
            reply = await served.session.post(served.url + path, data=body)
            found = await reply.json()
            assert reply.status == 400
            if path.startswith("/v1/messages"):
                assert anthropic_shape(found)
                assert found["error"]["type"] == "invalid_request_error"
            else:
                assert found["error"]["code"] == "invalid_request"


async def test_what_never_became_a_request(saying, gateway) -> None:
    served = await gateway(await saying(completion({"content": "pong"})), max_body_bytes=100)
    for path in PATHS:
        reply = await served.session.post(served.url + path, data=b"x" * 200)
        found = await reply.json()
        assert reply.status == 413
        assert anthropic_shape(found) if path.startswith("/v1/messages") else found["error"]["code"] == "request_too_large"


async def test_methods_and_paths(saying, gateway) -> None:
    served = await gateway(await saying(completion({"content": "pong"})))
    wrong = await served.session.get(served.url + "/v1/messages")
    assert wrong.status == 405
    assert anthropic_shape(await wrong.json())
    lost = await served.session.post(served.url + "/v1/message")
    assert (await lost.json())["error"]["code"] == "not_found"


async def test_a_stream_that_breaks_says_so_and_does_not_end_well(upstream, gateway) -> None:
    first = b'data: {"choices":[{"index":0,"delta":{"content":"po"}}]}\n\n'

    async def breaks(up, reader, writer) -> None:
        head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
        writer.write(head + b"%x\r\n%s\r\n" % (len(first), first))
        await writer.drain()
        await asyncio.sleep(0.05)
        writer.close()

    served = await gateway(await upstream(breaks))
    turn = [{"role": "user", "content": "ping"}]
    asked = {
        "/v1/messages": {"model": "auto", "max_tokens": 9, "messages": turn, "stream": True},
        "/v1/responses": {"model": "auto", "input": "ping", "stream": True},
    }
    said = {}
    for path, body in asked.items():
        reply = await served.session.post(served.url + path, json=body)
        events = [block.split(b"\n") for block in (await reply.read()).split(b"\n\n") if block]
        said[path] = [(name[7:].decode(), json.loads(data[6:])) for name, data in events]
    name, last = said["/v1/messages"][-1]
    assert name == "error"
    assert last["error"]["type"] == "api_error"
    assert "message_stop" not in [name for name, _ in said["/v1/messages"]]
    name, last = said["/v1/responses"][-1]
    assert name == "response.failed"
    assert last["response"]["status"] == "failed"
    assert last["response"]["error"]["code"] == "server_error"
    assert last["response"]["id"] == said["/v1/responses"][0][1]["response"]["id"]


@pytest.mark.parametrize(
    ("error", "kind"),
    [
        (Unauthorised("no key"), "authentication_error"),
        (Forbidden("no"), "permission_error"),
        (UnknownModel("no"), "not_found_error"),
        (RequestTooLarge("no"), "request_too_large"),
        (RateLimited("no", retry_after_s=1), "rate_limit_error"),
        (NoTarget("no", refusals={"a": "b"}), "invalid_request_error"),
        (Overloaded("no"), "overloaded_error"),
        (UpstreamTimeout("no"), "timeout_error"),
        (UpstreamRefused("no"), "api_error"),
    ],
)
def test_types_of_the_messages_api(error, kind) -> None:
    assert error_object(error)["type"] == kind


def test_the_shape_of_a_path() -> None:
    wires = every_wire(MemoryStore())
    assert shape_of("/v1/messages/count_tokens", wires).path == "/v1/messages"
    assert shape_of("/v1/responses/resp_1", wires).path == "/v1/responses"
    assert shape_of("/v1/models", wires).path == "/v1/chat/completions"
