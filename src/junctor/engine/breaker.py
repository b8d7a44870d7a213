"""The circuit breaker of one place where calls go, and what its last calls were like.

    closed      calls go there
    open        it failed too often, or asked to be left alone: until `until` nobody goes there who has a choice
    half-open   that time is over after failures: one call at a time may look whether it is well again, the others wait for it

A probe holds the breaker open for as long as it may take, so that a probe that is lost locks nobody out.
"""

from __future__ import annotations

from math import exp
from typing import Literal

State = Literal["closed", "open", "half-open", "ejected"]
DECAY_S = 10.0
SMOOTHING = 0.1


class Vital:
    """The signs of life of one place. Times are readings of the gateway's clock in seconds; 0 means never.

    failures      in a row, since the last success
    until         when the breaker stops being open; 0: it is closed
    opened_at     when it was opened last: a call that began earlier says nothing new by failing later
    probing       one call is on its way to see whether the place is well again
    ejected       it was opened for being far worse than its siblings; `ejections` says how often of late
    outstanding   calls that are on their way now
    calls         calls that ended, since the place was last judged beside its siblings
    latency_s     smoothed seconds to a whole answer, or to the first event of a stream
    peak_s        the same of a deployment, but up at once and down slowly: Finagle's peak EWMA
    errors        smoothed share of calls that spoke against the place
    """

    __slots__ = (
        "_peak_at",
        "calls",
        "deployment",
        "ejected",
        "ejections",
        "errors",
        "failures",
        "latency_s",
        "opened_at",
        "outstanding",
        "peak_s",
        "probing",
        "target",
        "until",
    )

    def __init__(self, target: str, deployment: str = "") -> None:
        self.target = target
        self.deployment = deployment
        self.failures = 0
        self.until = 0.0
        self.opened_at = 0.0
        self.probing = False
        self.ejected = False
        self.ejections = 0
        self.outstanding = 0
        self.calls = 0
        self.latency_s = 0.0
        self.peak_s = 0.0
        self.errors = 0.0
        self._peak_at = 0.0

    def measured(self, latency_s: float, now: float) -> None:
        """It answered, or began to, after so long."""
        self.latency_s += SMOOTHING * (latency_s - self.latency_s) if self.latency_s else latency_s
        if not self.deployment:
            return  # nobody compares it
        if latency_s >= self.peak_s:
            self.peak_s = latency_s
        else:
            kept = exp((self._peak_at - now) / DECAY_S)
            self.peak_s = self.peak_s * kept + latency_s * (1.0 - kept)
        self._peak_at = now

    def expected_s(self, now: float) -> float:
        """`peak_s` as far as it is not forgotten by now: who gets no calls is forgiven as well. 0: nothing is known."""
        return self.peak_s * exp((self._peak_at - now) / DECAY_S) if self.peak_s else 0.0

    def open(self, now: float, wait_s: float) -> None:
        """Leave the place alone for so long."""
        self.opened_at = now
        self.until = now + wait_s
        self.probing = self.ejected = False

    def eject(self, now: float, wait_s: float) -> None:
        """Leave it alone for being far worse than its siblings; what made it stand out is forgotten, it is judged anew."""
        self.open(now, wait_s)
        self.ejected = True
        self.ejections += 1
        self.calls = 0
        self.errors = self.latency_s = self.peak_s = 0.0

    def probe(self, now: float, most_s: float) -> None:
        """Let one call through; nobody else for the time that it may take."""
        self.until = now + most_s
        self.probing = True

    def close(self) -> None:
        """It answered: everything that spoke against it is forgotten."""
        self.failures = 0
        self.until = self.opened_at = 0.0
        self.probing = self.ejected = False

    def state(self, now: float, threshold: int) -> State:
        """What the breaker is now. `threshold`: failures in a row after which a probe has to come first."""
        if not self.until:
            return "closed"
        if self.probing:
            return "half-open"
        if self.until > now:
            return "ejected" if self.ejected else "open"
        return "half-open" if self.failures >= threshold else "closed"
