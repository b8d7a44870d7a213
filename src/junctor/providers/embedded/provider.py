"""The embedded provider: runs a local solver and answers in chat-completion JSON.

Specialists take tens of microseconds and run where they are called. `general` may search for tens of milliseconds, so it runs
in a worker thread and is stopped at the deadline, and when the caller hangs up.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from typing import Any, ClassVar

from junctor.errors import ConfigError, UpstreamStatus, UpstreamTimeout
from junctor.providers import answers
from junctor.providers.base import Provider, Reply, StreamReply, Usage
from junctor.providers.embedded import arithmetic, dates, facts, general, text, units, vectors
from junctor.providers.embedded.answer import Answer, Budget, OutOfTime
from junctor.providers.embedded.catalogue import CONTEXT_TOKENS
from junctor.types import Request, Target

SPECIALISTS: Mapping[str, Callable[[str], Answer]] = {
    "arithmetic": arithmetic.solve,
    "units": units.solve,
    "dates": dates.solve,
    "text": text.solve,
    "facts": facts.solve,
}
STEPS_PER_TOKEN = 8
LONGEST_PROMPT = 8 * CONTEXT_TOKENS


def _refused(message: str, target: Target, status: int, code: str) -> UpstreamStatus:
    body = answers.error_body(message, code)
    return UpstreamStatus(message, upstream_status=status, target=target.id, body=body)


class EmbeddedProvider(Provider):
    """Runs the solvers of the pool. `workers` threads serve the general solver; more requests than that wait.

    A target's `model` names the solver; `settings["reasoning_effort"]` ("low" or "high") sets the budget of `general`, or the
    request's parameter of that name where the target leaves it open. Every eight search steps are billed as a reasoning token.
    """

    name: ClassVar[str] = "embedded"
    capabilities: ClassVar[frozenset[str] | None] = frozenset({"stream"})

    def __init__(self, *, workers: int = 2) -> None:
        if type(workers) is not int or not 1 <= workers <= 64:
            raise ConfigError("is not a number of threads", field="workers", fix="give an integer from 1 to 64")
        self._workers = workers
        self._pool: ThreadPoolExecutor | None = None
        facts.index()

    @classmethod
    def from_settings(cls, settings: dict[str, Any]) -> EmbeddedProvider:
        """Knows one key, `workers`."""
        unknown = sorted(set(settings) - {"workers"})
        if unknown:
            raise ConfigError("is not a setting of the embedded provider", field=unknown[0], fix="known: workers")
        return cls(**settings)

    async def complete(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Solve and answer. Raises UpstreamStatus for an unknown model or a prompt over the limit, UpstreamTimeout."""
        reply, content = await self._answer(request, target, timeout_s)
        body = answers.completion_body(
            answers.new_id(request), target.upstream_model, content, reply.usage, reply.finish_reason
        )
        return Reply(body=body, usage=reply.usage, finish_reason=reply.finish_reason)

    async def stream(self, request: Request, target: Target, timeout_s: float | None) -> StreamReply:
        """Solve, then hand the answer out word by word. Raises as `complete` does."""
        reply, content = await self._answer(request, target, timeout_s)
        return answers.ReadyStream(request, target.upstream_model, content, reply)

    async def embed(self, request: Request, target: Target, timeout_s: float | None) -> Reply:
        """Vectors of the static encoder; the target's `model` is "static-embeddings". Raises UpstreamStatus."""
        model = target.upstream_model
        if model != vectors.MODEL:
            raise _refused(f"{model!r} makes no embeddings ({vectors.MODEL} does)", target, 404, "model_not_found")
        try:
            async with asyncio.timeout(timeout_s):
                return await vectors.embed(request, model)
        except vectors.Unable as error:
            raise _refused(str(error), target, 400, "invalid_value") from error
        except TimeoutError:
            raise UpstreamTimeout("ran out of time", target=target.id) from None

    async def aclose(self) -> None:
        """Let the worker threads end."""
        if self._pool is not None:
            self._pool.shutdown(wait=False, cancel_futures=True)
            self._pool = None

    async def _answer(self, request: Request, target: Target, timeout_s: float | None) -> tuple[Reply, str]:
        sent = _measure(request, target)
        prompt = " ".join(answers.prompt_text(request).split())
        model = target.upstream_model
        if model == "general":
            answer = await self._search(prompt, _effort(request, target), target, timeout_s)
            reasoning = -(-answer.work // STEPS_PER_TOKEN)
        elif model in SPECIALISTS:
            answer, reasoning = SPECIALISTS[model](prompt), 0
        else:
            known = ", ".join((*SPECIALISTS, "general"))
            raise _refused(f"the embedded pool has no model {model!r} (it has: {known})", target, 404, "model_not_found")
        content, reason = answers.cut(answer.text, answers.output_limit(request))
        made = answers.count_tokens(content) + reasoning
        usage = Usage(input_tokens=sent, output_tokens=made, reasoning_tokens=reasoning)
        return Reply(body=b"", usage=usage, finish_reason=reason), content

    async def _search(self, prompt: str, effort: general.Effort, target: Target, timeout_s: float | None) -> Answer:
        budget = Budget(effort.units, None if timeout_s is None else time.perf_counter() + timeout_s)
        if self._pool is None:
            self._pool = ThreadPoolExecutor(self._workers, thread_name_prefix="junctor-general")
        try:
            async with asyncio.timeout(timeout_s):
                return await asyncio.get_running_loop().run_in_executor(self._pool, general.solve, prompt, effort, budget)
        except (OutOfTime, TimeoutError):
            raise UpstreamTimeout("ran out of time while reasoning", target=target.id) from None
        finally:
            budget.stop()


def _measure(request: Request, target: Target) -> int:
    """Tokens of the prompt; refuses what is over the limit without reading all of it."""
    limit = min(target.limits.context_tokens or CONTEXT_TOKENS, CONTEXT_TOKENS)
    too_long = answers.prompt_length(request) > LONGEST_PROMPT
    tokens = 0 if too_long else answers.prompt_tokens(request)
    if too_long or tokens > limit:
        message = f"the prompt is over the limit of {limit} tokens"
        raise _refused(message, target, 400, "context_length_exceeded")
    return tokens


def _effort(request: Request, target: Target) -> general.Effort:
    asked = target.settings.get("reasoning_effort") or request.params.get("reasoning_effort") or "low"
    if asked not in general.EFFORTS:
        known = ", ".join(general.EFFORTS)
        raise _refused(f"reasoning_effort {asked!r} is not known (it may be: {known})", target, 400, "invalid_value")
    return general.EFFORTS[asked]
