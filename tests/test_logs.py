"""`junctor logs`: a line a decision, as it was and as it comes."""

from __future__ import annotations

import json
import threading
import time
from pathlib import Path

import pytest

from junctor.cli.logs import Tail, Wanted, chosen, moment
from junctor.errors import UserError
from junctor.journal import DecisionRecord, Journal, OutcomeRecord
from junctor.types import Attempt, Call, Decision, Outcome

NOW = 1_700_000_000.0
CANARY = "my secret prompt"


def decided(id_: str, at: float = NOW, alias: str = "auto", target: str = "small", **more) -> DecisionRecord:
    decision = Decision(id=id_, plan=Call(target), target=target, policy=more.pop("policy", "knn"))
    return DecisionRecord(at=at, decision=decision, alias=alias, text=CANARY, **more)


def ended(id_: str, at: float = NOW, target: str = "small", error: str = "", tried: str = "") -> OutcomeRecord:
    attempts = (Attempt(target=tried, started_s=0, ended_s=1, error="upstream_refused"),) if tried else ()
    figures = Outcome(cost_usd=0.00012, latency_s=0.2, input_tokens=12, output_tokens=85)
    return OutcomeRecord(at=at, id=id_, target=target, outcome=figures, attempts=attempts, error=error)


@pytest.fixture
def journal(tmp_path: Path) -> Path:
    with Journal(tmp_path / "j.journal", fsync="never") as found:
        found.append(decided("dec-1", tenant="acme", key="k1"))
        found.append(decided("dec-2", NOW + 10, "other", "large"))
        found.append(ended("dec-2", NOW + 11, "large", tried="small"))
        found.append(ended("dec-1", NOW + 12))
        found.append(decided("dec-3", NOW + 20))
        found.append(ended("dec-3", NOW + 21, "", "deadline_exceeded"))
        found.append(decided("dec-4", NOW + 30, "", "small", policy="cache"))
    return tmp_path / "j.journal"


def shown(junctor, journal: Path, *options: str) -> list[dict]:
    ran = junctor("logs", "--journal", str(journal), "--json", *options)
    assert ran.code == 0, ran.err
    return [json.loads(line) for line in ran.out.splitlines()]


def test_a_line_a_decision(junctor, journal: Path) -> None:
    lines = shown(junctor, journal)
    assert [line["id"] for line in lines] == ["dec-2", "dec-1", "dec-3", "dec-4"]
    first = lines[1]
    assert (first["tenant"], first["key"], first["target"], first["cost_usd"]) == ("acme", "k1", "small", 0.00012)
    assert lines[0]["failed"] == ["small: upstream_refused"]
    assert lines[2]["error"] == "deadline_exceeded"
    assert lines[3]["open"] and lines[3]["alias"] == "small"  # noqa: PT018


def test_people_read_it_too(junctor, journal: Path) -> None:
    said = junctor("logs", "--journal", str(journal)).out
    assert len(said.splitlines()) == 4
    for word in (
        "auto -> small 200 ms, $0.000120, 12+85 tokens knn dec-1",
        "(small: upstream_refused)",
        "deadline_exceeded",
        "open",
    ):
        assert word in said


@pytest.mark.parametrize(
    ("options", "ids"),
    [
        (["--alias", "other"], ["dec-2"]),
        (["--tenant", "acme"], ["dec-1"]),
        (["--errors"], ["dec-2", "dec-3"]),
        (["--last", "1"], ["dec-3", "dec-4"]),
        (["--last", "0", "--alias", "auto"], ["dec-1", "dec-3"]),
        (["--since", "2023-11-14T22:13:35+00:00"], ["dec-3", "dec-4"]),
        (["--since", "1s"], []),
    ],
)
def test_only_some(junctor, journal: Path, options: list[str], ids: list[str]) -> None:
    assert [line["id"] for line in shown(junctor, journal, *options)] == ids


def test_prompts_only_where_asked_for_and_kept(junctor, journal: Path, tmp_path: Path) -> None:
    for options in ([], ["--json"]):
        assert CANARY not in junctor("logs", "--journal", str(journal), *options).out
        assert CANARY in junctor("logs", "--journal", str(journal), "--text", *options).out
    with Journal(tmp_path / "quiet", fsync="never", text="none") as found:
        found.append(decided("dec-1"))
    assert CANARY not in junctor("logs", "--journal", str(tmp_path / "quiet"), "--text").out


def test_the_journal_of_the_configuration(junctor, tmp_path: Path, journal: Path) -> None:
    config = '[providers.p]\nkind = "scripted"\n[targets.small]\nprovider = "p"\n[journal]\npath = {}\n'
    (tmp_path / "junctor.toml").write_text(config.format('"j.journal"'))
    assert "dec-1" in junctor("logs").out
    (tmp_path / "junctor.toml").write_text(config.format('""'))
    ran = junctor("logs")
    assert (ran.code, "keeps no journal" in ran.err) == (2, True)


def test_mistakes(junctor, tmp_path: Path, journal: Path) -> None:
    ran = junctor("logs", "--journal", str(tmp_path / "none"))
    assert (ran.code, "does not exist" in ran.err) == (1, True)
    ran = junctor("logs", "--journal", str(journal), "--since", "yesterday")
    assert (ran.code, "is no time" in ran.err) == (2, True)


def test_moments() -> None:
    assert moment("", NOW) == 0
    assert moment("10m", NOW) == NOW - 600
    assert moment("1.5h", NOW) == NOW - 5400
    assert moment("2023-11-14T22:13:20+00:00", 0) == NOW
    for wrong in ("x", "10y", "m", "1..5h"):
        with pytest.raises(UserError):
            moment(wrong, NOW)


def test_what_comes_is_shown_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "j.journal"
    path.write_bytes(b"")
    tail = Tail(path)
    assert list(tail.new()) == []
    with Journal(tmp_path / "other", fsync="never") as other:
        other.append(decided("dec-1"))
    line = (tmp_path / "other").read_bytes()
    path.write_bytes(line[:20])
    assert list(tail.new()) == []
    path.write_bytes(line)
    assert [record.decision.id for record in tail.new()] == ["dec-1"]
    path.write_bytes(b"torn\n" + line + b"rubbish\n")
    assert [record.decision.id for record in tail.new()] == []
    path.unlink()
    assert list(tail.new()) == []
    path.write_bytes(line)
    assert [record.decision.id for record in tail.new()] == ["dec-1"]


def test_following(journal: Path) -> None:
    found: list[str] = []
    stop = threading.Event()

    def follow() -> None:
        for line in chosen(journal, Wanted(), last=0, follow=True, until=stop.is_set):
            found.append(line.id)

    thread = threading.Thread(target=follow)
    thread.start()
    with Journal(journal, fsync="never") as more:
        more.append(ended("dec-4"))
        more.append(decided("dec-5"))
        more.append(ended("dec-5"))
    deadline = time.monotonic() + 20
    while "dec-5" not in found and time.monotonic() < deadline:
        time.sleep(0.02)
    stop.set()
    thread.join(20)
    assert found[-2:] == ["dec-4", "dec-5"]
