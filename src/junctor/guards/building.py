"""From `[guards.NAME]` tables to the chain of an alias."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from junctor import registry
from junctor.config import Config, resolve_secrets
from junctor.errors import ConfigError, UserError
from junctor.guards.contracts import Chain, Guard


def build_guard(config: Config, name: str) -> Guard:
    """The guard of one table; raises ConfigError with the dotted path of what is wrong."""
    section = config.guards[name]
    path = f"guards.{name}"
    try:
        make: type[Guard] = registry.load("guard", section.use)
    except UserError as error:
        raise ConfigError(error.message, field=f"{path}.use", fix=error.fix) from error
    settings: dict[str, Any] = dict(resolve_secrets(section.settings, f"{path}.settings", config.folder))
    settings |= {key: str(config.path(settings[key])) for key in make.paths if isinstance(settings.get(key), str)}
    try:
        guard = make.from_settings(settings)
    except UserError as error:
        field = f"{path}.settings.{error.field}" if error.field else f"{path}.settings"
        raise ConfigError(error.message, field=field, fix=error.fix) from error
    guard.label = name
    return guard


def build_chain(config: Config, names: Sequence[str]) -> Chain:
    """The guards of these names, in this order. Make it once per alias: artefacts and schemas are read here."""
    return Chain([build_guard(config, name) for name in names])
