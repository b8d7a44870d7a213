"""acar: three probes of a cheap model; how far they disagree decides whether one, two or three models answer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About, Claim
from junctor.errors import UserError
from junctor.estimators import saved
from junctor.estimators.settings import check, configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.plans.signals import drawn_answers, sigma, votes
from junctor.plans.tape import Recording, Tape, replay_of
from junctor.policies.staged import Staged, costs_of, described, filled, named, outcomes_of
from junctor.policies.trading import expected
from junctor.policy import Policy, PolicyConfig, Replay, State
from junctor.types import Call, Cascade, Outcome, Panel, Plan, Request

MODELS = 3
EVEN = 1e-9


class Acar(Staged):
    """The chain is the probing model, the second and the third."""

    name: ClassVar[str] = "acar"

    def __init__(self, config: AcarConfig, chain: Sequence[str], known: dict[str, Outcome]) -> None:
        super().__init__(chain, known)
        self.config = config

    def plan_of(self, chain: Sequence[str], request: Request) -> tuple[Plan, tuple[str, ...]]:
        """A probing panel, then the further models that its spread asks for; every answer votes, ties go to the dearest."""
        del request
        probes = Panel((Call(chain[0]),) * self.config.probes, "majority")
        if len(chain) == 1:
            return probes, (f"{self.config.probes} probes of the only model that is here vote",)
        voting = {"carry": True, "ties": "last"}
        stages = tuple(
            Panel(tuple(Call(id_) for id_ in chain[1 : 2 + more]), "majority", voting) for more in range(len(chain) - 1)
        )
        levels = levels_of(len(chain))
        reasons = (
            f"{self.config.probes} probes of {chain[0]}: how far they disagree decides who else is asked",
            *(f"sigma over {level:g}: {', '.join(chain[1 : 2 + i])} too" for i, level in enumerate(levels)),
        )
        return Cascade((probes, *stages), "agreement", {"levels": levels}), reasons

    def replay(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Replay:
        """One setting: there is no knob. Answers are recorded samples, or drawn (see `drawn_answers`)."""
        del features
        config = self.config
        steady = None if config.rates else (config.steady_right, config.steady_wrong)
        answers = drawn_answers(table, config.probes, steady, config.options, rng)
        tape = self._run(Recording(table, answers), self.columns(table))
        return replay_of([np.nan], [tape], billed=table.cost_usd is not None)

    def _run(self, recording: Recording, columns: Sequence[int]) -> Tape:
        tape = recording.tape()
        rows = np.arange(recording.shape[0])
        first, probes = columns[0], self.config.probes
        tape.call(rows, first, probes)
        keys = np.stack([tape.read("key", rows, first, draw) for draw in range(probes)], axis=1)
        models = 1 + self._further(sigma(keys), len(columns))
        for count in range(1, len(columns) + 1):
            here = models == count
            _vote(tape, rows[here], keys[here], columns[:count], probes)
        return tape

    def _further(self, spread: NDArray[np.float64], chain: int) -> NDArray[np.intp]:
        """[n] how many further models a spread asks for."""
        further: NDArray[np.intp] = sum(
            ((spread > level + EVEN).astype(np.intp) for level in levels_of(chain)), np.zeros(len(spread), dtype=np.intp)
        )
        return further

    def state(self) -> State:
        """The chain and the settings."""
        return State({**self.described(), "settings": self.config.settings()})

    @classmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`."""
        config = configured(AcarConfig, saved.entry(state, "settings", dict[str, Any]), cls.name)
        return cls(config, *described(state))


def levels_of(chain: int) -> list[float]:
    """Above which spread each further model of a chain is asked: 0 and 0.5 for three models."""
    return [place / (chain - 1) for place in range(chain - 1)]


def _vote(tape: Tape, rows: NDArray[np.intp], keys: NDArray[np.float64], columns: Sequence[int], probes: int) -> None:
    """Ask the further models once each, and give the answer that most of all answers are equal to."""
    if not len(rows):
        return
    for further in columns[1:]:
        tape.call(rows, further)
    heard = np.column_stack([keys, *(tape.read("key", rows, further) for further in columns[1:])])
    won = votes(heard, last=len(columns) > 1)
    column = np.array([columns[0]] * probes + list(columns[1:]))[won]
    tape.give(rows, column, np.where(won < probes, won, 0))


