"""A candidate beside the policy of an alias: on a share of the traffic (canary, A/B), or looking on (shadow).

Who is on which side is a matter of a hash of what is kept together (the request, its tenant, key or session) and of the trial's
name: the same unit stays on its side, in every worker and after a restart, and two trials split independently.
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from junctor.engine.context import CallContext
from junctor.engine.sessions import Sessions
from junctor.errors import ConfigError
from junctor.sections import StickySection, TrialSection
from junctor.types import Request

BY = ("request", "tenant", "key", "session")
RANGE = float(1 << 64)


@dataclass(frozen=True, slots=True)
class Assigned:
    """The side of one request: the trials (joined by commas for the current policy), and a digest of the unit."""

    trial: str
    side: Literal["current", "candidate"]
    unit: str

    @property
    def candidate(self) -> str:
        """The trial that decides, "" where the current policy does."""
        return self.trial if self.side == "candidate" else ""


class Trials:
    """The trials of one alias that take a share. Raises ConfigError for shares that are no shares, or are over 1 together."""

    def __init__(self, alias: str, trials: Sequence[TrialSection], sessions: Sessions | None = None) -> None:
        self.live = tuple(trial for trial in trials if trial.share > 0)
        self.shadows = tuple(trial for trial in trials if not trial.share)
        self._names = ",".join(trial.name for trial in self.live)
        self._sessions = Sessions(StickySection()) if sessions is None else sessions
        _check(f"aliases.{alias}.trials", trials, sticky=sessions is not None)
        self._thresholds = _conditional([trial.share for trial in self.live])
        self._current = Assigned(self._names, "current", "")

    def assign(self, request: Request, context: CallContext | None) -> Assigned | None:
        """Which policy takes this request; None when there is nothing to split."""
        unit = ""
        for trial, threshold in zip(self.live, self._thresholds, strict=True):
            unit = self._unit(trial.by, request, context)
            if _place(trial.name, unit or request.id) < threshold:
                return Assigned(trial.name, "candidate", _digest(unit))
        if not self.live:
            return None
        return Assigned(self._names, "current", _digest(unit)) if unit else self._current

    def _unit(self, by: str, request: Request, context: CallContext | None) -> str:
        """What is kept together; "" for the single request, also where there is no such thing."""
        if by == "tenant":
            return request.tenant
        if by == "key":
            return "" if context is None else context.key
        if by == "session":
            return self._sessions.digest(request)
        return ""


def _check(path: str, trials: Sequence[TrialSection], *, sticky: bool) -> None:
    for place, trial in enumerate(trials):
        where = f"{path}[{place}]"
        if not 0 <= trial.share <= 1:
            raise ConfigError(f"{trial.share} is not a share", field=f"{where}.share", fix="use 0 (a shadow) to 1")
        if trial.by not in BY:
            raise ConfigError(f"{trial.by!r} is nothing to split by", field=f"{where}.by", fix=f"one of: {', '.join(BY)}")
        if not trial.name or "," in trial.name:
            raise ConfigError("is no name", field=f"{where}.name", fix="use a word without commas")
        if sticky and 0 < trial.share < 1 and trial.by == "request":
            raise ConfigError(
                "splits the turns of a session, and the alias is sticky", field=f"{where}.by", fix='use "session"'
            )
    if sum(trial.share for trial in trials) > 1 + 1e-9:
        raise ConfigError("their shares are over 1 together", field=path, fix="leave something to the alias's own policy")
    names = [trial.name for trial in trials]
    if len(set(names)) < len(names):
        raise ConfigError("a name is used twice", field=path, fix="give each trial its own")


def _conditional(shares: Sequence[float]) -> list[float]:
    """Each trial's share of what those before it leave."""
    found, left = [], 1.0
    for share in shares:
        found.append(min(1.0, share / left) if left > 0 else 0.0)
        left -= share
    return found


def _place(trial: str, unit: str) -> float:
    """Where in [0, 1) a unit lies."""
    made = hashlib.blake2b(f"{trial}\0{unit}".encode("utf-8", "surrogatepass"), digest_size=8).digest()
    return int.from_bytes(made, "little") / RANGE


def _digest(unit: str) -> str:
    return hashlib.blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=6).hexdigest() if unit else ""
