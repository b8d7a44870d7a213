"""The conformance suite of estimators: `check_estimator(MyConfig())` in a plug-in's own tests.

Each check is a function of one Trial and raises AssertionError with a sentence. The suite fits on a planted table unless it is
given another one.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

import numpy as np

from junctor.errors import ArtefactError, UserError
from junctor.estimators.settings import configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Array, Estimator, EstimatorConfig, Prediction, State
from junctor.testing.planted import fingerprint, is_frozen, planted, through_files, with_gaps

MEASURES = ("cost_usd", "latency_s", "output_tokens")


@dataclass(frozen=True, slots=True)
class Trial:
    """What an estimator is checked on; `learns` is False for one whose quality does not depend on recorded outcomes."""

    config: EstimatorConfig
    table: OutcomeTable
    features: Features
    seed: int
    learns: bool

    def fit(self, table: OutcomeTable | None = None, features: Features | None = None) -> Estimator:
        """Fit with a fresh generator of the same seed."""
        found = self.table if table is None else table
        seen = self.features if features is None else features
        return self.config.fit(found, seen, np.random.default_rng(self.seed))


Check = Callable[[Trial], None]


def check_estimator(
    config: EstimatorConfig,
    *,
    table: OutcomeTable | None = None,
    features: Features | None = None,
    learns: bool = True,
    seed: int = 0,
    leave_out: Collection[str] = (),
) -> None:
    """Run every check but those named in `leave_out`; raises AssertionError with a sentence on the first that fails."""
    own_table, own_features = planted()
    trial = Trial(
        config,
        own_table if table is None else table,
        own_features if table is None or features is None else features,
        seed,
        learns,
    )
    for check in ESTIMATOR_CHECKS:
        if check.__name__ not in leave_out:
            check(trial)


def settings_round_trip(trial: Trial) -> None:
    """A config is a frozen dataclass that its settings make again, and says what `fit` returns."""
    config = trial.config
    assert is_frozen(config), f"{type(config).__name__} must be a frozen dataclass: decisions are explained by it"
    again = configured(type(config), config.settings(), config.name)
    assert again == config, f"settings() of {config.name} do not make the same config again: {again} is not {config}"
    fitted = getattr(type(config), "fitted", None)
    assert fitted is type(trial.fit()), f"{type(config).__name__}.fitted must be the class that fit() returns, it is {fitted}"
    assert fitted.name == config.name, f"the fitted estimator is called {fitted.name!r}, its config {config.name!r}"


def candidates_are_configs(trial: Trial) -> None:
    """The grid holds configs of the same type, at least one, also for a handful of rows."""
    for rows in (3, len(trial.table), 100_000):
        grid = list(trial.config.candidates(rows))
        assert grid, f"candidates({rows}) of {trial.config.name} is empty: return at least the config itself"
        alike = all(type(one) is type(trial.config) for one in grid)
        assert alike, f"candidates({rows}) of {trial.config.name} holds something other than its own configs"


def predicts_every_target(trial: Trial) -> None:
    """Shapes are [N, M], qualities are in [0, 1], and what was recorded is predicted."""
    fitted = trial.fit()
    assert fitted.targets == trial.table.targets.ids, f"targets are {fitted.targets}, the table's are {trial.table.targets.ids}"
    found = fitted.predict_many(trial.features)
    _plausible(found, (len(trial.features), len(fitted.targets)), trial.config.name)
    assert np.isfinite(found.quality).all(), "quality holds NaN although every target was tried"
    for name in MEASURES:
        recorded, predicted = getattr(trial.table, name) is not None, getattr(found, name) is not None
        assert recorded or not predicted, f"{name} is predicted although none was recorded: it must be None"
        assert predicted or not recorded, f"{name} was recorded, but is not predicted"


def one_row_equals_many(trial: Trial) -> None:
    """`predict` gives the row that `predict_many` gives, and `expect` gives the same without the standard error."""
    fitted = trial.fit()
    many = fitted.predict_many(trial.features)
    for row in range(0, len(trial.features), max(1, len(trial.features) // 10)):
        seen = trial.features.take([row])
        _same_row("predict", fitted.predict(seen), many, row, ("quality", "quality_std", *MEASURES))
        _same_row("expect", fitted.expect(seen), many, row, ("quality", *MEASURES))


def _same_row(how: str, one: Prediction, many: Prediction, row: int, names: Sequence[str]) -> None:
    for name in names:
        alone, among = getattr(one, name), getattr(many, name)
        assert (alone is None) == (among is None), f"{name} is None in one of {how} and predict_many only"
        if alone is not None:
            close = np.allclose(alone, among[row], rtol=1e-6, atol=1e-9, equal_nan=True)
            assert close, f"{name} of row {row} differs: {how} says {alone}, predict_many {among[row]}"


def same_seed_same_prediction(trial: Trial) -> None:
    """Two fits from one seed agree exactly."""
    one, other = (trial.fit().predict_many(trial.features).quality for _ in range(2))
    assert np.array_equal(one, other), "two fits from the same seed disagree: take randomness from rng alone"


def leaves_inputs_alone(trial: Trial) -> None:
    """Neither fit nor predict changes the table or the features."""
    before = fingerprint(trial.table, trial.features)
    fitted = trial.fit()
    fitted.predict_many(trial.features)
    fitted.predict(trial.features.take([0]))
    assert fingerprint(trial.table, trial.features) == before, "fit or predict changed the table or the features"


def needs_are_declared(trial: Trial) -> None:
    """What is not in `needs` may be absent; an embedding that is needed and absent is a UserError."""
    needs = trial.config.needs
    assert trial.fit().needs == needs, f"the config needs {set(needs)}, the fitted estimator {set(trial.fit().needs)}"
    bare = Features(
        trial.features.texts,
        trial.features.embedding if "embedding" in needs else None,
        trial.features.labels if "labels" in needs else {},
    )
    try:
        trial.fit(features=bare).predict_many(bare)
    except (UserError, TypeError, AttributeError) as error:
        raise AssertionError(f"it reads more than needs = {set(needs)} says: {error}") from error
    if "embedding" in needs:
        _refuses(lambda: trial.fit().predict_many(replace(bare, embedding=None)), UserError, "an embedding is absent")


def masks_missing_cells(trial: Trial) -> None:
    """A cell that was not recorded is no failure and no free call."""
    rng = np.random.default_rng(trial.seed)
    sparse = with_gaps(trial.table, 0.5, rng)
    found = trial.fit(table=sparse).predict_many(trial.features)
    assert np.isfinite(found.quality).all(), "quality is NaN for targets that were tried on half of the rows"
    if not trial.learns:
        return
    perfect = replace(sparse, quality=np.where(np.isnan(sparse.quality), np.nan, 1.0))
    found = trial.fit(table=perfect).predict_many(trial.features)
    worst = float(found.quality.min())
    assert worst > 0.9, f"a target that never failed is predicted at {worst:.2f}: missing cells count as failures"
    if sparse.cost_usd is not None and found.cost_usd is not None:
        flat = replace(sparse, cost_usd=np.where(np.isnan(sparse.cost_usd), np.nan, 0.01))
        cost = trial.fit(table=flat).predict_many(trial.features).cost_usd
        cheapest = np.inf if cost is None else float(cost.min())
        assert cheapest > 0.009, f"a target that always cost 0.01 is predicted at {cheapest:.4f}: missing costs count as zero"


def never_tried_is_not_a_failure(trial: Trial) -> None:
    """A target without any outcome is NaN or a prior; the others are predicted as ever."""
    quality = trial.table.quality.copy()
    quality[:, 0] = np.nan
    found = trial.fit(table=replace(trial.table, quality=quality)).predict_many(trial.features).quality
    assert np.isfinite(found[:, 1:]).all(), "one target was never tried, and the others are NaN for it"
    zero = bool((found[:, 0] == 0.0).all())
    assert not zero, "a target that was never tried is predicted to fail: answer NaN (cannot be predicted)"


def unrecorded_costs_are_none(trial: Trial) -> None:
    """Without recorded costs there is no predicted cost."""
    bare = replace(trial.table, cost_usd=None, latency_s=None, output_tokens=None)
    found = trial.fit(table=bare).predict(trial.features.take([0]))
    made_up = [name for name in MEASURES if getattr(found, name) is not None]
    assert not made_up, f"{', '.join(made_up)}: predicted although nothing was recorded"


def onboards_a_target(trial: Trial) -> None:
    """A new target is learned from a few rows; the old estimator stays what it was."""
    known, new = trial.table.targets.ids[:-1], trial.table.targets.ids[-1]
    old = trial.fit(table=trial.table.only(known))
    before = old.predict_many(trial.features).quality.copy()
    rows = np.arange(0, len(trial.table), 4)
    shown = trial.table.take(rows)
    wider = old.onboard(new, replace(shown, quality=np.ones_like(shown.quality)), trial.features.take(rows))
    assert wider.targets == (*known, new), f"targets after onboarding are {wider.targets}, not the old ones and {new!r}"
    assert old.targets == known, "onboarding changed the old estimator's targets: return a new one"
    after = old.predict_many(trial.features).quality
    assert np.array_equal(before, after), "onboarding changed the old estimator's predictions: return a new one"
    found = wider.predict_many(trial.features)
    _plausible(found, (len(trial.features), len(wider.targets)), trial.config.name)
    typical = float(found.quality[:, -1].mean())
    assert not trial.learns or typical > 0.8, f"a target right on all its calibration rows is predicted at {typical:.2f}"
    _same_predictions(wider, type(wider).from_state(through_files(wider.state())), trial.features)


def state_round_trips(trial: Trial) -> None:
    """JSON and safetensors bring the same estimator back, also from a table with missing cells."""
    sparse = with_gaps(trial.table, 0.3, np.random.default_rng(trial.seed))
    for fitted in (trial.fit(), trial.fit(table=sparse)):
        _same_predictions(fitted, type(fitted).from_state(through_files(fitted.state())), trial.features)


def damaged_state_is_refused(trial: Trial) -> None:
    """A state that lacks an array or a key, or whose array has another shape, is an ArtefactError."""
    kind, state = type(trial.fit()), through_files(trial.fit().state())
    damaged = {f"array {name} is missing": State(state.config, _without(state.arrays, name)) for name in state.arrays}
    for name, values in state.arrays.items():
        damaged[f"array {name} is misshapen"] = State(state.config, {**state.arrays, name: values[None]})
    for name in state.config:
        damaged[f"{name} is missing"] = State(_without(state.config, name), state.arrays)
    for what, found in damaged.items():
        _refuses(partial(kind.from_state, found), ArtefactError, what)


ESTIMATOR_CHECKS: tuple[Check, ...] = (
    settings_round_trip,
    candidates_are_configs,
    predicts_every_target,
    one_row_equals_many,
    same_seed_same_prediction,
    leaves_inputs_alone,
    needs_are_declared,
    masks_missing_cells,
    never_tried_is_not_a_failure,
    unrecorded_costs_are_none,
    onboards_a_target,
    state_round_trips,
    damaged_state_is_refused,
)


def _without(mapping: Mapping[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in mapping.items() if key != name}


def _plausible(found: Prediction, shape: tuple[int, ...], who: str) -> None:
    for name in ("quality", "quality_std", *MEASURES):
        values: Array | None = getattr(found, name)
        if values is None:
            assert name != "quality", f"{who} predicts no quality"
            continue
        assert values.shape == shape, f"{name} of {who} has shape {values.shape}, not {shape}"
        known = values[~np.isnan(values)]
        assert not len(known) or known.min() >= 0.0, f"{name} of {who} is negative somewhere: {known.min()}"
        assert name != "quality" or not len(known) or known.max() <= 1.0, f"quality of {who} is above 1: {known.max()}"


def _same_predictions(one: Estimator, other: Estimator, features: Features) -> None:
    assert one.targets == other.targets, f"the state brings back targets {other.targets}, not {one.targets}"
    for name in ("quality", "quality_std", *MEASURES):
        before, after = getattr(one.predict_many(features), name), getattr(other.predict_many(features), name)
        same = before is after or (before is not None and after is not None and np.array_equal(before, after, equal_nan=True))
        assert same, f"{name} differs after a round trip through the state"


def _refuses(action: Callable[[], Any], kind: type[Exception], what: str) -> None:
    try:
        action()
    except kind:
        return
    except (KeyError, IndexError, ValueError, TypeError, AttributeError) as error:
        raise AssertionError(f"{what}: raise {kind.__name__}, not {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what}, and nothing was raised: raise {kind.__name__}")
