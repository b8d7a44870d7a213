"""Around the engine: who may call, what is looked at, what is set aside; the same with and without HTTP."""

from junctor.service.service import Service

__all__ = ["Service"]
