"""What a solver gives back, and the budget that a search spends on the way."""

from __future__ import annotations

import time
from dataclasses import dataclass
from fractions import Fraction

LOOK_EVERY = 128


class OutOfTime(Exception):
    """The deadline passed, or the caller hung up, while a solver was at work."""


class OutOfWork(Exception):
    """The reasoning budget is spent; the best answer so far stands."""


@dataclass(frozen=True, slots=True)
class Answer:
    """text: what is said; number: its value, where it is one; sure: the solver's own belief; work: steps that it took."""

    text: str
    number: Fraction | None = None
    sure: bool = True
    work: int = 1


def declined(what: str) -> Answer:
    """An honest no: says what the solver cannot do."""
    return Answer(f"I cannot {what}.", sure=False)


class Budget:
    """Steps that a search may take (`units`) and the moment when it must stop (`deadline`, on the perf_counter clock).

    Every `LOOK_EVERY` steps it looks at the clock and lets other threads run, so that a search in a worker thread holds up the
    event loop by well under a millisecond.
    """

    __slots__ = ("_next", "_stopped", "deadline", "spent", "units")

    def __init__(self, units: int, deadline: float | None = None) -> None:
        self.units = units
        self.deadline = deadline
        self.spent = 0
        self._next = 0
        self._stopped = False

    def spend(self, units: int = 1) -> None:
        """Take steps. Raises OutOfTime when time is up and OutOfWork when the units are gone."""
        self.spent += units
        if self.spent >= self._next:
            self._look()

    def stop(self) -> None:
        """From another thread: end the search at its next look."""
        self._stopped = True
        self._next = 0

    def _look(self) -> None:
        self._next = min(self.spent + LOOK_EVERY, self.units)
        if self._stopped or (self.deadline is not None and time.perf_counter() > self.deadline):
            raise OutOfTime
        if self.spent > self.units:
            raise OutOfWork
        time.sleep(0)
