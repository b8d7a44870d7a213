"""A learner beside the traffic: it takes over what proves itself, refuses what does not, and takes back what disappoints."""

from __future__ import annotations

import asyncio
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tests.engine.choosing_world import PROOF, ask, engine_of, fit

from junctor.artefact import load_policy
from junctor.build import build_engine
from junctor.config import parse_config
from junctor.engine.learning import Store
from junctor.engine.proving import Mean, Tried, copy_of, fallen, judged
from junctor.errors import ArtefactError, ConfigError
from junctor.journal import NoteRecord, read
from junctor.types import Catalogue, Decision, Outcome, Request

LEARN = {"every_s": 3600.0, "at_least": 40, "tolerance": 0.05}


def world(tmp: Path, **more: Any):
    """A bandit that knows nothing yet serves `auto`; only `large` is any good at proofs."""
    if not (tmp / "cold").exists():
        fit(tmp / "cold", "epsilon-greedy", warm=0.0)
    engine = engine_of(tmp, {"policy": "cold", "learn": LEARN | more}, {"cold": {"artefact": "cold"}})
    learning = engine.aliases["auto"].learning
    assert learning is not None
    return engine, learning


async def live(engine, count: int, good: str = "large", prefix: str = "r", noise: int = 0) -> list[str]:
    """`count` proofs, each judged: 1 where `good` answered, else 0. Gives the versions that decided."""
    rng = np.random.default_rng(noise)
    versions = []
    for place in range(count):
        answer = await engine.complete(ask(PROOF, id_=f"{prefix}{place}"), "auto")
        versions.append(answer.decision.version)
        quality = float(rng.random() < (0.9 if answer.decision.target == good else 0.1))
        await engine.feedback(answer.decision.id, Outcome(quality=quality))
    return versions


def notes(tmp: Path) -> list[NoteRecord]:
    return [record for record in read(tmp / "j") if isinstance(record, NoteRecord)]


async def test_what_was_learned_serves_once_it_has_proved_itself(tmp_path: Path) -> None:
    engine, learning = world(tmp_path)
    base = engine.aliases["auto"].policy.version
    state = learning.serving.policy.state().arrays["times"].copy()
    assert set(await live(engine, 120)) == {base}
    assert np.array_equal(learning.serving.policy.state().arrays["times"], state)  # nothing is learned where it serves
    learning.update()
    assert learning.serving.number == 1
    assert set(await live(engine, 5, prefix="s")) == {f"{base}+1"}
    saved = load_policy(tmp_path / "policies" / "auto" / "v000001")
    assert saved.policy.version == f"{base}+1"
    assert saved.policy.arms.total == 120 - len(learning._held)
    await engine.aclose()
    (note,) = notes(tmp_path)
    assert (note.about, note.event) == ("aliases.auto.learn", "took over")
    assert note.figures["low"] >= -0.05
    assert note.figures["outcomes"] == 120 * 2 - len(learning._held)  # the bills at the end of the runs came along


async def test_too_few_outcomes_change_nothing(tmp_path: Path) -> None:
    engine, learning = world(tmp_path)
    await live(engine, 39)
    learning.update()
    assert learning.serving.number == 0
    assert not (tmp_path / "policies").exists()
    await engine.aclose()


async def test_what_may_be_worse_is_refused(tmp_path: Path) -> None:
    """The candidate is taught the contrary of what is held back: it is saved, noted, and does not serve."""
    engine, learning = world(tmp_path)
    await live(engine, 120, good="large")
    learning.update()
    await live(engine, 60, good="large", prefix="s")
    learning.update()
    assert learning.serving.number >= 1
    number = learning.serving.number
    learning.before = None
    await live(engine, 60, good="large", prefix="t")
    learning._sort()
    lies = [
        (Decision(**{**_fields(decision), "id": f"lie{i}", "target": target}), Outcome(quality=float(target == "small")))
        for i, (decision, _) in enumerate(list(learning._ready) * 6)
        for target in (("small", "large")[i % 2],)
    ]
    learning._ready.extend(lies)
    learning.update()
    assert learning.serving.number == number
    assert learning.verdict.low < -0.05
    assert notes(tmp_path)[-1].event == "refused"
    assert (tmp_path / "policies" / "auto" / f"v{number + 1:06d}").is_dir()
    await engine.aclose()


