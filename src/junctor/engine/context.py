"""What travels with a call beside its request: who asked, what was set aside for it, and what was noticed on the way."""

from __future__ import annotations

from typing import Any


class CallContext:
    """Made by whoever takes the call in; the engine only carries it, to those that hear of the end of a run.

    key        id of the caller's key, "" without one: written into the journal
    principal  who asked (junctor.tenancy); None inside a program
    hold       what was set aside of budgets and limits, to be settled at the end
    notes      a few words by guards and caches, for headers, traces and the dashboard
    span       a trace that is open, None when nobody traces
    slot       the place in a cache for a stream that is on its way (junctor.caching)
    """

    __slots__ = ("hold", "key", "notes", "principal", "slot", "span")

    def __init__(self, key: str = "", principal: Any = None) -> None:
        self.key = key
        self.principal = principal
        self.hold: Any = None
        self.notes: dict[str, str] | None = None
        self.span: Any = None
        self.slot: Any = None

    def note(self, name: str, words: str) -> None:
        """Remember a few words; never a text of the caller's."""
        if self.notes is None:
            self.notes = {}
        self.notes[name] = words
