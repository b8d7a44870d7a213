"""Vectors that were computed once are read from disk the next time: one SQLite file per encoder digest.

Safe with several processes (SQLite locks), safe to kill (each batch is one transaction), and never a reason to fail: a damaged
file is thrown away and filled again. A hit has the very bytes that the encoder gave.
"""

from __future__ import annotations

import hashlib
import os
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from junctor.encoders.base import Encoder
from junctor.errors import UserError

Progress = Callable[[int, int], None]

BATCH = 256
_KEYS_PER_QUERY = 500
_WAIT_S = 60.0


def cache_folder(*parts: str) -> Path:
    """Where caches live: $XDG_CACHE_HOME/junctor/…, else ~/.cache/junctor/…. Not created here."""
    home = os.environ.get("XDG_CACHE_HOME", "")
    return (Path(home) if home else Path.home() / ".cache").joinpath("junctor", *parts)


class EmbeddingCache:
    """An encoder whose vectors are kept on disk, by default under the user's cache folder."""

    def __init__(self, encoder: Encoder, folder: Path | None = None) -> None:
        self.encoder = encoder
        self.path = (folder or cache_folder("embeddings")) / f"{encoder.name}-{encoder.digest}.sqlite"

    def encode(self, texts: Sequence[str], progress: Progress | None = None) -> NDArray[np.float32]:
        """[N, dim] for N texts; `progress(done, total)` is called after each batch, with what was on disk counted first.

        Raises UserError when the folder cannot be written.
        """
        for again in (False, True):
            try:
                return self._encode(texts, progress or _silent)
            except sqlite3.OperationalError as error:
                raise UserError(
                    f"the embedding cache cannot be used: {error}",
                    field=str(self.path),
                    fix="set XDG_CACHE_HOME to a folder that can be written",
                ) from error
            except sqlite3.DatabaseError:  # damaged: what it held can be computed again
                if again:
                    raise
                self._discard()
        raise AssertionError

    def _encode(self, texts: Sequence[str], progress: Progress) -> NDArray[np.float32]:
        out = np.empty((len(texts), self.encoder.dim), np.float32)
        places: dict[bytes, list[int]] = {}
        for i, text in enumerate(texts):
            places.setdefault(_key(text), []).append(i)
        with self._database() as database:
            done = 0
            for key, vector in self._stored(database, list(places)):
                rows = places.pop(key)
                out[rows] = vector
                done += len(rows)
            progress(done, len(texts))
            missing = list(places.items())
            for start in range(0, len(missing), BATCH):
                batch = missing[start : start + BATCH]
                vectors = self.encoder.encode([texts[rows[0]] for _, rows in batch])
                self._keep(database, [key for key, _ in batch], vectors)
                for (_, rows), vector in zip(batch, vectors, strict=True):
                    out[rows] = vector
                    done += len(rows)
                progress(done, len(texts))
        return out

    @contextmanager
    def _database(self) -> Iterator[sqlite3.Connection]:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise sqlite3.OperationalError(str(error)) from error
        database = sqlite3.connect(self.path, timeout=_WAIT_S)
        try:
            database.execute("CREATE TABLE IF NOT EXISTS vectors (key BLOB PRIMARY KEY, vector BLOB NOT NULL)")
            yield database
        finally:
            database.close()

    def _stored(self, database: sqlite3.Connection, keys: Sequence[bytes]) -> Iterator[tuple[bytes, NDArray[np.float32]]]:
        for start in range(0, len(keys), _KEYS_PER_QUERY):
            some = keys[start : start + _KEYS_PER_QUERY]
            marks = ",".join("?" * len(some))
            query = f"SELECT key, vector FROM vectors WHERE key IN ({marks})"  # noqa: S608  only question marks are added
            for key, raw in database.execute(query, some):
                if len(raw) != 4 * self.encoder.dim:
                    raise sqlite3.DatabaseError("a vector of the wrong length")
                yield key, np.frombuffer(raw, np.float32)

    def _keep(self, database: sqlite3.Connection, keys: Sequence[bytes], vectors: NDArray[np.float32]) -> None:
        rows = [(key, vector.astype(np.float32, copy=False).tobytes()) for key, vector in zip(keys, vectors, strict=True)]
        with database:
            database.executemany("INSERT OR IGNORE INTO vectors VALUES (?, ?)", rows)

    def _discard(self) -> None:
        for ending in ("", "-journal"):
            with suppress(FileNotFoundError):
                Path(f"{self.path}{ending}").unlink()


def _key(text: str) -> bytes:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def _silent(done: int, total: int) -> None:
    del done, total
