"""The conformance suite of gates of `junctor.layers`. Importing this loads no torch; running it does."""

from __future__ import annotations

import importlib.util
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from junctor.errors import MissingExtra

if TYPE_CHECKING:
    from junctor.layers.contracts import Gate


def check_gate(build: Callable[[int, int], Gate], *, exclude: tuple[str, ...] = (), **stand: Any) -> tuple[str, ...]:
    """Run all checks on the gate that `build(d_model, experts)` makes; returns their names. AssertionError names all that fail.

    exclude  checks to leave out: say why where you call this
    stand    what the gate is checked on: d_model, experts, batch, length, seed, about (further fields of RouteContext)
    """
    if importlib.util.find_spec("torch") is None:
        raise MissingExtra("needs the package torch", field="check_gate", fix="pip install 'junctor[layers]'")
    from junctor.layers.checking import check_gate as run

    return run(build, exclude=exclude, **stand)
