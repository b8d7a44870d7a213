"""Virtual keys: `jk-ID-SECRET`, made once, shown once, kept as a SHA-256 digest.

The secret has 192 random bits, so a plain digest cannot be searched; keys are looked up by that digest and by nothing else, so
neither time nor words tell whether an id exists.
"""

from __future__ import annotations

import hashlib
import secrets
import time
from collections.abc import Iterable
from typing import Literal

from msgspec import Struct
from msgspec.structs import replace

from junctor.errors import ConfigError, UserError
from junctor.tenancy.accounts import PERIODS

PREFIX = "jk-"
ID_ALPHABET = "abcdefghijkmnpqrstuvwxyz23456789"
ID_CHARS = 10
SECRET_BYTES = 24
LONGEST_KEY = 512
NAME_CHARS = 120
BEARER = b"bearer "


class KeyRecord(Struct, frozen=True, kw_only=True, omit_defaults=True):
    """A key as it is kept: everything but the secret. Times are Unix seconds; None: no limit, no end.

    `models` are the aliases and targets it may use, () for all that its team may.
    """

    id: str
    name: str = ""
    team: str = ""
    tenant: str = ""
    models: tuple[str, ...] = ()
    priority: int | None = None
    budget_usd: float | None = None
    soft_budget_usd: float | None = None
    period: Literal["day", "week", "month", "total"] = "month"
    requests_per_minute: int | None = None
    tokens_per_minute: int | None = None
    created: float = 0.0
    expires: float | None = None
    revoked: float | None = None
    rotated: float | None = None

    def state(self, now: float) -> str:
        """One of "active", "revoked" and "expired"."""
        if self.revoked is not None and self.revoked <= now:
            return "revoked"
        return "expired" if self.expires is not None and self.expires <= now else "active"


def new_secret(id_: str) -> str:
    """A key for this id, to be shown once."""
    return f"{PREFIX}{id_}-{secrets.token_hex(SECRET_BYTES)}"


def new_id() -> str:
    """An id that nobody else has: 50 random bits; not a secret."""
    return "".join(secrets.choice(ID_ALPHABET) for _ in range(ID_CHARS))


def digest_of(key: bytes) -> bytes:
    """What is kept of a key."""
    return hashlib.sha256(b"junctor key\0" + key).digest()


def key_in(headers: Iterable[tuple[bytes, bytes]]) -> bytes:
    """The key in `authorization: Bearer`, `x-api-key` or `api-key`; empty without one. The first header that has one wins."""
    for name, value in headers:
        if name == b"authorization":
            if value[:7].lower() == BEARER:
                return value[7:].strip()
        elif name == b"x-api-key" or name == b"api-key":
            return value.strip()
    return b""


def checked(record: KeyRecord) -> KeyRecord:
    """The record, if it can be; raises UserError that names the field."""
    for name in ("budget_usd", "soft_budget_usd"):
        figure = getattr(record, name)
        if figure is not None and not 0 <= figure < 1e9:
            raise UserError("is not an amount of US dollars", field=name, fix="use 0 or more, or leave it out for no budget")
    for name in ("requests_per_minute", "tokens_per_minute"):
        figure = getattr(record, name)
        if figure is not None and not 0 < figure < 2**53:
            raise UserError("is not above 0", field=name, fix="leave it out for no limit")
    if record.period not in PERIODS:
        raise UserError(f"{record.period!r} is no period", field="period", fix=f"use one of: {', '.join(PERIODS)}")
    if record.priority is not None and not 0 <= record.priority <= 9:
        raise UserError("is not a number from 0 to 9", field="priority", fix="0 is the most important, 1 the usual")
    for name in ("name", "team", "tenant"):
        text = getattr(record, name)
        if len(text) > NAME_CHARS or not text.isprintable():
            raise UserError(f"is over {NAME_CHARS} characters or not printable", field=name, fix="shorten it")
    return record


def made(record: KeyRecord, now: float | None = None) -> tuple[KeyRecord, str]:
    """The record with an id and a time, and the key itself. Raises UserError."""
    at = time.time() if now is None else now
    if record.expires is not None and record.expires <= at:
        raise UserError("is in the past", field="expires", fix="give a time to come, or leave it out")
    record = checked(replace(record, id=new_id(), created=at))
    return record, new_secret(record.id)


def seconds_of(text: str, field: str) -> float:
    """Seconds of "90s", "15m", "12h", "30d" or "2w"; raises ConfigError."""
    units = {"s": 1, "m": 60, "h": 3600, "d": 86_400, "w": 604_800}
    number, unit = text[:-1], text[-1:]
    try:
        seconds = float(number) * units[unit]
    except (KeyError, ValueError) as error:
        raise ConfigError(f"{text[:40]!r} is no length of time", field=field, fix="for example 12h, 30d or 2w") from error
    if not 0 <= seconds < 1e10:
        raise ConfigError(f"{text[:40]!r} is no length of time", field=field, fix="for example 12h, 30d or 2w")
    return seconds
