"""Hyper-parameters from plain data: an unknown key or a wrong type is a ConfigError that names it."""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import fields
from typing import Any, TypeVar

import msgspec

from junctor import registry
from junctor.errors import ConfigError
from junctor.policy import EstimatorConfig

T = TypeVar("T")


def configured(config: type[T], settings: Mapping[str, Any], who: str, also: Sequence[str] = ()) -> T:
    """The config dataclass from its settings; `who` begins the dotted path in errors.

    `also` are keys that are known in the same place, but belong to another part: errors name them too.
    """
    known = [f.name for f in fields(config)]  # type: ignore[arg-type]
    for key in settings:
        if key not in known:
            near = difflib.get_close_matches(key, [*known, *also], n=1)
            hint = f"did you mean {near[0]!r}? " if near else ""
            keys = ", ".join([*known, *also]) or "none"
            raise ConfigError("unknown setting", field=f"{who}.{key}", fix=f"{hint}known: {keys}")
    try:
        return msgspec.convert(dict(settings), config)
    except msgspec.ValidationError as error:
        message, _, path = str(error).partition(" - at `$")
        raise ConfigError(message, field=who + path.rstrip("`"), fix=f"known: {', '.join(known)}") from error


def estimator_config(name: str, settings: Mapping[str, Any] | None = None, *, who: str = "") -> EstimatorConfig:
    """The registered estimator of this name under these settings; raises UnknownName or ConfigError."""
    config: EstimatorConfig = configured(registry.load("estimator", name), settings or {}, who or name)
    return config


def check(holds: bool, field: str, message: str, fix: str = "") -> None:
    """Raise ConfigError for `field` unless it holds."""
    if not holds:
        raise ConfigError(message, field=field, fix=fix)
