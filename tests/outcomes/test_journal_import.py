"""The gateway's journal as an outcome table: what was served, what it came to, and how likely the choice was."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from junctor.errors import TableError
from junctor.journal import DecisionRecord, FeedbackRecord, Journal, OutcomeRecord, Record
from junctor.outcomes import split_table
from junctor.outcomes.importers import import_outcomes
from junctor.types import Attempt, Call, Decision, Outcome

NAN = np.nan


def decided(id_: str, target: str, propensity: float = 0.5, **labels: str) -> DecisionRecord:
    decision = Decision(id=id_, plan=Call(target), target=target, propensity=propensity, policy="random")
    return DecisionRecord(at=1.0, decision=decision, text=f"text {id_}", labels=labels, targets=("a", "b", "c"), tenant="t1")


def journal(tmp_path: Path, records: Sequence[Record]) -> Path:
    path = tmp_path / "journal.log"
    with Journal(path, fsync="never") as log:
        for record in records:
            log.append(record)
    return path


def came(id_: str, target: str, **outcome: float) -> OutcomeRecord:
    return OutcomeRecord(at=2.0, id=id_, target=target, outcome=Outcome(**outcome))


def said(id_: str, **outcome: float) -> FeedbackRecord:
    return FeedbackRecord(at=3.0, id=id_, outcome=Outcome(**outcome))


def test_each_decision_is_a_row_and_only_what_was_served_is_recorded(tmp_path: Path) -> None:
    path = journal(
        tmp_path,
        [
            decided("d1", "a", 0.25, task="x"),
            came("d1", "a", cost_usd=0.1, latency_s=2.0, quality=0.2),
            decided("d2", "b", 0.75, task="y"),
            came("d2", "b", cost_usd=0.3),
            said("d1", quality=0.0),
            said("d2", quality=0.5),
            said("d2", quality=1.0),
        ],
    )
    table = import_outcomes("journal", path)
    assert (table.ids, table.targets.ids) == (("d1", "d2"), ("a", "b"))
    assert table.texts == ["text d1", "text d2"]
    np.testing.assert_array_equal(table.quality, [[0, NAN], [NAN, 1]])
    assert table.cost_usd is not None
    np.testing.assert_array_equal(table.cost_usd, [[0.1, NAN], [NAN, 0.3]])
    assert table.propensity is not None
    np.testing.assert_array_equal(table.propensity, [[0.25, NAN], [NAN, 0.75]])
    assert (table.label_name, table.label) == ("task", ["x", "y"])
    assert list(table.labels["tenant"]) == ["t1", "t1"]
    assert table.notes == ("dropped targets without any recorded quality: c",)


def test_a_fallback_keeps_the_outcome_apart_from_the_propensity_of_the_choice(tmp_path: Path) -> None:
    path = journal(
        tmp_path, [decided("d1", "a"), came("d1", "b", quality=1.0), decided("d2", "a"), came("d2", "a", quality=0.0)]
    )
    table = import_outcomes("journal", path)
    np.testing.assert_array_equal(table.quality, [[NAN, 1], [0, NAN]])
    assert table.propensity is not None
    np.testing.assert_array_equal(table.propensity, [[0.5, NAN], [0.5, NAN]])


def test_a_decision_that_nobody_answered_stays_a_row_without_outcome(tmp_path: Path) -> None:
    path = journal(tmp_path, [decided("d1", "a"), came("d1", ""), decided("d2", "a"), came("d2", "a", quality=1.0)])
    table = import_outcomes("journal", path)
    assert table.quality[:, 0].tolist()[1] == 1.0
    assert np.isnan(table.quality[0]).all()
    assert "1 decisions were answered by no target" in table.notes


def test_feedback_without_an_outcome_record_speaks_of_the_chosen_target(tmp_path: Path) -> None:
    table = import_outcomes("journal", journal(tmp_path, [decided("d1", "b"), said("d1", quality=0.5)]))
    assert table.targets.ids == ("b",)
    assert table.quality.tolist() == [[0.5]]


def test_damage_and_strangers_are_counted(tmp_path: Path) -> None:
    path = journal(tmp_path, [decided("d1", "a"), said("d1", quality=1.0), said("gone", quality=1.0)])
    path.write_bytes(path.read_bytes() + b"00000000 {}\n")
    notes = import_outcomes("journal", path).notes
    assert "1 journal lines are damaged and were skipped" in notes
    assert "1 outcomes belong to decisions that are not in this file" in notes


def test_a_live_log_can_be_split_and_is_known_to_be_sparse(tmp_path: Path) -> None:
    records: list[Record] = []
    for i in range(20):
        target = "ab"[i % 2]
        records += [decided(f"d{i}", target), came(f"d{i}", target, quality=1.0)]
    split = split_table(import_outcomes("journal", journal(tmp_path, records)))
    assert len(split.test) == 4
    assert any("kept, because the table is sparse" in note for note in split.notes)


def test_the_label_can_be_named(tmp_path: Path) -> None:
    path = journal(tmp_path, [decided("d1", "a", 0.5, task="x", team="red"), said("d1", quality=1.0)])
    assert import_outcomes("journal", path, label="team").label == ["red"]


@pytest.mark.parametrize(
    ("records", "message"),
    [
        ([said("d", quality=1.0)], "holds no decisions"),
        ([decided("d", "a"), came("d", "a", cost_usd=1.0)], "no decision has a quality"),
    ],
)
def test_a_journal_that_teaches_nothing_is_refused(tmp_path: Path, records: list[Record], message: str) -> None:
    with pytest.raises(TableError, match=message):
        import_outcomes("journal", journal(tmp_path, records))


def test_the_answer_of_a_plan_costs_what_its_own_call_did(tmp_path: Path) -> None:
    """Probes, checks and rejected answers are in the bill of the decision, and are no cost of the target that answered."""

    def attempt(target: str, cost: float, role: str) -> Attempt:
        return Attempt(target=target, started_s=0.0, ended_s=1.0, outcome=Outcome(cost_usd=cost), role=role)

    ended = OutcomeRecord(
        at=2.0,
        id="d1",
        target="b",
        outcome=Outcome(cost_usd=0.9, quality=1.0),
        attempts=(attempt("a", 0.1, "stage 1"), attempt("b", 0.3, "check of stage 1"), attempt("b", 0.5, "stage 2")),
        steps=("stage 1: a, not accepted: on to stage 2",),
    )
    table = import_outcomes("journal", journal(tmp_path, [decided("d1", "a"), ended]))
    assert table.cost_usd is not None
    np.testing.assert_array_equal(table.cost_usd, [[0.5]])
    np.testing.assert_array_equal(table.quality, [[1.0]])
