"""What a journal says of a trial, against worlds in which the truth is known."""

from __future__ import annotations

from pathlib import Path

import msgspec
import numpy as np
import pytest
from typer.testing import CliRunner

from junctor.cli import app
from junctor.engine.trial_report import TrialReport, trial_reports
from junctor.journal import DecisionRecord, FeedbackRecord, Journal, NoteRecord, OutcomeRecord, Record, ShadowRecord
from junctor.types import Call, Decision, Outcome, Ranked

COST = {"a": 0.001, "b": 0.01}


def decision(id_: str, target: str, propensity: float, predicted: dict[str, float] | None = None) -> Decision:
    ranked = tuple(
        Ranked(target=name, score=0.0, predicted=Outcome(quality=q, cost_usd=COST[name]))
        for name, q in (predicted or {}).items()
    )
    return Decision(id=id_, plan=Call(target), target=target, ranked=ranked, propensity=propensity, policy="now")


def shadow_log(count: int, chance: float, *, predicted: dict[str, float] | None = None, seed: int = 0) -> list[Record]:
    """Easy prompts (a: 0.8, b: 0.9) and hard ones (a: 0.2, b: 0.8); `now` takes a but for `chance`; `new` takes b if hard."""
    rng = np.random.default_rng(seed)
    records: list[Record] = []
    for place in range(count):
        hard = rng.random() < 0.5
        target = "b" if rng.random() < chance else "a"
        truth = {"a": 0.2, "b": 0.8} if hard else {"a": 0.8, "b": 0.9}
        propensity = chance if target == "b" else 1 - chance
        id_ = f"d{place}"
        records.append(DecisionRecord(at=float(place), decision=decision(id_, target, propensity, predicted), alias="auto"))
        records.append(OutcomeRecord(at=0.0, id=id_, target=target, outcome=Outcome(cost_usd=COST[target])))
        records.append(ShadowRecord(at=0.0, id=id_, trial="next", target="b" if hard else "a", policy="new"))
        records.append(FeedbackRecord(at=0.0, id=id_, outcome=Outcome(quality=float(rng.random() < truth[target]))))
    return records


def only(records: list[Record]) -> TrialReport:
    (report,) = trial_reports(records)
    return report


def test_a_shadow_over_a_policy_that_explores_is_estimated_rightly() -> None:
    report = only([*shadow_log(4000, 0.2), NoteRecord(at=0.0, about="x", event="y")])
    assert (report.alias, report.trial, report.kind, report.policy) == ("auto", "next", "shadow", "new")
    assert report.decisions == 4000
    assert report.agreement == pytest.approx(0.5, abs=0.03)
    assert report.mean_weight == pytest.approx(1.0, abs=0.1)
    assert report.notes == ()
    quality, cost = report.quality, report.cost_usd
    # The truth: now 0.8 (0.5) + 0.2 (0.85) = 0.57; the candidate 0.8 in both halves; 0.0055 USD on average.
    for found in (quality.candidate, quality.ips, quality.snips):
        assert found.low < 0.8 < found.high
        assert found.high - found.low < 0.2
    assert quality.current.low < 0.57 < quality.current.high
    assert quality.difference.low > 0.1
    assert cost.candidate.low < 0.0055 < cost.candidate.high
    assert cost.current.value == pytest.approx(0.8 * 0.001 + 0.2 * 0.01, rel=0.05)


def test_intervals_hold_the_truth_as_often_as_they_say_and_predictions_narrow_them() -> None:
    held, narrower = 0, 0
    for seed in range(60):
        plain = only(shadow_log(400, 0.3, seed=seed)).quality
        told = only(shadow_log(400, 0.3, predicted={"a": 0.5, "b": 0.85}, seed=seed)).quality
        held += told.candidate.low < 0.8 < told.candidate.high
        narrower += told.candidate.high - told.candidate.low < plain.ips.high - plain.ips.low
    assert held >= 52  # 57 of 60 expected
    assert narrower >= 55