@dataclass(frozen=True, kw_only=True)
class AcarConfig(PolicyConfig):
    """Who is asked, and how replayed answers are drawn where none are recorded.

    models        up to three target ids, the probing one first; empty: chosen by mean quality and cost on the training rows
    probes        samples of the first model
    steady_right  chance that a draw repeats the usual answer where that is right; steady_wrong where it is wrong
    options       how many different answers a question has
    rates         quality is a share of right samples: each draw is right with that probability, and wrong draws scatter
    """

    models: tuple[str, ...] = ()
    probes: int = 3
    steady_right: float = 0.9
    steady_wrong: float = 0.6
    options: int = 4
    rates: bool = False

    name: ClassVar[str] = "acar"
    fitted: ClassVar[type[Policy]] = Acar
    about: ClassVar[About | None] = About(
        title="ACAR: adaptive complexity and attribution routing",
        family="after the answer",
        status="simulated",
        source="ACAR, abstract: self-consistency variance of N = 3 probes chooses single, two-model or three-model execution",
        formula=(
            "sigma = (different answers - 1) / (N - 1) of N = 3 probes\n"
            "sigma 0: the probe's answer; 0.5: two models; 1: three models; no learned part"
        ),
        complexity="fit O(N M); a decision O(1)",
        adapted=(
            "Answers that a table records (samples of quality, with keys or without) are replayed.",
            "Else they are drawn: a model repeats its usual answer with probability .9 where right, .6 where wrong.",
            "The paper's arena with a judge is a vote of all answers, probes included; ties go to the dearest model.",
            "The models are chosen on the training rows: the best, and the second best of the others.",
            "The probing model is the one of the best quality less three times its relative cost.",
        ),
        unverified=(
            "How answers are normalised before they are compared.",
            "Whether the probes count as the first model's answer.",
        ),
        claims=(
            Claim(figure="55.6% against 54.4% of two models", on="1,510 tasks, 3 models", sure="abstract"),
            Claim(figure="full ensemble avoided on 54.2% of tasks", on="1,510 tasks, 3 models", sure="abstract"),
        ),
    )

    def __post_init__(self) -> None:
        check(len(self.models) <= MODELS, "acar.models", "are more than three")
        check(len(set(self.models)) == len(self.models), "acar.models", "names a target twice")
        check(2 <= self.probes <= 16, "acar.probes", "must be 2 to 16")
        check(self.options >= 2, "acar.options", "must be at least 2")
        for name in ("steady_right", "steady_wrong"):
            check(0 <= getattr(self, name) <= 1, f"acar.{name}", "must be in [0, 1]")

    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Acar:
        """Choose the models, unless they are named. Raises UserError without outcomes to choose by."""
        del features, rng
        if self.models:
            return Acar(self, named(self.models, table, "acar.models"), expected(table))
        known = outcomes_of(table, self.name)
        return Acar(self, chosen_models(table, self.probes), known)


def chosen_models(table: OutcomeTable, probes: int) -> list[str]:
    """The probing model, the second and the third: see AcarConfig's `about`."""
    tried = np.flatnonzero(table.mask.any(axis=0))
    if not len(tried):
        raise UserError("there is no outcome to learn from", field="acar", fix="fit it on an outcome table")
    quality, cost = filled(table.quality).mean(axis=0), costs_of(table).mean(axis=0)
    ranked = sorted(tried.tolist(), key=lambda i: (-round(quality[i], 12), cost[i]))
    best, others = ranked[0], ranked[1:]
    if not others:
        return [table.targets.ids[best]]
    worth = quality - probes * cost / max(float(cost[tried].max()), 1e-300)
    first = max(others, key=lambda i: (round(worth[i], 12), -cost[i]))
    rest = [i for i in others if i != first][:1]
    return [table.targets.ids[i] for i in (first, *rest, best)]
