"""The figures of docs/gateway/guards.md do not sink unseen: benchmarks/guards.py on the recorded data, against floors."""

from __future__ import annotations

import importlib.util
import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest

SCRIPT = Path(__file__).parent.parent.parent / "benchmarks" / "guards.py"


@pytest.fixture(scope="module")
def bench() -> ModuleType:
    spec = importlib.util.spec_from_file_location("bench_guards", SCRIPT)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.data
def test_personal_data_on_templates_that_no_rule_was_mended_on(bench: ModuleType, data: Path) -> None:
    kinds = bench.measure_pii(data)["kinds"]
    for kind in ("card", "email", "url", "ssn", "ip"):
        assert kinds[kind]["overlap"]["f1"] >= 0.98, kind
    assert kinds["person"]["overlap"]["f1"] >= 0.78
    assert kinds["all"]["overlap"]["precision"] >= 0.85
    assert kinds["all"]["overlap"]["f1"] >= 0.70
    assert kinds["any"]["characters_hidden"] >= 0.70


@pytest.mark.data
def test_how_many_safe_prompts_the_lists_turn_away(bench: ModuleType, data: Path) -> None:
    found = bench.lists_on_xstest(data)
    assert found["lists"]["over_refusal"] <= 0.06
    assert found["injection"]["over_refusal"] <= 0.01


@pytest.mark.data
@pytest.mark.slow
def test_a_fitted_scorer_on_texts_that_it_never_saw(bench: ModuleType, data: Path) -> None:
    texts, labels = bench.moderation(data)
    y = bench.np.array(labels["any"], dtype=float)
    X = bench.features(texts)
    held = bench.folds_of(y, 0) == 0
    weights, bias = bench.fit_line(X[~held], y[~held], bench.FIXED_RIDGE)
    assert bench.auroc(y[held], X[held] @ weights + bias) >= 0.85


def test_parts_of_the_templates_do_not_meet(bench: ModuleType) -> None:
    parts = {template: bench.part_of(template) for template in range(500)}
    assert set(parts.values()) == {"write", "choose", "report"}


def test_rates_by_hand(bench: ModuleType) -> None:
    rows = [("mail a@b.org or c@d.org", [(5, 12, "EMAIL_ADDRESS"), (0, 4, "PERSON")])]
    counts = bench.pii_table(bench.pii_counts(rows, 0.5))
    assert counts["email"]["exact"] == {"precision": 0.5, "recall": 1.0, "f1": pytest.approx(2 / 3)}
    assert counts["person"]["overlap"]["recall"] == 0
    assert counts["any"]["characters_hidden"] == pytest.approx(7 / 11)


def test_absent_data_is_skipped_with_a_reason(tmp_path: Path) -> None:
    command = [sys.executable, str(SCRIPT), "--data", str(tmp_path), "--only", "pii,unsafe,overrefusal", "--json", "-"]
    ran = subprocess.run(command, capture_output=True, text=True, timeout=60, check=True)
    found = json.loads(ran.stdout)
    assert all("there is no" in part["skipped"] for part in found.values())
