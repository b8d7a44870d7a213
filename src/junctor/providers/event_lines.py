"""Server-sent events, cut out of bytes however they arrive."""

from __future__ import annotations

EVENT_BYTES = 8 * 1024 * 1024


class BadEvent(ValueError):
    """What should be an event is too long, or damaged."""


class EventLines:
    """`feed` bytes, get the data of each event that is whole. Names, ids and comments are not looked at."""

    __slots__ = ("_data", "_rest", "_size")

    def __init__(self) -> None:
        self._rest = b""
        self._data: list[bytes] = []
        self._size = 0

    def feed(self, chunk: bytes) -> list[bytes]:
        """The data of the events that are whole now; raises BadEvent."""
        lines = (self._rest + chunk if self._rest else chunk).split(b"\n")
        self._rest = lines.pop()
        out: list[bytes] = []
        for line in lines:
            if line.endswith(b"\r"):
                line = line[:-1]
            if not line:
                if self._data:
                    out.append(self._data[0] if len(self._data) == 1 else b"\n".join(self._data))
                    self._data, self._size = [], 0
            elif line.startswith(b"data:"):
                self._data.append(line[6:] if line.startswith(b"data: ") else line[5:])
                self._size += len(line)
        if self._size + len(self._rest) > EVENT_BYTES:
            raise BadEvent(f"an event of over {EVENT_BYTES} bytes")
        return out
