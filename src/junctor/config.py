"""The configuration file: TOML or YAML in, a typed tree out.

    [gateway]                host, port, limits, deadlines
    [journal]                where decisions and outcomes are written
    [providers.NAME]         kind = a registered provider, and that provider's own settings
    [targets."ID"]           provider, model, settings, price, limits, capabilities, description
    [policies.NAME]          artefact = a folder made by `junctor fit`, or use = a registered policy with its settings
    [aliases]                name = "policy", or a table: policy, targets, default, guards, cache, sticky, hedge, trials, learn
    [teams.NAME]             budgets and limits that keys share
    [guards.NAME]            use = a registered guard, and its settings
    [caches.NAME]            exact or semantic, how long, how large
    [state] [retries] [health] [responses] [telemetry]

An unknown key, a wrong type or a name that leads nowhere is a ConfigError with the dotted path. Secrets are references
(`env:NAME`, `file:path`), resolved when the engine is built; a literal one is refused.
"""

from __future__ import annotations

import difflib
import os
import re
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Any, TypeVar

import msgspec
import yaml
from msgspec import Struct

from junctor import registry
from junctor.errors import ConfigError, UnknownName
from junctor.sections import (
    AliasSection,
    CacheSection,
    GatewaySection,
    GuardSection,
    HealthSection,
    JournalSection,
    PolicySection,
    ProviderSection,
    ResponsesSection,
    RetrySection,
    StateSection,
    TargetSection,
    TeamSection,
    TelemetrySection,
)
from junctor.types import TARGET_KINDS, Target

T = TypeVar("T")
SECRET_KEYS = (
    "api_key",
    "token",
    "password",
    "secret",
    "authorization",
    "secret_access_key",
    "session_token",
    "x-api-key",
    "x-goog-api-key",
    "api-key",
)


class Config(Struct, frozen=True, kw_only=True):
    """The whole file, checked. Relative paths in it are relative to `folder`."""

    folder: Path
    gateway: GatewaySection
    journal: JournalSection
    providers: Mapping[str, ProviderSection]
    targets: Mapping[str, Target]
    policies: Mapping[str, PolicySection]
    aliases: Mapping[str, AliasSection]
    teams: Mapping[str, TeamSection] = {}
    guards: Mapping[str, GuardSection] = {}
    caches: Mapping[str, CacheSection] = {}
    state: StateSection = StateSection()
    retries: RetrySection = RetrySection()
    health: HealthSection = HealthSection()
    responses: ResponsesSection = ResponsesSection()
    telemetry: TelemetrySection = TelemetrySection()

    def path(self, relative: str) -> Path:
        """A path named in the file."""
        return self.folder / Path(relative).expanduser()


SINGLE: dict[str, Any] = {
    "gateway": GatewaySection,
    "journal": JournalSection,
    "state": StateSection,
    "retries": RetrySection,
    "health": HealthSection,
    "responses": ResponsesSection,
    "telemetry": TelemetrySection,
}
NAMED: dict[str, Any] = {"teams": TeamSection, "guards": GuardSection, "caches": CacheSection}
SECTIONS = ("providers", "targets", "policies", "aliases", *SINGLE, *NAMED)


def load_config(path: Path | str) -> Config:
    """Read and check a configuration file; raises ConfigError."""
    path = Path(path)
    return parse_config(_read(path), path.parent)


def _read(path: Path) -> dict[str, Any]:
    try:
        text = path.read_text("utf-8")
    except OSError as error:
        raise ConfigError(f"cannot be read: {error.strerror}", field=str(path), fix="name a .toml or .yaml file") from error
    except UnicodeDecodeError as error:
        raise ConfigError(f"is not UTF-8 (byte {error.start})", field=str(path), fix="save it as UTF-8") from error
    try:
        found = yaml.safe_load(text) if path.suffix in (".yaml", ".yml") else tomllib.loads(text)
    except tomllib.TOMLDecodeError as error:
        raise ConfigError(f"is not TOML: {error}", field=str(path), fix="mend that line") from error
    except yaml.YAMLError as error:
        problem = " ".join(str(error).split())
        raise ConfigError(f"is not YAML: {problem}", field=str(path), fix="mend that line") from error
    if not isinstance(found, dict):
        raise ConfigError("holds no sections", field=str(path), fix=f"start with one of: {', '.join(SECTIONS)}")
    return found


