"""The store on this machine: what must last in SQLite, what is counted on every call in a mapped file beside it.

One worker at a time (whoever holds the lock) writes what was spent from the counters to SQLite, once a second, and clears up
after workers that died. A `kill -9` loses nothing that was counted; a power cut at most the last second.
"""

from __future__ import annotations

import contextlib
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from junctor.errors import ConfigError, StateUnavailable
from junctor.tenancy.accounts import Account, Refusal, Room, Spent, usd
from junctor.tenancy.counters import VERSION, Counters, try_lock
from junctor.tenancy.keys import KeyRecord
from junctor.tenancy.stores import Entry, Store, Ticket

log = logging.getLogger("junctor.tenancy")
FLUSH_EVERY_S = 1.0
SCHEMA = """
CREATE TABLE IF NOT EXISTS keys (id TEXT PRIMARY KEY, record BLOB NOT NULL, made REAL NOT NULL) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS hashes (hash BLOB PRIMARY KEY, key TEXT NOT NULL, until REAL) WITHOUT ROWID;
CREATE INDEX IF NOT EXISTS hashes_key ON hashes (key);
CREATE TABLE IF NOT EXISTS accounts (cell INTEGER PRIMARY KEY AUTOINCREMENT, name TEXT NOT NULL UNIQUE);
CREATE TABLE IF NOT EXISTS spent (
    account TEXT, period INTEGER, nano INTEGER NOT NULL, seen REAL NOT NULL, PRIMARY KEY (account, period)) WITHOUT ROWID;
CREATE TABLE IF NOT EXISTS audit (number INTEGER PRIMARY KEY AUTOINCREMENT, entry BLOB NOT NULL);
CREATE TRIGGER IF NOT EXISTS audit_stays BEFORE DELETE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
CREATE TRIGGER IF NOT EXISTS audit_as_is BEFORE UPDATE ON audit BEGIN SELECT RAISE(ABORT, 'the audit log only grows'); END;
"""
_encode = msgspec.json.Encoder().encode
_record = msgspec.json.Decoder(KeyRecord).decode
_entry = msgspec.json.Decoder(Entry).decode


