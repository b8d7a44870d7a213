"""The contract of a provider: it talks to one kind of upstream and answers in OpenAI chat-completion JSON.

Bodies and stream events travel as bytes: a gateway that passes an answer on should not parse and print it again. What it must
know (usage, finish reason) the provider reads out on the way.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import AsyncIterator, Callable, Mapping
from typing import Any, ClassVar

from msgspec import Struct

from junctor.errors import UpstreamStatus
from junctor.types import Request, Target

UNABLE = 422
Why = Callable[[Any], str]
"""Says of a field's value why it cannot be told to an upstream, as the end of a sentence; "" when it can."""


class Usage(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """Tokens that the upstream says it used; None when it does not say.

    `input_tokens` counts all of the prompt: tokens read from a prompt cache and written to it are parts of it, whatever the
    upstream's own convention. `reasoning_tokens` are a part of `output_tokens`.
    """

    input_tokens: int | None = None
    output_tokens: int | None = None
    cached_tokens: int | None = None
    cache_write_tokens: int | None = None
    reasoning_tokens: int | None = None


class Reply(Struct, frozen=True, kw_only=True):
    """A whole answer: `body` is the chat.completion JSON object. `quality` only where the provider can judge (replay)."""

    body: bytes
    usage: Usage = Usage()
    finish_reason: str = ""
    cost_usd: float | None = None
    quality: float | None = None


class StreamReply(ABC):
    r"""An answer that is on its way. Iterating yields whole server-sent events (`b"data: {…}\\n\\n"`), the last one is
    `b"data: [DONE]\\n\\n"`. Raises UpstreamBroken when it ends early. `usage` and the rest are complete after the last event.
    """

    usage: Usage = Usage()
    finish_reason: str = ""
    cost_usd: float | None = None

    @abstractmethod
    def __aiter__(self) -> AsyncIterator[bytes]:
        """The events, once."""

    def pieces(self) -> AsyncIterator[bytes]:
        """The same bytes, where several whole events may come in one piece; override where events arrive together."""
        return self.__aiter__()

    async def aclose(self) -> None:
        """Stop early: the upstream connection is given up."""


class Provider(ABC):
    """Talks to one kind of upstream. Raises UpstreamError, or RequestError for what it cannot tell its upstream; never retries.

    Such a RequestError comes before anybody is called, so that another target can still be asked. What is seen by the value of
    one field of the request is in `cannot` as well: the target is then left out of the decision, with the reason.

    `capabilities` is what all its targets can do ("stream", "tools", "vision", "n", …) unless a target says so itself; None:
    not known, let them try. `timeout_s` is what is left of the request's deadline: seconds until the whole answer (or the first
    event) must be there.
    """

    name: ClassVar[str]
    capabilities: ClassVar[frozenset[str] | None] = None
    keeps_time: ClassVar[bool] = False
    """Whether `timeout_s` is surely held here, so that nobody else need watch the clock."""
    cannot: ClassVar[Mapping[str, Why]] = {}
    """Fields of a chat call that its upstreams may have no word for. Only a request that has one of them is looked at."""
    ignored: frozenset[str] = frozenset()
    """Fields that are left out all the same, because the operator says so."""
    paths: ClassVar[tuple[str, ...]] = ()
    """Settings that name a file: in a configuration they are relative to it."""

    def untold(self, request: Request, target: Target) -> dict[str, str]:
        """The fields of a request that cannot be told to this target, each with its reason; {} when all can be.

        What the target's settings say goes before the request's own. Targets whose settings name the same fields are alike.
        """
        found: dict[str, str] = {}
        cannot, params = self.cannot, request.params
        for name in params:
            if name not in cannot or name in self.ignored or name in target.settings:
                continue
            if params[name] is not None and (why := cannot[name](params[name])):
                found[name] = why
        return found

    @abstractmethod
    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Ask for a whole answer."""

    @abstractmethod
    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        """Ask for a stream; returns once the first event is there, so that a failure before it can still fall back."""

    async def embed(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Ask for embeddings: `request.params` is an OpenAI embeddings call, the body a `list` of `embedding` objects.

        Only of targets that can do "embeddings". Where the provider has no such thing, an UpstreamStatus like a client error:
        no reason to leave the target alone.
        """
        del request, timeout_s
        raise UpstreamStatus("its provider makes no embeddings", upstream_status=UNABLE, target=target.id)

    async def moderate(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Ask for moderation: `request.params` is an OpenAI moderations call, the body a moderation object.

        Only of targets that can do "moderations". Raises like `embed` where the provider has no such thing.
        """
        del request, timeout_s
        raise UpstreamStatus("its provider does not moderate", upstream_status=UNABLE, target=target.id)

    async def aclose(self) -> None:
        """Give up connections."""

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> Provider:
        """From a `[providers.NAME]` table of the configuration; raises ConfigError for a wrong or unknown key."""
        return cls(**settings)
