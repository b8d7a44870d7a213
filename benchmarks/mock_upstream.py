"""An OpenAI-shaped upstream that does nothing but answer: the yardstick that gateways are measured against. Loopback only.

    python benchmarks/mock_upstream.py PORT [CHUNKS]

One process, a bare asyncio Protocol on uvloop, answers made once. It is several times faster than any gateway in front of it.
"""

from __future__ import annotations

import asyncio
import json
import sys
from typing import ClassVar, cast

import uvloop

CREATED = 1_760_000_000


def _chunk(delta: dict[str, str], finish: str | None = None, **more: object) -> bytes:
    event = {
        "id": "chatcmpl-mock",
        "object": "chat.completion.chunk",
        "created": CREATED,
        "model": "mock",
        "choices": [{"index": 0, "delta": delta, "finish_reason": finish}],
        **more,
    }
    return b"data: " + json.dumps(event).encode() + b"\n\n"


def whole_answer() -> bytes:
    """The complete response of a plain call, head included."""
    text = "Paris is the capital of France. The river Seine runs through it, as it has since the city was founded."
    usage = {"prompt_tokens": 36, "completion_tokens": 24, "total_tokens": 60}
    message = {"role": "assistant", "content": text}
    body = json.dumps(
        {
            "id": "chatcmpl-mock",
            "object": "chat.completion",
            "created": CREATED,
            "model": "mock",
            "choices": [{"index": 0, "message": message, "finish_reason": "stop"}],
            "usage": usage,
        }
    ).encode()
    return b"HTTP/1.1 200 OK\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n%s" % (len(body), body)


def stream_answer(chunks: int) -> list[bytes]:
    """The writes of a streamed answer: the head, then one HTTP chunk per event."""
    usage = {"prompt_tokens": 36, "completion_tokens": chunks, "total_tokens": 36 + chunks}
    events = [_chunk({"role": "assistant", "content": ""})]
    events += [_chunk({"content": f" word{i}"}) for i in range(chunks)]
    events += [_chunk({}, "stop", usage=usage), b"data: [DONE]\n\n"]
    head = b"HTTP/1.1 200 OK\r\ncontent-type: text/event-stream\r\ntransfer-encoding: chunked\r\n\r\n"
    return [head, *(b"%x\r\n%s\r\n" % (len(e), e) for e in events), b"0\r\n\r\n"]


class MockUpstream(asyncio.Protocol):
    """Answers every complete POST; reads only content-length and whether the body asks for a stream."""

    whole: ClassVar[bytes] = b""
    stream: ClassVar[list[bytes]] = []

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """A client came."""
        self.transport = cast(asyncio.Transport, transport)
        self.buffer = b""

    def data_received(self, data: bytes) -> None:
        """Answer each request that is complete."""
        self.buffer += data
        while (end := self.buffer.find(b"\r\n\r\n")) >= 0:
            head = self.buffer[:end].lower()
            place = head.find(b"content-length:")
            length = int(head[place + 15 :].split(b"\r\n", 1)[0]) if place >= 0 else 0
            if len(self.buffer) < end + 4 + length:
                return
            body = self.buffer[end + 4 : end + 4 + length]
            self.buffer = self.buffer[end + 4 + length :]
            if b'"stream":true' in body:
                for part in self.stream:  # one write per event, as a model that is still thinking would
                    self.transport.write(part)
            else:
                self.transport.write(self.whole)


async def main(port: int, chunks: int) -> None:
    """Serve until killed; prints the port once it listens."""
    MockUpstream.whole = whole_answer()
    MockUpstream.stream = stream_answer(chunks)
    server = await asyncio.get_running_loop().create_server(MockUpstream, "127.0.0.1", port)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), int(sys.argv[2]) if len(sys.argv) > 2 else 20))
