"""Which targets and deployments to leave alone for a while: failures in a row, Retry-After, and being far worse than siblings.

Everything is counted per place: a target, or one deployment of a target that has several. A target cools down only when all its
deployments do.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Sequence
from statistics import median

from msgspec import Struct

from junctor.engine.breaker import SMOOTHING, State, Vital
from junctor.errors import ConfigError, JunctorError, UpstreamError, UpstreamStatus
from junctor.sections import HealthSection

DOUBLINGS = 32
LEAST_EXCESS_S = 0.05


class PlaceHealth(Struct, frozen=True, kw_only=True):
    """One row of `Health.snapshot`. `latency_s` is to a whole answer or a stream's first event, None before there was one."""

    target: str
    deployment: str
    state: State
    failures: int
    outstanding: int
    cooling_s: float
    latency_s: float | None
    error_share: float


class Health:
    """Cooldowns and circuit breakers.

    `threshold` failures in a row open the breaker for `base_s` seconds; each further failure doubles that, up to `cap_s`. When
    the time is over, one call at a time may look whether the place is well again; one more failure opens it anew. An upstream
    that says Retry-After (429, 503) is left alone for that long, up to `cap_s`, from its first failure on. Any success forgets
    it all. Calls that began before a breaker opened say nothing new, neither by failing nor by answering.

    Of siblings (the deployments of one target), one that has ended `outlier_calls` calls is sent off like a failing one when
    its share of errors is over that of its siblings by `outlier_errors`, or its latency over `outlier_times` theirs
    (medians); never more than half of them at a time.
    """

    def __init__(
        self,
        *,
        threshold: int = 3,
        base_s: float = 1.0,
        cap_s: float = 60.0,
        outlier_calls: int = 20,
        outlier_errors: float = 0.3,
        outlier_times: float = 4.0,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self.threshold = threshold
        self.base_s = base_s
        self.cap_s = cap_s
        self.outlier_calls = outlier_calls
        self.outlier_errors = outlier_errors
        self.outlier_times = outlier_times
        self.clock = clock
        self._vitals: dict[str, dict[str, Vital]] = {}
        self._ill: set[Vital] = set()

    @classmethod
    def of(cls, section: HealthSection, *, old: Health | None = None, clock: Callable[[], float] = time.monotonic) -> Health:
        """As `[health]` says, with what an older one knows of the same places; raises ConfigError."""
        for name, least in LEAST.items():
            value = getattr(section, name)
            if not least <= value < float("inf"):
                raise ConfigError(f"{value} is not {least} or more", field=f"health.{name}", fix="leave it out for the default")
        if section.cap_s < section.base_s:
            raise ConfigError("is less than base_s", field="health.cap_s", fix="use the longest cooldown that you want")
        made = cls(
            threshold=section.failures,
            base_s=section.base_s,
            cap_s=section.cap_s,
            outlier_calls=section.outlier_calls,
            outlier_errors=section.outlier_errors,
            outlier_times=section.outlier_times,
            clock=clock,
        )
        if old is not None:
            # The same objects: calls that are still under way there are counted here as well.
            made._vitals = {target: dict(places) for target, places in list(old._vitals.items())}
            made._ill = old._ill
        return made

    def __bool__(self) -> bool:
        """Whether any place has failed since its last success: the one question a healthy gateway has to ask."""
        return bool(self._ill)

    def vital(self, target: str, deployment: str = "") -> Vital:
        """The signs of life of a place; made when it is asked for the first time."""
        of_target = self._vitals.setdefault(target, {})
        found = of_target.get(deployment)
        if found is None:
            found = of_target[deployment] = Vital(target, deployment)
        return found

    def only(self, places: Iterable[tuple[str, str]]) -> None:
        """Forget every place but these (target, deployment)."""
        kept: dict[str, dict[str, Vital]] = {}
        for target, deployment in places:
            kept.setdefault(target, {})[deployment] = self.vital(target, deployment)
        for of_target in self._vitals.values():
            self._ill.difference_update(v for v in of_target.values() if v.deployment not in kept.get(v.target, {}))
        self._vitals = kept

    def cooling_s(self, target: str, deployment: str | None = None) -> float:
        """Seconds until the target (without a deployment: the first of its places) may be tried again; 0 when it may."""
        of_target = self._vitals.get(target)
        if not of_target or not self._ill:
            return 0.0
        if deployment is not None:
            found = of_target.get(deployment)
            return 0.0 if found is None else max(0.0, found.until - self.clock())
        return max(0.0, min(vital.until for vital in of_target.values()) - self.clock())

    def ready(self, vital: Vital) -> bool:
        """Whether a call may go there now."""
        return not vital.until or vital.until <= self.clock()

    def enter(self, vital: Vital, most_s: float) -> None:
        """A call goes there, and may take `most_s` seconds. After failures it is the probe that the others wait for."""
        vital.outstanding += 1
        if vital.until:
            now = self.clock()
            if vital.until <= now:
                if vital.failures >= self.threshold:
                    vital.probe(now, most_s)
                else:
                    vital.until = 0.0

    def began(self, vital: Vital, latency_s: float) -> None:
        """A stream has begun: the place is alive, whatever becomes of the stream; others need not wait for its end."""
        vital.measured(latency_s, self.clock())
        if vital.probing:
            vital.probing = False
            vital.until = 0.0

    def answered(self, vital: Vital, latency_s: float | None, began_at: float) -> None:
        """A call that began at this reading of the clock ended well, after so many seconds (None: measured by `began`)."""
        vital.outstanding -= 1
        vital.calls += 1
        if vital.errors:
            vital.errors -= SMOOTHING * vital.errors
        if latency_s is not None:
            vital.measured(latency_s, began_at + latency_s)
        if self._ill and began_at >= vital.opened_at:
            self._forgive(vital)

    def left(self, vital: Vital, error: BaseException, began_at: float, *, hasty: bool = False) -> None:
        """A call that began at this reading of the clock ended badly; what is not the place's fault does not count.

        `hasty`: it was given too little time to say anything about the place.
        """
        vital.outstanding -= 1
        if isinstance(error, JunctorError) and counts(error) and not hasty:
            vital.calls += 1
            vital.errors += SMOOTHING * (1.0 - vital.errors)
            self._blame(vital, error, began_at)
        elif vital.probing:
            vital.probing = False  # the probe was called off: the next one may look
            vital.until = self.clock()

    def succeeded(self, target: str, deployment: str = "") -> None:
        """The place answered."""
        if self._ill:
            self._forgive(self.vital(target, deployment))

    def failed(self, target: str, error: JunctorError, deployment: str = "") -> None:
        """The place did not answer; an error that is the caller's own to mend does not count."""
        if counts(error):
            self._blame(self.vital(target, deployment), error, float("inf"))

    def _forgive(self, vital: Vital) -> None:
        if vital in self._ill:
            self._ill.discard(vital)
            vital.close()

    def _blame(self, vital: Vital, error: JunctorError, began_at: float) -> None:
        now = self.clock()
        self._ill.add(vital)
        # A last try while all are to be left alone says nothing new: else a short outage under load would be a long one.
        news = vital.probing or (began_at >= vital.opened_at and began_at >= vital.until)
        vital.failures += news
        wait = self._wait_s(vital.failures) if news else 0.0
        asked = error.retry_after_s if isinstance(error, UpstreamError) else None
        if asked is not None:
            wait = max(wait, asked)
        if wait > 0:
            vital.open(now, min(wait, self.cap_s))

    def _wait_s(self, failures: int) -> float:
        if failures < self.threshold:
            return 0.0
        return float(self.base_s * 2.0 ** min(failures - self.threshold, DOUBLINGS))

    def review(self, siblings: Sequence[Vital]) -> None:
        """Send off those that are far worse than their siblings, never more than half of them."""
        now = self.clock()
        away = sum(vital.until > now for vital in siblings)
        for vital in siblings:
            if vital.calls < self.outlier_calls or vital.until > now:
                continue
            if away < len(siblings) // 2 and self._stands_out(vital, siblings):
                away += 1
                self._eject(vital, now)
            else:
                vital.calls = 0
                vital.ejections = max(0, vital.ejections - 1)

    def _stands_out(self, vital: Vital, siblings: Sequence[Vital]) -> bool:
        others = [other for other in siblings if other is not vital]
        if vital.errors > median(other.errors for other in others) + self.outlier_errors:
            return True
        known = [other.latency_s for other in others if other.latency_s]
        usual = median(known) if known else float("inf")
        return vital.latency_s > max(usual * self.outlier_times, usual + LEAST_EXCESS_S)

    def _eject(self, vital: Vital, now: float) -> None:
        vital.eject(now, min(self.base_s * 2.0 ** min(vital.ejections, DOUBLINGS), self.cap_s))
        self._ill.add(vital)

    def snapshot(self) -> list[PlaceHealth]:
        """How every place is doing now: for pages and metrics."""
        now = self.clock()
        return [self._row(vital, now) for of_target in list(self._vitals.values()) for vital in list(of_target.values())]

    def _row(self, vital: Vital, now: float) -> PlaceHealth:
        return PlaceHealth(
            target=vital.target,
            deployment=vital.deployment,
            state=vital.state(now, self.threshold),
            failures=vital.failures,
            outstanding=vital.outstanding,
            cooling_s=max(0.0, vital.until - now),
            latency_s=vital.latency_s or None,
            error_share=vital.errors,
        )


LEAST = {"failures": 1, "base_s": 0.0, "cap_s": 0.0, "outlier_calls": 1, "outlier_errors": 0.0, "outlier_times": 1.0}


def counts(error: JunctorError) -> bool:
    """Whether an error speaks against the target: it failed, or it refused the gateway's own key."""
    if isinstance(error, UpstreamStatus):
        return error.retryable or error.upstream_status in (401, 403)
    return isinstance(error, UpstreamError) and error.retryable
