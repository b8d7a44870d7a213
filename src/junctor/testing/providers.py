"""check_provider: does a provider keep its contract? Call it from a test of your own provider.

    async def test_my_provider() -> None:
        await check_provider(MyProvider(), Target(id="m"), Request(text="Say hello."))

Every check raises AssertionError with the sentence that was broken. Nothing here needs a test framework.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

import msgspec

from junctor.errors import RequestError, UpstreamError, UpstreamTimeout
from junctor.providers.base import Provider, Reply, Usage
from junctor.types import Request, Target

Result = TypeVar("Result")
DONE = b"data: [DONE]\n\n"
GRACE_S = 2.0
_FINISH_REASONS = {"stop", "length", "tool_calls", "content_filter", "function_call"}


def check_provider_sync(
    make: Callable[[], Provider], target: Target, request: Request, *, deterministic: bool = True, timeout_s: float = 10.0
) -> None:
    """`check_provider` for a test without an event loop; `make` is called inside one."""

    async def run() -> None:
        await check_provider(make(), target, request, deterministic=deterministic, timeout_s=timeout_s)

    asyncio.run(run())


async def check_provider(
    provider: Provider, target: Target, request: Request, *, deterministic: bool = True, timeout_s: float = 10.0
) -> None:
    """Run every check; the provider is closed afterwards.

    The request must be one that the target answers. `deterministic` says that two calls give the same text, so that the stream
    can be compared with the whole answer.
    """
    await check_completion(provider, target, request, timeout_s)
    await check_stream(provider, target, request, timeout_s, deterministic=deterministic)
    await check_usage_chunk(provider, target, request, timeout_s)
    await check_early_close(provider, target, request, timeout_s)
    await check_timeout(provider, target, request)
    await check_errors(provider, target, timeout_s)
    await check_close(provider)


def _require(holds: object, sentence: str) -> None:
    if not holds:
        raise AssertionError(sentence)


def _object(raw: bytes, what: str) -> dict[str, Any]:
    try:
        read = msgspec.json.decode(raw)
    except msgspec.DecodeError as error:
        raise AssertionError(f"{what} is not JSON: {error}") from None
    _require(isinstance(read, dict), f"{what} is not a JSON object")
    return read  # type: ignore[no-any-return]


def _check_head(read: dict[str, Any], kind: str, what: str) -> None:
    _require(isinstance(read.get("id"), str) and read["id"], f"{what} has no id")
    _require(read.get("object") == kind, f"{what} says object {read.get('object')!r}, not {kind!r}")
    _require(isinstance(read.get("created"), int), f"{what} has no creation time in whole seconds")
    _require(isinstance(read.get("model"), str) and read["model"], f"{what} does not name the model")
    _require(isinstance(read.get("choices"), list), f"{what} has no list of choices")


def _check_usage(said: object, usage: Usage, what: str) -> None:
    _require(isinstance(said, dict), f"{what} has no usage object")
    assert isinstance(said, dict)
    sent, made, total = (said.get(name) for name in ("prompt_tokens", "completion_tokens", "total_tokens"))
    counts = all(isinstance(n, int) and n >= 0 for n in (sent, made, total))
    _require(counts, f"{what}: the usage lacks prompt_tokens, completion_tokens or total_tokens")
    _require(total == (sent or 0) + (made or 0), f"{what}: total_tokens is not the sum of the other two")
    for known, said_tokens in ((usage.input_tokens, sent), (usage.output_tokens, made)):
        _require(known is None or known == said_tokens, f"{what}: the usage in the body and the usage read out differ")


def _content(read: dict[str, Any], what: str) -> str:
    _require(read["choices"], f"{what} has no choice")
    first = read["choices"][0]
    message = first.get("message")
    _require(first.get("index") == 0, f"{what}: the first choice does not have index 0")
    _require(isinstance(message, dict) and message.get("role") == "assistant", f"{what}: the message is not the assistant's")
    _require(first.get("finish_reason") in _FINISH_REASONS, f"{what}: finish_reason {first.get('finish_reason')!r} is unknown")
    text = message.get("content")
    _require(text is None or isinstance(text, str), f"{what}: the content is neither text nor null")
    return text or ""


async def _call(work: Awaitable[Result], what: str, limit_s: float) -> Result:
    """Await a call; anything but an UpstreamError or RequestError is a broken contract, and so is not coming back."""
    try:
        return await asyncio.wait_for(work, limit_s)
    except (UpstreamError, RequestError):
        raise
    except TimeoutError:
        raise AssertionError(f"{what} did not come back within {limit_s:g} s") from None
    except Exception as error:  # the edge to a plug-in: whatever it raises is the finding
        raise AssertionError(f"{what} raised {type(error).__name__}, not an UpstreamError: {error}") from error


async def _answered(work: Awaitable[Result], what: str, limit_s: float) -> Result:
    try:
        return await _call(work, what, limit_s)
    except (UpstreamError, RequestError) as error:
        raise AssertionError(f"{what} failed on a request that it should answer: {error}") from error


async def check_completion(provider: Provider, target: Target, request: Request, timeout_s: float = 10.0) -> str:
    """`complete` gives a chat.completion object that agrees with what was read out of it. Returns its text."""
    reply = await _answered(provider.complete(request, target, timeout_s), "complete", timeout_s + GRACE_S)
    _require(isinstance(reply, Reply), "complete does not return a Reply")
    read = _object(reply.body, "the body")
    _check_head(read, "chat.completion", "the body")
    text = _content(read, "the body")
    if read.get("usage") is not None or reply.usage.output_tokens is not None:
        _check_usage(read.get("usage"), reply.usage, "the body")
    said = read["choices"][0]["finish_reason"]
    _require(reply.finish_reason == said, f"finish_reason reads {reply.finish_reason!r}, but the body says {said!r}")
    _require(reply.cost_usd is None or reply.cost_usd >= 0, "the cost is negative")
    _require(reply.quality is None or 0 <= reply.quality <= 1, "the quality is outside [0, 1]")
    return text


async def collect(provider: Provider, target: Target, request: Request, timeout_s: float) -> tuple[list[bytes], Usage, str]:
    """(events, usage, finish reason) of a whole stream."""
    stream = await _answered(provider.stream(request, target, timeout_s), "stream", timeout_s + GRACE_S)

    async def read() -> list[bytes]:
        return [event async for event in stream]

    events = await _answered(read(), "the stream", timeout_s + GRACE_S)
    await stream.aclose()
    return events, stream.usage, stream.finish_reason


def _chunks(events: list[bytes]) -> list[dict[str, Any]]:
    _require(events and events[-1] == DONE, "the stream does not end with data: [DONE]")
    out = []
    for event in events[:-1]:
        whole = event.startswith(b"data: ") and event.endswith(b"\n\n") and event.count(b"\n\n") == 1
        _require(whole, f"{event[:60]!r} is not one whole server-sent event")
        chunk = _object(event[6:], "a chunk")
        _check_head(chunk, "chat.completion.chunk", "a chunk")
        out.append(chunk)
    _require(out, "the stream has no chunk")
    _require(len({chunk["id"] for chunk in out}) == 1, "the chunks of one stream have different ids")
    return out


def _joined(chunks: list[dict[str, Any]]) -> tuple[str, list[str]]:
    """The text of all deltas, and the finish reasons."""
    choices = [choice for chunk in chunks for choice in chunk["choices"]]
    _require(choices and all(isinstance(c.get("delta"), dict) for c in choices), "a choice of the stream has no delta")
    roles = [c["delta"]["role"] for c in choices if c["delta"].get("role")]
    _require(choices[0]["delta"].get("role") == "assistant" and len(roles) == 1, "the role does not stand once, at the start")
    text = "".join(c["delta"].get("content") or "" for c in choices)
    return text, [c["finish_reason"] for c in choices if c.get("finish_reason") is not None]


async def check_stream(
    provider: Provider, target: Target, request: Request, timeout_s: float = 10.0, *, deterministic: bool = True
) -> None:
    """`stream` gives well-formed events that add up to the whole answer, one finish reason, and `[DONE]` at the end."""
    events, _, finish = await collect(provider, target, request, timeout_s)
    text, reasons = _joined(_chunks(events))
    _require(len(reasons) == 1, f"the stream has {len(reasons)} finish reasons, not one")
    _require(reasons[0] in _FINISH_REASONS, f"finish_reason {reasons[0]!r} is unknown")
    _require(finish == reasons[0], f"finish_reason reads {finish!r} after the stream, which said {reasons[0]!r}")
    if deterministic:
        whole = await check_completion(provider, target, request, timeout_s)
        _require(text == whole, "the deltas do not add up to the answer that `complete` gives")


async def check_usage_chunk(provider: Provider, target: Target, request: Request, timeout_s: float = 10.0) -> None:
    """With stream_options.include_usage, the last chunk before `[DONE]` has the usage and no choices."""
    params = {**request.params, "stream": True, "stream_options": {"include_usage": True}}
    events, usage, _ = await collect(provider, target, msgspec.structs.replace(request, params=params), timeout_s)
    chunks = _chunks(events)
    _require(chunks[-1]["choices"] == [], "the last chunk has choices although usage was asked for")
    _check_usage(chunks[-1].get("usage"), usage, "the last chunk")
    _require(all(c.get("usage") is None for c in chunks[:-1]), "a chunk before the last one states usage")


async def check_early_close(provider: Provider, target: Target, request: Request, timeout_s: float = 10.0) -> None:
    """A stream may be closed after its first event, and closed again."""
    stream = await _answered(provider.stream(request, target, timeout_s), "stream", timeout_s + GRACE_S)
    events = stream.__aiter__()
    await _answered(events.__anext__(), "the first event", timeout_s + GRACE_S)
    await _call(stream.aclose(), "closing a stream", GRACE_S)
    await _call(stream.aclose(), "closing a stream twice", GRACE_S)


async def check_timeout(provider: Provider, target: Target, request: Request, tiny_s: float = 1e-3) -> None:
    """With next to no time left, a call answers in it or raises UpstreamTimeout, but does not go on."""
    for what, call in (("complete", provider.complete), ("stream", provider.stream)):
        try:
            await _call(call(request, target, tiny_s), f"{what} with {tiny_s:g} s left", tiny_s + GRACE_S)
        except UpstreamTimeout:
            continue
        except UpstreamError as error:
            raise AssertionError(f"{what} ran out of time but raised {type(error).__name__}") from error


async def check_errors(provider: Provider, target: Target, timeout_s: float = 10.0) -> None:
    """Odd requests are answered, or refused with an UpstreamError or a RequestError; nothing else escapes."""
    for what, request in _odd_requests():
        for way, call in (("complete", provider.complete), ("stream", provider.stream)):
            try:
                await _call(call(request, target, timeout_s), f"{way} with {what}", timeout_s + GRACE_S)
            except (UpstreamError, RequestError):
                continue


def _odd_requests() -> list[tuple[str, Request]]:
    deep = "(" * 3000 + "1" + ")" * 3000
    return [
        ("an empty request", Request()),
        ("white space", Request(text=" \n\t ")),
        ("a very long text", Request(text="all work and no play " * 50_000)),
        ("deep parentheses", Request(text=f"What is {deep}?")),
        ("a tower of powers", Request(text="What is 9^9^9^9^9?")),
        ("a lone surrogate", Request(text="Reverse the word 'caf\udce9 \x00 \u202e'.")),
    ]


async def check_close(provider: Provider) -> None:
    """`aclose` can be called twice."""
    await _call(provider.aclose(), "aclose", GRACE_S)
    await _call(provider.aclose(), "the second aclose", GRACE_S)