def _open(path: Path) -> sqlite3.Connection:
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        os.close(os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        db = sqlite3.connect(path, timeout=5.0, isolation_level=None, check_same_thread=False)
        db.execute("PRAGMA journal_mode=WAL")
        db.execute("PRAGMA synchronous=NORMAL")
        db.executescript(SCHEMA)
    except (OSError, sqlite3.Error) as error:
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise ConfigError(
            f"cannot be opened: {reason.lower()}", field=str(path), fix="name a file in a folder that you may write to"
        ) from error
    return db


@contextlib.contextmanager
def _answering() -> Iterator[None]:
    try:
        yield
    except sqlite3.Error as error:
        raise StateUnavailable(f"its file does not answer: {error}", field="state.url", fix="look at its disk") from error


class LocalStore(Store):
    """SQLite at `path`, counters in the folder `path`.counters. Use it from one thread (or one event loop).

    `flush_s` is how often what was spent is written to SQLite; 0 leaves that to others (the command line).
    """

    fresh_s = float("inf")

    def __init__(self, path: Path, *, flush_s: float = FLUSH_EVERY_S, wall: Callable[[], float] = time.time) -> None:
        self.path = path
        self._wall = wall
        self._flush_s = flush_s
        self._folder = path.with_name(path.name + ".counters")
        self._db = _open(path)
        self.counters = Counters(self._folder)
        self._process = os.getpid()
        self._flusher: Flusher | None = None

    def _begin(self) -> None:
        """At the first call, and again in a forked child: a column and a flusher of one's own."""
        forked = self._process != os.getpid()
        if forked:
            self._process, self._db = os.getpid(), _open(self.path)
        self.counters.join()
        if self._flush_s and (self._flusher is None or forked):
            self._flusher = Flusher(self.path, self._folder, self._flush_s, self._wall)
            self._flusher.start()

    # steps of a call

    @property
    def version(self) -> int:
        """Read from the mapped file: a change is seen at once by every worker."""
        return self.counters.cells[VERSION]

    def find(self, digest: bytes, now: float) -> KeyRecord | None:
        """One look at SQLite, some twenty microseconds."""
        if self._process != os.getpid():
            self._begin()
        with _answering():
            row = self._db.execute(
                "SELECT record FROM keys JOIN hashes ON key = id WHERE hash = ? AND (until IS NULL OR until > ?)", (digest, now)
            ).fetchone()
        return None if row is None else _record(row[0])

    def enter(self, ticket: Ticket, now: float) -> Room | Refusal:
        """See Store."""
        if not self.counters.joined or self._process != os.getpid():
            self._begin()
        room, ticket.second, ticket.reserved = self.counters.enter(ticket.accounts, ticket.tokens, ticket.ceiling, now)
        return room

    def reserve(self, ticket: Ticket, amount: int, now: float) -> Refusal | None:
        """See Store."""
        refusal = self.counters.reserve(ticket.accounts, amount, now)
        if refusal is None:
            ticket.reserved += amount
        return refusal

    def settle(self, ticket: Ticket, cost: int, tokens: int, now: float) -> None:
        """See Store."""
        error = tokens - ticket.tokens
        if not (cost or ticket.reserved or error):
            return
        crossed = self.counters.settle(ticket.accounts, ticket.reserved, cost, error, ticket.second, now)
        if crossed and self.on_crossing is not None:
            for crossing in crossed:
                self.on_crossing(crossing)

    def free(self, account: Account, now: float) -> float:
        """See Store; as it was at the last call."""
        return self.counters.free(account, now)

    # what people do

    def _changed(self) -> None:
        self.counters.cells[VERSION] = time.time_ns()

    async def create(self, record: KeyRecord, digest: bytes) -> None:
        """See Store."""
        with _answering(), self._transaction():
            self._db.execute("INSERT INTO keys VALUES (?, ?, ?)", (record.id, _encode(record), record.created))
            self._db.execute("INSERT INTO hashes VALUES (?, ?, NULL)", (digest, record.id))
        self._changed()

    @contextlib.contextmanager
    def _transaction(self) -> Iterator[None]:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
        except BaseException:
            self._db.execute("ROLLBACK")
            raise
        self._db.execute("COMMIT")

    async def keys(self) -> list[KeyRecord]:
        """See Store."""
        with _answering():
            return [_record(row[0]) for row in self._db.execute("SELECT record FROM keys ORDER BY made, id")]

    async def update(self, record: KeyRecord) -> None:
        """See Store."""
        with _answering():
            self._db.execute("UPDATE keys SET record = ? WHERE id = ?", (_encode(record), record.id))
        self._changed()

    async def rotate(self, record: KeyRecord, digest: bytes, until: float) -> None:
        """See Store."""
        with _answering(), self._transaction():
            self._db.execute(
                "UPDATE hashes SET until = ? WHERE key = ? AND (until IS NULL OR until > ?)", (until, record.id, until)
            )
            self._db.execute("INSERT INTO hashes VALUES (?, ?, NULL)", (digest, record.id))
            self._db.execute("UPDATE keys SET record = ? WHERE id = ?", (_encode(record), record.id))
        self._changed()

    async def spent(self, names: Sequence[str]) -> list[Spent]:
        """See Store."""
        with _answering():
            found = []
            for name in names:
                rows = self._db.execute("SELECT period, nano FROM spent WHERE account = ?", (name,)).fetchall()
                known = {period: Spent(name, period, amount) for period, amount in rows}
                cell = self._db.execute("SELECT cell FROM accounts WHERE name = ?", (name,)).fetchone()
                if cell is not None:
                    period, amount, held = self.counters.spent(self.counters.add_cell(cell[0]))
                    known[period] = Spent(name, period, amount, held)
                found += [known[period] for period in sorted(known) if period]
        return found

    async def append(self, entry: Entry) -> None:
        """See Store."""
        with _answering():
            _append(self._db, entry)

    def note(self, entry: Entry) -> None:
        """Written at once: it is rare."""
        try:
            _append(self._db, entry)
        except sqlite3.Error as error:
            log.error("an entry of the audit log was not written (%s): %s", entry.action, error)

    async def entries(self, most: int) -> list[Entry]:
        """See Store."""
        with _answering():
            rows = self._db.execute("SELECT entry FROM audit ORDER BY number DESC LIMIT ?", (most,)).fetchall()
        return [_entry(row[0]) for row in reversed(rows)]

    def place(self, name: str) -> int:
        """The cell of an account, made when it is new; what SQLite knows of its spending is put back if the file was lost."""
        with _answering():
            row = self._db.execute("SELECT cell FROM accounts WHERE name = ?", (name,)).fetchone()
            if row is None:
                self._db.execute("INSERT OR IGNORE INTO accounts (name) VALUES (?)", (name,))
                row = self._db.execute("SELECT cell FROM accounts WHERE name = ?", (name,)).fetchone()
            at = self._cell(row[0])
            last = self._db.execute(
                "SELECT period, nano FROM spent WHERE account = ? ORDER BY seen DESC LIMIT 1", (name,)
            ).fetchone()
        if last is not None:
            self.counters.restore(at, *last)
        return at

    def _cell(self, number: int) -> int:
        try:
            return self.counters.add_cell(number)
        except OSError as error:
            raise StateUnavailable(
                f"its file does not grow: {error.strerror}", field="state.url", fix="free some space"
            ) from error

    async def aclose(self) -> None:
        """Write back what was spent, and close."""
        if self._flusher is not None:
            self._flusher.stop()
            self._flusher = None
        self.counters.close()
        self._db.close()


def _append(db: sqlite3.Connection, entry: Entry) -> None:
    db.execute("INSERT INTO audit (entry) VALUES (?)", (_encode(entry),))


class Flusher(threading.Thread):
    """Writes what was spent to SQLite, in a thread with files of its own; of all workers of a machine only one does it."""

    def __init__(self, path: Path, folder: Path, every_s: float, wall: Callable[[], float]) -> None:
        super().__init__(name="junctor-tenancy-flush", daemon=True)
        self._path, self._folder, self._every_s, self._wall = path, folder, every_s, wall
        self._stopping = threading.Event()
        self._written: dict[int, tuple[int, int]] = {}
        self._names: dict[int, str] = {}

    def run(self) -> None:
        """Until stopped, and once more then."""
        from fcntl import flock

        counters, db, turn = Counters(self._folder), _open(self._path), -1
        try:
            while True:
                last = self._stopping.wait(self._every_s)
                turn = turn if turn >= 0 else try_lock(self._folder / "flusher", flock)
                if turn >= 0 or last:
                    self._once(counters, db)
                if last:
                    return
        finally:
            counters.close()
            db.close()
            if turn >= 0:
                os.close(turn)

    def _once(self, counters: Counters, db: sqlite3.Connection) -> None:
        try:
            for worker, amount in counters.bury():
                detail = {"worker": worker, "reserved_usd": usd(amount)}
                _append(db, Entry(at=self._wall(), actor="gateway", action="reservations.expired", detail=detail))
            self.write(counters, db)
        except (sqlite3.Error, OSError) as error:  # shown in the log, tried again in a second: the counters have it all
            self._written.clear()
            log.error("what was spent was not written to %s: %s", self._path.name, error)

    def write(self, counters: Counters, db: sqlite3.Connection) -> None:
        """Those accounts that have changed."""
        rows = []
        for cell, period, amount in counters.changed(self._written):
            name = self._names.get(cell) or self._look(db, cell)
            if name:
                rows.append((name, period, amount, self._wall()))
        if rows:
            db.execute("BEGIN IMMEDIATE")
            db.executemany(
                "INSERT INTO spent VALUES (?, ?, ?, ?) ON CONFLICT (account, period)"
                " DO UPDATE SET nano = max(nano, excluded.nano), seen = excluded.seen",
                rows,
            )
            db.execute("COMMIT")

    def _look(self, db: sqlite3.Connection, cell: int) -> str:
        row = db.execute("SELECT name FROM accounts WHERE cell = ?", (cell,)).fetchone()
        if row is not None:
            self._names[cell] = row[0]
        return self._names.get(cell, "")

    def stop(self) -> None:
        """Write once more and end."""
        self._stopping.set()
        self.join(5.0)
