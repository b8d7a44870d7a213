"""Keys: the same question has the same key, another has another."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from junctor.caching.keys import NO_MATTER, asked, exact_key
from junctor.types import Constraints, Request

ME = ("key", "k1", "")
plain = st.none() | st.booleans() | st.integers(-5, 5) | st.text("ab", max_size=3)
values = st.recursive(
    plain, lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text("ab", max_size=2), inner, max_size=3)
)
names = st.sampled_from(["seed", "stop", "tools", "top_p", "messages", *sorted(NO_MATTER)])
calls = st.dictionaries(names, values, max_size=5)


def shuffled(value):
    """The same with its fields in the other order."""
    if isinstance(value, dict):
        return {key: shuffled(inner) for key, inner in reversed(value.items())}
    return [shuffled(inner) for inner in value] if isinstance(value, list) else value


def typed(value):
    """So that True is not 1."""
    if isinstance(value, dict):
        return {key: typed(inner) for key, inner in value.items()}
    return [typed(inner) for inner in value] if isinstance(value, list) else (type(value).__name__, value)


@settings(max_examples=80, deadline=None)
@given(calls, calls)
def test_keys_are_equal_exactly_where_questions_are(one: dict, two: dict) -> None:
    first, second = Request(text="t", params=one), Request(text="t", params=two)
    same = typed(asked(first)) == typed(asked(second))
    assert (exact_key(first, "auto", ME) == exact_key(second, "auto", ME)) is same


@settings(max_examples=50, deadline=None)
@given(calls)
def test_the_order_of_fields_does_not_matter_at_any_depth(one: dict) -> None:
    assert exact_key(Request(params=one), "auto", ME) == exact_key(Request(params=shuffled(one)), "auto", ME)


def test_who_where_and_what_is_wanted_count() -> None:
    request = Request(text="t", params={"seed": 1})
    wishes = Request(text="t", params={"seed": 1}, constraints=Constraints(quality_floor=0.5))
    limits = Request(text="t", params={"seed": 1}, constraints=Constraints(budget_usd=0.5, deadline_s=3.0))
    other_api = Request(text="t", params={"seed": 1}, api="messages")
    key = exact_key(request, "auto", ME)
    assert exact_key(limits, "auto", ME) == key
    others = {
        exact_key(request, "other", ME),
        exact_key(request, "auto", ("key", "k2", "")),
        exact_key(request, "auto", ("tenant", "k1", "")),
        exact_key(request, "auto", ("key", "k", "1")),
        exact_key(wishes, "auto", ME),
        exact_key(other_api, "auto", ME),
    }
    assert len(others | {key}) == 7


def test_what_is_no_json_has_no_key() -> None:
    assert exact_key(Request(params={"seed": object()}), "auto", ME) is None
    assert exact_key(Request(params={"stop": "\ud800"}), "auto", ME) is None
