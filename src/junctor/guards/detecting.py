"""What guards can detect, as labels for policies: rules may send a text that has them elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping

LEAST_SCORE = 0.01


def pii_kinds(text: str) -> str:
    """Kinds of personal data in a text, by name, joined by commas."""
    from junctor.guards import pii

    return ",".join(sorted({span.kind for span in pii.find(text)}))


def jailbreak_score(text: str) -> str:
    """How much a text looks like an attempt to take a model over, 0 to 1; "" for nothing of the kind."""
    from junctor.guards import injection

    found = injection.score(text)
    return f"{found:.3f}" if found >= LEAST_SCORE else ""


DETECTORS: Mapping[str, Callable[[str], str]] = {"seen.pii": pii_kinds, "seen.jailbreak": jailbreak_score}
