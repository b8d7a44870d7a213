"""The journal keeps every acknowledged record, whatever happens to the process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from junctor import journal as journal_module
from junctor.errors import ConfigError, JournalError
from junctor.journal import DecisionRecord, FeedbackRecord, Journal, OutcomeRecord, find, read, record_id
from junctor.types import Attempt, Call, Decision, Outcome


def decision(id_: str, text: str = "héllo\nworld") -> DecisionRecord:
    made = Decision(id=id_, plan=Call("a"), target="a", policy="fixed", reasons=("because",))
    return DecisionRecord(at=1.5, decision=made, alias="auto", text=text, targets=("a", "b"))


def outcome(id_: str) -> OutcomeRecord:
    attempt = Attempt(target="a", started_s=0.0, ended_s=0.1, outcome=Outcome(cost_usd=0.25))
    return OutcomeRecord(at=2.5, id=id_, target="a", outcome=Outcome(cost_usd=0.25), attempts=(attempt,))


def test_what_is_appended_is_read_back_in_order(tmp_path: Path) -> None:
    records = [decision("d1"), outcome("d1"), FeedbackRecord(at=3.0, id="d1", outcome=Outcome(quality=1.0))]
    with Journal(tmp_path / "sub" / "j") as journal:
        for record in records:
            journal.append(record)
    assert list(read(tmp_path / "sub" / "j")) == records
    assert [record_id(record) for record in records] == ["d1"] * 3


def test_cut_at_any_byte_loses_only_the_torn_record(tmp_path: Path) -> None:
    """Every prefix of the file opens, gives back all whole records, and takes new ones."""
    path = tmp_path / "j"
    whole = [decision("d1"), outcome("d1"), decision("d2")]
    ends = []
    with Journal(path, fsync="never") as journal:
        for record in whole:
            journal.append(record)
            ends.append(path.stat().st_size)
    data = path.read_bytes()
    cut_path = tmp_path / "cut"
    for cut in range(len(data) + 1):
        cut_path.write_bytes(data[:cut])
        with Journal(cut_path, fsync="never") as journal:
            journal.append(outcome("later"))
        kept = [record for record, end in zip(whole, ends, strict=True) if end <= cut + 1]  # the "\n" alone may be missing
        reading = read(cut_path)
        assert list(reading) == [*kept, outcome("later")]
        assert reading.torn == (0 if cut in (0, *ends, *(end - 1 for end in ends)) else 1)


def test_a_flipped_bit_is_skipped_and_counted(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append(decision("d1"))
        journal.append(decision("d2"))
    data = bytearray(path.read_bytes())
    data[30] ^= 1
    path.write_bytes(bytes(data))
    reading = read(path)
    assert [record_id(record) for record in reading] == ["d2"]
    assert reading.torn == 1


WRITER = """
import sys
from junctor.journal import Journal, OutcomeRecord
journal = Journal(sys.argv[1], fsync="never")
for i in range(10_000_000):
    journal.append(OutcomeRecord(at=0.0, id=f"d{i}", target="t" * (i % 400)))
    sys.stdout.write(f"{i}\\n"); sys.stdout.flush()
"""


@pytest.mark.parametrize("acknowledged", [1, 50, 700])
def test_kill_dash_nine_loses_nothing_acknowledged(tmp_path: Path, acknowledged: int) -> None:
    path = tmp_path / "j"
    with subprocess.Popen([sys.executable, "-c", WRITER, str(path)], stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        seen = -1
        while seen < acknowledged:
            seen = int(process.stdout.readline())
        process.send_signal(signal.SIGKILL)
        for line in process.stdout.read().splitlines():
            seen = max(seen, int(line))
    found = {record_id(record) for record in read(path)}
    assert {f"d{i}" for i in range(seen + 1)} <= found
    with Journal(path) as journal:
        journal.append(outcome("after"))
    assert find(path, "after") == [outcome("after")]


def test_many_threads_write_whole_lines(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path, fsync="interval") as journal:
        threads = [
            threading.Thread(target=lambda n=n: [journal.append(outcome(f"{n}-{i}")) for i in range(200)]) for n in range(4)
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    reading = read(path)
    assert len(list(reading)) == 800
    assert reading.torn == 0


def test_find_gives_the_records_of_one_decision_only(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        journal.append(decision("d1", text='tells of "d2"'))
        journal.append(decision("d2"))
        journal.append(outcome("d2"))
    assert find(path, "d2") == [decision("d2"), outcome("d2")]
    assert find(path, "nobody") == []


@pytest.mark.parametrize(("mode", "kept"), [("full", "secret prompt"), ("none", ""), ("digest", "sha256:")])
def test_text_mode_says_what_is_kept_of_prompts(tmp_path: Path, mode: str, kept: str) -> None:
    with Journal(tmp_path / "j", text=mode) as journal:  # type: ignore[arg-type]
        journal.append(decision("d1", text="secret prompt"))
    [record] = read(tmp_path / "j")
    assert isinstance(record, DecisionRecord)
    assert record.text.startswith(kept)
    assert (b"secret prompt" in (tmp_path / "j").read_bytes()) == (mode == "full")


def test_a_full_disk_is_a_typed_error_and_the_next_record_starts_a_new_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "j"
    real_write = os.write
    with Journal(path, fsync="never") as journal:
        journal.append(decision("d1"))

        def full(fd: int, data: bytes) -> int:
            real_write(fd, data[:10])
            raise OSError(28, "No space left on device")

        monkeypatch.setattr(journal_module.os, "write", full)
        with pytest.raises(JournalError, match="No space left on device"):
            journal.append(decision("d2"))
        monkeypatch.setattr(journal_module.os, "write", real_write)
        journal.append(decision("d3"))
    reading = read(path)
    assert [record_id(record) for record in reading] == ["d1", "d3"]
    assert reading.torn == 1


def test_a_record_that_cannot_be_written_back_is_not_acknowledged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(fd: int) -> None:
        raise OSError(5, "Input/output error")

    with Journal(tmp_path / "j", fsync="always") as journal:
        monkeypatch.setattr(journal_module.os, "fsync", broken)
        with pytest.raises(JournalError, match="cannot be written back: Input/output error"):
            journal.append(decision("d1"))
        monkeypatch.undo()


def test_short_writes_are_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    real_write = os.write
    monkeypatch.setattr(journal_module.os, "write", lambda fd, data: real_write(fd, data[:7]))
    with Journal(tmp_path / "j", fsync="always") as journal:
        journal.append(decision("d1"))
    assert list(read(tmp_path / "j")) == [decision("d1")]


def test_a_path_that_cannot_be_opened_names_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="cannot be opened"):
        Journal(tmp_path)
    with pytest.raises(JournalError, match="cannot be read"):
        list(read(tmp_path / "missing"))


def test_a_closed_journal_refuses(tmp_path: Path) -> None:
    journal = Journal(tmp_path / "j")
    journal.append(decision("d1"))
    journal.close()
    journal.close()
    with pytest.raises(JournalError, match="is closed"):
        journal.append(decision("d2"))
