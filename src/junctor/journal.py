"""The one durable log of Decisions and Outcomes: append-only, crash-safe, readable with `less`.

One record is one line: eight hex digits of CRC-32, a space, the record as JSON. A record is acknowledged when `append` returns,
and it is one `write` to a file opened for appending: so a process that is killed at any byte leaves at most one torn line, its
own unacknowledged one, and several processes may write one file. Opening closes a torn last line; reading skips and counts
lines whose checksum fails. Nothing is ever rewritten.
"""

from __future__ import annotations

import contextlib
import hashlib
import logging
import os
import threading
import zlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Literal, Self

import msgspec
from msgspec import Struct, field

from junctor.errors import ConfigError, JournalError
from junctor.types import NO_CONSTRAINTS, Attempt, Constraints, Decision, Outcome

log = logging.getLogger("junctor.journal")
Fsync = Literal["never", "interval", "always"]
TextMode = Literal["full", "digest", "none"]
FSYNC_EVERY_S = 1.0


class DecisionRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="decision", omit_defaults=True):
    """A decision, written before its plan runs. `at` is Unix seconds; `refusals` says why targets were filtered out.

    `key` is the id of the caller's key, never the key. Where the alias has trials that take a share, `trial` names them (joined
    by commas on the side of the current policy), `side` says which policy decided, and `unit` is a digest of what is kept
    together on one side ("" when that is the single request). `constraints` are what the caller demanded.
    """

    at: float
    decision: Decision
    alias: str = ""
    tenant: str = ""
    key: str = ""
    text: str = ""
    labels: Mapping[str, str] = field(default_factory=dict)
    targets: tuple[str, ...] = ()
    refusals: Mapping[str, str] = field(default_factory=dict)
    constraints: Constraints = NO_CONSTRAINTS
    trial: str = ""
    side: Literal["", "current", "candidate"] = ""
    unit: str = ""


class OutcomeRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="outcome", omit_defaults=True):
    """What came of decision `id`: the target that answered ("" when none did), every attempt, and the billed total.

    `steps` is what a plan that looks at answers did, a sentence each: which answers were accepted or not, and why.
    """

    at: float
    id: str
    target: str = ""
    outcome: Outcome = Outcome()
    attempts: tuple[Attempt, ...] = ()
    error: str = ""
    steps: tuple[str, ...] = ()


class FeedbackRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="feedback", omit_defaults=True):
    """What somebody said later about decision `id`; a later record overrides an earlier one, field by field."""

    at: float
    id: str
    outcome: Outcome = Outcome()
    comment: str = ""


class ShadowRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="shadow", omit_defaults=True):
    """What the candidate of a trial would have done with the request of decision `id`: nobody acted on it.

    `why` is set instead of `target` where it could not decide.
    """

    at: float
    id: str
    trial: str
    target: str = ""
    propensity: float = 1.0
    predicted: Outcome = Outcome()
    policy: str = ""
    version: str = ""
    why: str = ""


class NoteRecord(Struct, frozen=True, kw_only=True, tag_field="kind", tag="note", omit_defaults=True):
    """Something that happened beside the requests, for whoever audits: a policy was updated, taken back, …

    `about` names what it concerns (`aliases.auto`), `event` is a word, `figures` are what it was judged by.
    """

    at: float
    about: str
    event: str
    text: str = ""
    figures: Mapping[str, float] = field(default_factory=dict)


Record = DecisionRecord | OutcomeRecord | FeedbackRecord | ShadowRecord | NoteRecord
_encoder = msgspec.json.Encoder()
_decoder: msgspec.json.Decoder[Record] = msgspec.json.Decoder(Record)


def encode(record: Record) -> bytes:
    """The JSON of a record."""
    return _encoder.encode(record)


def decode(body: bytes) -> Record:
    """The inverse; raises msgspec.DecodeError."""
    return _decoder.decode(body)


def record_id(record: Record) -> str:
    """The decision that a record belongs to; "" for a note."""
    if isinstance(record, DecisionRecord):
        return record.decision.id
    return "" if isinstance(record, NoteRecord) else record.id


