"""OutcomeTable: shapes are checked, rows and columns can be taken, one prompt is one group."""

from __future__ import annotations

import numpy as np
import pytest

from junctor.errors import TableError
from junctor.outcomes import OutcomeTable, normalise
from junctor.types import Catalogue, Outcome

NAN = float("nan")


def table(**changes: object) -> OutcomeTable:
    given: dict[str, object] = {
        "texts": ["What is 2+2?", "Name a  river", "what IS 2+2?"],
        "targets": Catalogue.of(["small", "large"]),
        "quality": np.array([[1.0, 1.0], [0.0, NAN], [0.5, 1.0]]),
        "cost_usd": np.array([[0.1, 1.0], [0.2, NAN], [0.3, 3.0]]),
        "labels": {"dataset": ["maths", "geo", "maths"]},
        "label_name": "dataset",
        "split": ["train", "test", "train"],
        "ids": ("a", "b", "c"),
        "samples": {"quality": np.arange(12.0).reshape(3, 2, 2)},
    }
    return OutcomeTable(**{**given, **changes})  # type: ignore[arg-type]


def test_a_cell_tells_only_what_was_recorded() -> None:
    assert table().outcome(0, 1) == Outcome(quality=1.0, cost_usd=1.0)
    assert table().outcome(1, 1) == Outcome()
    assert table().mask.tolist() == [[True, True], [True, False], [True, True]]


def test_rows_are_taken_with_everything_that_belongs_to_them() -> None:
    taken = table().take([2, 0])
    assert taken.ids == ("c", "a")
    assert taken.label == ["maths", "maths"]
    assert taken.split == ["train", "train"]
    assert taken.quality.tolist() == [[0.5, 1.0], [1.0, 1.0]]
    assert taken.samples["quality"].tolist() == [[[8, 9], [10, 11]], [[0, 1], [2, 3]]]
    assert table().take(np.array([False, True, False])).texts == ["Name a  river"]


def test_columns_are_taken_in_the_order_asked_for() -> None:
    swapped = table().only(["large", "small"])
    assert swapped.targets.ids == ("large", "small")
    assert swapped.quality[2].tolist() == [1.0, 0.5]
    assert swapped.samples["quality"][0].tolist() == [[2, 3], [0, 1]]
    with pytest.raises(TableError, match="huge: is not in the table"):
        table().only(["huge"])


def test_one_prompt_is_one_group_whatever_its_case_and_spaces() -> None:
    assert normalise("  ＡBC\n d ") == "abc d"
    assert table().groups().tolist() == [0, 1, 0]


def test_a_row_without_text_is_its_own_group() -> None:
    assert table(texts=["", "", "x"]).groups().tolist() == [0, 1, 2]
    assert table(texts=["x", " ", "x"]).groups().tolist() == [0, 1, 0]


def test_a_group_number_cannot_clash_with_a_text_that_is_a_number() -> None:
    assert len(set(table(texts=["1", "", "0"]).groups().tolist())) == 3


@pytest.mark.parametrize(
    ("changes", "where"),
    [
        ({"quality": np.zeros((2, 3))}, "quality"),
        ({"cost_usd": np.zeros((3, 1))}, "cost_usd"),
        ({"samples": {"quality": np.zeros((3, 1, 4))}}, "quality"),
        ({"labels": {"dataset": ["x"]}}, "dataset"),
        ({"split": ["train"]}, "split"),
        ({"ids": ("a",)}, "ids"),
    ],
)
def test_what_does_not_fit_the_table_is_refused_by_name(changes: dict[str, object], where: str) -> None:
    with pytest.raises(TableError) as caught:
        table(**changes)
    assert caught.value.field == where


def test_rows_are_numbered_where_no_ids_are_given() -> None:
    assert table(ids=()).ids == ("0", "1", "2")


def test_the_label_is_empty_where_there_is_none() -> None:
    assert table(label_name="").label == ["", "", ""]


def test_the_digest_names_the_numbers() -> None:
    other = table().quality.copy()
    other[0, 0] = 0.9
    assert table().digest() == table().digest()
    assert table().digest() != table(quality=other).digest()


def test_features_carry_texts_and_labels() -> None:
    features = table().features()
    assert features.texts == table().texts
    assert features.label("dataset") == ["maths", "geo", "maths"]
