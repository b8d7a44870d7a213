"""Encoders: text to vector. One file each; `static` is the default."""

from __future__ import annotations

import threading
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from junctor.encoders.base import Encoder

_loaded: dict[str, Encoder] = {}
_lock = threading.Lock()


def load_encoder(name: str) -> Encoder:
    """The encoder of this registered name, made with its defaults; the same object each time, so its table is read once.

    Raises UnknownName, or MissingExtra when its packages are not installed.
    """
    with _lock:
        if name not in _loaded:
            from junctor.registry import load

            _loaded[name] = load("encoder", name)()
        return _loaded[name]
