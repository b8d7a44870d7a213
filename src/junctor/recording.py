"""Recording outcomes: every task on every target, really run, measured and judged."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Protocol

import msgspec
import numpy as np
from numpy.typing import NDArray

from junctor.errors import UpstreamError, UserError
from junctor.outcomes import OutcomeTable
from junctor.providers.base import Provider, Reply
from junctor.types import Catalogue, Message, Outcome, Request, Target

Progress = Callable[[int, int], None]
"""Called with (cells done, cells in all)."""


class Checkable(Protocol):
    """A task whose answers can be judged."""

    @property
    def id(self) -> str:
        """Names the task."""

    @property
    def prompt(self) -> str:
        """What is asked."""

    @property
    def category(self) -> str:
        """Its kind; "" where there is none."""

    @property
    def check(self) -> Callable[[str], float]:
        """Answer text -> quality in [0, 1]."""


class _Message(msgspec.Struct):
    content: str | None = None


class _Choice(msgspec.Struct):
    message: _Message


class _Completion(msgspec.Struct):
    choices: list[_Choice]


_decode = msgspec.json.Decoder(_Completion).decode


def answer_text(body: bytes) -> str:
    """The text of a chat.completion body; raises msgspec.DecodeError when it is not one."""
    choices = _decode(body).choices
    return (choices[0].message.content or "") if choices else ""


@dataclass(slots=True)
class _Sheet:
    """The cells as they come in, NaN until then."""

    shape: tuple[int, int]
    cells: dict[str, NDArray[np.float64]] = field(init=False)
    failures: int = 0
    done: int = 0

    def __post_init__(self) -> None:
        names = ("quality", "cost_usd", "latency_s", "input_tokens", "output_tokens")
        self.cells = {name: np.full(self.shape, np.nan) for name in names}

    def enter(self, place: tuple[int, int], outcome: Outcome) -> None:
        for name, values in self.cells.items():
            value = getattr(outcome, name)
            values[place] = np.nan if value is None else value
        self.done += 1


def record_outcomes(
    tasks: Sequence[Checkable],
    catalogue: Catalogue,
    provider: Provider,
    *,
    progress: Progress | None = None,
    concurrency: int = 1,
    source: str = "",
) -> OutcomeTable:
    """`record`, for callers without an event loop."""
    return asyncio.run(record(tasks, catalogue, provider, progress=progress, concurrency=concurrency, source=source))


async def record(
    tasks: Sequence[Checkable],
    catalogue: Catalogue,
    provider: Provider,
    *,
    progress: Progress | None = None,
    concurrency: int = 1,
    source: str = "",
) -> OutcomeTable:
    """Ask every target every task through `provider.complete` and judge the answers.

    Latency is the wall time of the call; cost is what the provider states, else usage times list price. A call that fails is an
    outcome too: quality 0, its latency, cost and tokens unknown. More than one call at a time (`concurrency`) is quicker but
    makes the calls wait for each other, and the latencies say so. `source` should name the seed. Raises UserError for
    empty input.
    """
    if not tasks or not len(catalogue):
        raise UserError("there is nothing to record", field="tasks" if not tasks else "catalogue", fix="pass at least one")
    if concurrency < 1:
        raise UserError("is not a number of calls at a time", field="concurrency", fix="give 1 or more")
    sheet = _Sheet((len(tasks), len(catalogue)))
    places = iter([(row, column) for row in range(len(tasks)) for column in range(len(catalogue))])

    async def work() -> None:
        for row, column in places:
            outcome, failed = await run_task(tasks[row], catalogue[column], provider)
            sheet.failures += failed
            sheet.enter((row, column), outcome)
            if progress is not None:
                progress(sheet.done, len(tasks) * len(catalogue))

    async with asyncio.TaskGroup() as group:
        for _ in range(concurrency):
            group.create_task(work())
    failures = f"; {sheet.failures} failed calls" if sheet.failures else ""
    return _table(tasks, catalogue, sheet, f"{source or 'recorded'}{failures}")


def _table(tasks: Sequence[Checkable], catalogue: Catalogue, sheet: _Sheet, source: str) -> OutcomeTable:
    return OutcomeTable(
        texts=[task.prompt for task in tasks],
        targets=catalogue,
        labels={"category": [task.category for task in tasks]},
        label_name="category",
        ids=tuple(task.id for task in tasks),
        source=source,
        quality=sheet.cells["quality"],
        cost_usd=sheet.cells["cost_usd"],
        latency_s=sheet.cells["latency_s"],
        input_tokens=sheet.cells["input_tokens"],
        output_tokens=sheet.cells["output_tokens"],
    )


async def run_task(task: Checkable, target: Target, provider: Provider) -> tuple[Outcome, bool]:
    """(what came of one call, whether it failed). A body that is not a chat.completion counts as failed."""
    request = Request(id=task.id, text=task.prompt, messages=(Message("user", task.prompt),))
    started = time.perf_counter()
    try:
        reply = await provider.complete(request, target, target.limits.timeout_s)
    except UpstreamError:
        return Outcome(quality=0.0, latency_s=time.perf_counter() - started), True
    latency = time.perf_counter() - started
    try:
        quality = reply.quality if reply.quality is not None else min(max(task.check(answer_text(reply.body)), 0.0), 1.0)
    except msgspec.DecodeError:
        return Outcome(quality=0.0, latency_s=latency), True
    return _judged(quality, latency, reply, target), False


def _judged(quality: float, latency: float, reply: Reply, target: Target) -> Outcome:
    sent, made = reply.usage.input_tokens, reply.usage.output_tokens
    cost = reply.cost_usd
    if cost is None and target.price is not None and sent is not None and made is not None:
        cost = target.price.cost_usd(sent, made)
    return Outcome(quality=quality, cost_usd=cost, latency_s=latency, input_tokens=sent, output_tokens=made)