def _fields(decision: Decision) -> dict[str, Any]:
    return {name: getattr(decision, name) for name in decision.__struct_fields__}


async def test_a_version_that_earns_less_is_taken_back(tmp_path: Path) -> None:
    """The world changes under the new version: what it was judged by no longer holds."""
    engine, learning = world(tmp_path)
    base = learning.serving.policy.version
    await live(engine, 120)
    learning.update()
    assert learning.serving.number == 1
    for place in range(40):
        learning.before.earned.add(0.9 if place % 4 else 0.8)
    assert set(await live(engine, 45, good="nobody", prefix="s")) == {f"{base}+1"}
    learning.update()
    assert learning.serving.number == 0
    assert set(await live(engine, 3, prefix="t")) == {base}
    await engine.aclose()
    assert [note.event for note in notes(tmp_path)] == ["took over", "taken back"]
    assert learning.store.pointer().number == 0


async def test_a_version_that_holds_what_it_promised_stays_and_the_next_may_come(tmp_path: Path) -> None:
    engine, learning = world(tmp_path)
    for turn in range(4):
        await live(engine, 80, prefix=f"p{turn}-", noise=turn)
        learning.update()
    await engine.aclose()
    events = [note.event for note in notes(tmp_path)]
    assert events[:2] == ["took over", "proved"]
    assert events.count("took over") >= 2


async def test_a_restart_goes_on_with_what_served_and_a_new_fit_begins_anew(tmp_path: Path) -> None:
    engine, learning = world(tmp_path)
    await live(engine, 120)
    learning.update()
    version = learning.serving.policy.version
    await engine.aclose()
    engine, learning = world(tmp_path)
    assert learning.serving.policy.version == version
    assert learning.serving.policy.arms.total > 0
    await engine.aclose()

    arrays = tmp_path / "policies" / "auto" / "v000001" / "arrays.safetensors"
    arrays.write_bytes(b"\x00" + arrays.read_bytes())
    with pytest.raises(ArtefactError, match="v000001"):
        world(tmp_path)
    (tmp_path / "policies" / "auto" / "serving.json").write_text("{")
    with pytest.raises(ArtefactError, match=r"serving\.json"):
        world(tmp_path)
    (tmp_path / "policies" / "auto" / "serving.json").write_text('{"base":"another fit","number":1}')
    engine, learning = world(tmp_path)
    assert learning.serving.number == 0
    await engine.aclose()


async def test_it_happens_by_itself_in_a_thread(tmp_path: Path) -> None:
    engine, learning = world(tmp_path, every_s=0.05)
    await live(engine, 120)
    for _ in range(500):
        if learning.serving.number:
            break
        await asyncio.sleep(0.01)
    assert learning.serving.number >= 1
    await engine.aclose()
    assert not any(thread.name == "junctor-learning" for thread in threading.enumerate())


def test_old_versions_go_but_never_the_one_that_serves(tmp_path: Path) -> None:
    fit(tmp_path / "cold", "epsilon-greedy", warm=0.0)
    policy = load_policy(tmp_path / "cold").policy
    store = Store(tmp_path / "v", Catalogue.of(["small", "large"]), encoder="lexical", digest="x", keep=2)
    from junctor.engine.learning import Pointer

    for _ in range(5):
        number = store.take_number()
        store.save(policy, number, 0)
        if number == 1:
            store.point(Pointer("b", 1))
    assert store.numbers() == [1, 4, 5]


