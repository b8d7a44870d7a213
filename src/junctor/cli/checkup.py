"""What `junctor doctor` looks at: the configuration, what it names, and whether all of it is there and answers.

Every check says what it found in a sentence, and what to do where that is not good. Nothing that it says holds a secret.
"""

from __future__ import annotations

import asyncio
import errno
import ipaddress
import os
import socket
from collections.abc import Awaitable, Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

import msgspec
from msgspec import Struct

from junctor.config import Config, load_config
from junctor.errors import ConfigError, JunctorError, UpstreamRefused, UpstreamStatus, UpstreamTimeout
from junctor.providers.base import Provider
from junctor.types import Catalogue, Message, Request, Target

if TYPE_CHECKING:
    from junctor.tenancy.stores import Store

State = Literal["ok", "warning", "failed", "skipped"]
ANSWER_S = 10.0
KEY_REFUSED = (401, 403)
NOT_THERE = (404, 405, 501)
MODELS = {"anthropic": "/v1/models", "azure": "/openai/v1/models", "bedrock": ""}
"""Where models are listed, where that is not /models; "": nowhere."""


class Finding(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What one check found. `fix` is what to do about it."""

    check: str
    state: State
    said: str
    fix: str = ""


def ok(check: str, said: str) -> Finding:
    """All is well."""
    return Finding(check=check, state="ok", said=said)


def failed(check: str, error: Exception) -> Finding:
    """An error, in its own words."""
    if not isinstance(error, JunctorError):
        return Finding(check=check, state="failed", said=f"failed with {type(error).__name__}", fix="see its documentation")
    where = f"{error.field}: " if error.field else ""
    return Finding(check=check, state="failed", said=where + error.message, fix=error.fix)


def examine(path: Path, *, offline: bool = False, probe: bool = False) -> Iterator[Finding]:
    """All checks, one after the other. Offline nobody is asked; with `probe` every target answers a call of one token."""
    try:
        config = load_config(path)
    except JunctorError as error:
        yield failed("configuration", error)
        return
    yield ok("configuration", f"{path} has {len(config.targets)} targets and {len(config.aliases)} aliases")
    providers: dict[str, Provider] = {}
    yield from _providers(config, providers)
    yield from _policies(config)
    yield from _parts(config)
    yield from _journal(config)
    yield from _state(config, offline=offline)
    yield _port(config)
    yield from _prices(config)
    if offline:
        yield Finding(check="upstreams", state="skipped", said="not asked: --offline")
        return
    yield from asyncio.run(_upstreams(config, providers, probe=probe))


def _providers(config: Config, made: dict[str, Provider]) -> Iterator[Finding]:
    from junctor.build import build_provider

    for name in config.providers:
        check = f"provider {name}"
        try:
            made[name] = build_provider(config, name)
        except JunctorError as error:
            yield failed(check, error)
            continue
        section = config.providers[name]
        url = urlsplit(str(section.settings.get("base_url", "")))
        if url.scheme == "http" and section.settings.get("api_key") and not _on_this_machine(url.hostname or ""):
            yield Finding(
                check=check, state="warning", said=f"sends its key to {url.hostname} unencrypted", fix="use https:// there"
            )
        else:
            yield ok(check, "its settings fit, and its secrets are there")


def _on_this_machine(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _policies(config: Config) -> Iterator[Finding]:
    from junctor.engine.choosers import build_aliases
    from junctor.guards.detecting import DETECTORS

    catalogue = Catalogue(list(config.targets.values()))
    for name, alias in config.aliases.items():
        used = {alias.policy, *(trial.policy for trial in alias.trials)}
        policies = {policy: config.policies[policy] for policy in used}
        alone = msgspec.structs.replace(config, aliases={name: alias}, policies=policies)
        try:
            made = build_aliases(alone, catalogue, DETECTORS)[name]
        except JunctorError as error:
            yield failed(f"alias {name}", error)
            continue
        encoder = f", reads {made.encoder.name}" if made.encoder is not None else ""
        yield ok(f"alias {name}", f"policy {made.policy.title} over {len(made.targets)} targets{encoder}")
    unused = [name for name in config.policies if not any(name == alias.policy for alias in config.aliases.values())]
    tried = {trial.policy for alias in config.aliases.values() for trial in alias.trials}
    for name in unused:
        if name not in tried:
            yield Finding(check=f"policy {name}", state="warning", said="no alias uses it", fix="name it in an alias")


def _parts(config: Config) -> Iterator[Finding]:
    from junctor.caching.building import build_caches
    from junctor.guards.building import build_guard
    from junctor.tenancy.building import admin_digest, check_open, check_teams

    def keys() -> None:
        check_open(config, config.gateway.host)
        check_teams(config)
        admin_digest(config)

    yield _tried("keys and teams", keys, "nobody who should not can call")
    for name in config.guards:
        yield _tried(f"guard {name}", lambda name=name: build_guard(config, name), "can be made")  # type: ignore[misc]
    if config.caches:
        yield _tried("caches", lambda: build_caches(config), "can be made")


def _tried(check: str, do: Callable[[], Any], said: str) -> Finding:
    try:
        do()
    except JunctorError as error:
        return failed(check, error)
    return ok(check, said)


def _journal(config: Config) -> Iterator[Finding]:
    check = "journal"
    if not config.journal.path:
        yield Finding(check=check, state="warning", said="none is kept", fix="name a file: [journal] path")
        return
    path = config.path(config.journal.path)
    yield _writable(check, "journal.path", path, "can be written")


def _writable(check: str, field: str, path: Path, said: str) -> Finding:
    """Whether a file can be written, or made; nothing is."""
    folder = next((parent for parent in path.absolute().parents if parent.exists()), Path("/"))
    if path.is_dir():
        return Finding(check=check, state="failed", said=f"{field}: {path} is a folder", fix="name a file in it")
    if not folder.is_dir() or not os.access(folder, os.W_OK | os.X_OK) or (path.exists() and not os.access(path, os.W_OK)):
        return Finding(
            check=check, state="failed", said=f"{field}: {path} cannot be written", fix="name a file in a folder of yours"
        )
    return ok(check, f"{path} {said}")


def _state(config: Config, *, offline: bool) -> Iterator[Finding]:
    from junctor.tenancy.building import build_store, state_file

    check = "state"
    if config.gateway.keys == "off" and not config.teams:
        yield Finding(check=check, state="skipped", said="keys are off and there are no teams")
        return
    try:
        file = state_file(config)
        if offline and file is None:
            yield Finding(check=check, state="skipped", said="not asked: --offline")
            return
        if file is not None and not file.exists():
            yield _writable(check, "state.url", file, "will be made there")
            return
        asyncio.run(_list_keys(lambda: build_store(config, flush=False)))
    except JunctorError as error:
        yield failed(check, error)
        return
    except Exception as error:  # noqa: BLE001 - a driver's own errors, which may hold the address and its password
        said = f"state.url: the store does not answer ({type(error).__name__})"
        yield Finding(check=check, state="failed", said=said, fix="start it, or name another")
        return
    yield ok(check, "the store of keys, budgets and limits answers")


async def _list_keys(make: Callable[[], Store]) -> None:
    store = make()
    try:
        async with asyncio.timeout(ANSWER_S):
            await store.keys()
    except TimeoutError as error:
        raise ConfigError(f"is silent for {ANSWER_S:g} s", field="state.url", fix="start it, or name another") from error
    finally:
        await store.aclose()


def _port(config: Config) -> Finding:
    from junctor.gateway.serving import bind

    gateway = config.gateway
    check, at = "port", f"{gateway.host}:{gateway.port}"
    if not gateway.port and gateway.workers > 1:
        return Finding(
            check=check, state="failed", said="gateway.port: is 0, but several workers share one port", fix="name a port"
        )
    if not gateway.port:
        return ok(check, "any that is free")
    try:
        bind(gateway.host, gateway.port).close()
    except ConfigError as error:
        if _answers(gateway.host, gateway.port):
            return Finding(
                check=check, state="warning", said=f"a server listens on {at} already", fix="fine when it is this gateway"
            )
        return failed(check, error)
    return ok(check, f"{at} is free")


def _answers(host: str, port: int) -> bool:
    host = "127.0.0.1" if host in ("0.0.0.0", "") else "::1" if host == "::" else host  # noqa: S104 - asked, not served
    try:
        with socket.create_connection((host, port), timeout=1.0):
            return True
    except OSError as error:
        return error.errno not in (errno.ECONNREFUSED, errno.EADDRNOTAVAIL) and isinstance(error, ConnectionError)


def _prices(config: Config) -> Iterator[Finding]:
    free = [id_ for id_, target in config.targets.items() if target.price is None]
    if not free:
        yield ok("prices", "every target has one")
        return
    shown = ", ".join(free[:5]) + (f" and {len(free) - 5} more" if len(free) > 5 else "")
    what = "budgets cannot be kept" if _has_budgets(config) else "their cost is known only where the upstream states it"
    yield Finding(
        check="prices", state="warning", said=f"no price of {shown}: {what}", fix='add [targets."ID".price] (0 for a free one)'
    )


def _has_budgets(config: Config) -> bool:
    return config.gateway.keys == "required" or any(team.budget_usd is not None for team in config.teams.values())


async def _upstreams(config: Config, providers: dict[str, Provider], *, probe: bool) -> list[Finding]:
    try:
        asks: list[Awaitable[Finding]] = [_reached(name, provider) for name, provider in providers.items()]
        if probe:
            for id_, target in config.targets.items():
                asks += [
                    _probed(id_, asked, providers[asked.provider]) for asked in _places(target) if asked.provider in providers
                ]
        return list(await asyncio.gather(*asks))
    finally:
        for provider in providers.values():
            await provider.aclose()


def _places(target: Target) -> list[Target]:
    """A target as each of its deployments is called."""
    if not target.deployments:
        return [target]
    made = []
    for place in target.deployments:
        model = place.model or target.model
        made.append(msgspec.structs.replace(target, provider=place.provider, model=model, deployments=()))
    return made


async def _reached(name: str, provider: Provider) -> Finding:
    """Whether the upstream answers `GET /models`, and accepts the key."""
    check = f"upstream {name}"
    upstream = getattr(provider, "upstream", None)
    path = MODELS.get(provider.name, "/models")
    if upstream is None or not hasattr(upstream, "request") or not path:
        return Finding(check=check, state="skipped", said="has nobody to ask on the way; --probe calls its targets")
    try:
        response = await upstream.request("GET", path, b"", ANSWER_S, name)
        status = response.status
        response.close()
    except UpstreamTimeout:
        return Finding(
            check=check,
            state="failed",
            said=f"{upstream.base_url} is silent for {ANSWER_S:g} s",
            fix="is it up, and reachable?",
        )
    except UpstreamRefused:
        return Finding(
            check=check, state="failed", said=f"{upstream.base_url} cannot be reached", fix="check base_url, and that it is up"
        )
    except JunctorError as error:
        return failed(check, error)
    return _told(check, upstream.base_url, status)


def _told(check: str, url: str, status: int) -> Finding:
    if status in KEY_REFUSED:
        return Finding(
            check=check, state="failed", said=f"{url} does not accept the key ({status})", fix="check what api_key refers to"
        )
    if status in NOT_THERE:
        said = f"{url} answers, but lists no models ({status}): the key was not checked"
        return Finding(check=check, state="warning", said=said, fix="use --probe, and check base_url")
    if status >= 500:
        return Finding(check=check, state="failed", said=f"{url} answers {status}", fix="see its own log or status page")
    return ok(check, f"{url} answers")


async def _probed(id_: str, target: Target, provider: Provider) -> Finding:
    check = f"target {id_}"
    text = "Say ok."
    params = {"messages": [{"role": "user", "content": text}], "max_tokens": 1}
    request = Request(id="doctor", text=text, messages=(Message("user", text),), params=params)
    try:
        async with asyncio.timeout(3 * ANSWER_S):
            await provider.complete(request, target, 3 * ANSWER_S)
    except UpstreamStatus as error:
        model = target.upstream_model
        fix = "check its model name" if error.upstream_status in (400, 404) else "see its upstream"
        if error.upstream_status in KEY_REFUSED:
            fix = "check what the api_key of its provider refers to"
        return Finding(check=check, state="failed", said=f"{model!r} answers {error.upstream_status}", fix=fix)
    except TimeoutError:
        return Finding(check=check, state="failed", said=f"is silent for {3 * ANSWER_S:g} s", fix="is it up?")
    except Exception as error:  # noqa: BLE001 - whatever a provider of yours raises is a finding
        return failed(check, error)
    return ok(check, f"{target.upstream_model!r} answers a call")
