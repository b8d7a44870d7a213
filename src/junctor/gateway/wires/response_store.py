"""Answers of the Responses API that can be gone on with: bounded, for a while, each its owner's alone.

On disk the workers of one machine share them. Entries hold prompts and answers, so the file is readable by its owner only, and
they end after `ttl_s` seconds or when the newest need the room.
"""

from __future__ import annotations

import os
import sqlite3
import time
from abc import ABC, abstractmethod
from collections import OrderedDict
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import NamedTuple

from junctor.config import Config
from junctor.errors import ConfigError, StateUnavailable

SWEEP_EVERY = 64
BUSY_S = 0.5
OVERHEAD_BYTES = 200
SCHEMA = """
CREATE TABLE IF NOT EXISTS responses(
    id TEXT PRIMARY KEY, owner TEXT NOT NULL, at REAL NOT NULL, bytes INTEGER NOT NULL,
    body BLOB NOT NULL, turns BLOB NOT NULL);
CREATE INDEX IF NOT EXISTS responses_by_age ON responses(at, bytes);
"""


class Kept(NamedTuple):
    """A response as it was answered, and the turns of its conversation up to and with it; both JSON."""

    body: bytes
    turns: bytes


class Bounds(NamedTuple):
    """How much is kept, and for how long."""

    entries: int = 10_000
    megabytes: float = 64.0
    ttl_s: float = 7 * 86400.0


BOUNDS = Bounds()


class ResponseStore(ABC):
    """Keeps responses by owner and id. Somebody else's is as good as none."""

    @abstractmethod
    def keep(self, owner: str, id_: str, kept: Kept) -> bool:
        """Keep one; whether it was kept."""

    @abstractmethod
    def find(self, owner: str, id_: str) -> Kept | None:
        """One that was kept. Raises StateUnavailable."""

    @abstractmethod
    def drop(self, owner: str, id_: str) -> bool:
        """Forget one; whether there was one. Raises StateUnavailable."""

    def close(self) -> None:
        """Write back and close."""


class MemoryStore(ResponseStore):
    """In this process only, the least recently used go first."""

    def __init__(self, bounds: Bounds = BOUNDS, clock: Callable[[], float] = time.monotonic) -> None:
        self._bounds = bounds
        self._clock = clock
        self._kept: OrderedDict[tuple[str, str], tuple[float, Kept]] = OrderedDict()
        self._bytes = 0

    def keep(self, owner: str, id_: str, kept: Kept) -> bool:
        """Keep one, and let the oldest go where there is no room."""
        size = _size(kept)
        most = self._bounds.megabytes * 1e6
        if size > most or self._bounds.entries < 1:
            return False
        self.drop(owner, id_)
        self._kept[owner, id_] = (self._clock() + self._bounds.ttl_s, kept)
        self._bytes += size
        while len(self._kept) > self._bounds.entries or self._bytes > most:
            self._bytes -= _size(self._kept.popitem(last=False)[1][1])
        return True

    def find(self, owner: str, id_: str) -> Kept | None:
        """One that has not ended."""
        found = self._kept.get((owner, id_))
        if found is None:
            return None
        if found[0] <= self._clock():
            self.drop(owner, id_)
            return None
        self._kept.move_to_end((owner, id_))
        return found[1]

    def drop(self, owner: str, id_: str) -> bool:
        """Forget one."""
        found = self._kept.pop((owner, id_), None)
        if found is not None:
            self._bytes -= _size(found[1])
        return found is not None


def _size(kept: Kept) -> int:
    return len(kept.body) + len(kept.turns) + OVERHEAD_BYTES


