"""carrot: bills from tokens and prices where they agree with what was paid, and a world where the prompt tells the cost."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.encoders import load_encoder
from junctor.errors import ConfigError
from junctor.estimators import billing
from junctor.estimators.carrot import CarrotConfig
from junctor.features import Features
from junctor.outcomes import OutcomeTable, read_table
from junctor.types import Catalogue, Price, Target

from .regions import Split, split, unit
from .tables import NAN, at, seen, table

RNG = np.random.default_rng(0)
CHEAP, DEAR = Price(input_usd_per_mtok=0.2, output_usd_per_mtok=0.4), Price(input_usd_per_mtok=5.0, output_usd_per_mtok=10.0)


def priced(found: OutcomeTable, *prices: Price | None) -> OutcomeTable:
    pairs = zip(found.targets.ids, prices, strict=True)
    return replace(found, targets=Catalogue([Target(id=id_, price=price) for id_, price in pairs]))


def lengths(seed: int, rows: int = 400, test: int = 600) -> Split:
    """Two regions, a cheap and a dear target; prompts of very different length, which no vector tells."""
    rng = np.random.default_rng(seed)
    region = rng.integers(2, size=rows + test)
    vectors = unit(rng.standard_normal((2, 16)))[region] + 0.7 * rng.standard_normal((rows + test, 16)) / 4.0
    characters = np.exp(rng.normal(6.0, 1.2, rows + test)).astype(int) + 20
    tokens_in = np.repeat(characters[:, None] / 4.0, 2, axis=1)
    tokens_out = 100.0 * np.exp(0.2 * rng.standard_normal((rows + test, 2)))
    rates = np.array([[price.input_usd_per_mtok, price.output_usd_per_mtok] for price in (CHEAP, DEAR)]) / 1e6
    made = split(
        np.array([[0.3, 0.9], [0.75, 0.9]])[region],
        vectors,
        rows,
        cost=tokens_in * rates[:, 0] + tokens_out * rates[:, 1],
        texts=["x" * count for count in characters.tolist()],
        seed=seed,
        input_tokens=tokens_in,
        output_tokens=tokens_out,
    )
    return replace(made, table=priced(made.table, CHEAP, DEAR), fresh=priced(made.fresh, CHEAP, DEAR))


def test_it_beats_all_that_guess_the_cost_from_the_vector_and_not_without_its_tokens():
    worlds = [lengths(seed) for seed in range(3)]

    def height(name: str, **settings) -> float:
        return float(np.mean([world.height(name, **settings) for world in worlds]))

    ours = height("carrot", k=64)
    bars = (("mean", {}), ("knn", {"k": 64}), ("linear", {"alpha": 3.0}), ("kmeans-table", {"clusters": 5}))
    assert ours > max(height(name, **settings) for name, settings in bars) + 0.02
    assert height("carrot", k=64, cost="recorded") == pytest.approx(height("knn", k=64))


def test_a_bill_by_hand():
    rows = priced(
        table([[1]] * 2, cost=[[0.0012], [0.0022]], input_tokens=[[100], [200]], output_tokens=[[20], [20]]),
        Price(input_usd_per_mtok=10.0, output_usd_per_mtok=10.0),
    )
    rows = replace(rows, texts=["x" * 400, "x" * 800])
    fitted = CarrotConfig(k=2).fit(rows, Features(rows.texts, at(0, 10)), RNG)
    found = fitted.predict_many(Features(["x" * 1200, ""], at(5, 5)))
    # 300 and 0 tokens in, 20 out, all at 10 USD per million
    assert found.cost_usd.ravel() == pytest.approx([0.0032, 0.0002])
    assert fitted.predict(Features(["x" * 1200], at(5))).cost_usd == pytest.approx([0.0032])
    assert fitted.expect(Features(["x" * 1200], at(5))).cost_usd == pytest.approx([0.0032])


def test_prices_that_do_not_give_what_was_paid_are_not_believed():
    tokens = {"input_tokens": [[100, 100]] * 2, "output_tokens": [[20, 20]] * 2}
    rows = priced(
        table([[1, 1]] * 2, cost=[[0.5, 0.0012]] * 2, **tokens), *[Price(input_usd_per_mtok=10, output_usd_per_mtok=10)] * 2
    )
    assert np.isnan(billing.bills(rows)).any(axis=1).tolist() == [True, False]
    found = CarrotConfig(k=2).fit(rows, seen(at(0, 10)), RNG).predict(seen(at(5)))
    assert found.cost_usd == pytest.approx([0.5, 0.0012])


def test_without_recorded_costs_prices_are_believed_and_without_prices_there_is_no_cost():
    tokens = {"input_tokens": [[100, NAN]] * 2, "output_tokens": [[20, 20]] * 2}
    rows = priced(table([[1, 1]] * 2, **tokens), Price(input_usd_per_mtok=10, output_usd_per_mtok=10), CHEAP)
    found = CarrotConfig(k=2).fit(rows, seen(at(0, 10)), RNG).predict(seen(at(5)))
    assert found.cost_usd[0] == pytest.approx(0.0012)
    assert np.isnan(found.cost_usd[1])
    bare = table([[1, 1]] * 2, **tokens)
    assert CarrotConfig(k=2).fit(bare, seen(at(0, 10)), RNG).predict(seen(at(5))).cost_usd is None


def test_a_newcomer_brings_its_own_price():
    world = lengths(0)
    known, new = world.table.targets.ids
    old = CarrotConfig(k=32).fit(world.table.only([known]), world.features, RNG)
    wider = old.onboard(new, world.table, world.features)
    whole = CarrotConfig(k=32).fit(world.table, world.features, RNG)
    assert wider.predict_many(world.seen).cost_usd[:, 1] == pytest.approx(
        whole.predict_many(world.seen).cost_usd[:, 1], rel=0.1
    )
    again = type(wider).from_state(wider.state())
    assert np.array_equal(again.predict_many(world.seen).cost_usd, wider.predict_many(world.seen).cost_usd)


def test_bad_settings_are_refused():
    for settings in ({"k": 0}, {"cost": "guess"}, {"shrinkage": -1.0}):
        with pytest.raises(ConfigError, match=r"carrot\."):
            CarrotConfig(**settings)


def test_the_grid_starts_with_most_neighbours():
    assert [one.k for one in CarrotConfig().candidates(200)] == [64, 32, 16, 8, 4]
    assert [one.k for one in CarrotConfig().candidates(2)] == [4]


@pytest.mark.data
def test_on_bfcl_costs_from_tokens_are_closer_than_those_of_neighbours(data):
    folder = data / "bfcl_v1_outcomes"
    found = read_table(folder / "outcomes.parquet", queries=folder / "queries.parquet", targets=folder / "models.parquet")
    found = found.only([target.id for target in found.targets if target.price is not None])
    features = found.features(load_encoder("lexical").encode(found.texts))
    order = np.random.default_rng(0).permutation(len(found))
    train, test = order[:1000], order[1000:]
    error = {}
    for cost in ("tokens", "recorded"):
        fitted = CarrotConfig(k=32, cost=cost).fit(found.take(train), features.take(train), RNG)
        said = fitted.predict_many(features.take(test)).cost_usd
        error[cost] = np.nanmean(np.abs(said - found.cost_usd[test]))
    assert (~np.isnan(billing.bills(found)).any(axis=1)).sum() >= 40
    assert error["tokens"] < error["recorded"]
