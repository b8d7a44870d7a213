"""What people do with keys: make, list, show, revoke, rotate; every change is in the audit log. For the CLI and admin pages."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Mapping
from typing import Any, Self

import msgspec
from msgspec.structs import asdict, replace

from junctor.config import Config
from junctor.errors import UserError
from junctor.tenancy.accounts import PERIODS, period_ids, usd
from junctor.tenancy.building import build_store
from junctor.tenancy.keys import KeyRecord, digest_of, made, new_secret, seconds_of
from junctor.tenancy.stores import Entry, Store


class Keeper:
    """Changes keys in a store. `teams` and `models` are the names that there are; `actor` is who does it, for the audit log."""

    def __init__(
        self,
        store: Store,
        *,
        teams: Collection[str] = (),
        models: Collection[str] = (),
        actor: str = "",
        wall: Callable[[], float] = time.time,
    ) -> None:
        self.store = store
        self.teams = teams
        self.models = models
        self.actor = actor
        self._wall = wall

    @classmethod
    def open(cls, config: Config, *, actor: str) -> Self:
        """Over the store that a configuration names; close it by leaving `async with`. Raises ConfigError."""
        return cls(
            build_store(config, flush=False),
            teams=tuple(config.teams),
            models=(*config.aliases, *config.targets),
            actor=actor,
        )

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.store.aclose()

    async def create(self, wanted: Mapping[str, Any], expires: str = "") -> tuple[KeyRecord, str]:
        """A new key, and the only copy of it. `expires` is a length of time. Raises UserError that names the field."""
        try:
            record = msgspec.convert({"id": "", **wanted}, KeyRecord)
        except msgspec.ValidationError as error:
            raise UserError(f"is no key: {error}", field="key", fix="look at junctor keys create --help") from error
        if expires:
            record = replace(record, expires=self._wall() + seconds_of(expires, "expires"))
        self._check_names(record)
        record, key = made(record, self._wall())
        await self.store.create(record, digest_of(key.encode()))
        await self._note("key.created", record.id, **_told(record))
        return record, key

    def _check_names(self, record: KeyRecord) -> None:
        if record.team and record.team not in self.teams:
            has = ", ".join(self.teams) or "none"
            raise UserError(f"{record.team!r} is no team", field="team", fix=f"the configuration has: {has}")
        for model in record.models:
            if model not in self.models:
                has = ", ".join(self.models)
                raise UserError(f"{model!r} is neither an alias nor a target", field="model", fix=f"there are: {has}")

    async def _one(self, id_: str) -> KeyRecord:
        record = await self.store.key(id_.removeprefix("jk-"))
        if record is None:
            raise UserError(f"there is no key {id_[:40]!r}", field="id", fix="junctor keys list shows them")
        return record

    async def revoke(self, id_: str) -> KeyRecord:
        """End a key now. A second time changes nothing."""
        record = await self._one(id_)
        if record.revoked is None:
            record = replace(record, revoked=self._wall())
            await self.store.update(record)
            await self._note("key.revoked", record.id, name=record.name)
        return record

    async def rotate(self, id_: str, grace: str = "24h") -> tuple[KeyRecord, str]:
        """A new secret for a key; the old one is good for `grace` longer."""
        seconds = seconds_of(grace, "grace")
        record, now = await self._one(id_), self._wall()
        if record.state(now) != "active":
            raise UserError(f"the key is {record.state(now)}", field="id", fix="make a new one")
        record = replace(record, rotated=now)
        key = new_secret(record.id)
        await self.store.rotate(record, digest_of(key.encode()), now + seconds)
        await self._note("key.rotated", record.id, name=record.name, grace_s=seconds)
        return record, key

    async def rows(self, *, everything: bool = False) -> list[dict[str, Any]]:
        """All keys that are good (or all), with what they have spent in their current period."""
        now = self._wall()
        records = [r for r in await self.store.keys() if everything or r.state(now) == "active"]
        spent = await self._spent([f"key:{r.id}" for r in records], {f"key:{r.id}": r.period for r in records})
        return [self._row(record, *spent.get(f"key:{record.id}", (0, 0))) for record in records]

    async def row(self, id_: str) -> dict[str, Any]:
        """One key, with what it has spent."""
        record = await self._one(id_)
        name = f"key:{record.id}"
        return self._row(record, *(await self._spent([name], {name: record.period})).get(name, (0, 0)))

    async def teams_spent(self, periods: Mapping[str, str]) -> dict[str, tuple[float, float]]:
        """(spent, set aside) in US dollars of each team, in its current period; `periods` maps team to kind."""
        names = {f"team:{name}": kind for name, kind in periods.items()}
        found = await self._spent(list(names), names)
        rows = {name: found.get(f"team:{name}", (0, 0)) for name in periods}
        return {name: (usd(spent), usd(reserved)) for name, (spent, reserved) in rows.items()}

    async def _spent(self, names: list[str], kinds: Mapping[str, str]) -> dict[str, tuple[int, int]]:
        ids = dict(zip(PERIODS, period_ids(self._wall()), strict=True))
        rows = await self.store.spent(names)
        return {row.account: (row.spent, row.reserved) for row in rows if row.period == ids[kinds[row.account]]}

    def _row(self, record: KeyRecord, spent: int, reserved: int) -> dict[str, Any]:
        return {**asdict(record), "state": record.state(self._wall()), "spent_usd": usd(spent), "reserved_usd": usd(reserved)}

    async def _note(self, action: str, subject: str, **detail: Any) -> None:
        await self.store.append(Entry(at=self._wall(), actor=self.actor, action=action, subject=subject, detail=detail))


def _told(record: KeyRecord) -> dict[str, Any]:
    """What was given, for the audit log: what is not the default."""
    known = msgspec.to_builtins(record)
    return {name: value for name, value in known.items() if name not in ("id", "created")}
