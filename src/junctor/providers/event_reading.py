"""What readers of other APIs' streams have in common: whole events out of bytes, chunks out of events, one kind of failure."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from typing import Any

import msgspec

from junctor.errors import UpstreamBroken, UpstreamError, UpstreamGarbage, UpstreamStatus
from junctor.providers import answers, chat_writing
from junctor.providers.base import Usage
from junctor.providers.event_lines import BadEvent
from junctor.providers.openai_wire import SAID_CHARS

KEY_STATUSES = (401, 403, 407)
UNREADABLE = (msgspec.DecodeError, UnicodeError, RecursionError, BadEvent)
Redacted = Callable[[str], str]


class EventReader(ABC):
    """Reads a stream: bytes in, whole chat.completion.chunk events out; `done` when the last of them was `[DONE]`.

    What an upstream says before it fails is given out first: `failure` holds the error until then. Who speaks is said with the
    first words and not before, so that a failure before them can still fall back to another target.
    """

    what = "an event that is not one of its API"

    def __init__(self, cut: Callable[[bytes], list[Any]], target: str, *, with_usage: bool, redacted: Redacted = str) -> None:
        self.usage = Usage()
        self.finish_reason = ""
        self.done = False
        self.failure: UpstreamError | None = None
        self.target = target
        self.redacted = redacted
        self.silent = True
        self._cut = cut
        self._with_usage = with_usage
        self._chunks: chat_writing.Chunks | None = None

    @abstractmethod
    def read(self, event: Any) -> bytes:
        """The chunks that one event makes. May raise UpstreamError, or msgspec's errors for what cannot be read."""

    def feed(self, chunk: bytes) -> bytes:
        """The events that these bytes complete. Raises UpstreamError; where something was said before, with the next call."""
        if self.failure is not None:
            raise self.failure
        out: list[bytes] = []
        try:
            for event in self._cut(chunk):
                if self.done:
                    break
                out.append(self.read(event))
        except UpstreamError as error:
            self.failure = error
        except UNREADABLE as error:
            self.failure = UpstreamGarbage(f"sent {self.what}", target=self.target)
            self.failure.__cause__ = error
        said = b"".join(out)
        if self.failure is not None and not said:
            raise self.failure
        return said

    def end(self) -> bytes:
        """The upstream has said all it says; raises UpstreamBroken when that cannot be all."""
        raise UpstreamBroken("ended its stream early", target=self.target)

    def begin(self, id_: str, model: str) -> None:
        """The answer has a name now."""
        self._chunks = chat_writing.Chunks(id_, model, with_usage=self._with_usage)

    @property
    def write(self) -> chat_writing.Chunks:
        """Writes chunks; raises UpstreamGarbage before `begin`."""
        if self._chunks is None:
            raise UpstreamGarbage("sent a piece of an answer that had not begun", target=self.target)
        return self._chunks

    @property
    def begun(self) -> bool:
        """Whether the answer has a name."""
        return self._chunks is not None

    def say(self, events: bytes) -> bytes:
        """The events, with who speaks before the first of all."""
        if self.silent:
            self.silent = False
            return self.write.start() + events
        return events


def status_error(status: int, kind: str, said: str, target: str, wait_s: float | None = None) -> UpstreamStatus:
    """An error of the API, its body in OpenAI's shape. What is said about our own key is none of the caller's business."""
    private = status in KEY_STATUSES
    said = "" if private else said[:SAID_CHARS]
    return UpstreamStatus(
        f"answered with status {status}" + (f": {said}" if said else ""),
        upstream_status=status,
        target=target,
        retry_after_s=wait_s,
        body=b"" if private else answers.error_body(said or f"status {status}", kind or f"status_{status}"),
    )
