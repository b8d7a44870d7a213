"""The scripted provider: answers and fails exactly as its script says. For tests, for documentation, for rehearsing outages.

    ScriptedProvider({"a": [Step(status=429, retry_after_s=2.0), Step(answer="hello")], "*": Step(answer="hi")})

Target `a` is rate limited once and then says hello for ever; every other target says hi.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from collections.abc import AsyncIterator, Awaitable, Mapping, Sequence
from typing import Any, ClassVar, Literal, TypeVar

import msgspec
from msgspec import Struct

from junctor.errors import (
    ConfigError,
    UpstreamBroken,
    UpstreamError,
    UpstreamGarbage,
    UpstreamRefused,
    UpstreamStatus,
    UpstreamTimeout,
)
from junctor.providers import answers
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.types import Request, Target

Result = TypeVar("Result")
ANY = "*"


class Step(Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What happens on one call. At most one way to fail applies, in the order in which they stand here.

    answer          what is said; `chunks` says it in given pieces instead
    delay_s         wait before the first byte; `chunk_delay_s` before each further piece
    refuse          no connection: UpstreamRefused
    timeout         UpstreamTimeout at once, as if the time had passed
    hang            nothing comes, until `timeout_s` has passed or the caller gives up
    status          UpstreamStatus with this status; `retry_after_s` goes with it
    garbage         UpstreamGarbage
    break_after     after this many pieces the connection breaks: UpstreamBroken (a whole answer breaks at once)
    stall_after     after this many pieces nothing more comes, until `timeout_s` has passed or the caller gives up
    input_tokens, output_tokens, cost_usd, quality   what the answer reports; tokens are counted where they are not given
    times           how many calls this step serves
    """

    answer: str = "ok"
    chunks: tuple[str, ...] = ()
    delay_s: float = 0.0
    chunk_delay_s: float = 0.0
    refuse: bool = False
    timeout: bool = False
    hang: bool = False
    status: int | None = None
    retry_after_s: float | None = None
    garbage: bool = False
    break_after: int | None = None
    stall_after: int | None = None
    input_tokens: int | None = None
    output_tokens: int | None = None
    cost_usd: float | None = None
    quality: float | None = None
    times: int = 1

    def __post_init__(self) -> None:
        if min(self.delay_s, self.chunk_delay_s) < 0:
            raise ValueError("a delay cannot be negative")
        if self.times < 1:
            raise ValueError("times must be 1 or more")
        if self.status is not None and not 400 <= self.status <= 599:
            raise ValueError("status must be an error status, 400 to 599")

    @property
    def pieces(self) -> tuple[str, ...]:
        """The answer as it is streamed."""
        return self.chunks or tuple(answers.words(self.answer))

    @property
    def text(self) -> str:
        """The whole answer."""
        return "".join(self.pieces)


class Asked(Struct, frozen=True, kw_only=True):
    """One call as it came in."""

    target: str
    request: Request
    timeout_s: float | None
    streamed: bool


Script = Mapping[str, Step | Sequence[Step]]


class ScriptedProvider(Provider):
    """Follows a script per target id; "*" stands for all targets without one of their own.

    Steps are used in order; then the last one stays ("last"), they start over ("cycle"), or the target is gone ("refuse").
    `calls` lists everything that was asked, `closed` counts `aclose`, `open_streams` those not yet read to the end or closed.
    """

    name: ClassVar[str] = "scripted"

    def __init__(self, script: Script | None = None, *, then: Literal["last", "cycle", "refuse"] = "last") -> None:
        self._script = {id_: _spread(steps) for id_, steps in (script or {ANY: Step()}).items()}
        empty = [id_ for id_, steps in self._script.items() if not steps]
        if empty:
            raise ConfigError("has no steps", field=f"script.{empty[0]}", fix="give it at least one")
        if then not in ("last", "cycle", "refuse"):
            raise ConfigError(f"{then!r} is not known", field="then", fix="last, cycle or refuse")
        self._then = then
        self._used: dict[str, int] = defaultdict(int)
        self.calls: list[Asked] = []
        self.closed = 0
        self.open_streams = 0

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> ScriptedProvider:
        """Keys: `script` (target id -> step or list of steps, each a table of Step's fields) and `then`."""
        try:
            read = msgspec.convert(settings, _Settings)
        except msgspec.ValidationError as error:
            raise ConfigError(str(error), field="script", fix="see junctor.providers.scripted.Step for the keys") from None
        return cls(read.script, then=read.then)

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """The step's answer, or its failure."""
        step = self._next(request, target, timeout_s, streamed=False)
        await _opening(step, target, timeout_s)
        if step.break_after is not None:
            raise UpstreamBroken("the connection broke, as scripted", target=target.id)
        if step.stall_after is not None:
            await _never(target, timeout_s)
        usage = _usage(step, request)
        body = answers.completion_body(answers.new_id(request), target.upstream_model, step.text, usage)
        return Reply(body=body, usage=usage, finish_reason="stop", cost_usd=step.cost_usd, quality=step.quality)

    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        """The step's answer piece by piece, or its failure, before or after the first piece."""
        step = self._next(request, target, timeout_s, streamed=True)
        await _opening(step, target, timeout_s)
        return _ScriptedStream(self, step, request, target, timeout_s)

    async def aclose(self) -> None:
        """Only counted."""
        self.closed += 1

    def _next(self, request: Request, target: Target, timeout_s: float | None, *, streamed: bool) -> Step:
        self.calls.append(Asked(target=target.id, request=request, timeout_s=timeout_s, streamed=streamed))
        steps = self._script.get(target.id) or self._script.get(ANY)
        if steps is None:
            body = answers.error_body("no such model", "model_not_found")
            raise UpstreamStatus("the script has no such target", upstream_status=404, target=target.id, body=body)
        place = self._used[target.id]
        self._used[target.id] += 1
        if place < len(steps):
            return steps[place]
        if self._then == "refuse":
            raise UpstreamRefused("the script is at its end", target=target.id)
        return steps[place % len(steps)] if self._then == "cycle" else steps[-1]


