"""A pool of local solvers that ships with junctor: different strengths, real limits, real latencies, declared prices."""

from __future__ import annotations

from junctor.providers.embedded.catalogue import EMBEDDED
from junctor.providers.embedded.provider import EmbeddedProvider

__all__ = ["EMBEDDED", "EmbeddedProvider"]
