"""filter -> encode -> decide -> record -> run plan -> record -> learn: the path of one request, without HTTP."""

from junctor.engine.aliases import Alias
from junctor.engine.context import CallContext
from junctor.engine.engine import Engine, Explained, Routed
from junctor.engine.health import Health
from junctor.engine.run import Answer, StreamAnswer

__all__ = ["Alias", "Answer", "CallContext", "Engine", "Explained", "Health", "Routed", "StreamAnswer"]