class Journal:
    """Appends records to one file.

    fsync   "never" leaves writing back to the system; "interval" (default) does it every second from a thread of its own;
            "always" before each acknowledgement. All three survive the death of the process, the last also a power cut.
    text    what is kept of prompts: "full" (needed to learn from the journal), "digest" (SHA-256, groups repeats) or "none".
    """

    def __init__(self, path: Path | str, *, fsync: Fsync = "interval", text: TextMode = "full") -> None:
        self.path = Path(path)
        self.fsync = fsync
        self.text = text
        self._lock = threading.Lock()
        self._dirty = threading.Event()
        self._closed = threading.Event()
        self._torn = False
        self._users = 1
        self._soon: Callable[[Callable[[], None]], object] | None = None
        self._lines: list[bytes] = []
        self._failed = False
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._fd = os.open(self.path, os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC, 0o600)
        except OSError as error:
            raise ConfigError(
                f"cannot be opened: {error.strerror}", field=str(path), fix="name a file in a folder you may write to"
            ) from error
        self._torn = self._ends_torn()
        self._syncer: threading.Thread | None = None

    def _ends_torn(self) -> bool:
        size = os.fstat(self._fd).st_size
        return size > 0 and os.pread(self._fd, 1, size - 1) != b"\n"

    def append(self, record: Record) -> bytes:
        """Write one record; acknowledged on return. Its JSON as written; raises JournalError when that could not be done."""
        if self.text != "full" and isinstance(record, DecisionRecord) and record.text:
            record = msgspec.structs.replace(record, text=_hide(record.text, self.text))
        body = _encoder.encode(record)
        line = b"%08x %b\n" % (zlib.crc32(body), body)
        if self._soon is None:
            self._put(line)
            return body
        if self._failed:
            self._try_again()
        self._lines.append(line)
        if len(self._lines) == 1:
            self._soon(self._flush)
        return body

    def append_now(self, record: Record) -> None:
        """Write one record at once, from any thread, past what waits for the event loop. Raises JournalError."""
        body = _encoder.encode(record)
        self._put(b"%08x %b\n" % (zlib.crc32(body), body))

    def batch(self, soon: Callable[[Callable[[], None]], object] | None) -> None:
        """From now on, write what one turn of an event loop appends with one write: `soon` is the loop's `call_soon`.

        Whatever is handed to `soon` after `append` runs after the write, so an answer that leaves that way leaves when its
        records are in the file. None: write at once again. A write that fails is tried again at the next `append`, which
        raises then.
        """
        self.flush()
        self._soon = soon

    def flush(self) -> None:
        """Write what waits; raises JournalError and keeps it when that cannot be done."""
        lines = self._lines
        if lines:
            self._put(b"".join(lines))
            self._lines = []
            self._failed = False

    def _flush(self) -> None:
        try:
            self.flush()
        except JournalError as problem:
            if not self._failed:
                self._failed = True
                log.error("%d records wait to be written: %s", len(self._lines), problem)

    def _try_again(self) -> None:
        if self._lines:
            self.flush()
        self._failed = False

    def _put(self, lines: bytes) -> None:
        with self._lock:
            self._write(b"\n" + lines if self._torn else lines)
        if self.fsync == "always":
            self._sync()
        elif self.fsync == "interval" and not self._dirty.is_set():
            self._dirty.set()
            self._start_syncer()

    def _write(self, data: bytes) -> None:
        if self._closed.is_set():
            raise JournalError("is closed", field=str(self.path))
        self._torn = True
        try:
            written = os.write(self._fd, data)
            while written < len(data):
                written += os.write(self._fd, data[written:])
        except OSError as error:
            raise JournalError(
                f"cannot be written: {error.strerror}", field=str(self.path), fix="free some space or name another file"
            ) from error
        self._torn = False

    def _sync(self) -> None:
        try:
            os.fsync(self._fd)
        except OSError as error:
            raise JournalError(
                f"cannot be written back: {error.strerror}", field=str(self.path), fix="free some space or name another file"
            ) from error

    def _start_syncer(self) -> None:
        with self._lock:
            if self._syncer is None and not self._closed.is_set():
                self._syncer = threading.Thread(target=self._sync_forever, name="junctor-journal-fsync", daemon=True)
                self._syncer.start()

    def _sync_forever(self) -> None:
        while not self._closed.wait(FSYNC_EVERY_S):
            self._dirty.wait()
            if not self._closed.is_set():
                self._dirty.clear()
                with contextlib.suppress(OSError):  # a failing disk shows in the next append, where somebody can act on it
                    os.fsync(self._fd)

    def share(self) -> Self:
        """The same journal for one more user: it is closed when each of them has closed it."""
        with self._lock:
            self._users += 1
        return self

    def close(self) -> None:
        """Write back and close, when nobody else uses it; a second call does nothing."""
        with self._lock:
            self._users -= 1
            if self._closed.is_set() or self._users > 0:
                return
        self._soon = None
        self._flush()
        self._closed.set()
        self._dirty.set()
        if self._syncer is not None:
            self._syncer.join()
        with contextlib.suppress(OSError):
            os.fsync(self._fd)
        os.close(self._fd)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def _hide(text: str, mode: TextMode) -> str:
    if mode == "none":
        return ""
    return "sha256:" + hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def parse_line(line: bytes) -> Record | None:
    """The record of a line; None for one that is torn or is none."""
    body = line[9:].rstrip(b"\n")
    try:
        if line[8:9] == b" " and int(line[:8], 16) == zlib.crc32(body):
            return _decoder.decode(body)
    except (ValueError, msgspec.DecodeError):
        pass
    return None


class Reading:
    """Iterates the records of a journal, oldest first. `torn` counts the lines that had to be skipped so far."""

    def __init__(self, path: Path | str, *, containing: bytes = b"") -> None:
        self.path = Path(path)
        self.torn = 0
        self._containing = containing

    def __iter__(self) -> Iterator[Record]:
        self.torn = 0
        try:
            with self.path.open("rb") as file:
                for line in file:
                    yield from self._records(line)
        except OSError as error:
            raise JournalError(
                f"cannot be read: {error.strerror}", field=str(self.path), fix="name the file in [journal] path"
            ) from error

    def _records(self, line: bytes) -> Iterator[Record]:
        if line == b"\n" or self._containing not in line:
            return
        record = parse_line(line)
        if record is None:
            self.torn += 1
        else:
            yield record


def read(path: Path | str) -> Reading:
    """All records of a journal file; raises JournalError when it cannot be read."""
    return Reading(path)


def find(path: Path | str, id_: str) -> list[Record]:
    """The records of one decision, oldest first; empty when there is none."""
    needle = msgspec.json.encode(id_)
    return [record for record in Reading(path, containing=needle) if record_id(record) == id_]