def parse_config(tree: Mapping[str, Any], folder: Path) -> Config:
    """Check a decoded tree; `folder` is what relative paths are relative to. Raises ConfigError."""
    for key in tree:
        if key not in SECTIONS:
            raise _unknown(key, key, SECTIONS)
    config = Config(
        folder=folder,
        providers={name: _provider(name, value) for name, value in _tables(tree, "providers")},
        targets={id_: _target(id_, value) for id_, value in _tables(tree, "targets")},
        policies={name: _policy(name, value) for name, value in _tables(tree, "policies")},
        aliases={name: _alias(name, value) for name, value in _tables(tree, "aliases")},
        **_plain_sections(tree),
    )
    _check_numbers(config)
    _check_references(config)
    return config


def _plain_sections(tree: Mapping[str, Any]) -> dict[str, Any]:
    """The sections that are structs and nothing else."""
    found: dict[str, Any] = {name: _convert(tree.get(name, {}), type_, name) for name, type_ in SINGLE.items()}
    for section, type_ in NAMED.items():
        found[section] = {name: _convert(value, type_, f"{section}.{name}") for name, value in _tables(tree, section)}
    return found


def _tables(tree: Mapping[str, Any], section: str) -> list[tuple[str, Any]]:
    found = tree.get(section, {})
    if not isinstance(found, Mapping):
        raise ConfigError("is not a table", field=section, fix=f"write [{section}.NAME]")
    return [(str(name), value) for name, value in found.items()]


def _convert(value: Any, type_: type[T], path: str) -> T:
    try:
        return msgspec.convert(value, type_)
    except msgspec.ValidationError as error:
        raise _explain(error, type_, path) from error


def _explain(error: msgspec.ValidationError, type_: Any, path: str) -> ConfigError:
    message, _, where = str(error).partition(" - at `$")
    inner = where.rstrip("`").replace("[...]", "")
    unknown = re.match(r"Object contains unknown field `(.*)`", message)
    if unknown:
        holder = _struct_at(type_, inner.split(".")[1:])
        return _unknown(unknown[1], f"{path}{inner}.{unknown[1]}", holder.__struct_fields__)
    missing = re.match(r"Object missing required field `(.*)`", message)
    if missing:
        return ConfigError("is missing", field=f"{path}{inner}.{missing[1]}", fix="add it")
    return ConfigError(message[0].lower() + message[1:], field=path + inner, fix="change its value")


def _struct_at(type_: Any, keys: list[str]) -> Any:
    for key in keys:
        nested = msgspec.inspect.type_info(type_)
        named = {f.name: f.type for f in getattr(nested, "fields", ())}
        inner = named.get(key)
        options: tuple[Any, ...] = getattr(inner, "types", (inner,))
        type_ = next((option.cls for option in options if hasattr(option, "cls")), type_)
    return type_


def _unknown(key: str, path: str, known: tuple[str, ...]) -> ConfigError:
    near = difflib.get_close_matches(key, known, n=1)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return ConfigError("is not a known key", field=path, fix=f"{hint}known here: {', '.join(known)}")


def _provider(name: str, value: Any) -> ProviderSection:
    path = f"providers.{name}"
    if not isinstance(value, Mapping):
        raise ConfigError("is not a table", field=path, fix=f"write [{path}] with a kind")
    settings = dict(value)
    kind = settings.pop("kind", name)
    try:
        registry.find("provider", kind if isinstance(kind, str) else repr(kind))
    except UnknownName as error:
        raise ConfigError(error.message, field=f"{path}.kind", fix=error.fix) from error
    _refuse_literal_secrets(settings, path)
    return ProviderSection(kind=kind, settings=settings)


def _refuse_literal_secrets(settings: Mapping[str, Any], path: str) -> None:
    for key, value in settings.items():
        if isinstance(value, Mapping):
            _refuse_literal_secrets(value, f"{path}.{key}")
        elif key.lower() in SECRET_KEYS and not is_reference(value):
            raise ConfigError(
                "holds a secret in clear",
                field=f"{path}.{key}",
                fix='write "env:NAME" or "file:path" and keep the secret there',
            )


def _target(id_: str, value: Any) -> Target:
    path = f"targets.{id_}"
    section = _convert(value, TargetSection, path)
    if section.kind not in TARGET_KINDS:
        raise ConfigError(
            f"{section.kind!r} is not a kind of target", field=f"{path}.kind", fix=f"kinds: {', '.join(TARGET_KINDS)}"
        )
    return Target(id=id_, **{name: getattr(section, name) for name in section.__struct_fields__})


def _policy(name: str, value: Any) -> PolicySection:
    path = f"policies.{name}"
    section = _convert({"use": value} if isinstance(value, str) else value, PolicySection, path)
    if bool(section.artefact) == bool(section.use):
        raise ConfigError(
            "needs exactly one of `artefact` and `use`",
            field=path,
            fix='artefact = "folder made by junctor fit", or use = "fixed"',
        )
    return section


def _alias(name: str, value: Any) -> AliasSection:
    path = f"aliases.{name}"
    return _convert({"policy": value} if isinstance(value, str) else value, AliasSection, path)


