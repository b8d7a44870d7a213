"""Hard filters: which targets can take a request at all, with a reason for each that cannot.

Tokens are estimated as characters / 4: exact enough to keep a book out of a small context, and it needs no tokenizer. A price
that is not known refuses nothing: the policy may know the cost from recorded outcomes.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any, Self

from msgspec import Struct

from junctor.engine.deployments import Place, odd_fields
from junctor.engine.health import Health
from junctor.errors import NoTarget
from junctor.types import Catalogue, Request, Target

CHARS_PER_TOKEN = 4
EXPECTED_OUTPUT_TOKENS = 512
REMEMBERED = 1024
ANY = float("inf")
Reckon = Callable[[Request], float | None]
"""Says how many tokens a prompt has, where that is known from what went before."""
Can = frozenset[str] | None
"""What can be done somewhere; None: not known, let it try."""
NEED_FIELDS = {
    "json": "response_format",
    "vision": "messages",
    "audio": "messages",
    "video": "messages",
    "files": "messages",
    "audio_out": "modalities",
    "reasoning": "reasoning_effort",
    "web_search": "web_search_options",
    "embeddings": "model",
    "moderations": "model",
}
"""The field that a need comes from, where its name is another."""


class Demand(Struct, frozen=True):
    """What a request asks of a target: capabilities, tokens in, tokens out (None: not said), USD."""

    needs: frozenset[str]
    input_tokens: float
    output_tokens: int | None
    budget_usd: float | None

    @classmethod
    def of(cls, request: Request, tokens: float | None = None) -> Demand:
        """Read off a request; counts characters, unless its `tokens` are known, so call it only when a limit is to be held."""
        asked = request.params.get("max_completion_tokens") or request.params.get("max_tokens")
        output = asked if isinstance(asked, int) else None
        tokens = characters(request) / CHARS_PER_TOKEN if tokens is None else tokens
        return cls(request.needs, tokens, output, request.constraints.budget_usd)


class Narrowed(Struct, frozen=True):
    """What is left of a catalogue, why the others are not, and whether all that is left is in a cooldown."""

    targets: Catalogue
    refusals: Mapping[str, str] = {}
    last_resort: bool = False


def characters(request: Request) -> int:
    """Characters in all messages, or in the text when there are none."""
    if not request.messages:
        return len(request.text)
    total = 0
    for message in request.messages:
        content = message.content
        total += len(content) if type(content) is str else _length(content)
    return total


def _length(content: Any) -> int:
    if isinstance(content, str):
        return len(content)
    if isinstance(content, list):
        return sum(len(t) for part in content if isinstance(part, dict) and isinstance(t := part.get("text"), str))
    return 0


def expected_cost_usd(target: Target, demand: Demand) -> float | None:
    """List price of the request: estimated tokens in, and out what was asked for or 512; None without a price."""
    if target.price is None:
        return None
    output = demand.output_tokens or EXPECTED_OUTPUT_TOKENS
    return target.price.cost_usd(demand.input_tokens, min(output, target.limits.output_tokens or output))


def refusal(target: Target, demand: Demand, can: frozenset[str] | None) -> str:
    """Why this target cannot do what is asked, in a few words; "" when it can."""
    missing = demand.needs - can if can is not None else frozenset()
    if missing:
        return f"cannot do: {', '.join(sorted(missing))}"
    limits = target.limits
    if limits.output_tokens is not None and (demand.output_tokens or 0) > limits.output_tokens:
        return f"answers at most {limits.output_tokens} tokens, {demand.output_tokens} asked"
    needed = demand.input_tokens + (demand.output_tokens or 0)
    if limits.context_tokens is not None and needed > limits.context_tokens:
        return f"holds {limits.context_tokens} tokens, about {needed:.0f} needed"
    cost = expected_cost_usd(target, demand) if demand.budget_usd is not None else None
    if cost is not None and demand.budget_usd is not None and cost > demand.budget_usd:
        return f"about {cost:.6f} USD, over the budget of {demand.budget_usd:.6f}"
    return ""


def nearest(needs: frozenset[str], can: Can | tuple[Can, ...]) -> Can:
    """Of what the deployments of a target can do, that which is the least short of what is needed."""
    if not isinstance(can, tuple):
        return can
    if len(can) == 1 or not needs:
        return can[0]
    return min(can, key=lambda way: 0 if way is None else len(needs - way))


class Limited(Struct, frozen=True):
    """A target that cannot be told all of a request at some of its places: what can be done at the others.

    `untold` are the fields and their reasons where it can be told nowhere.
    """

    can: Can | tuple[Can, ...]
    untold: Mapping[str, str] = {}


NOBODY: Mapping[str, Limited] = {}


def _kind(place: Place) -> tuple[int, frozenset[str]]:
    """Places of one kind can be told the same: those of one provider whose targets say the same fields themselves."""
    return id(place.provider), frozenset(place.provider.cannot.keys() & place.target.settings.keys())


class Filter:
    """The hard filters over one catalogue. Equal remainders are the same object, because policies key lookups on identity.

    can      what can be done at the places of each target
    places   where each is called: what its providers have no word for is a reason to leave it out
    """

    def __init__(
        self,
        targets: Catalogue,
        can: Mapping[str, Can | tuple[Can, ...]],
        places: Mapping[str, tuple[Place, ...]] | None = None,
    ) -> None:
        self.targets = targets
        self._choosy = {id_: found for id_ in targets.ids if (found := (places or {}).get(id_)) and odd_fields(found)}
        self._odd = odd_fields(place for found in self._choosy.values() for place in found)
        self._alike = {_kind(place): place for found in self._choosy.values() for place in found}
        self._can = {id_: can.get(id_) for id_ in targets.ids}
        self._context = min((t.limits.context_tokens or ANY for t in targets), default=ANY)
        self._output = min((t.limits.output_tokens or ANY for t in targets), default=ANY)
        self._remainders: dict[tuple[str, ...], Catalogue] = {targets.ids: targets}

    @classmethod
    def over(cls, targets: Catalogue, places: Mapping[str, tuple[Place, ...]]) -> Self:
        """Of targets that are called at these places."""
        can = {id_: tuple(dict.fromkeys(place.can for place in found)) for id_, found in places.items()}
        return cls(targets, can, places)

    def apply(self, request: Request, health: Health | None, reckon: Reckon | None = None) -> Narrowed:
        """Narrow; raises NoTarget when nothing is left. `reckon` knows the prompt's tokens better than its characters do.

        Targets in a cooldown are left out unless they are all that is left: a last try is better than a refusal. With
        `health` None cooldowns are not looked at.
        """
        tokens = None if reckon is None or self._context == ANY else reckon(request)
        demand = Demand.of(request, tokens) if self._context < ANY or self._output < ANY else None
        limited = NOBODY if self._odd.isdisjoint(request.params) else self._limited(request)
        if not (request.needs or request.constraints.budget_usd is not None or health or limited) and self._fits_all(demand):
            return Narrowed(self.targets)
        demand = demand or Demand.of(request)
        refusals = {t.id: why for t in self.targets if (why := self._refusal(t, demand, limited.get(t.id)))}
        able = [id_ for id_ in self.targets.ids if id_ not in refusals]
        if not able:
            raise self._none_left(refusals, demand, limited)
        if not health:
            return Narrowed(self.only(tuple(able)), refusals)
        cooling = {id_: f"cooling down for {wait:.1f} s" for id_ in able if (wait := health.cooling_s(id_))}
        if len(cooling) == len(able):
            return Narrowed(self.only(tuple(able)), refusals, last_resort=True)
        rested = tuple(id_ for id_ in able if id_ not in cooling)
        return Narrowed(self.only(rested), refusals | cooling)

    def _refusal(self, target: Target, demand: Demand, limited: Limited | None) -> str:
        if limited is None:
            return refusal(target, demand, nearest(demand.needs, self._can[target.id]))
        why = refusal(target, demand, nearest(demand.needs, limited.can))
        return why or "; ".join(f"{field} {said}" for field, said in limited.untold.items())

    def _limited(self, request: Request) -> dict[str, Limited]:
        """The targets that cannot be told all of this everywhere."""
        by_kind = {kind: place.provider.untold(request, place.target) for kind, place in self._alike.items()}
        found: dict[str, Limited] = {}
        if not any(by_kind.values()):
            return found
        for id_, places in self._choosy.items():
            untold = [by_kind[_kind(place)] for place in places]
            if any(untold):
                told = tuple(place.can for place, fields in zip(places, untold, strict=True) if not fields)
                found[id_] = Limited(told) if told else Limited(self._can[id_], min(untold, key=len))
        return found

    def _fits_all(self, demand: Demand | None) -> bool:
        if demand is None:
            return True
        output = demand.output_tokens or 0
        return output <= self._output and demand.input_tokens + output <= self._context

    def only(self, ids: tuple[str, ...]) -> Catalogue:
        """These of the targets, in the catalogue's order."""
        found = self._remainders.get(ids)
        if found is None:
            if len(self._remainders) >= REMEMBERED:
                self._remainders = {self.targets.ids: self.targets}
            found = self._remainders[ids] = self.targets.only(ids)
        return found

    def _none_left(self, refusals: Mapping[str, str], demand: Demand, limited: Mapping[str, Limited]) -> NoTarget:
        fields = {field for one in limited.values() for field in one.untold}
        if len(limited) < len(refusals) or not fields:
            fields |= {NEED_FIELDS.get(need, need) for need in demand.needs}
        return NoTarget(
            "no target can take this request",
            refusals=refusals,
            field=fields.pop() if len(fields) == 1 else "",
            fix="ask for less, or configure a target that can",
        )
