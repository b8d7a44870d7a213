"""Which targets to leave alone for a while: consecutive failures and Retry-After put a target into a cooldown."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass

from junctor.errors import JunctorError, UpstreamError, UpstreamStatus


@dataclass(slots=True)
class _Record:
    failures: int = 0
    until: float = 0.0


class Health:
    """Cooldowns per target.

    `threshold` failures in a row start a cooldown of `base_s` seconds; each further failure doubles it, up to `cap_s`. When a
    cooldown ends the target is tried again, and one more failure is enough to cool it down anew. An upstream that says
    Retry-After (429, 503) is left alone for that long, up to `cap_s`, from its first failure on. Any success forgets it all.
    """

    def __init__(
        self, *, threshold: int = 3, base_s: float = 1.0, cap_s: float = 60.0, clock: Callable[[], float] = time.monotonic
    ) -> None:
        self.threshold = threshold
        self.base_s = base_s
        self.cap_s = cap_s
        self._clock = clock
        self._ill: dict[str, _Record] = {}

    def __bool__(self) -> bool:
        """Whether any target has failed since its last success: the one question a healthy gateway has to ask."""
        return bool(self._ill)

    def cooling_s(self, target: str) -> float:
        """Seconds until the target may be tried again; 0 when it may."""
        record = self._ill.get(target)
        return 0.0 if record is None else max(0.0, record.until - self._clock())

    def succeeded(self, target: str) -> None:
        """The target answered."""
        if self._ill:
            self._ill.pop(target, None)

    def failed(self, target: str, error: JunctorError) -> None:
        """The target did not answer; an error that is the caller's own to mend does not count."""
        if not counts(error):
            return
        record = self._ill.setdefault(target, _Record())
        record.failures += 1
        wait = 0.0
        if record.failures >= self.threshold:
            wait = self.base_s * 2.0 ** min(record.failures - self.threshold, 32)
        asked = error.retry_after_s if isinstance(error, UpstreamError) else None
        if asked is not None:
            wait = max(wait, asked)
        if wait > 0:
            record.until = self._clock() + min(wait, self.cap_s)


def counts(error: JunctorError) -> bool:
    """Whether an error speaks against the target: it failed, or it refused the gateway's own key."""
    if isinstance(error, UpstreamStatus):
        return error.retryable or error.upstream_status in (401, 403)
    return isinstance(error, UpstreamError) and error.retryable
