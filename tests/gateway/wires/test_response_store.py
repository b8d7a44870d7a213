"""Responses are kept for their owner, for a while, within bounds, and for all workers of a machine."""

from __future__ import annotations

import os
import sqlite3
import stat

import pytest

from junctor.config import parse_config
from junctor.errors import ConfigError, StateUnavailable
from junctor.gateway.wires.response_store import Bounds, Kept, MemoryStore, ResponseStore, SQLiteStore, build_store

ONE = Kept(b'{"id":"resp_1"}', b"[]")


class Clock:
    """Seconds, set by hand."""

    def __init__(self) -> None:
        self.now = 1000.0

    def __call__(self) -> float:
        return self.now


@pytest.fixture(params=["memory", "file"])
def make(request, tmp_path):
    made = []

    def start(bounds=None, clock=None) -> ResponseStore:
        bounds, clock = bounds or Bounds(), clock or Clock()
        made.append(MemoryStore(bounds, clock) if request.param == "memory" else SQLiteStore(tmp_path / "r.db", bounds, clock))
        return made[-1]

    yield start
    for store in made:
        store.close()


def test_kept_found_and_dropped_by_the_owner_only(make) -> None:
    store = make()
    assert store.keep("a", "1", ONE)
    assert store.find("a", "1") == ONE
    assert store.find("b", "1") is None
    assert not store.drop("b", "1")
    assert store.drop("a", "1")
    assert store.find("a", "1") is None
    assert not store.drop("a", "1")


def test_it_ends(make) -> None:
    clock = Clock()
    store = make(Bounds(ttl_s=10), clock)
    store.keep("a", "1", ONE)
    clock.now += 9
    assert store.find("a", "1") == ONE
    clock.now += 2
    assert store.find("a", "1") is None


def test_the_oldest_go_when_there_are_too_many(make) -> None:
    clock = Clock()
    store = make(Bounds(entries=10), clock)
    for number in range(128):
        clock.now += 1
        store.keep("a", str(number), ONE)
    found = [number for number in range(128) if store.find("a", str(number)) is not None]
    assert found == list(range(118, 128))


def test_the_oldest_go_when_they_are_too_large(make) -> None:
    clock = Clock()
    store = make(Bounds(megabytes=0.1), clock)
    for number in range(64):
        clock.now += 1
        store.keep("a", str(number), Kept(b"x" * 9_000, b"[]"))
    found = [number for number in range(64) if store.find("a", str(number)) is not None]
    assert found == list(range(54, 64))
    assert not store.keep("a", "giant", Kept(b"x" * 200_000, b"[]"))


def test_off_keeps_nothing(make) -> None:
    store = make(Bounds(entries=0))
    assert not store.keep("a", "1", ONE)
    assert store.find("a", "1") is None


def test_two_workers_share_the_file(tmp_path) -> None:
    one, other = SQLiteStore(tmp_path / "r.db"), SQLiteStore(tmp_path / "r.db")
    assert one.keep("a", "1", ONE)
    assert other.find("a", "1") == ONE
    assert other.drop("a", "1")
    assert one.find("a", "1") is None
    assert stat.S_IMODE((tmp_path / "r.db").stat().st_mode) == 0o600
    one.close()
    other.close()


def test_a_forked_child_opens_its_own(tmp_path) -> None:
    store = SQLiteStore(tmp_path / "r.db")
    store.keep("a", "1", ONE)
    child = os.fork()
    if child == 0:
        os._exit(0 if store.find("a", "1") == ONE and store.keep("a", "2", ONE) else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert store.find("a", "2") == ONE
    store.close()


def test_a_file_that_cannot_be_used(tmp_path) -> None:
    """What cannot be kept is told as not kept; what cannot be read is a 503, never a 500."""
    (tmp_path / "r.db").write_bytes(b"not a database at all, but long enough to be looked at" * 20)
    store = SQLiteStore(tmp_path / "r.db")
    assert not store.keep("a", "1", ONE)
    with pytest.raises(StateUnavailable):
        store.find("a", "1")
    with pytest.raises(StateUnavailable):
        store.drop("a", "1")
    store.close()


def test_from_the_configuration(tmp_path) -> None:
    least = {"providers": {"e": {"kind": "embedded"}}, "targets": {"t": {"provider": "e", "model": "general"}}}

    def built(**section):
        return build_store(parse_config({**least, "responses": section}, tmp_path))

    store = built(ttl_s=5)
    assert isinstance(store, SQLiteStore)
    assert not list(tmp_path.iterdir())
    store.keep("a", "1", ONE)
    assert (tmp_path / "junctor.responses.db").exists()
    with sqlite3.connect(tmp_path / "junctor.responses.db") as connection:
        assert connection.execute("SELECT count(*) FROM responses").fetchone() == (1,)
    connection.close()
    store.close()
    assert isinstance(built(keep="memory"), MemoryStore)
    assert not built(keep="off").keep("a", "1", ONE)
    private = build_store(parse_config({**least, "journal": {"text": "none"}}, tmp_path))
    assert isinstance(private, MemoryStore)
    for wrong in ({"ttl_s": 0}, {"entries": -1}, {"path": "nowhere/r.db"}, {"keep": "disk"}):
        with pytest.raises(ConfigError, match="responses"):
            built(**wrong)
