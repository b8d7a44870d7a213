"""split_table: sides by name or by ratio, whole prompts on one side, and only rows that every policy can be judged on."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from junctor.errors import TableError
from junctor.outcomes import OutcomeTable, Split, split_table
from junctor.outcomes.splitting import draw_groups, is_ratio
from junctor.types import Catalogue


def table(texts: list[str], split: list[str] | None = None, **changes: Any) -> OutcomeTable:
    quality = changes.pop("quality", np.ones((len(texts), 2)))
    return OutcomeTable(texts, Catalogue.of(["a", "b"]), quality, split=split, **changes)


def labelled(n: int = 200, prompts: int | None = None) -> OutcomeTable:
    """n rows in two labels, 3 to 1, over some number of distinct prompts."""
    labels = ["big" if i % 4 else "small" for i in range(n)]
    texts = [f"query {i % (prompts or n)}" for i in range(n)]
    return table(texts, labels={"dataset": labels}, label_name="dataset")


def sides(split: Split) -> tuple[list[int], list[int], list[int]]:
    return split.train.tolist(), split.validation.tolist(), split.test.tolist()


def disjoint(rows: OutcomeTable, split: Split) -> bool:
    groups = rows.groups()
    found = [set(groups[side].tolist()) for side in (split.train, split.validation, split.test, *split.extra.values())]
    return sum(map(len, found)) == len(set().union(*found))


@pytest.mark.parametrize(
    ("ratio", "wanted"),
    [
        (None, (120, 40, 40)),
        ("70/10/20", (140, 20, 40)),
        ("80/20", (128, 32, 40)),
        ("0.5", (80, 20, 100)),
        ("50", (80, 20, 100)),
    ],
)
def test_a_ratio_gives_exact_sizes_and_takes_every_row_once(ratio: str | None, wanted: tuple[int, int, int]) -> None:
    split = split_table(labelled(), split=ratio)
    assert tuple(map(len, sides(split))) == wanted
    assert sorted(row for side in sides(split) for row in side) == list(range(200))
    assert split.notes == ()


def test_each_label_is_split_in_the_same_proportion() -> None:
    rows = labelled()
    split = split_table(rows, split="70/10/20", seed=3)
    small = [sum(rows.label[i] == "small" for i in side) for side in sides(split)]
    assert [abs(found - wanted) <= 1 for found, wanted in zip(small, (35, 5, 10), strict=True)] == [True] * 3


def test_the_seed_decides_and_nothing_else() -> None:
    rows = labelled()
    assert sides(split_table(rows, seed=1)) == sides(split_table(rows, seed=1))
    assert sides(split_table(rows, seed=1)) != sides(split_table(rows, seed=2))


def test_labels_of_one_row_each_are_split_at_random_too() -> None:
    rows = table([f"q{i}" for i in range(10)], labels={"task": [str(i) for i in range(10)]}, label_name="task")
    tests = {tuple(split_table(rows, seed=seed).test.tolist()) for seed in range(8)}
    assert len(tests) > 1
    assert {len(test) for test in tests} == {2}


@pytest.mark.parametrize("ratio", [None, "70/10/20", "80/20"])
@pytest.mark.parametrize("seed", range(3))
def test_rows_of_one_prompt_never_part(ratio: str | None, seed: int) -> None:
    rows = labelled(200, prompts=23)
    split = split_table(rows, split=ratio, seed=seed)
    assert disjoint(rows, split)
    assert len(split.test)


def test_the_check_for_parted_prompts_can_fail() -> None:
    rows = table(["x", "X ", "y"])
    assert not disjoint(rows, Split(np.array([0]), np.array([2]), np.array([1])))


def test_drawing_by_hand() -> None:
    """Three equal groups at two thirds and one third: two go to the first part, one to the second."""
    part = draw_groups(np.array([0, 0, 1, 1, 2, 2]), [""] * 6, (2 / 3, 1 / 3), np.random.default_rng(0))
    assert part[::2].tolist() == part[1::2].tolist()
    assert sorted(part.tolist()) == [0, 0, 0, 0, 1, 1]


def test_recorded_names_are_understood_in_any_case() -> None:
    rows = table(list("abcdef"), ["Training", "train", "DEV", "valid", "test", "ood_far"])
    split = split_table(rows)
    assert sides(split) == ([0, 1], [2, 3], [4])
    assert {name: found.tolist() for name, found in split.extra.items()} == {"ood_far": [5]}
    assert split.notes == ()


def test_other_names_are_left_out_and_counted() -> None:
    rows = table(list("abcdef"), ["train", "val", "test", "extra_train", "extra_train", ""])
    split = split_table(rows)
    assert sides(split) == ([0], [1], [2])
    assert split.notes == ("2 rows of the split 'extra_train' were left out", "1 rows of the split '' were left out")


def test_validation_is_taken_out_of_the_training_rows_where_none_was_recorded() -> None:
    names = ["train"] * 100 + ["test"] * 20
    rows = table([f"q{i}" for i in range(120)], names)
    split = split_table(rows, seed=5, validation_share=0.3)
    assert sorted(split.train.tolist() + split.validation.tolist()) == list(range(100))
    assert len(split.validation) == 30
    assert split.notes == ("validation is 30% of the training rows (30 of 100)",)


def test_a_recorded_split_is_used_only_when_no_ratio_is_given() -> None:
    rows = table([f"q{i}" for i in range(10)], ["train"] * 5 + ["test"] * 5)
    assert split_table(rows).test.tolist() == [5, 6, 7, 8, 9]
    assert len(split_table(rows, split="0.8").test) == 2


def test_the_split_column_can_be_named_and_a_label_can_serve_as_one() -> None:
    rows = table(
        list("abcd"), ["train", "val", "test", "test"], labels={"fold": ["test", "train", "val", "train"]}, split_name="part"
    )
    assert split_table(rows, split="part").train.tolist() == [0]
    assert split_table(rows, split="fold").test.tolist() == [0]


def test_a_test_row_that_repeats_a_training_prompt_leaves() -> None:
    rows = table(["a", "b", "c", " A", "d", "B"], ["train", "train", "val", "test", "test", "ood_x"])
    split = split_table(rows)
    assert split.test.tolist() == [4]
    assert split.extra == {}
    assert split.notes == (
        "1 test rows repeat training prompts and were left out",
        "1 ood_x rows repeat training prompts and were left out",
    )


def test_a_test_row_that_repeats_a_validation_prompt_leaves_and_so_does_validation_that_repeats_training() -> None:
    rows = table(["a", "A", "b", "B", "c"], ["train", "val", "val", "test", "test"])
    split = split_table(rows)
    assert sides(split) == ([0], [2], [4])


def test_rows_that_lack_an_outcome_are_judged_by_nobody() -> None:
    quality = np.ones((6, 2))
    quality[0, 0] = quality[4, 1] = math.nan
    split = split_table(table(list("abcdef"), ["train", "val", "test", "test", "test", "test"], quality=quality))
    assert split.train.tolist() == [0], "training may use a row that is incomplete"
    assert split.test.tolist() == [2, 3, 5]
    assert split.notes == ("1 test rows lack the quality of some target and were left out",)


def test_a_sparse_table_keeps_its_rows_and_says_so() -> None:
    quality = np.full((4, 2), math.nan)
    quality[:, 0] = 1
    split = split_table(table(list("abcd"), ["train", "val", "test", "test"], quality=quality))
    assert split.test.tolist() == [2, 3]
    assert "2 test rows lack the quality of some target and were kept, because the table is sparse" in split.notes


@pytest.mark.parametrize("ratio", ["60/20/30", "1.5/0.5", "0/100", "70/10/10/10", "100", "1", "0", "//", "0.5.5"])
def test_what_is_no_ratio_is_refused(ratio: str) -> None:
    with pytest.raises(TableError, match="is no ratio") as caught:
        split_table(labelled(), split=ratio)
    assert "70/10/20" in caught.value.fix


@pytest.mark.parametrize("share", [0.0, 1.0, -0.1])
def test_a_validation_share_must_be_a_share(share: float) -> None:
    with pytest.raises(TableError, match="validation_share"):
        split_table(labelled(), validation_share=share)


def test_an_unknown_split_column_is_named_with_those_that_there_are() -> None:
    rows = table(["a"], ["train"], labels={"dataset": ["x"]})
    with pytest.raises(TableError, match="no such split column") as caught:
        split_table(rows, split="fould")
    assert "it has: split, dataset" in caught.value.fix
    with pytest.raises(TableError, match="70/10/20"):
        split_table(table(["a"]), split="fold")


@pytest.mark.parametrize(("names", "missing"), [(["test", "val"], "train"), (["train", "eval"], "test")])
def test_a_side_that_nobody_named_is_refused(names: list[str], missing: str) -> None:
    with pytest.raises(TableError, match=f"there are no {missing} rows; it holds"):
        split_table(table(["a", "b"], names))


def test_a_side_whose_rows_all_leave_is_refused_with_the_reason() -> None:
    with pytest.raises(TableError, match=r"no test rows are left \(1 test rows repeat training prompts"):
        split_table(table(["a", "A", "b"], ["train", "test", "val"]))


def test_too_few_queries_cannot_be_split() -> None:
    for texts in (["a"], list("abc"), ["a", "A", "b", "c", "d"]):
        with pytest.raises(TableError, match="different queries are too few to split"):
            split_table(table(texts))
    assert all(map(len, sides(split_table(table(list("abcde"))))))


def test_where_one_policy_is_fitted_rows_with_gaps_stay_and_test_rows_may_be_missing() -> None:
    quality = np.ones((6, 2))
    quality[4, 1] = math.nan
    names = ["train", "val", "test", "test", "test", "test"]
    split = split_table(table(list("abcdef"), names, quality=quality), judging=False)
    assert (split.test.tolist(), split.notes) == ([2, 3, 4, 5], ())
    assert not len(split_table(table(list("abc"), ["train", "train", "val"]), judging=False).test)
    with pytest.raises(TableError, match="no train rows"):
        split_table(table(list("abc"), ["test", "test", "val"]), judging=False)


def test_ratios_and_names_are_told_apart() -> None:
    assert [is_ratio(text) for text in ("70/10/20", "0.8", "80%", "split", "fold1", "ood_7/3")] == [True] * 3 + [False] * 3