class SQLiteStore(ResponseStore):
    """In a file that the workers of one machine share. What is kept is committed when `keep` returns.

    The bounds are held every 64 keepings of a worker, so they may be exceeded by as many entries for each.
    """

    def __init__(self, path: Path | str, bounds: Bounds = BOUNDS, clock: Callable[[], float] = time.time) -> None:
        self._path = Path(path)
        self._bounds = bounds
        self._clock = clock
        self._open: sqlite3.Connection | None = None
        self._process = 0
        self._kept = 0

    def keep(self, owner: str, id_: str, kept: Kept) -> bool:
        """Write it down; False when the disk is full, the file is locked for too long, or the entry is too large."""
        size = _size(kept)
        if size > self._bounds.megabytes * 1e6 or self._bounds.entries < 1:
            return False
        row = (id_, owner, self._clock(), size, kept.body, kept.turns)
        try:
            with self._connection() as connection:
                connection.execute("INSERT OR REPLACE INTO responses VALUES(?, ?, ?, ?, ?, ?)", row)
            self._kept += 1
            if self._kept % SWEEP_EVERY == 0:
                self.sweep()
        except sqlite3.Error:
            return False
        return True

    def find(self, owner: str, id_: str) -> Kept | None:
        """Read it; raises StateUnavailable when the file cannot be read."""
        query = "SELECT body, turns FROM responses WHERE id = ? AND owner = ? AND at > ?"
        try:
            row = self._connection().execute(query, (id_, owner, self._clock() - self._bounds.ttl_s)).fetchone()
        except sqlite3.Error as error:
            raise _unavailable() from error
        return None if row is None else Kept(*row)

    def drop(self, owner: str, id_: str) -> bool:
        """Delete it; raises StateUnavailable when the file cannot be written."""
        try:
            with self._connection() as connection:
                done = connection.execute("DELETE FROM responses WHERE id = ? AND owner = ?", (id_, owner))
        except sqlite3.Error as error:
            raise _unavailable() from error
        return done.rowcount > 0

    def sweep(self) -> None:
        """Delete what has ended, then the oldest until the bounds hold."""
        with self._connection() as connection:
            connection.execute("DELETE FROM responses WHERE at <= ?", (self._clock() - self._bounds.ttl_s,))
            count, total = connection.execute("SELECT count(*), total(bytes) FROM responses").fetchone()
            most = self._bounds.megabytes * 1e6
            if count <= self._bounds.entries and total <= most:
                return
            going = []
            for id_, size in connection.execute("SELECT id, bytes FROM responses ORDER BY at, id"):
                if count <= self._bounds.entries and total <= most:
                    break
                going.append((id_,))
                count, total = count - 1, total - size
            connection.executemany("DELETE FROM responses WHERE id = ?", going)

    def close(self) -> None:
        """Close the file."""
        connection, self._open = self._open, None
        if connection is not None and self._process == os.getpid():
            connection.close()

    def _connection(self) -> sqlite3.Connection:
        """The connection of this process: a connection must not be shared with a forked child."""
        if self._open is None or self._process != os.getpid():
            with suppress(OSError):  # sqlite says better what is wrong with a path
                os.close(os.open(self._path, os.O_CREAT | os.O_RDWR, 0o600))
            connection = sqlite3.connect(self._path, timeout=BUSY_S)
            connection.execute("PRAGMA journal_mode = WAL")
            connection.execute("PRAGMA synchronous = NORMAL")
            connection.executescript(SCHEMA)
            self._open, self._process = connection, os.getpid()
        return self._open


def _unavailable() -> StateUnavailable:
    return StateUnavailable("the store of responses does not answer", fix="try again, or send the whole conversation")


def build_store(config: Config) -> ResponseStore:
    """What `[responses]` says; a file is made when the first response is kept. Raises ConfigError."""
    section = config.responses
    for name in ("ttl_s", "entries", "megabytes"):
        if not 0 < getattr(section, name) < float("inf"):
            raise ConfigError("is not a number above 0", field=f"responses.{name}", fix="leave it out for the default")
    bounds = Bounds(section.entries, section.megabytes, section.ttl_s)
    keep = section.keep
    if keep == "auto":
        keep = "file" if config.journal.path and config.journal.text == "full" else "memory"
    if keep == "file":
        return SQLiteStore(_file(config), bounds)
    return MemoryStore(bounds if keep == "memory" else bounds._replace(entries=0))


def _file(config: Config) -> Path:
    scheme, _, name = config.state.url.partition(":")
    beside = Path(name).with_suffix(".responses.db") if scheme == "sqlite" else "junctor.responses.db"
    path = config.path(config.responses.path or str(beside))
    if not path.parent.is_dir():
        raise ConfigError(f"lies in {path.parent}, which is no folder", field="responses.path", fix="name a file in a folder")
    return path
