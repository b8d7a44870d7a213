"""Whom a run asks next: the plan's targets in turn, of each its deployments, and then once more after a pause."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping, Sequence
from typing import Self

from msgspec import Struct

from junctor.engine.deployments import Pool, Site
from junctor.engine.health import Health
from junctor.errors import ConfigError, RequestError, UpstreamError, UpstreamRefused, UpstreamStatus
from junctor.sections import RetrySection
from junctor.types import Request

TOO_MANY = 429
MOVES_ON = (UpstreamError, RequestError)
"""What another target is asked after: a failure, or what this one cannot be told. Nobody was called for the latter."""


class Retries(Struct, frozen=True, gc=False, kw_only=True):
    """Further tries when nobody is left to be asked: at most `most`, after pauses with full jitter.

    The pause before the n-th is drawn from 0 to `base_s` x 2^(n-1), at most `cap_s`; Retry-After and cooldowns come on top. A
    pause that would go past the deadline is not made: the error is given out at once.
    """

    most: int = 0
    base_s: float = 0.1
    cap_s: float = 5.0

    @classmethod
    def of(cls, section: RetrySection) -> Self:
        """As `[retries]` says; raises ConfigError."""
        if section.most < 0:
            raise ConfigError("is negative", field="retries.most", fix="0 for no further try")
        for name in ("base_s", "cap_s"):
            if not 0 <= getattr(section, name) < float("inf"):
                raise ConfigError("is not a number of seconds", field=f"retries.{name}", fix="leave it out for the default")
        return cls(most=section.most, base_s=section.base_s, cap_s=section.cap_s)

    def pause_s(self, number: int, chance: Callable[[], float]) -> float:
        """Seconds before the `number`-th further try, from 1 on."""
        return chance() * min(self.cap_s, self.base_s * 2.0 ** min(number - 1, 32))


NO_RETRIES = Retries()


class Turns:
    """One walk through the targets of a plan; those to be left alone are passed over while anybody else can be asked.

    `failure` is the last one of somebody who could take the request.
    """

    __slots__ = ("_again", "_at", "_deaf", "_health", "_ill", "_pools", "_request", "_tried", "asked", "failure", "ids", "site")

    def __init__(self, ids: Sequence[str], pools: Mapping[str, Pool], request: Request, health: Health) -> None:
        self.ids = ids
        self._pools = pools
        self._request = request
        self._health = health
        self._at = 0
        self._tried: tuple[Site, ...] = ()
        self._deaf: tuple[Site, ...] = ()
        self._ill = False
        self._again = 0
        self.asked = 0
        self.site: Site | None = None
        self.failure: UpstreamError | None = None

    def began(self, site: Site) -> None:
        """The first target was asked already, at this site."""
        self.site, self._tried, self.asked = site, (site,), 1

    def next(self) -> Site | None:
        """`site` is the next to be asked; None when there is nobody left. Raises UpstreamError for a target not known."""
        self.site = site = self._find()
        return site

    def _find(self) -> Site | None:
        while True:
            while self._at < len(self.ids):
                pool = self._pool(self.ids[self._at])
                if len(self._tried) < pool.most():
                    site = pool.pick(self._request, self._passed(pool), ill=self._ill)
                    if site is not None:
                        self._tried = (*self._tried, site)
                        self.asked += 1
                        return site
                self._at += 1
                self._tried = ()
            if self.asked > len(self._deaf) or self._ill:
                return None
            self._at, self._ill = 0, True  # a last try is better than a refusal

    def last(self) -> bool:
        """Whether nobody waits for a turn after the one that was given out last."""
        if self._at + 1 < len(self.ids):
            return False
        return self._at >= len(self.ids) or not self._waits(self._pool(self.ids[self._at]))

    def _waits(self, pool: Pool) -> bool:
        return len(self._tried) < pool.most() and pool.waits(self._request, self._passed(pool))

    def _passed(self, pool: Pool) -> tuple[Site, ...]:
        """The sites of a pool that are not asked now."""
        if not self._deaf:
            return self._tried
        return (*self._tried, *(site for site in self._deaf if site in pool.sites))

    def harmless(self) -> bool:
        """Whether nothing can happen twice when two are asked at the same time."""
        return not any(self._pool(id_).acts for id_ in self.ids)

    def _pool(self, id_: str) -> Pool:
        pool = self._pools.get(id_)
        if pool is None:
            raise UpstreamError("is in the plan, but not among the targets", target=id_)
        return pool

    def cannot(self, site: Site) -> None:
        """The request cannot be told there: it is not asked again, and its place in the line is another's."""
        if site not in self._deaf:
            self._deaf = (*self._deaf, site)
            self._tried = tuple(other for other in self._tried if other is not site)

    def goes_on(self, site: Site, error: UpstreamError) -> bool:
        """Whether another may be asked after this failure: it was retryable, and nothing can have been done twice."""
        return error.retryable and not (self._pools[site.target.id].acts and may_have_acted(error))

    async def again(self, retries: Retries, error: UpstreamError, left_s: float, chance: Callable[[], float]) -> None:
        """`site` is that of a further try, after its pause; None when there is none, or no time for it."""
        ids = self._hearing() if self._deaf else self.ids
        if self._again >= retries.most or not ids:
            return
        self._again += 1
        id_ = min(dict.fromkeys(ids), key=self._health.cooling_s)
        asked = error.retry_after_s if error.target == id_ else None
        pause = max(self._health.cooling_s(id_), asked or 0.0) + retries.pause_s(self._again, chance)
        if pause >= left_s:
            return
        await asyncio.sleep(pause)
        pool = self._pool(id_)
        self.asked += 1
        passed = tuple(site for site in self._deaf if site in pool.sites)
        self.site = pool.pick(self._request, passed) or pool.pick(self._request, passed, ill=True)

    def _hearing(self) -> list[str]:
        """The targets that can be told the request somewhere."""
        return [id_ for id_ in self.ids if not all(site in self._deaf for site in self._pool(id_).sites)]


def may_have_acted(error: UpstreamError) -> bool:
    """Whether the other side may have begun to work before it failed: not when it was never reached, or turned us away."""
    refused = isinstance(error, UpstreamStatus) and error.upstream_status == TOO_MANY
    return not (refused or isinstance(error, UpstreamRefused))
