"""The conformance suite of policies: `check_policy(MyConfig())` in a plug-in's own tests. A fitted policy will do, too.

Each check is a function of one Bench and raises AssertionError with a sentence.
"""

from __future__ import annotations

import tempfile
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from junctor import registry
from junctor.artefact import Provenance, load_policy, save_policy
from junctor.errors import NoTarget, UserError
from junctor.estimators.settings import configured
from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Policy, PolicyConfig
from junctor.testing.planted import fingerprint, is_frozen, planted, requests, through_files, with_gaps
from junctor.types import Catalogue, Decision, Request, Target, looks_at_answers, plan_targets

DRAWS = 2000
SIGMAS = 5.0


@dataclass(frozen=True, slots=True)
class Bench:
    """What a policy is checked on; `config` is None when it came fitted."""

    config: PolicyConfig | None
    policy: Policy
    table: OutcomeTable
    features: Features
    seed: int

    @property
    def targets(self) -> Catalogue:
        """The table's targets."""
        return self.table.targets

    def requests(self, count: int = 20) -> Iterator[Request]:
        """The first rows as requests."""
        return requests(self.table, self.features, range(min(count, len(self.table))))

    def decide(self, request: Request, targets: Catalogue | None = None, policy: Policy | None = None) -> Decision:
        """Decide with a fresh generator of the same seed."""
        catalogue = self.targets if targets is None else targets
        return (policy or self.policy).decide(request, catalogue, np.random.default_rng(self.seed))


Check = Callable[[Bench], None]


def check_policy(
    subject: PolicyConfig | Policy,
    *,
    table: OutcomeTable | None = None,
    features: Features | None = None,
    seed: int = 0,
    leave_out: Collection[str] = (),
) -> None:
    """Run every check but those named in `leave_out`; raises AssertionError with a sentence on the first that fails.

    A config is fitted on the table (a planted one by default); a fitted policy must know at least one of its targets.
    """
    own_table, own_features = planted()
    found, seen = (own_table, own_features) if table is None else (table, table.features() if features is None else features)
    config = subject if isinstance(subject, PolicyConfig) else None
    policy = subject if isinstance(subject, Policy) else subject.fit(found, seen, np.random.default_rng(seed))
    bench = Bench(config, policy, found, seen, seed)
    for check in POLICY_CHECKS:
        if check.__name__ not in leave_out:
            check(bench)


def settings_round_trip(bench: Bench) -> None:
    """A config is a frozen dataclass that its settings make again, and says what `fit` returns."""
    config = bench.config
    if config is None:
        return
    assert is_frozen(config), f"{type(config).__name__} must be a frozen dataclass: decisions are explained by it"
    again = configured(type(config), config.settings(), config.name)
    assert again == config, f"settings() of {config.name} do not make the same config again: {again} is not {config}"
    fitted = getattr(type(config), "fitted", None)
    assert fitted is type(bench.policy), f"{type(config).__name__}.fitted must be the class that fit() returns, it is {fitted}"
    assert bench.policy.name == config.name, f"the fitted policy is called {bench.policy.name!r}, its config {config.name!r}"
    grid = list(config.candidates(len(bench.table)))
    assert grid, f"candidates() of {config.name} is empty: return at least the config itself"
    assert all(type(one) is type(config) for one in grid), (
        f"candidates() of {config.name} holds something else than its configs"
    )


def decisions_are_whole(bench: Bench) -> None:
    """A decision answers its request, chooses among the candidates, plans for what it chose, and says why."""
    for request in bench.requests():
        made = bench.decide(request)
        assert made.id == request.id, f"the decision's id is {made.id!r}, the request's {request.id!r}"
        planned = plan_targets(made.plan)
        strange = [id_ for id_ in (made.target, *planned) if bench.targets.position(id_) is None]
        assert not strange, f"{', '.join(strange)} was chosen, but is not in the catalogue"
        assert planned[0] == made.target, f"the target is {made.target}, but the plan begins with {planned[0]}"
        once = looks_at_answers(made.plan) or len(set(planned)) == len(planned)
        assert once, f"the plan tries a target twice: {', '.join(planned)}"
        ranked = [row.target for row in made.ranked]
        assert not ranked or ranked[0] == made.target, f"the target is {made.target}, but {ranked[0]} is ranked first"
        assert 0.0 < made.propensity <= 1.0, f"the propensity {made.propensity} is not in (0, 1]"
        assert made.policy, "the decision does not name its policy"
        assert made.reasons, "the decision gives no reason"
        assert all(made.reasons), "a reason is empty"


def same_seed_same_decision(bench: Bench) -> None:
    """Deciding twice from one seed gives the same decision, in either order of requests."""
    forth = [bench.decide(request) for request in bench.requests()]
    back = [bench.decide(request) for request in reversed(list(bench.requests()))]
    assert forth == back[::-1], "the same request and seed gave two decisions: take randomness from rng alone and keep no state"


