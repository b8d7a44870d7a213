"""Processor time that translation costs: a call written, an answer read, an event of a stream read. Nobody is called.

python benchmarks/providers.py
"""

from __future__ import annotations

import json
import struct
import timeit
import zlib
from collections.abc import Callable

from junctor.providers.anthropic import AnthropicProvider
from junctor.providers.bedrock import BedrockProvider
from junctor.providers.gemini import GeminiProvider
from junctor.providers.openai_wire import chat_body
from junctor.providers.translated import TranslatedProvider
from junctor.types import Request, Target

TARGET = Target(id="target", model="model-1")
TURNS = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the capital of France? " * 4}]
REQUEST = Request(params={"model": "auto", "messages": TURNS, "max_tokens": 100, "temperature": 0.2})
TEXT = "The capital of France is Paris, which lies on the Seine. " * 2
WORDS = [word + " " for word in TEXT.split()]


def _lines(events: list[dict[str, object]]) -> list[bytes]:
    return [b"data: " + json.dumps(event).encode() + b"\n\n" for event in events]


def _frame(kind: str, event: dict[str, object]) -> bytes:
    headers = {":event-type": kind, ":content-type": "application/json", ":message-type": "event"}
    head = b"".join(
        bytes([len(name)]) + name.encode() + b"\7" + struct.pack(">H", len(value)) + value.encode()
        for name, value in headers.items()
    )
    payload = json.dumps(event).encode()
    start = struct.pack(">II", 16 + len(head) + len(payload), len(head))
    body = start + struct.pack(">I", zlib.crc32(start)) + head + payload
    return body + struct.pack(">I", zlib.crc32(body))


def _anthropic() -> tuple[bytes, list[bytes]]:
    usage = {"input_tokens": 30, "output_tokens": 22}
    head = {"id": "msg_1", "type": "message", "role": "assistant", "model": "claude", "usage": usage}
    whole = {**head, "content": [{"type": "text", "text": TEXT}], "stop_reason": "end_turn"}
    deltas = [{"type": "content_block_delta", "index": 0, "delta": {"type": "text_delta", "text": word}} for word in WORDS]
    start = {"type": "content_block_start", "index": 0, "content_block": {"type": "text", "text": ""}}
    return json.dumps(whole).encode(), _lines([{"type": "message_start", "message": {**head, "content": []}}, start, *deltas])


def _gemini() -> tuple[bytes, list[bytes]]:
    def said(text: str) -> dict[str, object]:
        content = {"parts": [{"text": text}], "role": "model"}
        usage = {"promptTokenCount": 30, "candidatesTokenCount": 22}
        return {
            "candidates": [{"content": content, "index": 0}],
            "usageMetadata": usage,
            "responseId": "r",
            "modelVersion": "g",
        }

    return json.dumps(said(TEXT)).encode(), _lines([said(word) for word in WORDS])


def _bedrock() -> tuple[bytes, list[bytes]]:
    message = {"role": "assistant", "content": [{"text": TEXT}]}
    whole = {"output": {"message": message}, "stopReason": "end_turn", "usage": {"inputTokens": 30, "outputTokens": 22}}
    deltas = [_frame("contentBlockDelta", {"contentBlockIndex": 0, "delta": {"text": word}, "p": "abcd"}) for word in WORDS]
    return json.dumps(whole).encode(), [_frame("messageStart", {"role": "assistant"}), *deltas]


def microseconds(work: Callable[[], object], number: int = 500) -> float:
    """Processor time of one go: the best of 20, because others use this machine too."""
    return min(timeit.repeat(work, number=number, repeat=20)) / number * 1e6


def measured(provider: TranslatedProvider, body: bytes, events: list[bytes]) -> tuple[float, float, float]:
    """µs to write a call, to read a whole answer, to read one event of a stream."""
    call = provider.exchange(REQUEST, TARGET, stream=False)

    def stream() -> None:
        reader = call.reader()
        for event in events:
            reader.feed(event)

    wrote = microseconds(lambda: provider.exchange(REQUEST, TARGET, stream=False))
    return wrote, microseconds(lambda: call.read(body)), microseconds(stream, 50) / len(events)


def main() -> None:
    """Print the table of docs/gateway/providers.md."""
    keys = {"access_key_id": "a", "secret_access_key": "b"}
    kinds = {
        "anthropic": (AnthropicProvider.from_settings({"api_key": "k"}), _anthropic()),
        "gemini": (GeminiProvider.from_settings({"api_key": "k"}), _gemini()),
        "bedrock": (BedrockProvider.from_settings({"region": "eu-central-1", **keys}), _bedrock()),
    }
    plain = microseconds(lambda: chat_body(REQUEST, TARGET, stream=False, usage=False))
    print(f"openai_compatible: {plain:.1f} µs to write a call")
    for kind, (provider, (body, events)) in kinds.items():
        assert isinstance(provider, TranslatedProvider)
        print("| `{}` | {:.0f} µs | {:.0f} µs | {:.1f} µs |".format(kind, *measured(provider, body, events)))


if __name__ == "__main__":
    main()
