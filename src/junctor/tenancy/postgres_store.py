"""The store in PostgreSQL: one function, and so one statement, for each step of a call. Needs the extra `postgres`.

Everything lives in the schema `junctor`, made at the first connection (postgres.sql). Accounts are locked in the order of their
names, so that no two calls wait for each other.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Sequence
from importlib import resources
from typing import Any, Literal

import msgspec

from junctor.errors import MissingExtra
from junctor.tenancy.accounts import PLENTY, Account, Crossing, Refusal, Room, Spent
from junctor.tenancy.keys import KeyRecord
from junctor.tenancy.remote import ANSWER_S, Booking, Entered, RemoteStore
from junctor.tenancy.stores import Entry, Ticket

VERSION = 1
CONNECTIONS = 16
KEPT_S = 86_400.0
LOCK = 0x6A756E63
KINDS = ("", "requests", "tokens")
_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(KeyRecord).decode
_entry = msgspec.json.Decoder(Entry).decode


def _column(accounts: Sequence[Account], name: str) -> list[Any]:
    return [getattr(account, name) for account in accounts]


class PostgresStore(RemoteStore):
    """Keys, counters and audit log in a PostgreSQL database."""

    def __init__(
        self, url: str, *, on_failure: Literal["refuse", "allow"] = "refuse", wall: Callable[[], float] = time.time
    ) -> None:
        super().__init__(on_failure=on_failure, wall=wall)
        try:
            import asyncpg
        except ImportError as error:
            raise MissingExtra("PostgreSQL needs an extra", field="state.url", fix="pip install 'junctor[postgres]'") from error
        self._asyncpg: Any = asyncpg
        self.failures = (asyncpg.PostgresError, asyncpg.InterfaceError, OSError, TimeoutError)
        self._url = url
        self._pool: Any = None
        self._opening = asyncio.Lock()

    async def _connected(self) -> Any:
        """The pool; at the first time the tables are made too, by one of all workers."""
        if self._pool is None:
            async with self._opening:
                if self._pool is None:
                    pool = await self._asyncpg.create_pool(
                        self._url, min_size=1, max_size=CONNECTIONS, timeout=ANSWER_S, command_timeout=ANSWER_S
                    )
                    try:
                        await _make_tables(pool, self._wall())
                    except BaseException:
                        pool.terminate()
                        raise
                    self._pool = pool
        return self._pool

    async def _value(self, statement: str, *values: Any) -> Any:
        return await (await self._connected()).fetchval(statement, *values)

    async def _find(self, digest: bytes, now: float) -> KeyRecord | None:
        found = await self._value(
            "SELECT record FROM junctor.keys JOIN junctor.hashes ON key = id WHERE hash = $1 AND (until IS NULL OR until > $2)",
            digest,
            now,
        )
        return None if found is None else _record(found)

    async def _enter(self, ticket: Ticket, ids: Sequence[int], now: float) -> Entered:
        accounts = ticket.accounts
        found = await self._value(
            "SELECT junctor.enter($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12, $13)",
            now,
            int(now),
            ticket.tokens,
            ticket.ceiling,
            PLENTY,
            ticket.id,
            ticket.expires,
            *(_column(accounts, name) for name in ("name", "requests", "tokens", "budget", "soft")),
            list(ids),
        )
        if not found[0]:
            return Entered(Refusal(KINDS[found[1]], accounts[found[2] - 1].name, found[3] / 1000, found[4]))
        return Entered(Room(found[1], found[2], found[3], bool(found[4])), found[5], found[6], tuple(found[7:]))

    async def _reserve(self, ticket: Ticket, amount: int, ids: Sequence[int], now: float) -> Refusal | None:
        accounts = ticket.accounts
        found = await self._value(
            "SELECT junctor.reserve($1, $2, $3, $4, $5, $6, $7)",
            now,
            amount,
            ticket.id,
            ticket.expires,
            _column(accounts, "name"),
            _column(accounts, "budget"),
            list(ids),
        )
        return None if found[0] else Refusal("budget", accounts[found[1] - 1].name, 0.0, found[2])

    async def _book(self, bookings: Sequence[Booking]) -> list[Crossing]:
        crossed: list[Crossing] = []
        pool = await self._connected()
        async with pool.acquire() as connection:
            for booking in bookings:  # each a transaction: two workers' batches must not wait for each other's accounts
                ids = self._calendar.ids(booking.now)
                accounts = booking.accounts
                found = await connection.fetchval(
                    "SELECT junctor.book($1, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11, $12)",
                    self.worker,
                    booking.number,
                    booking.now,
                    booking.ticket,
                    booking.cost,
                    booking.token_error,
                    booking.second,
                    *(_column(accounts, name) for name in ("name", "tokens", "budget", "soft")),
                    [ids[a.period] for a in accounts],
                )
                for kind, place, spent in zip(found[::3], found[1::3], found[2::3], strict=True):
                    crossed.append(Crossing(("", "soft", "hard")[kind], accounts[place - 1].name, spent))
        return crossed

    # what people do

    async def create(self, record: KeyRecord, digest: bytes) -> None:
        """See Store."""
        await self._asked(self._create(record, digest))

    async def _create(self, record: KeyRecord, digest: bytes) -> None:
        pool = await self._connected()
        async with pool.acquire() as connection, connection.transaction():
            text = _encode(record).decode()
            await connection.execute("INSERT INTO junctor.keys VALUES ($1, $2, $3)", record.id, text, record.created)
            await connection.execute("INSERT INTO junctor.hashes VALUES ($1, $2, NULL)", digest, record.id)

    async def keys(self) -> list[KeyRecord]:
        """See Store."""
        rows = await self._asked(self._rows("SELECT record FROM junctor.keys ORDER BY made, id"))
        return [_record(row[0]) for row in rows]

    async def _rows(self, statement: str, *values: Any) -> list[Any]:
        found: list[Any] = await (await self._connected()).fetch(statement, *values)
        return found

    async def update(self, record: KeyRecord) -> None:
        """See Store."""
        text = _encode(record).decode()
        await self._asked(self._rows("UPDATE junctor.keys SET record = $1 WHERE id = $2", text, record.id))

    async def rotate(self, record: KeyRecord, digest: bytes, until: float) -> None:
        """See Store."""
        await self._asked(self._rotate(record, digest, until))

    async def _rotate(self, record: KeyRecord, digest: bytes, until: float) -> None:
        pool = await self._connected()
        async with pool.acquire() as connection, connection.transaction():
            await connection.execute(
                "UPDATE junctor.hashes SET until = $1 WHERE key = $2 AND (until IS NULL OR until > $1)", until, record.id
            )
            await connection.execute("INSERT INTO junctor.hashes VALUES ($1, $2, NULL)", digest, record.id)
            text = _encode(record).decode()
            await connection.execute("UPDATE junctor.keys SET record = $1 WHERE id = $2", text, record.id)

    async def spent(self, names: Sequence[str]) -> list[Spent]:
        """See Store."""
        rows = await self._asked(
            self._rows(
                "SELECT account, period, nano, 0::bigint FROM junctor.spent s WHERE account = ANY($1)"
                " AND NOT EXISTS (SELECT 1 FROM junctor.account a WHERE a.name = s.account AND a.period = s.period)"
                " UNION ALL SELECT name, period, spent, junctor.held(name, $2) FROM junctor.account"
                " WHERE name = ANY($1) AND period > 0 ORDER BY 1, 2",
                list(names),
                self._wall(),
            )
        )
        return [Spent(*row) for row in rows]

    async def _append(self, entry: Entry) -> None:
        await self._rows("INSERT INTO junctor.audit (entry) VALUES ($1)", _encode(entry).decode())

    async def entries(self, most: int) -> list[Entry]:
        """See Store."""
        rows = await self._asked(self._rows("SELECT entry FROM junctor.audit ORDER BY number DESC LIMIT $1", most))
        return [_entry(row[0]) for row in reversed(rows)]

    async def _close(self) -> None:
        if self._pool is not None:
            self._pool.terminate()
            self._pool = None


async def _make_tables(pool: Any, now: float) -> None:
    text = resources.files("junctor.tenancy").joinpath("postgres.sql").read_text("utf-8")
    async with pool.acquire() as connection, connection.transaction():
        await connection.execute("SELECT pg_advisory_xact_lock($1)", LOCK)
        there = await connection.fetchval("SELECT to_regclass('junctor.version') IS NOT NULL")
        if not there or await connection.fetchval("SELECT max(number) FROM junctor.version") != VERSION:
            await connection.execute(text.replace("{version}", str(VERSION)))
        # What workers that are long gone have left behind.
        await connection.execute("DELETE FROM junctor.hold WHERE expires < $1", now - KEPT_S)
        await connection.execute("DELETE FROM junctor.worker WHERE seen < $1", now - 7 * KEPT_S)
