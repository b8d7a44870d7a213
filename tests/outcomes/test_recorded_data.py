"""Every recorded matrix reads as it stands, and gives back the reference points that its notes state."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from junctor.errors import TableError
from junctor.outcomes import OutcomeTable, read_table, split_table, write_table

pytestmark = pytest.mark.data


@pytest.mark.parametrize(
    ("name", "options", "shape", "label", "train_side"),
    [
        ("routerdc/routerdc_7models_en.parquet", {}, (13779, 7), "dataset", 3935),
        ("routerdc/routerdc_7models_zh_nc.parquet", {}, (6821, 7), "dataset", 2000),
        ("routerbench_subset/routerbench_arc_mbpp_winogrande.parquet", {}, (3178, 11), "eval_name", 2225),
        ("routellm/routellm_mmlu_gsm8k.parquet", {}, (15361, 2), "benchmark", 12289),
        ("llmrouter_ulab/llmrouter_13tasks_9models.parquet", {}, (5610, 9), "task_name", 5160),
        ("routerarena_sub10/routerarena_sub10_2models.parquet", {"clip": True}, (809, 2), "dataset", 647),
        ("bfcl_v1_outcomes/outcomes.parquet", {}, (1700, 71), "", 1360),
        ("carrot_openllm_v2_numeric/correctness.parquet", {}, (21065, 19), "task", 16852),
        ("hwu64/hwu64_fold1.csv", {"gold": "intent"}, (11036, 64), "scenario", 9960),
        ("clinc150/clinc150_full.parquet", {"gold": "intent"}, (23700, 151), "domain", 18197),
        ("bfcl_v4_tool_selection/bfcl_v4.parquet", {"gold": "gold_functions"}, (3075, 839), "category", 2460),
    ],
)
def test_a_recorded_matrix_reads_and_splits(
    data: Path, name: str, options: dict[str, Any], shape: tuple[int, int], label: str, train_side: int
) -> None:
    table = read_table(data / name, **options)
    assert table.quality.shape == shape
    assert table.label_name == label
    split = split_table(table)
    used = len(split.train) + len(split.validation)
    assert abs(used - train_side) <= 5, "training and validation rows together"
    groups = table.groups()
    assert not set(groups[split.train].tolist()) & set(groups[split.test].tolist())


def test_a_score_below_zero_is_named_and_how_to_clip_it(data: Path) -> None:
    with pytest.raises(TableError, match=r"score:claude-3-haiku-20240307, row 495: -0.0330189 is outside.*clip=True"):
        read_table(data / "routerarena_sub10/routerarena_sub10_2models.parquet")


def test_routerdc_gives_back_its_own_split_and_accuracies(data: Path) -> None:
    """In its GSM8K test rows dolphin-2.9 scores 69.81 % (share of samples right); 18 test rows repeat training prompts."""
    table = read_table(data / "routerdc/routerdc_7models_en.parquet")
    split = split_table(table)
    assert "18 test rows repeat training prompts and were left out" in split.notes
    assert {name: len(rows) for name, rows in split.extra.items()} == {"ood_test": 1535}
    rows = [
        i
        for i, (name, side) in enumerate(zip(table.label, table.split or (), strict=True))
        if name == "gsm8k" and side == "test"
    ]
    found = table.take(rows).only(["cognitivecomputations/dolphin-2.9-llama3-8b"]).quality.mean()
    assert round(100 * float(found), 2) == 69.81


def best_and_oracle(table: OutcomeTable) -> tuple[float, float]:
    return round(float(table.quality.mean(axis=0).max()), 3), round(float(table.quality.max(axis=1).mean()), 3)


def test_bfcl_gives_back_best_single_and_oracle(data: Path) -> None:
    folder = data / "bfcl_v1_outcomes"
    table = read_table(folder / "outcomes.parquet", queries=folder / "queries.parquet", targets=folder / "models.parquet")
    assert best_and_oracle(table) == (0.905, 0.979)
    assert all(table.texts)
    assert sum(target.price is not None for target in table.targets) == 49


def test_llmrouter_test_rows_give_back_best_single_and_oracle(data: Path) -> None:
    table = read_table(data / "llmrouter_ulab/llmrouter_13tasks_9models.parquet")
    test = table.take(np.array([name == "test" for name in table.split or ()]))
    assert best_and_oracle(test) == (0.605, 0.770)
    assert "69 test rows repeat training prompts and were left out" in split_table(table).notes


def test_routerbench_gives_back_best_single_and_oracle_on_arc(data: Path) -> None:
    """The torn pairs are incomplete rows: `split_table` leaves them out of the test side by itself."""
    table = read_table(data / "routerbench_subset/routerbench_arc_mbpp_winogrande.parquet")
    split = split_table(table)
    assert "8 test rows repeat training prompts and were left out" in split.notes
    assert table.mask[split.test].all()
    whole = np.array([name == "test" for name in table.split or ()]) & table.mask.all(axis=1)
    arc = table.take(whole & np.array([name == "arc-challenge" for name in table.label]))
    assert best_and_oracle(arc) == (0.957, 0.989)


def test_tools_get_their_descriptions(data: Path) -> None:
    folder = data / "azure_mcp_tools"
    table = read_table(folder / "prompts.jsonl", gold="gold", targets=folder / "tools.jsonl")
    assert table.quality.shape == (478, 181)
    assert sum(bool(target.description) for target in table.targets) == 180
    assert {target.kind for target in table.targets} == {"tool", "model"}
    np.testing.assert_array_equal(table.quality.sum(axis=1), 1)


def test_a_real_table_survives_a_round_trip(data: Path, tmp_path: Path) -> None:
    table = read_table(data / "routerbench_subset/routerbench_arc_mbpp_winogrande.parquet")
    for suffix in ("parquet", "csv"):
        write_table(table, tmp_path / f"t.{suffix}")
        read = read_table(tmp_path / f"t.{suffix}")
        assert read.digest() == table.digest()
        assert read.split == table.split