def _check_numbers(config: Config) -> None:
    gateway = config.gateway
    if not 0 <= gateway.port <= 65535:
        raise ConfigError(f"{gateway.port} is no port", field="gateway.port", fix="use 1 to 65535, or 0 for any free one")
    if gateway.max_body_bytes < 1024:
        raise ConfigError("is under 1,024 bytes", field="gateway.max_body_bytes", fix="allow at least a short prompt")
    if not 0 < gateway.deadline_s < float("inf"):
        raise ConfigError("is not a positive number of seconds", field="gateway.deadline_s", fix="for example 60")
    for id_, target in config.targets.items():
        for name in target.price.__struct_fields__ if target.price is not None else ():
            figure = getattr(target.price, name)
            if figure is not None and not 0 <= figure < float("inf"):
                raise ConfigError("is not a price", field=f"targets.{id_}.price.{name}", fix="use 0 or more US dollars")
        for name in target.limits.__struct_fields__:
            limit = getattr(target.limits, name)
            if limit is not None and not limit > 0:
                raise ConfigError("is not above 0", field=f"targets.{id_}.limits.{name}", fix="leave it out for no limit")


def _check_references(config: Config) -> None:
    if not config.targets:
        raise ConfigError("there is none", field="targets", fix='add at least one [targets."ID"] with a provider')
    for id_, target in config.targets.items():
        _refer_providers(config, id_, target)
    for name, alias in config.aliases.items():
        if name in config.targets:
            raise ConfigError("is also the id of a target", field=f"aliases.{name}", fix="give the alias another name")
        _refer(alias.policy, config.policies, f"aliases.{name}.policy", "policy")
        for guard in alias.guards:
            _refer(guard, config.guards, f"aliases.{name}.guards", "guard")
        if alias.cache:
            _refer(alias.cache, config.caches, f"aliases.{name}.cache", "cache")
        for trial in alias.trials:
            _refer(trial.policy, config.policies, f"aliases.{name}.trials", "policy")
        for id_ in (*alias.targets, *([alias.default] if alias.default else [])):
            _refer(id_, config.targets, f"aliases.{name}", "target")


def _refer_providers(config: Config, id_: str, target: Target) -> None:
    path = f"targets.{id_}"
    if not target.deployments:
        if not target.provider:
            raise ConfigError("is missing", field=f"{path}.provider", fix="add it")
        _refer(target.provider, config.providers, f"{path}.provider", "provider")
        return
    if target.provider:
        raise ConfigError("has deployments as well", field=f"{path}.provider", fix="name the provider in each deployment only")
    ids = [deployment.id for deployment in target.deployments]
    for deployment in target.deployments:
        _refer(deployment.provider, config.providers, f"{path}.deployments", "provider")
        if ids.count(deployment.id) > 1:
            raise ConfigError(f"uses the id {deployment.id!r} twice", field=f"{path}.deployments", fix="give each its own")
        if not 0 <= deployment.weight < float("inf"):
            raise ConfigError("is not 0 or more", field=f"{path}.deployments.weight", fix="for example 1")


def _refer(name: str, known: Mapping[str, Any], path: str, noun: str) -> None:
    if name not in known:
        near = difflib.get_close_matches(name, known, n=1)
        hint = f"did you mean {near[0]!r}? " if near else ""
        has = ", ".join(known) or "none"
        raise ConfigError(f"names the {noun} {name!r}, which is not in the file", field=path, fix=f"{hint}it has: {has}")


def is_reference(value: object) -> bool:
    """Whether a value refers to a secret instead of holding one."""
    return isinstance(value, str) and value.startswith(("env:", "file:"))


def without_secrets(value: Any) -> Any:
    """A tree of settings with an empty string for every reference: enough to decide, not to call."""
    if isinstance(value, Mapping):
        return {key: without_secrets(inner) for key, inner in value.items()}
    return "" if is_reference(value) else value


def resolve_secrets(value: Any, path: str, folder: Path) -> Any:
    """Replace every reference in a tree of settings by what it refers to; raises ConfigError that names the path only."""
    if isinstance(value, Mapping):
        return {key: resolve_secrets(inner, f"{path}.{key}", folder) for key, inner in value.items()}
    if not is_reference(value):
        return value
    scheme, _, name = str(value).partition(":")
    if scheme == "env":
        found = os.environ.get(name)
        if not found:
            raise ConfigError(
                f"refers to the environment variable {name}, which is not set", field=path, fix=f"export {name}=…"
            )
        return found
    try:
        return (folder / Path(name).expanduser()).read_text("utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"refers to the file {name}, which cannot be read", field=path, fix="create it, or name another"
        ) from error
