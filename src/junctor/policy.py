"""The contracts. Everything that chooses is one of these four.

    EstimatorConfig.fit(table, features, rng) -> Estimator     predicts Outcomes, with uncertainty, per target
    PolicyConfig.fit(table, features, rng)    -> Policy        decides
    Learner                                                    a Policy that also takes (Decision, Outcome) pairs

A *config* is a frozen, keyword-only dataclass: hyper-parameters and nothing else. Its `candidates` is the grid that is tuned on
validation rows. What `fit` returns decides with numpy alone: scikit-learn, torch and friends are allowed inside `fit` only.
Deciding is pure and synchronous: no clock, no file, no network, and randomness is passed in.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from junctor.about import About
from junctor.errors import UserError
from junctor.types import Catalogue, Decision, Outcome, Request

if TYPE_CHECKING:
    from junctor.features import Features
    from junctor.outcomes import OutcomeTable

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class State:
    """Learned state as plain data: `config` goes to JSON, `arrays` to safetensors. Never pickle."""

    config: Mapping[str, Any] = field(default_factory=dict)
    arrays: Mapping[str, NDArray[Any]] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Prediction:
    """Predicted outcomes. Every array is [M] for one request or [N, M] for many; columns follow the estimator's `targets`.

    quality      expected quality in [0, 1]; NaN = this target cannot be predicted
    quality_std  standard error of that expectation (how little is known of it, not how outcomes scatter), or None
    cost_usd, latency_s, output_tokens   expected values, or None when nothing was recorded
    """

    quality: Array
    quality_std: Array | None = None
    cost_usd: Array | None = None
    latency_s: Array | None = None
    output_tokens: Array | None = None


class Figures(NamedTuple):
    """A Prediction for one request in plain numbers, [M] each: for a handful of targets faster than arrays."""

    quality: list[float]
    cost_usd: list[float] | None = None
    latency_s: list[float] | None = None
    output_tokens: list[float] | None = None

    @classmethod
    def of(cls, found: Prediction) -> Figures:
        """From the arrays of one request."""
        rest = (None if a is None else a.tolist() for a in (found.cost_usd, found.latency_s, found.output_tokens))
        return cls(found.quality.tolist(), *rest)


@dataclass(frozen=True, slots=True)
class Sweep:
    """A policy along its trade-off knob, dearest preference for quality first.

    settings      [L] the knob's values (λ; NaN for a policy without a knob)
    choices       [L, N] positions in the catalogue
    propensities  [L, N] probability of each choice
    """

    settings: Array
    choices: NDArray[np.intp]
    propensities: Array


@dataclass(frozen=True, slots=True)
class Replay:
    """What plans came to on recorded outcomes, along the policy's knob. Every call is in the bill: probes, verifiers, failures.

    settings   [L] the knob's values
    quality    [L, N] of the answer that was given in the end; NaN where a call was not recorded
    cost_usd   [L, N] of all calls together, or None when the table has no costs
    calls      [L, N] how many calls were made
    """

    settings: Array
    quality: Array
    cost_usd: Array | None
    calls: Array


class EstimatorConfig(ABC):
    """Hyper-parameters of an estimator. Subclasses are frozen keyword-only dataclasses; unknown settings are an error.

    `fitted` is the class that `fit` returns: a saved estimator is read back through its `from_state`. `about` says where it
    comes from.
    """

    name: ClassVar[str]
    about: ClassVar[About | None] = None
    fitted: ClassVar[type[Estimator]]
    needs: ClassVar[frozenset[str]] = frozenset()

    @abstractmethod
    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Estimator:
        """Learn from N recorded queries. `features` has the same N rows as the table; cells may be missing (NaN)."""

    def candidates(self, rows: int) -> Sequence[Self]:
        """The grid to tune on validation rows, given how many training rows there are; itself alone by default."""
        del rows
        return [self]

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters as plain data."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]


class Estimator(ABC):
    """A fitted estimator: numpy only."""

    name: ClassVar[str]
    needs: ClassVar[frozenset[str]] = frozenset()
    targets: tuple[str, ...]
    losses: tuple[float, ...] = ()
    """Training loss per epoch, for those that are trained by gradient descent; part of their state."""

    @abstractmethod
    def predict_many(self, features: Features) -> Prediction:
        """Arrays of shape [N, M] for N requests, columns in the order of `targets`."""

    def predict(self, features: Features) -> Prediction:
        """Arrays of shape [M] for one request; override where one row can be done faster than a batch of one."""
        many = self.predict_many(features)
        fields = (many.quality, many.quality_std, many.cost_usd, many.latency_s, many.output_tokens)
        return Prediction(*(None if a is None else a[0] for a in fields))  # type: ignore[arg-type]

    def expect(self, features: Features) -> Prediction:
        """`predict` for callers that do not look at `quality_std`: override where leaving it out saves time."""
        return self.predict(features)

    def figures(self, features: Features) -> Figures:
        """`expect` in plain numbers: override where that saves going through arrays."""
        return Figures.of(self.expect(features))

    @abstractmethod
    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Estimator:
        """A new estimator that also knows `target`, from a few billed rows that record it; the old one is unchanged."""

    @abstractmethod
    def state(self) -> State:
        """Everything needed to make this object again."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; raises ArtefactError when it does not fit."""


