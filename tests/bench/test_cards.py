"""Cards are found by targets and labels, count what the protocol counts, and stand beside what was measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import pytest

from junctor.bench.cards import Card, card_of, cards
from junctor.bench.document import METRICS, Row
from junctor.bench.experiments import experiment
from junctor.outcomes import OutcomeTable
from junctor.types import Catalogue


def routerdc(labels: Sequence[str], targets: Sequence[str] = ()) -> OutcomeTable:
    card = next(card for card in cards() if card.name == "routerdc-en")
    names = list(targets) or sorted(card.targets)
    quality = np.full((len(labels), len(names)), 0.4)
    quality[0, 0] = np.nan
    quality[1, 1] = 0.0
    texts = [f"q{i}" for i in range(len(labels))]
    return OutcomeTable(texts, Catalogue.of(names), quality, labels={"task": list(labels)}, label_name="task")


def test_names_are_unique_and_bars_speak_of_known_metrics() -> None:
    names = [card.name for card in cards()]
    assert len(set(names)) == len(names)
    for card in cards():
        assert card.headline in METRICS
        for bar in card.bar:
            known = METRICS if bar.experiment == "standard" else experiment(bar.experiment).metrics
            assert bar.metric in known, (card.name, bar.metric)
            assert bar.source


def test_a_table_is_recognised_whatever_its_file_is_called() -> None:
    english = routerdc(["mmlu", "gsm8k"])
    found = card_of(replace(english, source="renamed.csv"))
    assert found is not None
    assert found.name == "routerdc-en"


def test_labels_tell_the_editions_apart() -> None:
    names = {key: getattr(card_of(routerdc(key)), "name", None) for key in (("mmlu", "gsm8k", "cmmlu"), ("cmmlu", "ceval"))}
    assert list(names.values()) == ["routerdc", "routerdc-zh"]


@pytest.mark.parametrize("labels", [("mmlu", "gsm8k", "other"), ("gsm8k", "humaneval")])
def test_other_labels_are_not_recognised(labels: tuple[str, ...]) -> None:
    assert card_of(routerdc(labels)) is None


def test_other_targets_are_not_recognised() -> None:
    assert card_of(routerdc(["mmlu", "gsm8k"], ["a", "b", "c"])) is None


def test_choice_tasks_count_as_right_above_zero_and_the_rest_stays_graded() -> None:
    table = routerdc(["mmlu", "arc_challenge", "gsm8k"])
    card = card_of(table)
    assert card is not None
    counted = card.count(table).quality
    assert np.isnan(counted[0, 0])
    assert counted[0, 1] == 1.0
    assert counted[1, 1] == 0.0
    assert counted[2].tolist() == [0.4] * counted.shape[1]
    assert table.quality[0, 1] == 0.4


def test_bars_stand_beside_what_was_measured_and_a_missing_figure_stays_missing() -> None:
    card = next(card for card in cards() if card.name == "routerbench-subset")
    row = Row(policy="oracle", metric="aiq", value=0.97, low=0.96, high=0.98, seeds=5)
    note = card.note(lambda split, policy, metric: row if (split, policy, metric) == ("test", "oracle", "aiq") else None)
    by_name = {(bar.policy, bar.metric): bar for bar in note.bars}
    assert by_name["oracle", "aiq"].measured == 0.97
    assert by_name["oracle", "aiq"].noted == 0.9745
    assert by_name["knn", "aiq"].measured is None
    assert by_name["knn", "aiq"].why


def test_a_card_without_choice_tasks_leaves_the_table_alone() -> None:
    table = routerdc(["mmlu", "gsm8k"])
    card = Card(name="x", title="x", targets=frozenset(table.targets.ids))
    assert card.fits(table)
    assert card.count(table) is table
