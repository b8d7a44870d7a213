"""The replay provider: answers from a recorded outcome table, so that a policy can be served without paying for a model.

A table holds no response texts; the answer says which target answered and how well it did. Usage, cost and quality are those of
the recorded cell.
"""

from __future__ import annotations

import asyncio
from collections import defaultdict
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from junctor.errors import ConfigError, UpstreamStatus, UpstreamTimeout
from junctor.outcomes import OutcomeTable, normalise, read_table
from junctor.providers import answers
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.types import Outcome, Request, Target


def _whole(tokens: float | None) -> int | None:
    return None if tokens is None else round(tokens)


def _missing(message: str, target: Target, status: int, code: str) -> UpstreamStatus:
    body = answers.error_body(message, code)
    return UpstreamStatus(message, upstream_status=status, target=target.id, body=body)


class ReplayProvider(Provider):
    """Looks the prompt up by its normalised text (`junctor.outcomes.normalise`) and the target by id, else by model name.

    table   an OutcomeTable, or the path of a file that `read_table` reads
    speed   how the recorded latency is replayed: 0 not at all, 1 in real time, 10 ten times as fast

    Raises UpstreamStatus: 404 for a prompt or a target that is not in the table; 501, which is retryable, for a cell that was
    not recorded, because another target may have one. Raises UpstreamTimeout when the replayed latency is over `timeout_s`.
    """

    name: ClassVar[str] = "replay"
    paths: ClassVar[tuple[str, ...]] = ("table",)

    def __init__(self, table: OutcomeTable | Path | str, *, speed: float = 0.0) -> None:
        if type(speed) not in (int, float) or not 0 <= speed < float("inf"):
            raise ConfigError("is not a speed", field="speed", fix="0 for no delay, 1 for real time, 10 for ten times as fast")
        self._table = table if isinstance(table, OutcomeTable) else read_table(table)
        self._speed = float(speed)
        self._rows: dict[str, list[int]] = defaultdict(list)
        for row, text in enumerate(self._table.texts):
            self._rows[normalise(text)].append(row)

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> ReplayProvider:
        """Keys: `table` (a path, needed) and `speed`."""
        unknown = sorted(set(settings) - {"table", "speed"})
        if unknown:
            raise ConfigError("is not a setting of the replay provider", field=unknown[0], fix="known: table, speed")
        if not isinstance(settings.get("table"), str):
            raise ConfigError("is missing", field="table", fix="give the path of an outcome table")
        return cls(**settings)

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """The recorded outcome as an answer, after the recorded latency over `speed`."""
        outcome, reply, content = await self._recorded(request, target, timeout_s)
        body = answers.completion_body(answers.new_id(request), target.upstream_model, content, reply.usage)
        return Reply(body=body, usage=reply.usage, finish_reason="stop", cost_usd=outcome.cost_usd, quality=outcome.quality)

    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        """The same answer word by word; the delay comes before the first event."""
        _, reply, content = await self._recorded(request, target, timeout_s)
        return answers.ReadyStream(request, target.upstream_model, content, reply)

    async def _recorded(self, request: Request, target: Target, timeout_s: float | None) -> tuple[Outcome, Reply, str]:
        outcome = self._find(answers.prompt_text(request), target)
        await self._wait(outcome.latency_s, target, timeout_s)
        usage = Usage(input_tokens=_whole(outcome.input_tokens), output_tokens=_whole(outcome.output_tokens))
        content = f"Replayed from a recording: {target.id} answered this with quality {outcome.quality:.3g}."
        return outcome, Reply(body=b"", usage=usage, finish_reason="stop", cost_usd=outcome.cost_usd), content

    def _find(self, prompt: str, target: Target) -> Outcome:
        column = self._table.targets.position(target.id)
        if column is None:
            column = self._table.targets.position(target.upstream_model)
        if column is None:
            raise _missing("the recording has no such target", target, 404, "model_not_found")
        rows = self._rows.get(normalise(prompt))
        if not rows:
            raise _missing("the recording has no such prompt", target, 404, "prompt_not_recorded")
        for row in rows:
            if not np.isnan(self._table.quality[row, column]):
                return self._table.outcome(row, column)
        raise _missing("this target was not recorded on this prompt", target, 501, "cell_not_recorded")

    async def _wait(self, latency_s: float | None, target: Target, timeout_s: float | None) -> None:
        if not self._speed or not latency_s:
            return
        delay = latency_s / self._speed
        if timeout_s is not None and delay > timeout_s:
            await asyncio.sleep(max(timeout_s, 0.0))
            raise UpstreamTimeout("the recorded latency is over the deadline", target=target.id)
        await asyncio.sleep(delay)
