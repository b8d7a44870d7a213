"""Labels that only the gateway may give: who calls, by the key that was checked, and what detectors see in the text.

    caller.team caller.tenant caller.key caller.name caller.admin      from the caller's key; nothing without one
    seen.pii                                                           kinds of personal data, joined by commas
    seen.jailbreak                                                     0 to 1

They are worked out only for an alias whose policy reads them by name, and go before anything that a caller sends under such a
name: nobody can forge one that counts.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import msgspec

from junctor.engine.context import CallContext
from junctor.errors import ConfigError
from junctor.types import Request

CALLER = "caller."
SEEN = "seen."
OF_CALLER = ("team", "tenant", "key", "name", "admin")
Detector = Callable[[str], str]
"""The text of a request -> a label's value; "" for nothing. Pure and quick."""


class Facts:
    """What one alias's policy wants to know. Raises ConfigError for a name that nobody can work out."""

    def __init__(self, names: frozenset[str], detectors: Mapping[str, Detector], path: str) -> None:
        known = sorted({*(CALLER + name for name in OF_CALLER), *detectors})
        for name in sorted(names):
            if name not in known:
                fix = f"there are: {', '.join(known)}"
                raise ConfigError(f"its policy reads {name!r}, which nobody can work out here", field=path, fix=fix)
        self.names = names
        self._of_caller = tuple(name.removeprefix(CALLER) for name in sorted(names) if name.startswith(CALLER))
        self._seen = tuple((name, detectors[name]) for name in sorted(names) if name.startswith(SEEN))

    def told(self, request: Request, context: CallContext | None) -> Request:
        """The request with these labels, whatever the caller said of them."""
        labels = {name: value for name, value in request.labels.items() if name not in self.names}
        principal = None if context is None else context.principal
        for name in self._of_caller:
            value: Any = getattr(principal, name, "")
            if value:
                labels[CALLER + name] = "true" if value is True else str(value)
        for name, detect in self._seen:
            value = detect(request.text)
            if value:
                labels[name] = value
        return msgspec.structs.replace(request, labels=labels)


def facts_for(names: frozenset[str], detectors: Mapping[str, Detector], path: str) -> Facts | None:
    """None when a policy reads none of them: then nothing is worked out."""
    ours = frozenset(name for name in names if name.startswith((CALLER, SEEN)))
    return Facts(ours, detectors, path) if ours else None
