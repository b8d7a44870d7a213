"""A policy that knows what a switch breaks: between an alias and the policy that it is configured with.

A policy that trades cost is told what leaving the session's target would cost (`Request.switch`) and chooses with that in mind.
Any other one is overruled: the session stays where it is while its target can take the request.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable

import msgspec
import numpy as np

from junctor.engine.filters import characters
from junctor.engine.sessions import Session, Sessions, saved_usd
from junctor.engine.wrapped import Wrapped
from junctor.errors import NoTarget
from junctor.policy import Policy
from junctor.types import Call, Catalogue, Decision, Fallback, Ranked, Request, Switch, looks_at_answers, plan_targets

REMEMBERED = 1024
GUESS_CHARS = 16_384


class Sticky(Wrapped):
    """Decides as `inner` does, but for sessions that somebody serves already.

    `prepare` gives a request what `inner` reads of it, quickly. With it, a conversation that comes from another worker (its
    earlier turns are in the request, its session is not known here) is taken to be where its first turn would go. That is a
    guess: it holds for a policy that decides alike every time, while no turn has switched since.
    """

    def __init__(self, inner: Policy, sessions: Sessions, prepare: Callable[[Request], Request] | None = None) -> None:
        super().__init__(inner)
        self.sessions = sessions
        self._prepare = prepare
        self._alone: OrderedDict[tuple[int, str], tuple[Catalogue, Catalogue]] = OrderedDict()

    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """The choice, with what became of the session in its reasons. Raises what `inner` raises."""
        key = self.sessions.key(request)
        known = self.sessions.find(key)
        if key is None:
            return self.inner.decide(request, targets, rng)
        size = characters(request)
        self.sessions.await_end(request.id, key, size)
        if known is None:
            known = self._guessed(request, targets, rng) if self._prepare is not None and self.sessions.is_new(key) else None
        if known is None:
            return self.inner.decide(request, targets, rng)
        if targets.position(known.target) is None:
            decision = self.inner.decide(request, targets, rng)
            return _said(decision, f"{known.target} served this session so far, but cannot take this request")
        if "switch" in self.inner.honours:
            return self._traded(request, targets, rng, known, size)
        return self._held(request, targets, rng, known)

    def _guessed(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Session | None:
        """Who serves a conversation that another worker has begun, by its first turn."""
        messages = request.messages
        first = next((place for place, message in enumerate(messages) if message.role == "user"), len(messages))
        if self._prepare is None or not any(message.role == "assistant" for message in messages[first:]):
            return None
        text = messages[first].content
        if not isinstance(text, str) or len(text) > GUESS_CHARS:
            return None
        earlier = msgspec.structs.replace(request, text=text, messages=messages[: first + 1], features=None)
        try:
            target = self.inner.decide(self._prepare(earlier), targets, rng).target
        except NoTarget:
            return None
        seen = characters(msgspec.structs.replace(request, messages=messages[:-1]))
        return Session(target, "", 0.0, seen, None, 0.0)

    def _traded(self, request: Request, targets: Catalogue, rng: np.random.Generator, known: Session, size: int) -> Decision:
        """The policy weighs the switch itself; `margin` comes on top."""
        tokens = self.sessions.cached_tokens(known, size)
        extra = saved_usd(targets.get(known.target), tokens)
        if extra > 0:
            request = msgspec.structs.replace(request, switch=Switch(known.target, extra))
        decision = self.inner.decide(request, targets, rng)
        worth = f"about {tokens:.0f} tokens of this session are in its cache, a switch costs ${extra:.3g}"
        if decision.target == known.target:
            return _said(decision, f"{known.target} served this session so far: {worth}")
        if self.sessions.margin > 0:
            scores = {row.target: row.score for row in decision.ranked}
            if scores[decision.target] - scores.get(known.target, float("-inf")) <= self.sessions.margin:
                why = f"stays with {known.target}: {decision.target} is better by no more than {self.sessions.margin:g}"
                return self._kept(request, targets, rng, known, decision, why)
        return _said(decision, f"leaves {known.target}, which served this session so far, although {worth}")

    def _held(self, request: Request, targets: Catalogue, rng: np.random.Generator, known: Session) -> Decision:
        """The policy trades nothing: the session stays."""
        decision = self.inner.decide(request, targets, rng)
        if looks_at_answers(decision.plan):
            return decision
        if decision.target == known.target:
            # Whatever was drawn, it would have stayed: the draw's own propensity is not that of the outcome.
            return decision if decision.propensity == 1.0 else msgspec.structs.replace(decision, propensity=1.0)
        why = f"stays with {known.target}, which has served this session so far and has its prompt in its cache"
        return self._kept(request, targets, rng, known, decision, why)

    def _kept(
        self, request: Request, targets: Catalogue, rng: np.random.Generator, known: Session, first: Decision, why: str
    ) -> Decision:
        """What the policy says of the session's target alone, those that it would rather have standing by."""
        try:
            alone = self.inner.decide(request, self._only(targets, known.target), rng)
        except NoTarget:
            return _said(first, f"{known.target} served this session so far, but cannot take this request")
        others = tuple(id_ for id_ in plan_targets(first.plan) if id_ != known.target)
        rows: tuple[Ranked, ...] = tuple(row for row in first.ranked if row.target != known.target)
        return msgspec.structs.replace(
            alone,
            plan=Fallback((Call(known.target), *map(Call, others))) if others else Call(known.target),
            ranked=(*alone.ranked[:1], *rows),
            propensity_kind="exact" if first.propensity == 1.0 or "switch" not in self.inner.honours else "estimated",
            reasons=(why, *alone.reasons[:1]),
        )

    def _only(self, targets: Catalogue, id_: str) -> Catalogue:
        """One target alone: always the same object, because policies keep what they know of a catalogue by its identity."""
        place = id(targets), id_
        found = self._alone.get(place)
        if found is None:
            found = self._alone[place] = targets, targets.only([id_])
            if len(self._alone) > REMEMBERED:
                self._alone.popitem(last=False)
        return found[1]


def _said(decision: Decision, why: str) -> Decision:
    return msgspec.structs.replace(decision, reasons=(*decision.reasons, why))
