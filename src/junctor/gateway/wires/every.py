"""All APIs that callers speak, and which of them a path belongs to."""

from __future__ import annotations

from collections.abc import Sequence

from junctor.gateway.wires.base import Wire
from junctor.gateway.wires.chat import ChatWire
from junctor.gateway.wires.messages import MessagesWire
from junctor.gateway.wires.plain import EmbeddingsWire, ModerationsWire
from junctor.gateway.wires.response_store import ResponseStore
from junctor.gateway.wires.responses import ResponsesWire


def every_wire(store: ResponseStore) -> tuple[Wire, ...]:
    """One of each, the chat first. `store` keeps the answers of the Responses API."""
    return (ChatWire(), MessagesWire(), ResponsesWire(store), EmbeddingsWire(), ModerationsWire())


def shape_of(path: str, wires: Sequence[Wire]) -> Wire:
    """The API that speaks on this path or above it; the chat's elsewhere."""
    return next((wire for wire in wires if path.startswith(wire.path)), wires[0])
