"""What is doubtful about a table is said; a sound table raises no doubt."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from junctor.outcomes.doubts import doubts
from junctor.testing import planted


@pytest.fixture
def sound():
    table, _ = planted(600)
    return table


def test_a_sound_table_raises_no_doubt(sound):
    assert doubts(sound) == ()


def test_few_rows(sound):
    (said,) = doubts(sound.take(range(100)))
    assert said.startswith("100 rows are few")
    assert "±0.10" in said


def test_constant_scores_and_targets_that_were_hardly_tried(sound):
    quality = sound.quality.copy()
    quality[:, 0] = 1.0
    quality[3:, 1] = np.nan
    quality[:, 2] = np.nan
    said = doubts(replace(sound, quality=quality))
    assert said[0] == "linguist: its score is 1 on every row; is that what was meant to be recorded?"
    assert "calculator: recorded on 3 of 600 rows only" in said[1]
    assert said[2] == "programmer: no quality was ever recorded, so it cannot be chosen"


def test_labels_with_a_row_each(sound):
    each = {"topic": [f"t{i}" for i in range(600)]}
    assert doubts(replace(sound, labels=each)) == ("every topic has fewer than 5 rows: nothing can be learned per topic",)
    few = {"topic": ["rare", *["often"] * 599]}
    assert doubts(replace(sound, labels=few)) == ("1 of 2 values of topic have fewer than 5 rows",)


def test_repeated_prompts(sound):
    texts = [*sound.texts[:-2], sound.texts[0].upper(), sound.texts[1] + " "]
    assert doubts(replace(sound, texts=texts)) == (
        "2 rows repeat the prompt of an earlier row; they stay on one side of every split",
    )


@pytest.mark.parametrize(
    ("factor", "says"),
    [
        ([1e4, 1e4, 1e4, 1e4], "is cost_usd really in US dollars per call"),
        ([1e-6, 1, 1, 1], "times one of linguist"),
        ([1e-3, 1e-6, 1e-6, 1e-6], "per million tokens"),
    ],
)
def test_costs_in_another_unit(sound, factor, says):
    said = doubts(replace(sound, cost_usd=sound.cost_usd * np.array(factor)))
    assert any(says in sentence for sentence in said), said
