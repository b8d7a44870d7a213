"""The window on decisions: every change of a row is told once, prompts only where wanted, and it never falls behind."""

from __future__ import annotations

from junctor.journal import DecisionRecord, FeedbackRecord, Journal, NoteRecord, OutcomeRecord, ShadowRecord
from junctor.telemetry.live import LOOK_BACK_BYTES, SHOWN, Live
from junctor.types import Call, Decision, Message, Outcome, Request


def decided(id_: str, text: str = "hello", at: float = 1.0) -> DecisionRecord:
    return DecisionRecord(at=at, decision=Decision(id=id_, plan=Call("a"), target="a", policy="p"), alias="auto", text=text)


def test_rows_change_and_are_told_again(tmp_path) -> None:
    journal = Journal(tmp_path / "j", fsync="never")
    live = Live(tmp_path / "j")
    journal.append(decided("one"))
    live.catch_up()
    first = live.after(0, 10)
    assert [(row["id"], row["outcome"]) for row in first["decisions"]] == [("one", None)]
    assert live.after(first["last"], 10)["decisions"] == []
    journal.append(OutcomeRecord(at=2.0, id="one", target="a", outcome=Outcome(cost_usd=1.0)))
    journal.append(FeedbackRecord(at=3.0, id="one", outcome=Outcome(quality=1.0)))
    journal.append(ShadowRecord(at=3.0, id="one", trial="t", target="b"))
    journal.append(FeedbackRecord(at=3.0, id="unknown"))
    journal.append(NoteRecord(at=3.0, about="aliases.auto", event="taken back"))
    live.catch_up()
    (row,) = live.after(first["last"], 10)["decisions"]
    assert row["outcome"].outcome.cost_usd == 1.0
    assert (len(row["feedback"]), row["shadows"][0].target) == (1, "b")
    assert [note.event for note in live.notes] == ["taken back"]
    journal.close()


def test_prompts_are_left_out_on_demand(tmp_path) -> None:
    journal = Journal(tmp_path / "j", fsync="never")
    journal.append(decided("one", "the secret"))
    live = Live(tmp_path / "j")
    live.catch_up()
    (row,) = live.after(0, 10, text=False)["decisions"]
    assert (row["text"], row["redacted"]) == ("", True)
    assert live.after(0, 10)["decisions"][0]["text"] == "the secret"
    journal.close()


def test_a_long_journal_is_looked_at_from_its_end(tmp_path) -> None:
    journal = Journal(tmp_path / "j", fsync="never")
    for number in range(2000):
        journal.append(decided(f"d{number}", "x" * 1000, at=float(number)))
    journal.close()
    assert (tmp_path / "j").stat().st_size > 2 * LOOK_BACK_BYTES
    live = Live(tmp_path / "j")
    live.catch_up()
    found = live.after(0, 10_000)["decisions"]
    assert len(found) == SHOWN
    assert found[0]["id"] == "d1999"


def test_a_journal_that_is_exchanged_is_read_anew(tmp_path) -> None:
    path = tmp_path / "j"
    journal = Journal(path, fsync="never")
    for number in range(20):
        journal.append(decided(f"old{number}"))
    journal.close()
    live = Live(path)
    live.catch_up()
    path.unlink()
    live.catch_up()
    journal = Journal(path, fsync="never")
    journal.append(decided("new"))
    journal.close()
    live.catch_up()
    assert "new" in {row["id"] for row in live.after(0, 100)["decisions"]}


async def test_without_a_journal_memory_is_shown(engine) -> None:
    made = engine(journal=False)
    live = Live(None, made)
    request = Request(text="t", messages=(Message("user", "t"),), params={"model": "auto"})
    await made.complete(request, "auto")
    live.catch_up()
    first = live.after(0, 10)
    assert [row["outcome"].target for row in first["decisions"]] == ["cheap"]
    live.catch_up()
    assert live.after(first["last"], 10)["decisions"] == []
    await made.aclose()
