"""The accept rules that ship: scorer, verifier, judge, agreement."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar, Literal

from junctor.errors import ConfigError
from junctor.estimators.settings import check
from junctor.plans.answers import DEFAULT_WEIGHTS, answer_key, chance, features_of, log_odds, says_yes
from junctor.plans.contracts import Accept, Question, Trace, Verdict

EVEN = 1e-9
"""Figures closer than this are equal."""
PROMPT = "Question:\n{query}\n\nProposed answer:\n{answer}\n\nIs the proposed answer correct? Reply with one word, yes or no."


def at(values: Sequence[float], stage: int, otherwise: float) -> float:
    """The figure of this stage; the last one stands for all later stages."""
    return values[min(stage, len(values) - 1)] if values else otherwise


@dataclass(frozen=True, kw_only=True)
class Scorer(Accept):
    """Accept when the answer's score reaches `tau` (one per stage; the last stands for later ones).

    score = sigmoid(offset + gain * (weights · features of (query, answer))), see `junctor.plans.answers`; or the figure called
    `signal` that came with the answer, which counts as 0 when it is missing. `offset` holds log odds per stage from before the
    answer was seen: a policy puts there what it predicts of the query; `gain` says how much the answer's text counts beside it.
    Source: FrugalGPT (Chen et al. 2023), g(query, answer).
    """

    tau: tuple[float, ...] = (0.5,)
    offset: tuple[float, ...] = ()
    gain: tuple[float, ...] = ()
    weights: tuple[float, ...] = DEFAULT_WEIGHTS
    signal: str = ""

    name: ClassVar[str] = "scorer"

    def __post_init__(self) -> None:
        check(bool(self.tau), "scorer.tau", "has no threshold", "give one per stage")

    def score(self, trace: Trace) -> float:
        """Of the answer that stands for the stage, in [0, 1]."""
        answer = trace.answer
        if self.signal:
            return answer.signals.get(self.signal, 0.0)
        sign = log_odds(self.weights, features_of(trace.query, answer.text, answer.finished))
        return chance(at(self.offset, trace.stage, 0.0) + at(self.gain, trace.stage, 1.0) * sign)

    def judge(self, trace: Trace) -> Verdict:
        """Score against threshold."""
        score, tau = self.score(trace), at(self.tau, trace.stage, 0.5)
        good = score >= tau - EVEN
        return Verdict(accept=good, why=f"score {score:.3f} {'reaches' if good else 'is below'} {tau:.3f}")


@dataclass(frozen=True, kw_only=True)
class Verifier(Accept):
    """Ask `k` times whether the answer is right; p_ver is the share of yes among those who said yes or no.

    by         who is asked, per stage ("" or nothing: the target that answered, as in self-verification)
    rule       threshold: go on when p_ver < threshold
               double: go on when hopeless <= p_ver < threshold; below that a dearer model would not help either
               pomdp: `escalate` says it for each of len(escalate) equal bins of p_ver
    Without a single verdict it goes on. Source: AutoMix (Madaan et al. 2023).
    """

    k: int = 8
    by: tuple[str, ...] = ()
    rule: Literal["threshold", "double", "pomdp"] = "threshold"
    threshold: float = 0.5
    hopeless: float = 0.0
    escalate: tuple[bool, ...] = ()

    name: ClassVar[str] = "verifier"

    def __post_init__(self) -> None:
        check(1 <= self.k <= 64, f"{self.name}.k", "is not a number of checks", "give 1 to 64")
        check(self.rule != "pomdp" or len(self.escalate) > 0, f"{self.name}.escalate", "is empty", "say for each bin of p_ver")

    def questions(self, trace: Trace) -> tuple[Question, ...]:
        """The same question `k` times."""
        answer = trace.answer
        by = self.by[min(trace.stage, len(self.by) - 1)] if self.by else ""
        prompt = PROMPT.format(query=trace.query, answer=answer.text)
        return (Question(target=by or answer.target, prompt=prompt, times=self.k),)

    def judge(self, trace: Trace) -> Verdict:
        """p_ver against the rule."""
        said = [verdict for given in trace.checks if (verdict := says_yes(given.text)) is not None]
        if not said:
            return Verdict(accept=False, why="no check said yes or no")
        p_ver = sum(said) / len(said)
        good = not goes_on(self, p_ver)
        return Verdict(
            accept=good, why=f"p_ver {p_ver:.2f} of {len(said)} checks: {'accepted' if good else 'not'} by {self.rule}"
        )


def goes_on(rule: Verifier, p_ver: float) -> bool:
    """Whether a dearer model is asked."""
    if rule.rule == "pomdp":
        return rule.escalate[round(p_ver * (len(rule.escalate) - 1))]
    hopeless = rule.hopeless if rule.rule == "double" else 0.0
    return hopeless - EVEN <= p_ver < rule.threshold - EVEN


@dataclass(frozen=True, kw_only=True)
class Judge(Verifier):
    """A verifier under a cap: one judge is asked once, and the cascade stops when the next call would cost more than is left.

    cap_usd       for all calls of the request; the first call is always made
    expected_usd  what the call of each stage is expected to cost
    Source: RouterBench (Hu et al. 2024), cascading router.
    """

    k: int = 1
    cap_usd: float | None = None
    expected_usd: tuple[float, ...] = ()

    name: ClassVar[str] = "judge"

    def questions(self, trace: Trace) -> tuple[Question, ...]:
        """None when the cap stops it anyway."""
        return () if self._over(trace) else super().questions(trace)

    def judge(self, trace: Trace) -> Verdict:
        """The cap goes before the judge."""
        if self._over(trace):
            return Verdict(accept=True, why=f"the next call would exceed the cap of {self.cap_usd:g} USD")
        return super().judge(trace)

    def _over(self, trace: Trace) -> bool:
        if self.cap_usd is None:
            return False
        coming = self.expected_usd[trace.stage + 1] if trace.stage + 1 < len(self.expected_usd) else 0.0
        return trace.spent_usd + coming > self.cap_usd


@dataclass(frozen=True, kw_only=True)
class Agreement(Accept):
    """Accept when the stage's answers agree: sigma = (different answers - 1) / (answers - 1), 0 when all say the same.

    levels   ascending; sigma at most levels[0] accepts, at most levels[1] goes on to the next plan, at most levels[2] to the
             one after it, above the last to the one after that. (0, 0.5) is ACAR's: 1, 2 or 3 models
    One answer of a stage that asked once agrees with itself; one answer left of several says nothing: sigma counts as 1.
    Source: ACAR, section on self-consistency variance.
    """

    levels: tuple[float, ...] = (0.0,)

    name: ClassVar[str] = "agreement"

    def __post_init__(self) -> None:
        if not self.levels or list(self.levels) != sorted(self.levels):
            raise ConfigError("do not ascend", field="agreement.levels", fix="for example [0.0, 0.5]")

    def judge(self, trace: Trace) -> Verdict:
        """Sigma against the levels."""
        sigma = spread([answer_key(given.text) for given in trace.answers], trace.asked)
        onward = sum(sigma > level + EVEN for level in self.levels)
        return Verdict(accept=onward == 0, skip=max(0, onward - 1), why=f"sigma {sigma:.2f} of {len(trace.answers)} answers")


def spread(keys: Sequence[str], asked: int) -> float:
    """Sigma of these answers; 1 when fewer than two of several came back."""
    if len(keys) < 2:
        return 1.0 if asked > 1 else 0.0
    return (len(set(keys)) - 1) / (len(keys) - 1)