def many_choices_are_whole(bench: Bench) -> None:
    """`decide_many` gives N positions in the catalogue and N propensities in (0, 1]."""
    choices, propensities = bench.policy.decide_many(bench.features, bench.targets, np.random.default_rng(bench.seed))
    rows = len(bench.features)
    assert choices.shape == propensities.shape == (rows,), f"shapes {choices.shape} and {propensities.shape}, not ({rows},)"
    assert np.issubdtype(choices.dtype, np.integer), f"choices are {choices.dtype}, not positions"
    inside = (choices >= 0) & (choices < len(bench.targets))
    assert inside.all(), f"choice {choices[~inside][:1]} is no position in a catalogue of {len(bench.targets)}"
    assert ((propensities > 0) & (propensities <= 1)).all(), "a propensity is not in (0, 1]"


def one_equals_many(bench: Bench) -> None:
    """Where nothing is random, `decide` and `decide_many` choose alike."""
    choices, propensities = bench.policy.decide_many(bench.features, bench.targets, np.random.default_rng(bench.seed))
    for row, request in enumerate(bench.requests(len(bench.table))):
        made = bench.decide(request)
        sure = (made.propensity == 1.0, bool(propensities[row] == 1.0))
        assert sure[0] == sure[1], f"row {row}: the propensity is {made.propensity} alone and {propensities[row]} among many"
        among = bench.targets.ids[int(choices[row])]
        assert not sure[0] or among == made.target, f"row {row}: decide chooses {made.target}, decide_many {among}"


def propensities_are_true(bench: Bench) -> None:
    """Each target is drawn as often as its stated propensity says, within five standard deviations."""
    request = next(bench.requests())
    rng = np.random.default_rng(bench.seed)
    drawn = [bench.policy.decide(request, bench.targets, rng) for _ in range(DRAWS)]
    stated = {made.target: made.propensity for made in drawn if made.propensity_kind == "exact"}
    many = bench.features.take([0] * DRAWS)
    positions, claims = bench.policy.decide_many(many, bench.targets, rng)
    _frequencies(Counter(made.target for made in drawn), stated)
    claimed = {bench.targets.ids[int(place)]: float(claim) for place, claim in zip(positions, claims, strict=True)}
    _frequencies(
        Counter(bench.targets.ids[int(place)] for place in positions), {k: v for k, v in claimed.items() if k in stated}
    )


def leaves_inputs_alone(bench: Bench) -> None:
    """Deciding and fitting change neither table, features nor request."""
    before = fingerprint(bench.table, bench.features)
    asked = list(bench.requests())
    for request in asked:
        bench.decide(request)
    bench.policy.decide_many(bench.features, bench.targets, np.random.default_rng(bench.seed))
    if bench.config is not None:
        bench.config.fit(bench.table, bench.features, np.random.default_rng(bench.seed))
    assert fingerprint(bench.table, bench.features) == before, "fitting or deciding changed the table or the features"
    fresh = list(bench.requests())
    same = all(one.labels == other.labels and one.params == other.params for one, other in zip(asked, fresh, strict=True))
    assert same, "deciding changed a request"


def empty_catalogue_is_refused(bench: Bench) -> None:
    """No targets is NoTarget, never an index error."""
    nobody = Catalogue([])
    _no_target(lambda: bench.decide(next(bench.requests()), nobody), "decide with an empty catalogue")
    _no_target(
        lambda: bench.policy.decide_many(bench.features, nobody, np.random.default_rng(0)), "decide_many with an empty one"
    )


def smaller_catalogue_is_obeyed(bench: Bench) -> None:
    """A choice stays inside a smaller catalogue; the order of the catalogue does not change a sure choice."""
    backwards = Catalogue(list(bench.targets)[::-1])
    for request in bench.requests():
        made = bench.decide(request)
        turned = bench.decide(request, backwards)
        steady = made.propensity < 1.0 or turned.target == made.target
        assert steady, f"turning the catalogue round changes the choice from {made.target} to {turned.target}"
        for size in range(1, len(bench.targets)):
            some = Catalogue(list(bench.targets)[:size])
            try:
                inside = bench.decide(request, some)
            except NoTarget:
                continue
            chosen = {inside.target, *plan_targets(inside.plan)}
            assert chosen <= set(some.ids), f"chose {', '.join(sorted(chosen))} from a catalogue of {', '.join(some.ids)}"


def strangers_are_no_accident(bench: Bench) -> None:
    """Targets that were never seen are refused or chosen, never a crash; known ones beside them are still found."""
    strangers = [Target(id=f"stranger-{i}") for i in range(2)]
    request = next(bench.requests())
    for catalogue in (Catalogue(strangers), Catalogue([*strangers, *bench.targets])):
        refusals = _refusals(bench, request, catalogue)
        if refusals is None:
            continue
        assert len(catalogue) == len(strangers), f"known targets beside unknown ones were refused: {refusals}"
        assert refusals.keys() == set(catalogue.ids), "NoTarget must say for every target why it was refused"


