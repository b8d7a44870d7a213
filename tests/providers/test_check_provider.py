"""check_provider: passes a good provider, and each of its checks fails on a provider with that one fault."""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable
from typing import Any

import msgspec
import pytest

from junctor.errors import UpstreamRefused
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.providers.scripted import ScriptedProvider, Step
from junctor.testing import providers as suite
from junctor.testing.providers import check_provider, check_provider_sync
from junctor.types import Request, Target

TARGET, ASK = Target(id="a"), Request(text="Well?")
SCRIPT = {"a": Step(answer="one two three")}


def test_a_good_provider_passes_without_an_event_loop() -> None:
    check_provider_sync(lambda: ScriptedProvider(SCRIPT), TARGET, ASK)


class EditedBody(ScriptedProvider):
    """Spoils the body of a whole answer."""

    def __init__(self, edit: Callable[[dict[str, Any]], object]) -> None:
        super().__init__(SCRIPT)
        self.edit = edit

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        reply = await super().complete(request, target, timeout_s)
        body = json.loads(reply.body)
        self.edit(body)
        return msgspec.structs.replace(reply, body=json.dumps(body).encode())


BODY_FAULTS: dict[str, Callable[[dict[str, Any]], object]] = {
    "no id": lambda b: b.update(id=""),
    "says object": lambda b: b.update(object="text_completion"),
    "creation time": lambda b: b.update(created=1.5),
    "name the model": lambda b: b.pop("model"),
    "list of choices": lambda b: b.pop("choices"),
    "no choice": lambda b: b.update(choices=[]),
    "index 0": lambda b: b["choices"][0].update(index=1),
    "not the assistant's": lambda b: b["choices"][0]["message"].update(role="user"),
    "finish_reason 'done' is unknown": lambda b: b["choices"][0].update(finish_reason="done"),
    "neither text nor null": lambda b: b["choices"][0]["message"].update(content=["x"]),
    "no usage object": lambda b: b.pop("usage"),
    "lacks prompt_tokens": lambda b: b["usage"].pop("prompt_tokens"),
    "not the sum": lambda b: b["usage"].update(total_tokens=99),
    "read out differ": lambda b: b["usage"].update(prompt_tokens=0, total_tokens=b["usage"]["completion_tokens"]),
    "the body says 'length'": lambda b: b["choices"][0].update(finish_reason="length"),
}


