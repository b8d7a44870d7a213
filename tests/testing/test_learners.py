"""The learner suite passes a sound learner, and each of its checks fails on one that is broken in its way."""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import pytest

from junctor.policies import choosing
from junctor.policy import Learner, State
from junctor.testing import check_learner, check_policy
from junctor.testing.learners import LEARNER_CHECKS


class Counting(Learner):
    """Takes the target of highest mean quality so far, counting each decision id once."""

    name: ClassVar[str] = "counting"

    def __init__(self) -> None:
        self.total: dict[str, float] = {}
        self.times: dict[str, int] = {}
        self.seen: set[str] = set()

    def decide(self, request, targets, rng):
        choosing.some(targets)
        best = max(sorted(targets.ids), key=lambda id_: self.total.get(id_, 0.5) / self.times.get(id_, 1))
        return choosing.decision(request, [best], policy=self.title, version=self.version, reasons=("best so far",))

    def decide_many(self, features, targets, rng):
        made = self.decide(type("R", (), {"id": ""}), targets, rng)
        return choosing.always(targets.position(made.target), len(features))

    def learn(self, decision, outcome):
        if decision.id in self.seen or outcome.quality is None:
            return
        self.seen.add(decision.id)
        self.total[decision.target] = self.total.get(decision.target, 0.0) + outcome.quality
        self.times[decision.target] = self.times.get(decision.target, 0) + 1

    def state(self):
        return State({"total": dict(sorted(self.total.items())), "times": self.times, "seen": sorted(self.seen)})

    @classmethod
    def from_state(cls, state):
        found = cls()
        found.total, found.times = dict(state.config["total"]), dict(state.config["times"])
        found.seen = set(state.config["seen"])
        return found


class LearnsByDeciding(Counting):
    def decide(self, request, targets, rng):
        self.seen.add(f"decided {request.id}")
        return super().decide(request, targets, rng)


class LearnsNothing(Counting):
    def learn(self, decision, outcome):
        pass


class CountsTwice(Counting):
    def learn(self, decision, outcome):
        self.seen.discard(decision.id)
        super().learn(decision, outcome)


class ForgetsIdsOnRestart(Counting):
    @classmethod
    def from_state(cls, state):
        found = super().from_state(state)
        found.seen = set()
        return found


class RemembersOnlyTheNewest(Counting):
    """Takes an id for old only if it is not newer than the newest."""

    def learn(self, decision, outcome):
        super().learn(decision, outcome)
        self.seen = {max(self.seen)} if self.seen else set()


class KnowsWhatIsBilled(Counting):
    def learn(self, decision, outcome):
        super().learn(decision, outcome)
        self.seen.add(decision.id)


class PoisonedByGaps(Counting):
    def learn(self, decision, outcome):
        self.total["sum"] = self.total.get("sum", 0.0) + (float("nan") if outcome.quality is None else outcome.quality)
        self.seen.add(decision.id)

    def state(self):
        return State({"seen": sorted(self.seen)}, {"sum": np.array([self.total.get("sum", 0.0)])})


class LosesWhatItLearned(Counting):
    @classmethod
    def from_state(cls, state):
        found = super().from_state(state)
        found.total = {"linguist": 99.0}
        return found


BROKEN = [
    ("deciding_does_not_learn", LearnsByDeciding, "deciding changed"),
    ("feedback_is_learned_late", LearnsNothing, "nothing was learned"),
    ("feedback_counts_once", CountsTwice, "counted twice"),
    ("feedback_counts_once", ForgetsIdsOnRestart, "after a restart"),
    ("feedback_comes_in_any_order", RemembersOnlyTheNewest, "was not remembered"),
    ("a_bill_may_come_before_the_judgement", KnowsWhatIsBilled, "kept its judgement from counting"),
    ("strange_feedback_is_accepted", PoisonedByGaps, "put NaN into sum"),
    ("learned_state_round_trips", LosesWhatItLearned, "decides differently"),
]


def test_a_sound_learner_conforms():
    check_learner(Counting)
    check_policy(Counting())


@pytest.mark.parametrize(("check", "kind", "said"), BROKEN, ids=[kind.__name__ for _, kind, _ in BROKEN])
def test_each_check_fails_on_what_it_is_for(check, kind, said):
    others = [found.__name__ for found in LEARNER_CHECKS if found.__name__ != check]
    with pytest.raises(AssertionError, match=said):
        check_learner(kind, leave_out=others)


def test_no_check_is_without_a_case():
    assert {name for name, _, _ in BROKEN} == {check.__name__ for check in LEARNER_CHECKS}