def test_a_policy_that_never_explores_gives_no_evidence_and_the_report_says_so() -> None:
    report = only(shadow_log(400, 0.0, predicted={"a": 0.5, "b": 0.85}))
    assert report.mean_weight == pytest.approx(0.5, abs=0.1)
    assert "the current policy leaves some targets no chance" in report.notes[0]
    assert report.effective_rows < 400 * 0.6


def split_log(count: int, unit: bool, *, quality: bool = True) -> list[Record]:
    """Side by side: `now` earns 0.5, the candidate 0.7. With units, ten decisions each share their luck."""
    rng = np.random.default_rng(1)
    records: list[Record] = []
    for place in range(count):
        if place % 10 == 0 or not unit:
            luck = rng.random()
        candidate = (place // 10) % 2 == 0
        id_ = f"d{place}"
        record = DecisionRecord(
            at=float(place),
            decision=decision(id_, "b" if candidate else "a", 1.0),
            alias="auto",
            trial="next" if candidate else "next,other",
            side="candidate" if candidate else "current",
            unit=f"u{place // 10}" if unit else "",
        )
        good = float(luck < (0.7 if candidate else 0.5))
        records += [
            record,
            OutcomeRecord(at=0.0, id=id_, target="x", outcome=Outcome(quality=good if quality else None, cost_usd=0.01)),
        ]
    return records


def test_two_sides_are_compared_as_they_are_and_units_count_once() -> None:
    reports = {report.trial: report for report in trial_reports(split_log(4000, unit=False))}
    report = reports["next"]
    assert (report.kind, report.decisions, report.taken) == ("split", 4000, 2000)
    assert report.quality.current.value == pytest.approx(0.5, abs=0.04)
    assert report.quality.difference.value == pytest.approx(0.2, abs=0.06)
    assert report.quality.difference.low > 0.1
    assert report.cost_usd.difference.value == pytest.approx(0.0, abs=1e-9)
    assert report.quality.ips is None
    assert reports["other"].notes == ("the candidate has decided nothing yet",)
    assert reports["other"].quality is None
    lumps = {report.trial: report for report in trial_reports(split_log(4000, unit=True))}["next"]
    width = lumps.quality.current.high - lumps.quality.current.low
    assert width / (report.quality.current.high - report.quality.current.low) == pytest.approx(10**0.5, rel=0.2)
    assert trial_reports(split_log(100, unit=False, quality=False))[0].notes == (
        "no quality is known on the candidate's side: send feedback",
    )


def test_only_the_last_decisions_count_and_failures_of_the_candidate_are_counted() -> None:
    records = shadow_log(100, 0.5)
    records.append(DecisionRecord(at=1e3, decision=decision("e", "a", 1.0), alias="auto"))
    records.append(ShadowRecord(at=1e3, id="e", trial="next", why="no target can be chosen"))
    (report,) = trial_reports(records, most=11)
    assert (report.decisions, report.undecided) == (11, 1)
    assert report.until == 1e3


def test_a_line_that_came_before_its_decision_is_not_lost() -> None:
    records = shadow_log(50, 0.5)
    for place in range(0, len(records), 4):
        records[place], records[place + 2] = records[place + 2], records[place]
    assert only(records).decisions == 50


def test_the_command_prints_a_table_or_json(tmp_path: Path) -> None:
    path = tmp_path / "j"
    with Journal(path) as journal:
        for record in [*shadow_log(50, 0.3), *split_log(0, unit=False)]:
            journal.append(record)
    run = CliRunner()
    shown = run.invoke(app, ["trials", "--journal", str(path)])
    assert shown.exit_code == 0
    found = msgspec.json.decode(run.invoke(app, ["trials", "--journal", str(path), "--json"]).stdout, type=list[dict])
    assert found[0]["trial"] == "next"
    assert found[0]["quality"]["candidate"]["rows"] == 50
    explained = run.invoke(app, ["explain", "d0", "--journal", str(path)])
    assert explained.exit_code == 0
    (tmp_path / "empty").write_text("")
    assert run.invoke(app, ["trials", "--journal", str(tmp_path / "empty")]).exit_code == 0
