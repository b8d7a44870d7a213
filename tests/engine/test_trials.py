"""Candidates on a share of the traffic, or looking on: who is on which side, what is written down, and who learns of it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from tests.engine.choosing_world import PROOF, SUM, ask, context, engine_of

from junctor.engine.trials import Trials
from junctor.errors import ConfigError
from junctor.journal import DecisionRecord, ShadowRecord, read
from junctor.sections import TrialSection
from junctor.types import Outcome

FIXED = {
    "small-one": {"use": "fixed", "settings": {"target": "small"}},
    "large-one": {"use": "fixed", "settings": {"target": "large"}},
}


def trial(engine_policy: str = "small-one", **more: Any) -> dict[str, Any]:
    return {"policy": "large-one", "trials": [{"name": "dearer", "policy": engine_policy, **more}]}


async def test_a_canary_takes_its_share_and_the_journal_says_which_side(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, trial(share=0.2), FIXED)
    for place in range(400):
        await engine.complete(ask(SUM, id_=f"r{place}"), "auto")
    await engine.aclose()
    records = [record for record in read(tmp_path / "j") if isinstance(record, DecisionRecord)]
    sides = Counter((record.side, record.trial, record.decision.target, record.alias) for record in records)
    assert set(sides) == {("candidate", "dearer", "small", "auto"), ("current", "dearer", "large", "auto")}
    assert 0.14 < sides["candidate", "dearer", "small", "auto"] / 400 < 0.26
    assert {record.unit for record in records} == {""}


async def test_a_unit_stays_on_its_side(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, trial(share=0.5, by="tenant"), FIXED)
    seen: dict[str, set[str]] = {}
    for place in range(200):
        tenant = f"t{place % 20}"
        seen.setdefault(tenant, set()).add((await engine.complete(ask(SUM, tenant=tenant), "auto")).decision.target)
    await engine.aclose()
    assert all(len(targets) == 1 for targets in seen.values())
    assert len(set.union(*seen.values())) == 2
    units = {record.unit for record in read(tmp_path / "j") if isinstance(record, DecisionRecord)}
    assert len(units) == 20
    assert not any(unit in f"t{place}" for unit in units for place in range(20))


def test_units_of_a_key_a_session_and_nobody() -> None:
    by_key = Trials("a", [TrialSection(name="x", policy="p", share=0.5, by="key")])
    sides = {by_key.assign(ask(SUM, id_=f"r{i}"), context("k1")).side for i in range(50)}
    assert len(sides) == 1
    assert len({by_key.assign(ask(SUM, id_=f"r{i}"), None).side for i in range(50)}) == 2  # nobody's calls are split one by one
    by_session = Trials("a", [TrialSection(name="x", policy="p", share=0.5, by="session")])
    talks = [
        [by_session.assign(ask(f"talk {t}", *["yes", "on"] * n, id_=f"r{t}{n}"), None).side for n in range(5)]
        for t in range(40)
    ]
    assert all(len(set(sides)) == 1 for sides in talks)
    assert len({sides[0] for sides in talks}) == 2


def test_several_trials_take_what_they_ask_for() -> None:
    trials = Trials("a", [TrialSection(name=n, policy="p", share=s) for n, s in (("x", 0.5), ("y", 0.3), ("z", 0.0))])
    found = Counter(trials.assign(ask(SUM, id_=f"r{i}"), None).candidate for i in range(4000))
    assert found["x"] / 4000 == pytest.approx(0.5, abs=0.04)
    assert found["y"] / 4000 == pytest.approx(0.3, abs=0.04)
    assert found[""] / 4000 == pytest.approx(0.2, abs=0.04)
    assert trials.assign(ask(SUM, id_="r1"), None) == trials.assign(ask(SUM, id_="r1"), None)
    assert [trial.name for trial in trials.shadows] == ["z"]
    assert Trials("a", [TrialSection(name="z", policy="p")]).assign(ask(SUM, id_="r"), None) is None


async def test_a_shadow_decides_and_nobody_acts(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, {"policy": "large-one", "trials": [{"name": "fit", "policy": "fitted"}]}, FIXED)
    shadows = engine.shadows
    assert shadows is not None
    shadows._wake = lambda: None  # by hand: nothing is left to the clock
    for text in (SUM, PROOF):
        answer = await engine.complete(ask(text, id_=text[:4]), "auto")
        assert answer.decision.target == "large"
    assert not [record for record in read(tmp_path / "j") if isinstance(record, ShadowRecord)]
    shadows.drain()
    await engine.aclose()
    records = list(read(tmp_path / "j"))
    found = {record.id: record for record in records if isinstance(record, ShadowRecord)}
    assert {id_: (r.trial, r.target, r.policy, r.why) for id_, r in found.items()} == {
        "what": ("fit", "large", "utility", ""),
        "prov": ("fit", "large", "utility", ""),
    }
    assert found["prov"].predicted.quality == pytest.approx(0.9, abs=0.05)
    assert [r.side for r in records if isinstance(r, DecisionRecord)] == ["", ""]
    assert shadows.seen == {"auto/fit": 2}


async def test_the_thread_works_by_itself_and_a_full_backlog_passes_requests_over(tmp_path: Path) -> None:
    import asyncio

    engine = engine_of(tmp_path, {"policy": "large-one", "trials": [{"name": "fit", "policy": "fitted"}]}, FIXED)
    await engine.complete(ask(SUM), "auto")
    for _ in range(500):
        if engine.shadows.seen:
            break
        await asyncio.sleep(0.01)
    assert engine.shadows.seen == {"auto/fit": 1}
    engine.shadows._wake = lambda: None
    engine.shadows._most = 3
    for _ in range(5):
        await engine.complete(ask(SUM), "auto")
    assert engine.shadows.passed_over == {"auto/fit": 2}
    await engine.aclose()


async def test_a_candidate_that_fails_brings_nobody_down(tmp_path: Path) -> None:
    engine = engine_of(tmp_path, {"policy": "large-one", "trials": [{"name": "bad", "policy": "fitted"}]}, FIXED)

    class Broken:
        def __getattr__(self, name):
            raise ZeroDivisionError

    engine.shadows._wake = lambda: None
    object.__setattr__(engine.aliases["auto"].sides["bad"], "policy", Broken())
    await engine.complete(ask(SUM), "auto")
    engine.shadows.drain()
    await engine.aclose()
    (found,) = [record for record in read(tmp_path / "j") if isinstance(record, ShadowRecord)]
    assert (found.target, found.why) == ("", "failed with ZeroDivisionError")


async def test_each_side_learns_from_its_own_decisions(tmp_path: Path) -> None:
    from tests.engine.choosing_world import fit

    for name in ("ucb", "cold"):
        fit(tmp_path / name, "linucb", warm=0.0)
    policies = {"ucb": {"artefact": "ucb"}, "cold": {"artefact": "cold"}}
    engine = engine_of(tmp_path, {"policy": "ucb", "trials": [{"name": "c", "policy": "cold", "share": 0.5}]}, policies)
    sides = Counter()
    for place in range(60):
        answer = await engine.complete(ask(SUM, id_=f"r{place}"), "auto")
        known = await engine.explain(answer.decision.id)
        sides[known.side] += 1
        await engine.feedback(answer.decision.id, Outcome(quality=1.0))
    alias = engine.aliases["auto"]
    assert alias.policy.arms.total == sides["current"] > 0
    assert alias.sides["c"].policy.arms.total == sides["candidate"] > 0
    await engine.aclose()


@pytest.mark.parametrize(
    ("wrong", "problem"),
    [
        ([{"name": "x", "policy": "fitted", "share": 1.5}], "is not a share"),
        ([{"name": "x", "policy": "fitted", "share": 0.6}, {"name": "y", "policy": "fitted", "share": 0.6}], "over 1 together"),
        ([{"name": "x", "policy": "fitted"}, {"name": "x", "policy": "fitted"}], "used twice"),
        ([{"name": "x", "policy": "fitted", "by": "moon"}], "nothing to split by"),
        ([{"name": "a,b", "policy": "fitted"}], "is no name"),
        ([{"name": "x", "policy": "nobody"}], "not in the file"),
    ],
)
def test_a_trial_that_cannot_be_is_refused(tmp_path: Path, wrong: list[dict[str, Any]], problem: str) -> None:
    with pytest.raises(ConfigError, match=problem):
        engine_of(tmp_path, {"policy": "large-one", "trials": wrong}, FIXED)


def test_a_sticky_alias_is_not_split_turn_by_turn(tmp_path: Path) -> None:
    alias = {"policy": "large-one", "sticky": {}, "trials": [{"name": "x", "policy": "fitted", "share": 0.5}]}
    with pytest.raises(ConfigError, match="splits the turns of a session"):
        engine_of(tmp_path, alias, FIXED)


def test_a_larger_share_keeps_those_who_were_in_it() -> None:
    def taken(share: float) -> set[int]:
        trials = Trials("a", [TrialSection(name="x", policy="p", share=share, by="tenant")])
        return {i for i in range(500) if trials.assign(ask(SUM, tenant=f"t{i}"), None).candidate}

    small, large = taken(0.05), taken(0.4)
    assert 5 < len(small) < 60
    assert small < large


async def test_a_candidate_that_cannot_decide_costs_nobody_an_answer(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    targets = {name: {"provider": "embedded"} for name in ("small", "large")}
    rules = {"use": "rules", "settings": {"rules": [{"when": {"contains": "never said"}, "use": ["small"]}]}}
    policies = {**FIXED, "picky": rules}
    engine = engine_of(tmp_path, trial("picky", share=1.0), policies, targets)
    answer = await engine.complete(ask(SUM), "auto")
    assert answer.target.id == "large"
    assert "the candidate of the trial 'dearer' could not decide: the alias's own policy did" in answer.decision.reasons
    assert not caplog.records

    def broken(*_: Any) -> None:
        raise ZeroDivisionError

    engine.aliases["auto"].sides["dearer"].policy.decide = broken
    assert (await engine.complete(ask(SUM), "auto")).target.id == "large"
    assert "failed with ZeroDivisionError" in caplog.text
    assert SUM not in caplog.text
    await engine.aclose()
    assert {record.side for record in read(tmp_path / "j") if isinstance(record, DecisionRecord)} == {"candidate"}