class _Settings(Struct, frozen=True, forbid_unknown_fields=True):
    script: dict[str, Step | tuple[Step, ...]] = msgspec.field(default_factory=lambda: {ANY: Step()})
    then: Literal["last", "cycle", "refuse"] = "last"


def _spread(steps: Step | Sequence[Step]) -> tuple[Step, ...]:
    listed = (steps,) if isinstance(steps, Step) else steps
    return tuple(step for step in listed for _ in range(step.times))


def _usage(step: Step, request: Request) -> Usage:
    sent = answers.prompt_tokens(request) if step.input_tokens is None else step.input_tokens
    made = answers.count_tokens(step.text) if step.output_tokens is None else step.output_tokens
    return Usage(input_tokens=sent, output_tokens=made)


async def _within(work: Awaitable[Result], target: Target, timeout_s: float | None) -> Result:
    try:
        return await asyncio.wait_for(work, timeout_s)
    except TimeoutError:
        raise UpstreamTimeout("silent for too long, as scripted", target=target.id) from None


async def _never(target: Target, timeout_s: float | None) -> None:
    """Wait until the time is up or the caller gives up."""
    await _within(asyncio.Event().wait(), target, timeout_s)


def _failure(step: Step, target: Target) -> UpstreamError | None:
    if step.refuse:
        return UpstreamRefused("refused, as scripted", target=target.id)
    if step.timeout:
        return UpstreamTimeout("timed out, as scripted", target=target.id)
    if step.status is not None:
        return UpstreamStatus(
            f"answered {step.status}, as scripted",
            upstream_status=step.status,
            target=target.id,
            retry_after_s=step.retry_after_s,
            body=answers.error_body("as scripted", f"status_{step.status}"),
        )
    return UpstreamGarbage("not the protocol, as scripted", target=target.id) if step.garbage else None


async def _opening(step: Step, target: Target, timeout_s: float | None) -> None:
    """What happens before the first byte."""
    if step.delay_s:
        await _within(asyncio.sleep(step.delay_s), target, timeout_s)
    if step.hang:
        await _never(target, timeout_s)
    failure = _failure(step, target)
    if failure is not None:
        raise failure


class _ScriptedStream(StreamReply):
    def __init__(
        self, provider: ScriptedProvider, step: Step, request: Request, target: Target, timeout_s: float | None
    ) -> None:
        self._provider = provider
        self._step = step
        self._request = request
        self._target = target
        self._timeout_s = timeout_s
        self._open = True
        provider.open_streams += 1

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """The events, once; ends early after `aclose`."""
        step = self._step
        usage = _usage(step, self._request)
        chunks = answers.Chunks(
            answers.new_id(self._request), self._target.upstream_model, with_usage=answers.wants_usage(self._request)
        )
        events = list(chunks.whole(step.pieces, usage))
        try:
            for place, event in enumerate(events):
                if not self._open:
                    return
                if 0 < place <= len(step.pieces) + 1:
                    await self._after_pieces(place - 1)
                if event is answers.DONE:
                    self.usage, self.finish_reason, self.cost_usd = usage, "stop", step.cost_usd
                yield event
        finally:
            await self.aclose()

    async def _after_pieces(self, sent: int) -> None:
        if sent == self._step.break_after:
            raise UpstreamBroken("the stream broke, as scripted", target=self._target.id)
        if sent == self._step.stall_after:
            await _never(self._target, self._timeout_s)
        if self._step.chunk_delay_s and 0 < sent < len(self._step.pieces):
            await asyncio.sleep(self._step.chunk_delay_s)

    async def aclose(self) -> None:
        """Stop early."""
        if self._open:
            self._open = False
            self._provider.open_streams -= 1
