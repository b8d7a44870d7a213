"""An upstream that does everything wrong, at random but by a seed, and keeps a list of what it was asked."""

from __future__ import annotations

import asyncio
import contextlib
import json
import random
import socket
import struct
from collections import Counter
from collections.abc import Awaitable, Callable
from typing import Any, Self

TEXT = "Paris, on the Seine."
HEAD = "HTTP/1.1 200 OK\r\ncontent-type: application/json\r\n"
STREAM_HEAD = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"


def body(usage: Any = None) -> bytes:
    """A chat completion."""
    message = {"role": "assistant", "content": TEXT}
    found = {
        "id": "c",
        "object": "chat.completion",
        "created": 1,
        "model": "up",
        "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
        "usage": {"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120} if usage is None else usage,
    }
    return json.dumps(found).encode()


def whole(data: bytes, extra: str = "") -> bytes:
    """A proper answer."""
    return f"{HEAD}{extra}content-length: {len(data)}\r\n\r\n".encode() + data


def event(delta: dict[str, Any], **more: Any) -> bytes:
    """An HTTP chunk with one event."""
    choice = {"index": 0, "delta": delta, "finish_reason": more.pop("finish", None)}
    data = (
        b"data: " + json.dumps({"id": "c", "object": "chat.completion.chunk", "choices": [choice], **more}).encode() + b"\n\n"
    )
    return chunk(data)


def chunk(data: bytes) -> bytes:
    """An HTTP chunk."""
    return b"%x\r\n%b\r\n" % (len(data), data)


EVENTS = [event({"role": "assistant", "content": ""}), *(event({"content": word + " "}) for word in TEXT.split())]
LAST = event({}, finish="stop", usage={"prompt_tokens": 100, "completion_tokens": 20, "total_tokens": 120})
END = chunk(b"data: [DONE]\n\n") + b"0\r\n\r\n"

Act = Callable[["Chaos", asyncio.StreamWriter, bool], Awaitable[None]]


async def good(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """As it should be."""
    writer.write(STREAM_HEAD + b"".join(EVENTS) + LAST + END if stream else whole(body()))


async def kill(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """Closes without a word."""
    writer.close()


async def reset(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """Resets the connection, half way through."""
    writer.write(STREAM_HEAD + EVENTS[0] if stream else whole(body())[:60])
    await writer.drain()
    sock: socket.socket = writer.get_extra_info("socket")
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


async def stall(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """Says nothing for longer than anybody waits."""
    await asyncio.sleep(chaos.stall_s)
    writer.close()


async def stall_late(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """Begins, then says nothing."""
    writer.write(STREAM_HEAD + EVENTS[0] if stream else whole(body())[:40])
    await asyncio.sleep(chaos.stall_s)
    writer.close()


async def drip(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """Right, but a few bytes at a time."""
    data = STREAM_HEAD + b"".join(EVENTS) + LAST + END if stream else whole(body())
    for start in range(0, len(data), 97):
        writer.write(data[start : start + 97])
        await writer.drain()
        await asyncio.sleep(0)


async def truncated(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """JSON that ends in the middle, in an answer that says it is whole."""
    writer.write(
        STREAM_HEAD + EVENTS[0] + chunk(b'data: {"choices": [{"delta": {"con\n\n') + END if stream else whole(body()[:80])
    )


async def bad_utf8(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """Bytes that are no text."""
    data = b'{"choices": [{"message": {"content": "\xff\xfe"}}], "usage": {}}'
    writer.write(STREAM_HEAD + chunk(b'data: {"usage": "\xff\xfe"}\n\n') + END if stream else whole(data))


async def wrong_type(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """A page of HTML with status 200."""
    page = b"<html><body>It works!</body></html>"
    writer.write(b"HTTP/1.1 200 OK\r\ncontent-type: text/html\r\ncontent-length: %d\r\n\r\n%b" % (len(page), page))


async def interim_storm(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """1xx without an end."""
    writer.write(b"HTTP/1.1 103 Early Hints\r\nlink: x\r\n\r\n" * 200)


async def too_many(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """429, come back at once."""
    said = b'{"error": {"message": "slow down", "type": "rate_limit_error"}}'
    head = f"HTTP/1.1 429 Too Many Requests\r\nretry-after: 0\r\ncontent-length: {len(said)}\r\n\r\n"
    writer.write(head.encode() + said)


async def broken(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """500 with a body that is no JSON."""
    writer.write(b"HTTP/1.1 500 Oops\r\ncontent-length: 5\r\n\r\noops!")


async def header_bomb(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """Megabytes of headers."""
    writer.write(b"HTTP/1.1 200 OK\r\n" + b"".join(b"x-%d: %b\r\n" % (i, b"a" * 900) for i in range(300)))


async def lying_usage(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """Usage that cannot be: negative, text, null, missing."""
    lie = chaos.chance.choice([{"prompt_tokens": -5, "completion_tokens": "many"}, "none", [], {"prompt_tokens": 1e400}, 7])
    if stream:
        writer.write(STREAM_HEAD + b"".join(EVENTS) + event({}, finish="stop", usage=lie) + END)
    else:
        writer.write(whole(body(lie)))


async def no_end(chaos: Chaos, writer: asyncio.StreamWriter, stream: bool) -> None:
    """A stream without its last event; a whole answer is right."""
    writer.write(STREAM_HEAD + b"".join(EVENTS) + b"0\r\n\r\n" if stream else whole(body()))


ACTS: tuple[Act, ...] = (
    kill,
    reset,
    drip,
    truncated,
    bad_utf8,
    wrong_type,
    interim_storm,
    too_many,
    broken,
    header_bomb,
    lying_usage,
    no_end,
)
SLOW_ACTS: tuple[Act, ...] = (stall, stall_late)


class Chaos:
    """Serves on a port of 127.0.0.1. `ill` is the share of calls that go wrong, `slow` the share that stall."""

    def __init__(self, seed: int, *, ill: float = 0.4, slow: float = 0.0, stall_s: float = 30.0) -> None:
        self.chance = random.Random(seed)
        self.ill, self.slow, self.stall_s = ill, slow, stall_s
        self.asked: Counter[str] = Counter()
        self.acts: Counter[str] = Counter()
        self.tasks: set[asyncio.Task[None]] = set()

    async def __aenter__(self) -> Self:
        self.server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self.server.sockets[0].getsockname()[1]
        return self

    async def __aexit__(self, *_: object) -> None:
        self.server.close()
        for task in self.tasks:
            task.cancel()
        await asyncio.gather(*self.tasks, return_exceptions=True)

    @property
    def url(self) -> str:
        """For `base_url`."""
        return f"http://127.0.0.1:{self.port}/v1"

    def _pick(self) -> Act:
        drawn = self.chance.random()
        if drawn < self.slow:
            return self.chance.choice(SLOW_ACTS)
        return self.chance.choice(ACTS) if drawn < self.slow + self.ill else good

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None
        self.tasks.add(task)
        try:
            while not writer.is_closing():
                head = await reader.readuntil(b"\r\n\r\n")
                length = int(head.lower().split(b"content-length: ")[1].split(b"\r")[0])
                call = json.loads(await reader.readexactly(length))
                self.asked[call["messages"][-1]["content"]] += 1
                act = self._pick()
                self.acts[act.__name__] += 1
                await act(self, writer, bool(call.get("stream")))
                await writer.drain()
        except (asyncio.IncompleteReadError, ConnectionError, asyncio.CancelledError):
            pass
        finally:
            self.tasks.discard(task)
            with contextlib.suppress(RuntimeError):
                writer.close()
