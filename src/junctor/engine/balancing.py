"""Rules that pick one of a target's deployments for a call. All of them see only what this worker has on its way.

    weighted           smooth weighted round robin, as in nginx: shares by weight, spread evenly
    least-outstanding  the fewest calls on their way, by weight
    peak-ewma          the least latency times load; latency rises at once and falls slowly, as in Finagle's Peak EWMA balancer
    power-of-two       of two drawn at random the one of less latency times load (Mitzenmacher 2001): no scan, no herd
    cache-aware        the same deployment for the same conversation, because its prompt is in the cache there: weighted
                       rendezvous hashing (Thaler and Ravishankar 1998) with bounded loads (Mirrokni, Thorup and
                       Zadimoghaddam 2018)

A rule is asked only when there is a choice. Ties go to the one that stands first.
"""

from __future__ import annotations

import random
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from hashlib import blake2b
from math import ceil, log
from typing import Any

from junctor.engine.breaker import Vital
from junctor.errors import ConfigError
from junctor.providers.answers import content_text
from junctor.types import Request

PREFIX_CHARS = 512
UNKNOWN_S = 1e3
LOAD_BOUND = 1.25
MASK = (1 << 64) - 1
GOLDEN = 0x9E3779B97F4A7C15
Figure = Callable[[], float]


class Load:
    """What a rule sees of a deployment: its id, its weight, its signs of life, and `current`, which belongs to the rule."""

    __slots__ = ("current", "id", "salt", "vital", "weight")

    def __init__(self, id_: str, weight: float, vital: Vital) -> None:
        self.id = id_
        self.weight = weight
        self.vital = vital
        self.current = 0.0
        self.salt = int.from_bytes(blake2b(id_.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "big")


class Balancer(ABC):
    """Picks one of several places; `places` holds at least two, all of a weight above 0.

    `chance` draws from [0, 1); `clock` reads seconds.
    """

    def __init__(self, chance: Figure = random.random, clock: Figure = time.monotonic) -> None:
        self.chance = chance
        self.clock = clock

    @abstractmethod
    def pick(self, places: Sequence[Any], request: Request) -> Any:
        """One of `places` (each a `Load`)."""


class Weighted(Balancer):
    """Each gains its weight, the richest is picked and pays what all gained."""

    def pick(self, places: Sequence[Any], request: Request) -> Any:
        """The next one."""
        del request
        best, total = places[0], 0.0
        for place in places:
            place.current += place.weight
            total += place.weight
            if place.current > best.current:
                best = place
        best.current -= total
        return best


class LeastOutstanding(Balancer):
    """The fewest calls on their way, by weight; among equals, round robin."""

    def __init__(self, chance: Figure = random.random, clock: Figure = time.monotonic) -> None:
        super().__init__(chance, clock)
        self._turns = Weighted(chance, clock)

    def pick(self, places: Sequence[Any], request: Request) -> Any:
        """The idlest."""
        loads = [(place.vital.outstanding + 1) / place.weight for place in places]
        least = min(loads)
        idle = [place for place, load in zip(places, loads, strict=True) if load == least]
        return idle[0] if len(idle) == 1 else self._turns.pick(idle, request)


def cost(place: Load, now: float) -> float:
    """Latency times load. Of a place that has not answered yet nothing is known: it gets one call, and then waits for it."""
    vital = place.vital
    if not vital.peak_s:
        return UNKNOWN_S * vital.outstanding
    return vital.expected_s(now) * (vital.outstanding + 1) / place.weight


class PeakEwma(Balancer):
    """The least latency times load of all."""

    def pick(self, places: Sequence[Any], request: Request) -> Any:
        """The one that should answer first."""
        del request
        now = self.clock()
        return min(places, key=lambda place: cost(place, now))


class PowerOfTwo(Balancer):
    """The better of two."""

    def pick(self, places: Sequence[Any], request: Request) -> Any:
        """The better of two, drawn at random."""
        del request
        count = len(places)
        first = int(self.chance() * count)
        second = int(self.chance() * (count - 1))
        second += second >= first
        one, other = places[min(first, second)], places[max(first, second)]
        now = self.clock()
        return one if cost(one, now) <= cost(other, now) else other


class CacheAware(Balancer):
    """The favourite of the conversation, unless it carries over 1.25 times its fair share: then the next favourite."""

    def pick(self, places: Sequence[Any], request: Request) -> Any:
        """The first in this conversation's own order of the places that has room."""
        key = conversation(request)
        liked, total, weights = {}, 1, 0.0
        for place in places:
            liked[affinity(key, place)] = place
            total += place.vital.outstanding
            weights += place.weight
        while len(liked) > 1:
            place = liked.pop(max(liked))
            if place.vital.outstanding < ceil(LOAD_BOUND * total * place.weight / weights):
                return place
        return liked.popitem()[1]


def affinity(key: int, place: Load) -> float:
    """Weighted rendezvous: each place is the favourite of a share of the keys that goes with its weight."""
    mixed = ((key ^ place.salt) * GOLDEN) & MASK
    mixed ^= mixed >> 32
    mixed = (mixed * GOLDEN) & MASK
    return -place.weight / log(((mixed ^ (mixed >> 29)) + 0.5) / 2.0**64)


def conversation(request: Request) -> int:
    """What stays the same while a conversation goes on, as a number: its tenant, its system turns and its first other turn."""
    parts = [request.tenant]
    for message in request.messages:
        text = content_text(message.content)
        parts += (text[:PREFIX_CHARS], str(len(text)))  # a length tells long turns apart that begin alike
        if message.role not in ("system", "developer"):
            break
    if not request.messages:
        parts.append(request.text[:PREFIX_CHARS])
    key = "\0".join(parts).encode("utf-8", "surrogatepass")
    return int.from_bytes(blake2b(key, digest_size=8).digest(), "big")


RULES: dict[str, type[Balancer]] = {
    "weighted": Weighted,
    "least-outstanding": LeastOutstanding,
    "peak-ewma": PeakEwma,
    "power-of-two": PowerOfTwo,
    "cache-aware": CacheAware,
}


def balancer(name: str, chance: Figure = random.random, clock: Figure = time.monotonic, *, field: str = "balance") -> Balancer:
    """The rule of this name, new; `chance` draws from [0, 1). Raises ConfigError that names `field`."""
    make = RULES.get(name)
    if make is None:
        raise ConfigError(f"{name!r} is no rule for balancing", field=field, fix=f"rules: {', '.join(RULES)}")
    return make(chance, clock)