@pytest.mark.parametrize("fault", BODY_FAULTS)
async def test_each_fault_of_a_body_is_found(fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        await check_provider(EditedBody(BODY_FAULTS[fault]), TARGET, ASK)


class EditedReply(ScriptedProvider):
    """Spoils the reply around the body."""

    def __init__(self, **changes: Any) -> None:
        super().__init__(SCRIPT)
        self.changes = changes

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        return msgspec.structs.replace(await super().complete(request, target, timeout_s), **self.changes)


@pytest.mark.parametrize(
    ("changes", "fault"),
    [
        ({"body": b"<html>"}, "not JSON"),
        ({"body": b"[]"}, "not a JSON object"),
        ({"cost_usd": -1.0}, "cost is negative"),
        ({"quality": 1.5}, "outside"),
        ({"finish_reason": ""}, "finish_reason reads ''"),
    ],
)
async def test_each_fault_of_a_reply_is_found(changes: dict[str, Any], fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        await check_provider(EditedReply(**changes), TARGET, ASK)


class EditedEvents(StreamReply):
    """Spoils the events of a stream."""

    def __init__(self, inner: StreamReply, edit: Callable[[list[bytes]], list[bytes]], finish: str = "stop") -> None:
        self.inner, self.edit, self.finish = inner, edit, finish

    async def __aiter__(self) -> AsyncIterator[bytes]:
        events = self.edit([event async for event in self.inner])
        self.usage, self.finish_reason = self.inner.usage, self.finish
        for event in events:
            yield event


class EditedStream(ScriptedProvider):
    def __init__(self, edit: Callable[[list[bytes]], list[bytes]], finish: str = "stop") -> None:
        super().__init__(SCRIPT)
        self.edit, self.finish = edit, finish

    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        return EditedEvents(await super().stream(request, target, timeout_s), self.edit, self.finish)


def each(change: Callable[[int, dict[str, Any]], object]) -> Callable[[list[bytes]], list[bytes]]:
    """An edit of every chunk."""

    def edit(events: list[bytes]) -> list[bytes]:
        chunks = [json.loads(event[6:]) for event in events[:-1]]
        for place, chunk in enumerate(chunks):
            change(place, chunk)
        return [b"data: " + json.dumps(chunk).encode() + b"\n\n" for chunk in chunks] + events[-1:]

    return edit


def no_finish(place: int, chunk: dict[str, Any]) -> None:
    for choice in chunk["choices"]:
        choice["finish_reason"] = None


def odd_finish(place: int, chunk: dict[str, Any]) -> None:
    for choice in chunk["choices"]:
        if choice["finish_reason"]:
            choice["finish_reason"] = "done"


STREAM_FAULTS: dict[str, Callable[[list[bytes]], list[bytes]]] = {
    "does not end with": lambda events: events[:-1],
    "no chunk": lambda events: events[-1:],
    "not one whole server-sent event": lambda events: [events[0] + events[1], *events[2:]],
    "different ids": each(lambda place, chunk: chunk.update(id=str(place))),
    "says object": each(lambda place, chunk: chunk.update(object="chat.completion")),
    "0 finish reasons": each(no_finish),
    "'done' is unknown": each(odd_finish),
    "role does not stand once": lambda events: events[1:],
    "no delta": each(lambda place, chunk: [choice.pop("delta") for choice in chunk["choices"]]),
    "do not add up": lambda events: [events[0], *events[2:]],
    "a chunk is not JSON": lambda events: [events[0], b"data: {\n\n", *events[1:]],
}


@pytest.mark.parametrize("fault", STREAM_FAULTS)
async def test_each_fault_of_a_stream_is_found(fault: str) -> None:
    with pytest.raises(AssertionError, match=fault):
        await check_provider(EditedStream(STREAM_FAULTS[fault]), TARGET, ASK)


async def test_a_stream_that_reads_out_another_finish_reason_is_found() -> None:
    with pytest.raises(AssertionError, match="after the stream"):
        await check_provider(EditedStream(lambda events: events, finish="length"), TARGET, ASK)


async def test_a_missing_usage_chunk_is_found() -> None:
    def drop(events: list[bytes]) -> list[bytes]:
        return [e for e in events if b'"choices":[]' not in e]

    with pytest.raises(AssertionError, match="usage was asked for"):
        await check_provider(EditedStream(drop), TARGET, ASK)


async def test_usage_in_the_wrong_chunk_is_found() -> None:
    def early(place: int, chunk: dict[str, Any]) -> None:
        if place == 0 and "usage" in chunk:
            chunk["usage"] = {"prompt_tokens": 1, "completion_tokens": 1, "total_tokens": 2}

    with pytest.raises(AssertionError, match="before the last one"):
        await check_provider(EditedStream(each(early)), TARGET, ASK)


class Unlike(ScriptedProvider):
    """Another answer each time."""

    def __init__(self) -> None:
        super().__init__({"a": [Step(answer="one"), Step(answer="two")]}, then="cycle")


async def test_comparing_can_be_left_out_for_a_provider_that_varies() -> None:
    with pytest.raises(AssertionError, match="do not add up"):
        await suite.check_stream(Unlike(), TARGET, ASK)
    await suite.check_stream(Unlike(), TARGET, ASK, deterministic=False)


class Deaf(ScriptedProvider):
    """Ignores its timeout."""

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        if timeout_s is not None and timeout_s < 1:
            await asyncio.sleep(60)
        return await super().complete(request, target, timeout_s)


class Gone(ScriptedProvider):
    """Calls running out of time a refusal."""

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        if timeout_s is not None and timeout_s < 1:
            raise UpstreamRefused("no", target=target.id)
        return await super().complete(request, target, timeout_s)


async def test_a_provider_that_ignores_its_timeout_is_found(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(suite, "GRACE_S", 0.05)
    with pytest.raises(AssertionError, match="did not come back"):
        await check_provider(Deaf(SCRIPT), TARGET, ASK)


async def test_running_out_of_time_must_say_so() -> None:
    with pytest.raises(AssertionError, match="UpstreamRefused"):
        await check_provider(Gone(SCRIPT), TARGET, ASK)


async def test_an_honest_timeout_passes() -> None:
    await suite.check_timeout(ScriptedProvider({"a": Step(hang=True)}), TARGET, ASK)


class Fragile(ScriptedProvider):
    """Raises its own kind of error on odd input."""

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        if not request.text.strip():
            raise ValueError("empty")
        return await super().complete(request, target, timeout_s)


async def test_an_error_of_another_kind_is_found() -> None:
    with pytest.raises(AssertionError, match="raised ValueError"):
        await check_provider(Fragile(SCRIPT), TARGET, ASK)


async def test_an_upstream_error_on_odd_input_passes_but_not_on_the_request_itself() -> None:
    failing = ScriptedProvider({"a": Step(status=400)})
    await suite.check_errors(failing, TARGET)
    with pytest.raises(AssertionError, match="should answer"):
        await check_provider(failing, TARGET, ASK)


class ClosesOnce(ScriptedProvider):
    async def aclose(self) -> None:
        if self.closed:
            raise RuntimeError("closed already")
        await super().aclose()


class StreamClosesOnce(ScriptedProvider):
    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        class Once(EditedEvents):
            closed = False

            async def aclose(self) -> None:
                if self.closed:
                    raise RuntimeError("closed already")
                self.closed = True

        return Once(await super().stream(request, target, timeout_s), lambda events: events)


async def test_closing_twice_must_work() -> None:
    with pytest.raises(AssertionError, match="second aclose"):
        await check_provider(ClosesOnce(SCRIPT), TARGET, ASK)
    with pytest.raises(AssertionError, match="closing a stream twice"):
        await check_provider(StreamClosesOnce(SCRIPT), TARGET, ASK)


async def test_a_reply_of_another_type_is_found() -> None:
    class Odd(ScriptedProvider):
        async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
            return "hello"  # type: ignore[return-value]

    with pytest.raises(AssertionError, match="Reply"):
        await check_provider(Odd(SCRIPT), TARGET, ASK)


async def test_an_upstream_that_states_no_usage_passes() -> None:
    class Silent(Provider):
        name = "silent"

        async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
            reply = await ScriptedProvider(SCRIPT).complete(request, target, timeout_s)
            body = {k: v for k, v in json.loads(reply.body).items() if k != "usage"}
            return msgspec.structs.replace(reply, body=json.dumps(body).encode(), usage=Usage())

        async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
            return await ScriptedProvider(SCRIPT).stream(request, target, timeout_s)

    assert await suite.check_completion(Silent(), TARGET, ASK) == "one two three"
