"""Every check of the policy suite fails on a policy that is broken in its way."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import msgspec
import numpy as np
import pytest

from junctor import registry
from junctor.policies import choosing
from junctor.policies.best_single import BestSingle, BestSingleConfig
from junctor.policy import Policy, PolicyConfig, State
from junctor.registry import Entry
from junctor.testing import check_policy
from junctor.testing.policies import POLICY_CHECKS
from junctor.types import Call


class Sound(BestSingle):
    """A sound policy; subclasses break one thing."""

    name: ClassVar[str] = "broken"


def config_of(kind: type[Policy]) -> PolicyConfig:
    @dataclass(frozen=True, kw_only=True)
    class Config(PolicyConfig):
        name: ClassVar[str] = "broken"
        fitted: ClassVar[type[Policy]] = kind

        def fit(self, table, features, rng):
            found = BestSingleConfig().fit(table, features, rng)
            return kind(found.order, found.known, found.fallbacks)

    return Config()


def changed(decision, **fields):
    return msgspec.structs.replace(decision, **fields)


def test_the_base_of_these_is_sound():
    check_policy(config_of(Sound))


@dataclass(frozen=True, kw_only=True)
class ForgetsSettings(PolicyConfig):
    k: int = 1
    name: ClassVar[str] = "broken"
    fitted: ClassVar[type[Policy]] = Sound

    def settings(self) -> dict[str, Any]:
        return {"k": 7}

    def fit(self, table, features, rng):
        return config_of(Sound).fit(table, features, rng)


class WithoutReasons(Sound):
    def decide(self, request, targets, rng):
        return changed(super().decide(request, targets, rng), reasons=())


class PlansSomethingElse(Sound):
    def decide(self, request, targets, rng):
        return changed(super().decide(request, targets, rng), plan=Call("linguist"))


class OwnDice(Sound):
    def decide(self, request, targets, rng):
        place = np.random.default_rng().integers(len(targets))
        return changed(super().decide(request, targets, rng), target=targets.ids[place], plan=Call(targets.ids[place]))


class BeyondTheEnd(Sound):
    def decide_many(self, features, targets, rng):
        choices, propensities = super().decide_many(features, targets, rng)
        return choices + len(targets), propensities


class ManyDiffer(Sound):
    def decide_many(self, features, targets, rng):
        choices, propensities = super().decide_many(features, targets, rng)
        return (choices + 1) % len(targets), propensities


class SaysHalf(Sound):
    """Always the same target, with a stated propensity of one half."""

    def decide(self, request, targets, rng):
        return changed(super().decide(request, targets, rng), propensity=0.5)

    def decide_many(self, features, targets, rng):
        choices, propensities = super().decide_many(features, targets, rng)
        return choices, propensities / 2


class Spoils(Sound):
    def decide(self, request, targets, rng):
        request.features.embedding[:] = 0
        request.labels["seen"] = "yes"
        return super().decide(request, targets, rng)


class TakesTheFirst(Sound):
    def decide(self, request, targets, rng):
        targets[0]
        return super().decide(request, targets, rng)


class IgnoresTheCatalogue(Sound):
    def decide(self, request, targets, rng):
        made = super().decide(request, targets, rng)
        return changed(made, target="generalist", plan=Call("generalist"))


class FirstInLine(Sound):
    def decide(self, request, targets, rng):
        return changed(super().decide(request, targets, rng), target=targets.ids[0], plan=Call(targets.ids[0]))


class ShyOfStrangers(Sound):
    def decide(self, request, targets, rng):
        if "stranger-0" in targets.ids:
            choosing.refuse("strangers are about", dict.fromkeys(targets.ids, "shy"))
        return super().decide(request, targets, rng)


class RaggedSweep(Sound):
    def decide_sweep(self, features, targets, rng):
        sweep = super().decide_sweep(features, targets, rng)
        return type(sweep)(np.array([0.0, 1.0]), sweep.choices, sweep.propensities)


class ReadsFeatures(Sound):
    def decide(self, request, targets, rng):
        request.features.embedding[0]
        return super().decide(request, targets, rng)


@dataclass(frozen=True, kw_only=True)
class ChokesOnGaps(ForgetsSettings):
    def fit(self, table, features, rng):
        sound = super().fit(table, features, rng)
        order = [id_ for id_, gaps in zip(table.targets.ids, np.isnan(table.quality).any(axis=0), strict=True) if not gaps]
        return Sound(order or ["nobody"], sound.known, sound.fallbacks)


class TurnsRound(Sound):
    def state(self):
        state = super().state()
        return State({**state.config, "order": state.config["order"][::-1]})


BROKEN = [
    ("settings_round_trip", ForgetsSettings(), "do not make the same config"),
    ("decisions_are_whole", config_of(WithoutReasons), "gives no reason"),
    ("decisions_are_whole", config_of(PlansSomethingElse), "the plan begins with linguist"),
    ("same_seed_same_decision", config_of(OwnDice), "take randomness from rng"),
    ("many_choices_are_whole", config_of(BeyondTheEnd), "is no position"),
    ("one_equals_many", config_of(ManyDiffer), "decide_many"),
    ("propensities_are_true", config_of(SaysHalf), "is said to be 0.500"),
    ("leaves_inputs_alone", config_of(Spoils), "changed a request"),
    ("empty_catalogue_is_refused", config_of(TakesTheFirst), "raise NoTarget, not IndexError"),
    ("smaller_catalogue_is_obeyed", config_of(IgnoresTheCatalogue), "from a catalogue of"),
    ("smaller_catalogue_is_obeyed", config_of(FirstInLine), "turning the catalogue round"),
    ("strangers_are_no_accident", config_of(ShyOfStrangers), "known targets beside unknown ones were refused"),
    ("sweeps_are_whole", config_of(RaggedSweep), "choices are"),
    ("needs_are_declared", config_of(ReadsFeatures), "reads more than needs"),
    ("missing_cells_are_survived", ChokesOnGaps(), "a table with missing cells is too much"),
    ("state_round_trips", config_of(TurnsRound), "through the state the decision differs"),
    ("saved_policy_decides_alike", config_of(TurnsRound), "through the folder the decision differs"),
]


@pytest.mark.parametrize(
    ("check", "config", "said"), BROKEN, ids=[f"{name}-{config.fitted.__name__}" for name, config, _ in BROKEN]
)
def test_each_check_fails_on_what_it_is_for(check, config, said, monkeypatch):
    if check == "saved_policy_decides_alike":
        entry = Entry("policy", "broken", f"{__name__}:unused")
        monkeypatch.setattr(Entry, "load", lambda self: type(config))
        monkeypatch.setattr(registry, "BUILTIN", (*registry.BUILTIN, entry))
        registry.forget()
    others = [found.__name__ for found in POLICY_CHECKS if found.__name__ != check]
    try:
        with pytest.raises(AssertionError, match=said):
            check_policy(config, leave_out=others)
    finally:
        monkeypatch.undo()
        registry.forget()


def test_no_check_is_without_a_case():
    assert {name for name, _, _ in BROKEN} == {check.__name__ for check in POLICY_CHECKS}