class PolicyConfig(ABC):
    """What to decide by. Subclasses are frozen keyword-only dataclasses.

    `fitted` is the class that `fit` returns: a saved policy is read back through its `from_state`. `about` says where it comes
    from.
    """

    name: ClassVar[str]
    about: ClassVar[About | None] = None
    fitted: ClassVar[type[Policy]]

    @abstractmethod
    def fit(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Policy:
        """Learn what is to be learned from N recorded queries."""

    def candidates(self, rows: int) -> Sequence[Self]:
        """The grid to tune on validation rows; itself alone by default."""
        del rows
        return [self]

    def settings(self) -> dict[str, Any]:
        """The hyper-parameters as plain data."""
        return asdict(self)  # type: ignore[call-overload,no-any-return]

    @property
    def needs(self) -> frozenset[str]:
        """What `fit` and the fitted policy read: any of "embedding", "labels", "history"."""
        return frozenset()


class Policy(ABC):
    """Chooses. `name` is the registered name, `version` tells two fits apart, `needs` says what the engine must supply."""

    name: ClassVar[str]
    version: str = ""
    label: str = ""

    @property
    def needs(self) -> frozenset[str]:
        """What `decide` reads of a request: any of "embedding", "labels", "history"."""
        return frozenset()

    @property
    def honours(self) -> frozenset[str]:
        """Which wishes of a single request it takes into account: any of "cost_weight", "quality_floor", "switch"."""
        return frozenset()

    @property
    def label_names(self) -> frozenset[str]:
        """The labels that it reads by name, so that the engine can work out those that it knows how to, and only those."""
        return frozenset()

    def worth_usd(self, targets: Catalogue) -> float:
        """What a US dollar is worth in points of quality when this policy trades the two; 0 when it does not."""
        del targets
        return 0.0

    @property
    def title(self) -> str:
        """What people call it: the label it was configured under, or its registered name."""
        return self.label or self.name

    @abstractmethod
    def decide(self, request: Request, targets: Catalogue, rng: np.random.Generator) -> Decision:
        """Choose for one request. The decision takes the request's id. Raises NoTarget when nothing is eligible."""

    @abstractmethod
    def decide_many(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> tuple[NDArray[np.intp], Array]:
        """Choose for N requests at once: positions in `targets` [N] and propensities [N]."""

    def decide_sweep(self, features: Features, targets: Catalogue, rng: np.random.Generator) -> Sweep:
        """Choose along the trade-off knob; a policy without one gives a single row."""
        choices, propensities = self.decide_many(features, targets, rng)
        return Sweep(np.array([np.nan]), choices[None, :], propensities[None, :])

    def onboard(self, target: str, rows: OutcomeTable, features: Features) -> Policy:
        """A policy that may also choose `target`, from a few billed rows that record it; this one is unchanged.

        Raises UserError where a policy has to be fitted anew for that.
        """
        del rows, features
        raise UserError("has to be fitted anew to know another target", field=f"{self.name}.{target}", fix="fit it again")

    @abstractmethod
    def state(self) -> State:
        """Everything needed to make this object again."""

    @classmethod
    @abstractmethod
    def from_state(cls, state: State) -> Self:
        """The inverse of `state`; raises ArtefactError when it does not fit."""


class Learner(Policy):
    """A policy that learns while it serves: late, twice and out of order, each decision counted at most once."""

    @abstractmethod
    def learn(self, decision: Decision, outcome: Outcome) -> None:
        """Take one result. Idempotent by `decision.id`; unknown ids are accepted.

        A result may come first as a bill alone, without a quality, and again with one. Where another target than the intended
        one answered, `decision.target` names that one, for the bill, and there is no quality: the propensity was not of it.
        """


class Replayable(Policy):
    """A policy whose plans look at answers before they stop: the bench must replay its calls, not only its first choice."""

    @abstractmethod
    def replay(self, table: OutcomeTable, features: Features, rng: np.random.Generator) -> Replay:
        """Run the plans of N recorded queries. An outcome may be read only after its call is in the bill."""