def test_only_what_changes_has_to_be_proved() -> None:
    class Picks:
        def __init__(self, target: str) -> None:
            self.target = target

        def decide(self, request, targets, rng):
            return Decision(id="x", plan=None, target=self.target, policy="p")

    targets = Catalogue.of(["a", "b"])
    rng = np.random.default_rng(0)
    tried = []
    for place in range(400):
        taken = "ab"[place % 2]
        quality = float(rng.random() < (0.8 if taken == "b" else 0.5))
        made = Decision(id=str(place), plan=None, target=taken, propensity=0.5, policy="p")
        tried.append(Tried(Request(id=str(place)), targets, made, Outcome(quality=quality, cost_usd=0.01), 10.0))
    same = judged(Picks("a"), Picks("a"), tried)
    assert (same.gain, same.low, same.agreement) == (0.0, 0.0, 1.0)
    better = judged(Picks("b"), Picks("a"), tried)
    assert better.gain == pytest.approx(0.3, abs=0.12)
    assert 0.0 < better.low < better.gain
    assert judged(Picks("a"), Picks("b"), tried).gain == pytest.approx(-better.gain)


def test_what_has_fallen() -> None:
    old, new, few = Mean(), Mean(), Mean()
    for place in range(100):
        old.add(float(place % 10 != 0))
        new.add(float(place % 2))
    few.add(0.0)
    assert fallen(new, old)
    assert not fallen(old, new)
    assert not fallen(few, old)
    assert old.value == pytest.approx(0.9)
    assert old.error == pytest.approx(0.03, abs=0.002)


@pytest.mark.parametrize("wrong", [{"every_s": 0.0}, {"at_least": 1}, {"hold_out": 1.0}, {"tolerance": -1.0}, {"keep": 1}])
def test_a_table_that_makes_no_sense_is_refused(tmp_path: Path, wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"aliases\.auto\.learn\."):
        world(tmp_path, **wrong)


def test_what_does_not_learn_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="does not learn"):
        engine_of(tmp_path, {"policy": "fitted", "learn": {}}, {})


def test_a_copy_shares_nothing(tmp_path: Path) -> None:
    fit(tmp_path / "cold", "epsilon-greedy", warm=0.0)
    policy = load_policy(tmp_path / "cold").policy
    made = copy_of(policy)
    made.arms.times[0] = 99
    assert policy.arms.times[0] == 0
    assert made.version == policy.version
    assert isinstance(made, type(policy))


async def test_a_reload_goes_on_with_what_is_under_way(tmp_path: Path) -> None:
    """The same learner, sessions and inline learners under the new configuration; another fit begins anew."""
    fit(tmp_path / "cold", "epsilon-greedy", warm=0.0)
    price = {"input_usd_per_mtok": 1.0, "output_usd_per_mtok": 2.0}
    tree: dict[str, Any] = {
        "journal": {"path": "j"},
        "providers": {"embedded": {}},
        "targets": {
            "small": {"provider": "embedded", "model": "text", "price": price},
            "large": {"provider": "embedded", "model": "text", "price": price},
        },
        "policies": {"cold": {"artefact": "cold"}},
        "aliases": {"auto": {"policy": "cold", "learn": LEARN, "sticky": {}}, "plain": "cold"},
    }
    first = build_engine(parse_config(tree, tmp_path))
    for place in range(5):
        answer = await first.complete(ask(PROOF, id_=f"a{place}", session="s"), "auto")
        await first.feedback(answer.decision.id, Outcome(quality=1.0))
        answer = await first.complete(ask(PROOF, id_=f"p{place}"), "plain")
        await first.feedback(answer.decision.id, Outcome(quality=1.0))
    second = build_engine(parse_config(tree, tmp_path), old=first)
    assert second.aliases["auto"].learning is first.aliases["auto"].learning
    assert len(second.aliases["auto"].sessions) == 1
    assert second.aliases["plain"].policy is first.aliases["plain"].policy
    assert second.aliases["plain"].policy.arms.total == 5
    await first.aclose()
    learning = second.aliases["auto"].learning
    assert not learning._closed.is_set()
    fit(tmp_path / "cold", "epsilon-greedy", warm=0.0, fallbacks=1)
    third = build_engine(parse_config(tree, tmp_path), old=second)
    assert third.aliases["auto"].learning is not learning
    assert third.aliases["plain"].policy.arms.total == 0
    await second.aclose()
    assert learning._closed.is_set()
    await third.aclose()
