"""The most that a call may cost, before it is made; what it did cost, after, and what to book where nobody says.

Before: every byte of the request may be a token, plus some for each message and part, at most what the target's context holds;
the answer may be as long as was asked for, as the target's limit, or 4,096 tokens; times the number of answers. A fallback may
cost what its dearest part may, because a try that fails before its first byte is not billed; a cascade and a panel what all
their parts may, and a cascade one more call of its dearest part per stage where its rule may ask questions of its own.

After: what the upstream billed, or its usage at list price. Where it says neither, a try that failed before its first byte
costs nothing; an answer costs an estimate of four characters per token in and one token per event out; and a call that the
caller gave up costs what went in.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import msgspec

from junctor.engine.run import CANCELLED, Run
from junctor.journal import OutcomeRecord
from junctor.plans.contracts import Accept, accept_rule
from junctor.tenancy.accounts import NANO
from junctor.types import Attempt, Call, Catalogue, Fallback, Panel, Plan, Price, Request, Target, plan_targets

CHARS_PER_TOKEN = 4
OUTPUT_TOKENS = 4096
EXPECTED_OUTPUT_TOKENS = 512
TOKENS_PER_MESSAGE = 8
TOKENS_PER_PART = 3000
SETTING_CHARS = 256
NEVER_READ = frozenset({"metadata", "stream_options", "logit_bias", "stop", "modalities"})
COUNTED = frozenset({"role", "content"})
MEDIA = frozenset({"image_url", "input_image", "input_audio", "audio_url", "video_url", "file"})

_encode = msgspec.json.Encoder().encode


def input_bytes(request: Request) -> int:
    """Bytes of text that go in, which bounds their tokens; a part that is no text counts 3,000.

    Whatever may be read counts, known to us or not: every field of a message, and what the call says beside its messages.
    """
    total = TOKENS_PER_MESSAGE * len(request.messages)
    for message in request.messages:
        content = message.content
        if type(content) is str:
            total += len(content) if content.isascii() else len(content.encode("utf-8", "surrogatepass"))
        elif content is not None:
            total += _parts(content)
    for name, value in request.params.items():
        kind = type(value)
        if kind is str:
            if len(value) > SETTING_CHARS or name == "input":
                total += len(value.encode("utf-8", "surrogatepass"))
        elif (kind is list or kind is dict) and name not in NEVER_READ:
            total += _beside_content(value) if name == "messages" else len(_encode(value))
    return total or len(request.text.encode("utf-8", "surrogatepass"))


def _beside_content(turns: list[Any]) -> int:
    """What messages say outside of their content: calls of tools, names, reasoning."""
    total = 0
    for turn in turns:
        if len(turn) > 2 and type(turn) is dict:
            total += sum(len(_encode(value)) for name, value in turn.items() if name not in COUNTED and value is not None)
    return total


def _parts(content: Any) -> int:
    total = 0
    for part in content if isinstance(content, list) else ():
        kind = part.get("type") if isinstance(part, dict) else None
        text = part.get("text") if isinstance(part, dict) else None
        if isinstance(text, str):
            total += len(text.encode("utf-8", "surrogatepass"))
        if kind != "text":
            total += TOKENS_PER_PART if kind in MEDIA else max(TOKENS_PER_PART, len(_encode(part)))
    return total


def asked_output(request: Request) -> int | None:
    """Tokens of output that the caller asked for at most: of two figures the larger, for upstreams read one or the other."""
    params = request.params
    asked, older = params.get("max_completion_tokens"), params.get("max_tokens")
    if type(older) is int and (type(asked) is not int or older > asked):
        asked = older
    if type(asked) is int and asked > 0:
        return asked
    return 0 if not request.messages and "input" in params else None


def choices(request: Request) -> int:
    """How many answers were asked for."""
    n = request.params.get("n")
    return n if type(n) is int and n > 1 else 1


class Tariff:
    """The dearest list price of one target, in nano-dollars per token: cached, written and reasoning tokens included."""

    __slots__ = ("call", "context", "inward", "limit", "output", "outward")

    def __init__(self, target: Target) -> None:
        price = target.price or Price()
        self.inward = max(price.input_usd_per_mtok, price.cache_write_usd_per_mtok or 0.0) * NANO / 1e6
        self.outward = max(price.output_usd_per_mtok, price.reasoning_usd_per_mtok or 0.0) * NANO / 1e6
        self.call = price.usd_per_call * NANO
        self.context = target.limits.context_tokens or 1 << 60
        self.output = target.limits.output_tokens or OUTPUT_TOKENS
        self.limit = target.limits.output_tokens or 1 << 60

    def most(self, sent: int, asked: int | None, answers: int) -> int:
        """The most that one call may cost, in nano-dollars, rounded up."""
        inward = min(self.context, sent)
        outward = self.output if asked is None else asked
        return int(inward * self.inward + outward * answers * self.outward + self.call) + 1


FREE = Tariff(Target(id=""))


class Tariffs:
    """The tariffs of a catalogue, and what a plan over it may cost. `aliases` says which targets each one has."""

    def __init__(self, catalogue: Catalogue | Mapping[str, Target], aliases: Mapping[str, Sequence[str]] | None = None) -> None:
        self._aliases = dict(aliases or {})
        targets = catalogue.values() if isinstance(catalogue, Mapping) else list(catalogue)
        self._of = {target.id: Tariff(target) for target in targets}
        self._prices = {target.id: target.price for target in targets}
        self.unpriced = tuple(target.id for target in targets if target.price is None)
        every = list(self._of.values()) or [FREE]
        self._inward = max(tariff.inward for tariff in every)
        self._outward = max(tariff.outward for tariff in every)
        self._call = max(tariff.call for tariff in every) + 1
        self._output = max(tariff.output for tariff in every)

    def most(self, plan: Plan, sent: int, asked: int | None, answers: int) -> int:
        """The most that a plan may cost, in nano-dollars."""
        if type(plan) is Call:
            return self._of.get(plan.target, FREE).most(sent, asked, answers)
        if type(plan) is Fallback:
            most = 0
            for part in plan.plans:
                cost = self.most(part, sent, asked, answers)
                most = max(most, cost)
            return most
        parts = [self.most(part, sent, asked, answers) for part in plan.plans]  # type: ignore[union-attr]
        if type(plan) is Panel:
            return sum(parts)
        return sum(parts) + self._checks(plan, sent, asked)

    def _checks(self, plan: Any, sent: int, asked: int | None) -> int:
        """What a cascade's rule may ask of its own: `k` times per stage, shown the question and the answer."""
        rule = accept_rule(plan.accept, plan.settings)
        if type(rule).questions is Accept.questions:
            return 0
        named = (name for name in plan.settings.values() if isinstance(name, str))
        shown = sent + (OUTPUT_TOKENS if asked is None else asked)
        most = max(self._of.get(id_, FREE).most(shown, None, 1) for id_ in (*plan_targets(plan), *named))
        return (len(plan.plans) - 1) * int(getattr(rule, "k", 1)) * most

    def ceiling(self, sent: int, asked: int | None, answers: int) -> int:
        """Quickly: no single target may cost more than this."""
        outward = self._output if asked is None else asked
        return int(sent * self._inward + outward * answers * self._outward + self._call) + 1

    def threshold(self, model: str, left: int, sent: int, characters: float, asked: int | None, answers: int) -> float | None:
        """US dollars that the engine's filter may expect of a target, so that for what it passes enough is left.

        None when enough is left for every target of this model. The filter knows expected costs only; where these rank targets
        otherwise than what they may cost, one for which enough is left is rather let through with others than refused.
        """
        fits: list[float] = []
        misses: list[float] = []
        for id_ in self._aliases.get(model) or (model,):
            price, tariff = self._prices.get(id_), self._of.get(id_, FREE)
            if price is None:
                continue
            output = min(asked or EXPECTED_OUTPUT_TOKENS, tariff.limit)
            expected = price.cost_usd(characters / CHARS_PER_TOKEN, output)
            (fits if tariff.most(sent, asked, answers) <= left else misses).append(expected)
        if not misses:
            return None
        least = min(misses) * (1 - 1e-9)
        return max(fits) if fits and min(fits) > least else least

    # after

    def billed(self, run: Run, record: OutcomeRecord, sent: int) -> tuple[int, int]:
        """(nano-dollars, tokens) of all attempts of a run."""
        cost = 0.0
        tokens = 0.0
        last = len(record.attempts) - 1
        for place, attempt in enumerate(record.attempts):
            outcome = attempt.outcome
            used = (outcome.input_tokens or 0) + (outcome.output_tokens or 0)
            if outcome.cost_usd is not None:
                cost += outcome.cost_usd
                tokens += used
            elif not attempt.error or attempt.first_byte_s is not None or attempt.error == CANCELLED:
                guess = self._guess(attempt, sent, run.sent_tokens if place == last else 0)
                cost += guess[0]
                tokens += used or guess[1]
        return round(cost * NANO), int(tokens)

    def _guess(self, attempt: Attempt, sent: int, made: int) -> tuple[float, int]:
        """(US dollars, tokens) of a call of which neither cost nor usage is known."""
        outcome = attempt.outcome
        inward = outcome.input_tokens if outcome.input_tokens is not None else -(-sent // CHARS_PER_TOKEN)
        outward = outcome.output_tokens if outcome.output_tokens is not None else made
        if not outward and not attempt.error:
            outward = EXPECTED_OUTPUT_TOKENS
        price = self._prices.get(attempt.target)
        return (price.cost_usd(inward, outward) if price is not None else 0.0), int(inward + outward)
