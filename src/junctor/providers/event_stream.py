"""Amazon's binary event stream, cut out of bytes however they arrive. Both checksums are checked.

total length (4) · headers' length (4) · CRC-32 of these (4) · headers · payload · CRC-32 of all before (4)
"""

from __future__ import annotations

import struct
import zlib

from msgspec import Struct

from junctor.providers.event_lines import EVENT_BYTES, BadEvent

PRELUDE = 12
LEAST = 16
TRUE, FALSE, BYTES, STRING = 0, 1, 6, 7
SIZES = {2: 1, 3: 2, 4: 4, 5: 8, 8: 8, 9: 16}
"""Bytes of the header types that have a fixed size: byte, short, int, long, timestamp, uuid. We read none of them."""


class Frame(Struct):
    """One message: its text headers, and what it carries."""

    headers: dict[str, str]
    payload: bytes

    @property
    def name(self) -> str:
        """What it is: the event's type, or the exception's."""
        return self.headers.get(":event-type") or self.headers.get(":exception-type") or self.headers.get(":error-code", "")

    @property
    def is_event(self) -> bool:
        """Whether it is no exception or error."""
        return self.headers.get(":message-type", "event") == "event"


class Frames:
    """`feed` bytes, get the messages that are whole."""

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = bytearray()

    def feed(self, chunk: bytes) -> list[Frame]:
        """The messages that are whole now; raises BadEvent for one that is damaged or too long."""
        rest = self._rest
        rest += chunk
        out: list[Frame] = []
        at = 0
        while len(rest) - at >= PRELUDE:
            total, head = _lengths(rest, at)
            if len(rest) - at < total:
                break
            out.append(_frame(bytes(rest[at : at + total]), head))
            at += total
        del rest[:at]
        return out


def _lengths(data: bytearray, at: int) -> tuple[int, int]:
    total, head, checksum = struct.unpack_from(">III", data, at)
    if zlib.crc32(data[at : at + 8]) != checksum:
        raise BadEvent("a damaged event")
    if total > EVENT_BYTES:
        raise BadEvent(f"an event of over {EVENT_BYTES} bytes")
    if head > total - LEAST:
        raise BadEvent("a damaged event")
    return int(total), int(head)


def _frame(message: bytes, head: int) -> Frame:
    if zlib.crc32(message[:-4]) != struct.unpack(">I", message[-4:])[0]:
        raise BadEvent("a damaged event")
    return Frame(_headers(message[PRELUDE : PRELUDE + head]), message[PRELUDE + head : -4])


def _headers(data: bytes) -> dict[str, str]:
    out: dict[str, str] = {}
    at = 0
    try:
        while at < len(data):
            after = at + 1 + data[at]
            name, kind, at = data[at + 1 : after].decode(), data[after], after + 1
            if kind in (STRING, BYTES):
                size = int(struct.unpack_from(">H", data, at)[0])
                value = data[at + 2 : at + 2 + size]
                if len(value) != size:
                    raise BadEvent("a damaged event")
                at += 2 + size
                if kind == STRING:
                    out[name] = value.decode()
            elif kind not in (TRUE, FALSE):
                at += SIZES[kind]
    except (IndexError, KeyError, struct.error, UnicodeDecodeError) as error:
        raise BadEvent("a damaged event") from error
    return out
