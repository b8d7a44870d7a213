"""From the configuration to keys, budgets and limits; None where nobody asked for them."""

from __future__ import annotations

import ipaddress
import logging
from pathlib import Path

from junctor.config import Config, is_reference, resolve_secrets
from junctor.errors import ConfigError
from junctor.sections import TeamSection
from junctor.tenancy.accounts import PERIODS
from junctor.tenancy.estimates import Tariffs
from junctor.tenancy.gate import KeyedTenancy
from junctor.tenancy.keys import digest_of
from junctor.tenancy.stores import Store

log = logging.getLogger("junctor.tenancy")
LEAST_ADMIN_CHARS = 16


def build_tenancy(config: Config, *, host: str | None = None) -> KeyedTenancy | None:
    """What `[gateway]`, `[teams]` and `[state]` say; None when keys are off and there are neither teams nor an admin key.

    `host` is where the gateway will listen when the command line says so. Raises ConfigError.
    """
    check_open(config, host or config.gateway.host)
    check_teams(config)
    admin = admin_digest(config)
    if config.gateway.keys == "off" and not config.teams and not admin:
        return None
    tariffs = Tariffs(config.targets, {name: alias.targets or tuple(config.targets) for name, alias in config.aliases.items()})
    if tariffs.unpriced and any(team.budget_usd is not None for team in config.teams.values()):
        log.warning("no budget counts what these targets cost, because they have no price: %s", ", ".join(tariffs.unpriced))
    return KeyedTenancy(
        build_store(config),
        config.teams,
        tariffs,
        required=config.gateway.keys == "required",
        admin=admin,
        hold_s=config.gateway.deadline_s,
        workers=config.gateway.workers,
    )


def build_store(config: Config, *, flush: bool = True) -> Store:
    """The store that `[state]` names. `flush` is False for a program that only looks or makes keys."""
    address = state_url(config)
    scheme, _, rest = address.partition(":")
    if scheme == "sqlite":
        from junctor.tenancy.local_store import FLUSH_EVERY_S, LocalStore

        return LocalStore(config.path(rest), flush_s=FLUSH_EVERY_S if flush else 0.0)
    if scheme in ("redis", "rediss", "unix"):
        from junctor.tenancy.redis_store import RedisStore

        return RedisStore(address, on_failure=config.state.on_failure)
    if scheme in ("postgresql", "postgres"):
        from junctor.tenancy.postgres_store import PostgresStore

        return PostgresStore(address, on_failure=config.state.on_failure)
    raise ConfigError(
        f"{scheme!r} is no kind of store",
        field="state.url",
        fix="use sqlite:FILE, redis://… or postgresql://…",
    )


def state_url(config: Config) -> str:
    """The address of the store, with its secrets; raises ConfigError for a literal one that holds a password."""
    url = config.state.url
    if is_reference(url):
        found: str = resolve_secrets(url, "state.url", config.folder)
        return found
    if "://" in url and "@" in url and ":" in url.split("://", 1)[1].rpartition("@")[0]:
        raise ConfigError(
            "holds a password in clear", field="state.url", fix='write "env:NAME" or "file:path" and keep the address there'
        )
    return url


def admin_digest(config: Config) -> bytes:
    """Of the key that opens the admin pages; empty without one. Raises ConfigError."""
    named = config.gateway.admin_key
    if not named:
        return b""
    if not is_reference(named):
        raise ConfigError(
            "holds a secret in clear", field="gateway.admin_key", fix='write "env:NAME" or "file:path" and keep the key there'
        )
    secret: str = resolve_secrets(named, "gateway.admin_key", config.folder)
    if len(secret) < LEAST_ADMIN_CHARS:
        raise ConfigError(
            f"is shorter than {LEAST_ADMIN_CHARS} characters",
            field="gateway.admin_key",
            fix='make one: python -c "import secrets; print(secrets.token_urlsafe(32))"',
        )
    return digest_of(secret.encode())


def check_open(config: Config, host: str) -> None:
    """No open relay: who listens beyond this machine asks for keys. Raises ConfigError."""
    if config.gateway.keys == "off" and not is_loopback(host):
        raise ConfigError(
            f"is off, and {host} can be reached from other machines",
            field="gateway.keys",
            fix='write keys = "required" under [gateway], or listen on 127.0.0.1',
        )


def is_loopback(host: str) -> bool:
    """Whether only this machine reaches an address."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check_teams(config: Config) -> None:
    """Figures that can be, names that are in the file. Raises ConfigError."""
    for name, team in config.teams.items():
        path = f"teams.{name}"
        _check_figures(path, team)
        for model in team.models:
            if model not in config.aliases and model not in config.targets:
                raise ConfigError(
                    f"names {model!r}, which is neither an alias nor a target",
                    field=f"{path}.models",
                    fix=f"it has: {', '.join([*config.aliases, *config.targets])}",
                )


def _check_figures(path: str, team: TeamSection) -> None:
    for field in ("budget_usd", "soft_budget_usd"):
        figure = getattr(team, field)
        if figure is not None and not 0 <= figure < 1e9:
            raise ConfigError("is not an amount of US dollars", field=f"{path}.{field}", fix="leave it out for no budget")
    for field in ("requests_per_minute", "tokens_per_minute"):
        figure = getattr(team, field)
        if figure is not None and not 0 < figure < 2**53:
            raise ConfigError("is not above 0", field=f"{path}.{field}", fix="leave it out for no limit")
    if team.period not in PERIODS:
        raise ConfigError(f"{team.period!r} is no period", field=f"{path}.period", fix=f"use: {', '.join(PERIODS)}")
    if not 0 <= team.priority <= 9:
        raise ConfigError("is not a number from 0 to 9", field=f"{path}.priority", fix="0 is the most important")


def state_file(config: Config) -> Path | None:
    """The file of a store on this machine; None for another kind."""
    url = state_url(config)
    return config.path(url.removeprefix("sqlite:")) if url.startswith("sqlite:") else None
