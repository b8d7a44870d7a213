"""The semantic cache: other words, same question; same words, other question."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest

from junctor.caching.agreement import facts, words
from junctor.caching.building import THRESHOLDS
from junctor.caching.nearest import Vectors, most_different
from junctor.caching.semantic import SemanticCache
from junctor.caching.store import Store
from junctor.encoders import load_encoder
from junctor.tenancy.contracts import Principal

from .conftest import World

ROOT = Path(__file__).parent.parent.parent


def semantic(entries: int = 100, **more) -> World:
    more.setdefault("threshold", THRESHOLDS[more.get("agreement", "words")])
    return World(SemanticCache(Store(entries, 10.0, 60.0), load_encoder("static"), **more))


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("How do I reset my password?", "how do i reset the password for my account?"),
        ("What is the capital of France?", "What's the weather in France?"),
        ("what date will it be 8 days from now", "what date will it be 7 days from now"),
        ("book a flight from Denver to Paris", "book a flight from Paris to Denver"),
        ("turn the light on", "turn the light off"),
        ("does Sam owe Ann money", "does Ann owe Sam money"),
        ("is this safe to eat", "is this not safe to eat"),
        ("can I eat this", "can't I eat this"),
        ("who wrote “Dune”", "who wrote “Emma”"),
        ("what did my boss say", "what did your boss say"),
        ("2 + 2 * 3", "2 * 2 + 3"),
        ("why is a < b", "why is a > b"),
        ("translate this to French: good morning", "translate this to German: good morning"),
    ],
)
async def test_what_is_another_question_is_asked(first: str, second: str) -> None:
    world = semantic()
    assert [await world.ask(first), await world.ask(second)] == ["answer 1", "answer 2"]


@pytest.mark.parametrize(
    ("first", "second"),
    [
        ("What is the capital of France?", "what is capital of france"),
        ("turn on the tv please", "Please turn on the TV!"),
        ("How do I cancel my order for shoes?", "tell me how do I cancel my order for shoes"),
        ("what time is it in pacific standard time", "what time is it in the pacific standard time?"),
    ],
)
async def test_what_is_only_said_otherwise_is_not(first: str, second: str) -> None:
    world = semantic()
    await world.ask(first)
    answer = await world.answer(second)
    assert answer.run.context.notes == {"cache": "semantic"}
    assert world.provider.calls == 1


@pytest.mark.parametrize(
    "more",
    [
        {"max_tokens": 5},
        {"who": Principal(key="k", tenant="acme")},
        {"tenant": "acme"},
        {"model": "other"},
        {"tools": [{"type": "function", "function": {"name": "f"}}]},
    ],
)
async def test_everything_else_must_be_the_same(more: dict) -> None:
    world = semantic()
    await world.ask("What is the capital of France?")
    assert await world.ask("what is capital of france", **more) == "answer 2"


async def test_earlier_turns_must_be_the_same() -> None:
    world = semantic()

    def turns(first: str, last: str) -> list[dict]:
        return [{"role": "user", "content": first}, {"role": "assistant", "content": "ok"}, {"role": "user", "content": last}]

    await world.ask(turns=turns("We speak of France.", "What is its capital?"))
    assert await world.ask(turns=turns("We speak of Spain.", "What is its capital?")) == "answer 2"
    assert await world.ask(turns=turns("We speak of France.", "what is its capital")) == "answer 1"


async def test_only_text_of_a_user_is_matched_by_meaning() -> None:
    world = semantic()
    image = {"type": "image_url", "image_url": {"url": "data:image/png;base64,AA"}}
    for place, said in enumerate(("What is on it?", "what is on it"), 1):
        content = [{"type": "text", "text": said}, image]
        assert await world.ask(said, turns=[{"role": "user", "content": content}]) == f"answer {place}"


async def test_the_vector_is_made_once_for_cache_and_policy() -> None:
    world = semantic()
    encoder = load_encoder("static")
    seen = []
    object.__setattr__(world.engine.aliases["auto"], "encoder", encoder)
    world.engine._quick["auto"] = True
    prepare = world.engine.prepare

    async def watched(request, model, context):
        seen.append(request.features)
        return await prepare(request, model, context)

    world.engine.prepare = watched
    await world.ask("What is the capital of France?")
    await world.ask("What is the capital of France?", model="other", fresh=True)
    assert seen[0] is not None
    assert np.array_equal(seen[0].embedding[0], encoder.encode_one("What is the capital of France?"))
    assert seen[1] is None


async def test_what_is_pushed_out_is_found_by_nothing() -> None:
    world = semantic(entries=2)
    for text in ("What is the capital of France?", "who wrote it", "where is it"):
        await world.ask(text)
    assert await world.ask("what is capital of france") == "answer 4"
    assert len(world.cache._groups) == len(world.cache._group_of) == len(world.cache.store) == 2


async def test_streams_and_coalescing_as_in_the_exact_one() -> None:
    world = semantic()
    await world.stream("What is the capital of France?", stream=True)
    assert await world.ask("what is capital of france") == "answer 1"
    assert b"answer" in await world.stream("what is capital of france?", stream=True)
    assert world.provider.calls == 1


def test_signatures() -> None:
    assert words("Could you please tell me the time?") == words("time")
    assert words("I don't know") != words("I do know")
    assert facts("pay Bob 5 dollars") != facts("pay Ann 5 dollars")
    assert facts("is it 5 or 6") != facts("is it 6 or 5")
    assert facts("how is the weather") == facts("how is weather")
    assert words("please") == ("|", "please")


def test_nearest_is_the_nearest() -> None:
    rng = np.random.default_rng(0)
    base = rng.standard_normal((1500, 256)).astype(np.float32)
    base /= np.linalg.norm(base, axis=1, keepdims=True)
    found = Vectors(256)
    for place, row in enumerate(base):
        found.add(b"%d" % place, row)
    for place in range(0, 1500, 3):
        found.remove(b"%d" % place)
    assert len(found) == 1000
    for place in range(0, 1500, 7):
        noisy = base[place] + 0.03 * rng.standard_normal(256).astype(np.float32)
        noisy /= np.linalg.norm(noisy)
        got = found.nearest(noisy, 0.85)
        if place % 3 == 0:
            assert got is None
        else:
            assert got is not None
            assert got[0] == b"%d" % place
            assert got[1] == pytest.approx(float(noisy @ base[place]), abs=1e-5)
    assert found.nearest(-base[1], 0.5) is None


def test_the_bound_of_signs_grows_with_the_angle() -> None:
    assert most_different(1.0, 256) < most_different(0.95, 256) < most_different(0.8, 256) < 128


@pytest.mark.slow
@pytest.mark.data
def test_the_thresholds_hold_their_bound_on_held_out_data(data: Path) -> None:
    spec = importlib.util.spec_from_file_location("semantic_cache", ROOT / "benchmarks" / "semantic_cache.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    rows = {
        (trial.name, trial.part): script.at(script.nearest(trial, "words"), THRESHOLDS["words"])
        for trial in script.trials(data)
        if trial.name != "clinc150"
    }
    held_out = {name: row for (name, part), row in rows.items() if part == "held out"}
    assert held_out["hwu64"]["hit_rate"] > 0.1
    assert sum(row["false"] for row in held_out.values()) <= 2
    assert held_out["winogrande, to deceive"]["false"] == held_out["presidio, to deceive"]["false"] == 0
