"""From the tables `[caches.NAME]` to caches."""

from __future__ import annotations

from junctor.caching.contracts import ReplyCache
from junctor.caching.exact import ExactCache
from junctor.caching.semantic import SemanticCache
from junctor.caching.store import Store
from junctor.config import Config
from junctor.encoders import load_encoder
from junctor.errors import ConfigError
from junctor.sections import CacheSection

THRESHOLDS = {"words": 0.81, "facts": 0.95}
"""Chosen on validation data (docs/gateway/cache.md)."""


def build_caches(config: Config) -> dict[str, ReplyCache]:
    """Alias -> its cache. Aliases that name the same table share its bounds, never its entries. Raises ConfigError."""
    made: dict[str, ReplyCache] = {}
    for name, section in config.caches.items():
        _check(name, section)
        made[name] = _exact(section) if section.kind == "exact" else _semantic(section)
    return {name: made[alias.cache] for name, alias in config.aliases.items() if alias.cache}


def _exact(section: CacheSection) -> ExactCache:
    store = Store(section.entries, section.megabytes, section.ttl_s)
    return ExactCache(store, most_temperature=section.most_temperature, coalesce=section.coalesce)


def _semantic(section: CacheSection) -> SemanticCache:
    encoder = load_encoder("static")
    encoder.encode_one("")  # its table is read now, so that a damaged one shows here
    return SemanticCache(
        Store(section.entries, section.megabytes, section.ttl_s),
        encoder,
        threshold=section.threshold or THRESHOLDS[section.agreement],
        agreement=section.agreement,
        most_temperature=section.most_temperature,
        coalesce=section.coalesce,
    )


def _check(name: str, section: CacheSection) -> None:
    for field in ("ttl_s", "entries", "megabytes"):
        if not 0 < getattr(section, field) < float("inf"):
            raise ConfigError("is not above 0", field=f"caches.{name}.{field}", fix="leave it out for the default")
    if section.threshold is not None and not 0 < section.threshold <= 1:
        raise ConfigError("is not a cosine above 0", field=f"caches.{name}.threshold", fix="leave it out for the default")
    if not section.most_temperature >= 0:
        raise ConfigError("is below 0", field=f"caches.{name}.most_temperature", fix="use 0 to 2")