def sweeps_are_whole(bench: Bench) -> None:
    """A sweep has one row of N choices per setting, settings ascending."""
    sweep = bench.policy.decide_sweep(bench.features, bench.targets, np.random.default_rng(bench.seed))
    shape = (len(sweep.settings), len(bench.features))
    assert sweep.choices.shape == sweep.propensities.shape == shape, f"choices are {sweep.choices.shape}, not {shape}"
    assert shape[0] >= 1, "the sweep has no row"
    knob = sweep.settings[~np.isnan(sweep.settings)]
    assert (np.diff(knob[np.isfinite(knob)]) > 0).all(), (
        "the sweep's settings must ascend, dearest preference for quality first"
    )
    assert ((sweep.choices >= 0) & (sweep.choices < len(bench.targets))).all(), "a choice is no position in the catalogue"
    assert ((sweep.propensities > 0) & (sweep.propensities <= 1)).all(), "a propensity is not in (0, 1]"


def needs_are_declared(bench: Bench) -> None:
    """A policy that does not declare an embedding decides on text and labels alone."""
    if "embedding" in bench.policy.needs:
        return
    plain = Request(id="plain", text=bench.table.texts[0], labels={name: v[0] for name, v in bench.table.labels.items()})
    try:
        bench.decide(plain)
    except (UserError, TypeError, AttributeError) as error:
        raise AssertionError(f"it reads more than needs = {set(bench.policy.needs)} says: {error}") from error


def missing_cells_are_survived(bench: Bench) -> None:
    """Fitting on a table with a third of its cells missing gives a policy that decides."""
    if bench.config is None:
        return
    sparse = with_gaps(bench.table, 0.3, np.random.default_rng(bench.seed))
    try:
        policy = bench.config.fit(sparse, bench.features, np.random.default_rng(bench.seed))
        chosen = [bench.decide(request, policy=policy).target for request in bench.requests()]
    except UserError as error:
        raise AssertionError(f"a table with missing cells is too much for it: {error}") from error
    for target in chosen:
        assert bench.targets.position(target) is not None, f"{target} is not in the catalogue"


def state_round_trips(bench: Bench) -> None:
    """JSON and safetensors bring back a policy that decides alike."""
    again = type(bench.policy).from_state(through_files(bench.policy.state()))
    again.version, again.label = bench.policy.version, bench.policy.label
    _same_decisions(bench, again, "the state")


def saved_policy_decides_alike(bench: Bench) -> None:
    """A registered policy comes back from its folder and decides alike."""
    if bench.policy.name not in {entry.name for entry in registry.entries("policy")}:
        return
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "policy"
        encoder = "any" if "embedding" in bench.policy.needs else ""
        save_policy(bench.policy, place, targets=bench.targets, provenance=Provenance(source="planted"), encoder=encoder)
        found = load_policy(place)
    assert found.targets.ids == bench.targets.ids, f"the folder holds targets {found.targets.ids}, not {bench.targets.ids}"
    _same_decisions(bench, found.policy, "the folder")


POLICY_CHECKS: tuple[Check, ...] = (
    settings_round_trip,
    decisions_are_whole,
    same_seed_same_decision,
    many_choices_are_whole,
    one_equals_many,
    propensities_are_true,
    leaves_inputs_alone,
    empty_catalogue_is_refused,
    smaller_catalogue_is_obeyed,
    strangers_are_no_accident,
    sweeps_are_whole,
    needs_are_declared,
    missing_cells_are_survived,
    state_round_trips,
    saved_policy_decides_alike,
)


def _refusals(bench: Bench, request: Request, catalogue: Catalogue) -> dict[str, str] | None:
    """Why every target was refused, or None when one was chosen."""
    try:
        made = bench.decide(request, catalogue)
    except NoTarget as refused:
        return refused.refusals
    assert catalogue.position(made.target) is not None, f"{made.target} is not in the catalogue"
    return None


def _frequencies(drawn: Counter[str], stated: dict[str, float]) -> None:
    for target, propensity in stated.items():
        share = drawn[target] / drawn.total()
        bound = SIGMAS * (propensity * (1.0 - propensity) / drawn.total()) ** 0.5
        close = abs(share - propensity) <= bound
        assert close, (
            f"{target} is drawn in {share:.3f} of {drawn.total()} draws, but its propensity is said to be {propensity:.3f}"
        )


def _no_target(action: Callable[[], object], what: str) -> None:
    try:
        action()
    except NoTarget:
        return
    except (IndexError, KeyError, ValueError, ZeroDivisionError, UserError) as error:
        raise AssertionError(f"{what}: raise NoTarget, not {type(error).__name__}: {error}") from error
    raise AssertionError(f"{what} must raise NoTarget, and nothing was raised")


def _same_decisions(bench: Bench, again: Policy, where: str) -> None:
    for request in bench.requests():
        before, after = bench.decide(request), bench.decide(request, policy=again)
        assert before == after, f"after a round trip through {where} the decision differs: {after} is not {before}"
