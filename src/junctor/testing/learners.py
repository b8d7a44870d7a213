"""The conformance suite of learners: `check_learner(make)`. Feedback comes late, twice and out of order, and counts once."""

from __future__ import annotations

from collections.abc import Callable, Collection

import msgspec
import numpy as np

from junctor.features import Features
from junctor.outcomes import OutcomeTable
from junctor.policy import Learner
from junctor.testing.planted import planted, requests, same_state, through_files
from junctor.types import Decision, Outcome

ROUNDS = 60
Make = Callable[[], Learner]
Pairs = list[tuple[Decision, Outcome]]
Check = Callable[[Make, OutcomeTable, Features], None]


def check_learner(
    make: Make,
    *,
    table: OutcomeTable | None = None,
    features: Features | None = None,
    leave_out: Collection[str] = (),
) -> None:
    """Run every check but those named in `leave_out`; `make` gives a fresh learner that knows the table's targets each time.

    Run `check_policy` on it as well: a learner is a policy.
    """
    own_table, own_features = planted()
    found, seen = (own_table, own_features) if table is None else (table, table.features() if features is None else features)
    for check in LEARNER_CHECKS:
        if check.__name__ not in leave_out:
            check(make, found, seen)


def deciding_does_not_learn(make: Make, table: OutcomeTable, features: Features) -> None:
    """Only `learn` changes what is known."""
    learner = make()
    before = through_files(learner.state())
    _played(learner, table, features)
    assert same_state(before, through_files(learner.state())), "deciding changed the learner's state: only learn() may"


def feedback_is_learned_late(make: Make, table: OutcomeTable, features: Features) -> None:
    """All decisions first, all outcomes afterwards: something is learned."""
    learner = make()
    before = through_files(learner.state())
    _learn(learner, _played(learner, table, features))
    assert not same_state(before, through_files(learner.state())), "nothing was learned from late feedback"


def feedback_counts_once(make: Make, table: OutcomeTable, features: Features) -> None:
    """The same pair twice changes nothing the second time, at once, later, or after a restart."""
    learner = make()
    pairs = _played(learner, table, features)
    _learn(learner, pairs)
    once = through_files(learner.state())
    _learn(learner, pairs[-1:] + pairs)
    assert same_state(once, through_files(learner.state())), "feedback that came twice was counted twice: remember decision ids"
    restarted = type(learner).from_state(once)
    _learn(restarted, pairs)
    assert same_state(once, through_files(restarted.state())), (
        "after a restart, old feedback was counted again: save the ids too"
    )


def feedback_comes_in_any_order(make: Make, table: OutcomeTable, features: Features) -> None:
    """Shuffled feedback is counted like feedback in order: as many pairs, and valid decisions after it."""
    learner = make()
    pairs = _played(learner, table, features)
    order = np.random.default_rng(0).permutation(len(pairs)).tolist()
    _learn(learner, [pairs[i] for i in order])
    after = through_files(learner.state())
    _learn(learner, pairs)
    assert same_state(after, through_files(learner.state())), "a pair that came out of order was not remembered"
    for made, _ in _played(learner, table, features):
        assert table.targets.position(made.target) is not None, f"{made.target} is not in the catalogue"


def a_bill_may_come_before_the_judgement(make: Make, table: OutcomeTable, features: Features) -> None:
    """A call is billed at once and judged later, if at all: the judgement still counts in full."""
    learner, other = make(), make()
    pairs = _played(learner, table, features)
    for made, outcome in pairs:
        learner.learn(made, msgspec.structs.replace(outcome, quality=None))
        learner.learn(made, outcome)
    _learn(other, pairs)
    assert same_state(through_files(learner.state()), through_files(other.state())), (
        "a result without a quality kept its judgement from counting: take an id for known only when its quality was learned"
    )


def strange_feedback_is_accepted(make: Make, table: OutcomeTable, features: Features) -> None:
    """Ids of another process, and outcomes without a quality, neither fail nor poison the state."""
    learner = make()
    made, _ = _played(learner, table, features)[0]
    learner.learn(Decision(id="from elsewhere", plan=made.plan, target=made.target, policy=made.policy), Outcome(quality=1.0))
    learner.learn(made, Outcome())
    for name, values in learner.state().arrays.items():
        sound = values.dtype.kind != "f" or not np.isnan(values).any()
        assert sound, f"an outcome without a quality put NaN into {name}"


def learned_state_round_trips(make: Make, table: OutcomeTable, features: Features) -> None:
    """What was learned survives JSON and safetensors."""
    learner = make()
    _learn(learner, _played(learner, table, features))
    again = type(learner).from_state(through_files(learner.state()))
    again.version, again.label = learner.version, learner.label
    before, after = (_played(one, table, features) for one in (learner, again))
    assert before == after, "a learner that was saved and read back decides differently"


LEARNER_CHECKS: tuple[Check, ...] = (
    deciding_does_not_learn,
    feedback_is_learned_late,
    feedback_counts_once,
    feedback_comes_in_any_order,
    a_bill_may_come_before_the_judgement,
    strange_feedback_is_accepted,
    learned_state_round_trips,
)


def _played(learner: Learner, table: OutcomeTable, features: Features) -> Pairs:
    """Decisions on the first rows and what came of them."""
    rng = np.random.default_rng(0)
    pairs: Pairs = []
    for row, request in enumerate(requests(table, features, range(min(ROUNDS, len(table))))):
        made = learner.decide(request, table.targets, rng)
        place = table.targets.position(made.target)
        assert place is not None, f"{made.target} is not in the catalogue"
        pairs.append((made, table.outcome(row, place)))
    return pairs


def _learn(learner: Learner, pairs: Pairs) -> None:
    for made, outcome in pairs:
        learner.learn(made, outcome)
