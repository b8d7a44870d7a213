"""`junctor fit` on a table as people have them: gaps, few rows, mistakes. What it says must be true and of use."""

from __future__ import annotations

import csv
import json
from pathlib import Path

import numpy as np
import pytest

pytestmark = pytest.mark.slow

TOPICS = ("add the numbers", "translate the sentence", "fix the python code")
SKILL = np.array([[0.95, 0.3, 0.9], [0.1, 0.9, 0.9], [0.2, 0.3, 0.9]])
COST = np.array([0.0001, 0.0002, 0.01])
NAMES = ("calculator", "linguist", "generalist")
FIT = ("--encoder", "lexical", "--out", "p")


def rows_of(count: int = 200, gaps: float = 0.2, seed: int = 0) -> list[dict[str, object]]:
    """Two cheap specialists and a dear generalist; a cell that was not recorded is empty, its cost too."""
    rng = np.random.default_rng(seed)
    made: list[dict[str, object]] = []
    for i in range(count):
        topic = int(rng.integers(3))
        row: dict[str, object] = {"query": f"{TOPICS[topic]} number {i}", "task": TOPICS[topic].split()[0]}
        for j, name in enumerate(NAMES):
            gone = rng.random() < gaps
            row[f"score:{name}"] = "" if gone else int(rng.random() < SKILL[topic, j])
            row[f"cost_usd:{name}"] = "" if gone else COST[j] * rng.uniform(0.5, 1.5)
        made.append(row)
    return made


def write(path: Path, rows: list[dict[str, object]]) -> str:
    with path.open("w", newline="") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    return str(path)


def spaced(text: str) -> str:
    """Without the line breaks of the console."""
    return " ".join(text.split())


@pytest.fixture
def fit(junctor, tmp_path: Path):
    """Fits on these rows, quickly."""

    def run(rows: list[dict[str, object]], *more: str):
        return junctor("fit", write(tmp_path / "t.csv", rows), *FIT, *more)

    return run


def test_two_hundred_rows_with_gaps_give_a_policy_honest_intervals_and_a_warning(fit, junctor, tmp_path: Path) -> None:
    ran = fit(rows_of(), "--json", "fit.json")
    assert ran.code == 0, ran.err
    said, out = spaced(ran.err), spaced(ran.out)
    assert "199 rows are few: a target's mean quality is known to about ±0.07" in said
    assert "stack of" in out
    assert "thrift: cost weight" in out
    assert "best single: generalist" in out
    assert "cheapest: calculator" in out
    assert "do not count for stack" in out
    found = json.loads((tmp_path / "fit.json").read_text())
    assert (found["schema"], found["policy"], found["judged"], found["test_rows"]) == (1, "stack", True, 40)
    assert 20 < found["counted"] < 40
    assert found["quality"]["low"] < found["quality"]["value"] <= found["quality"]["high"] <= 1
    best, cheapest = found["against"]
    assert (best["role"], best["verdict"]) == ("best single", "open")
    assert (cheapest["role"], cheapest["target"], cheapest["verdict"]) == ("cheapest", "calculator", "better")
    assert found["sentences"][0].startswith("cannot be told from the best single target (generalist) on 40 test rows, at ")
    assert found["cost_usd"]["value"] < 0.9 * best["cost_usd"]["value"], "specialists cost next to nothing where they are good"
    assert set(found["choices"]) > {"generalist"}
    assert found["members"]["label"] > 0
    assert any("199 rows are few" in one for one in found["notes"])
    serves(junctor, tmp_path)


def serves(junctor, tmp_path: Path) -> None:
    """The saved policy decides, behind a configuration."""
    targets = "".join(f"[targets.{name}]\nprovider = 'scripted'\n" for name in NAMES)
    (tmp_path / "junctor.toml").write_text(
        f"[providers.scripted]\n{targets}[policies.p]\nartefact = 'p'\n[aliases]\nauto = 'p'\n[journal]\npath = ''\n"
    )
    routed = junctor("route", "add the numbers of my bill", "--json")
    assert routed.code == 0, routed.err
    assert json.loads(routed.out)["decision"]["target"] == "calculator"


def test_json_goes_to_standard_output_and_the_rest_to_the_other(fit) -> None:
    ran = fit(rows_of(60), "--policy", "best-single", "--json", "-")
    assert json.loads(ran.out)["against"][0]["verdict"] == "same"
    assert "it is the best single target" in spaced(ran.err)


def test_nothing_is_judged_without_test_rows(fit) -> None:
    ran = fit(rows_of(60), "--policy", "best-single", "--no-test", "--json", "-")
    found = json.loads(ran.out)
    assert (found["judged"], found["why"]) == (False, "nothing was judged: --no-test was given")
    sides = [{**row, "split": "val" if i % 4 == 0 else "train"} for i, row in enumerate(rows_of(60))]
    ran = fit(sides, "--policy", "best-single")
    assert ran.code == 0, ran.err
    assert "nothing was judged: the split has no test rows" in spaced(ran.out)


def test_the_judged_rows_are_those_that_were_not_fitted_on(fit) -> None:
    """Test rows turned round change the judgement, and not the policy."""
    rows = [{**row, "split": ("train", "test", "val")[i % 3]} for i, row in enumerate(rows_of(180, gaps=0.0))]
    turned = [
        {**row, **{f"score:{name}": 1 - int(row[f"score:{name}"]) for name in NAMES}} if row["split"] == "test" else row  # type: ignore[call-overload]
        for row in rows
    ]
    first, second = (json.loads(fit(made, "--policy", "label-table", "--json", "-").out) for made in (rows, turned))
    assert first["choices"] == second["choices"]
    assert first["quality"]["value"] == pytest.approx(1 - second["quality"]["value"])
    assert second["against"][0]["verdict"] in ("worse", "open", "same")


def with_column(name: str, values) -> list[dict[str, object]]:
    rows = rows_of(60, gaps=0.0)
    return [{**row, name: values(i)} for i, row in enumerate(rows)]


REFUSED = {
    "a target that was never recorded": (with_column("score:generalist", lambda i: ""), ("generalist", "--drop-empty")),
    "every score alike": (
        [{**row, **{f"score:{name}": 1 for name in NAMES}} for row in rows_of(60)],
        ("every target has the same score", "tell good answers from bad"),
    ),
    "three rows": (rows_of(3, gaps=0.0), ("3 different queries are too few to split", "record 5 or more")),
    "percentages": (
        [{**row, **{f"score:{name}": 100 * int(row[f"score:{name}"]) for name in NAMES}} for row in rows_of(60, gaps=0.0)],  # type: ignore[call-overload]
        ("100 is outside [0, 1]", "divide them by 100 if they are percentages"),
    ),
    "percentages with decimals": (with_column("score:linguist", lambda i: 50.5 + i / 2), ("by 100",)),
    "words for numbers": (with_column("score:linguist", lambda i: "good"), ("'good' is not a number", "row 1")),
    "negative costs": (with_column("cost_usd:linguist", lambda i: -1), ("-1 is negative",)),
    "infinite scores": (with_column("score:linguist", lambda i: "inf"), ("infinite",)),
    "no text column": (
        [{"message": row["query"], **{k: v for k, v in row.items() if k != "query"}} for row in rows_of(60)],
        ("no query has a text", "--text"),
    ),
    "empty texts": (with_column("query", lambda i: ""), ("no query has a text",)),
    "no header for scores": ([{"query": "a", "gpt": 1}, {"query": "b", "gpt": 0}], ("holds no outcomes", "score:TARGET")),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_cannot_be_learned_from_is_one_line_that_names_the_place_and_the_fix(fit, case: str) -> None:
    rows, says = REFUSED[case]
    ran = fit(rows)
    assert ran.code == 2, ran.out
    errors = [line for line in ran.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1, ran.err
    assert all(part in errors[0] for part in says), errors[0]
    assert "Traceback" not in ran.err


NOTED = {
    "one constant target": (
        with_column("score:linguist", lambda i: 1),
        "linguist: its score is 1 on every row; is that what was meant to be recorded?",
    ),
    "few rows per label": (with_column("task", lambda i: f"task {i % 20}"), "every task has fewer than 5 rows"),
    "one row per label": (with_column("task", lambda i: f"task {i}"), "task has 60 values for 60 rows, so it is no label"),
    "costs in cents per thousand": (
        with_column("cost_usd:generalist", lambda i: 12.0),
        "in US dollars per call, and not in cents",
    ),
    "costs in two units": (with_column("cost_usd:linguist", lambda i: 1e-9), "times one of linguist: are both in US dollars"),
    "NaN as a word": (
        with_column("score:linguist", lambda i: "NaN" if i % 9 == 0 else i % 2),
        "7 values are NaN and count as not recorded (score:linguist)",
    ),
    "the same prompt again": (
        with_column("query", lambda i: f"add the numbers {i % 50}".upper() if i % 2 else f"add the numbers {i % 50}"),
        "10 rows repeat the prompt of an earlier row; they stay on one side of every split",
    ),
    "the same prompt on two sides": (
        [
            {**row, "split": "train" if i < 40 else "test", "query": f"add {i % 55}"}
            for i, row in enumerate(rows_of(60, gaps=0.0))
        ],
        "5 test rows repeat training prompts and were left out",
    ),
}


@pytest.mark.parametrize("case", NOTED)
def test_what_is_doubtful_is_said_and_fitted_all_the_same(fit, case: str) -> None:
    rows, says = NOTED[case]
    ran = fit(rows)
    assert ran.code == 0, ran.err
    assert says in spaced(ran.err), ran.err


def test_one_row_per_label_and_one_row_per_class(fit) -> None:
    each = with_column("task", lambda i: f"task {i}")
    asked = fit(each, "--label", "task", "--json", "-")
    assert asked.code == 0, asked.err
    assert "every task has fewer than 5 rows: nothing can be learned per task" in spaced(asked.err)
    intents = [{"query": row["query"], "intent": f"intent {i}"} for i, row in enumerate(rows_of(60))]
    ran = fit(intents, "--gold", "intent", "--json", "-")
    assert ran.code == 0, ran.err
    assert json.loads(ran.out)["against"][0]["verdict"] in ("open", "same")


def test_a_text_column_of_another_name_is_suggested_and_taken(fit) -> None:
    rows = [{"message": row["query"], **{k: v for k, v in row.items() if k != "query"}} for row in rows_of(60)]
    assert "if message holds the queries, name it with --text" in spaced(fit(rows, "--policy", "label-table").err)
    named = fit(rows, "--text", "message")
    assert named.code == 0, named.err


def test_two_targets_and_one(fit) -> None:
    for left, verdict in ((NAMES[:2], None), (NAMES[:1], "same")):
        rows = [{k: v for k, v in row.items() if ":" not in k or k.endswith(left)} for row in rows_of(60)]
        ran = fit(rows, "--json", "-")
        assert ran.code == 0, ran.err
        assert verdict in (None, json.loads(ran.out)["against"][0]["verdict"])


def test_without_costs_there_is_no_cheapest_and_no_thrift(fit) -> None:
    rows = [{k: v for k, v in row.items() if not k.startswith("cost")} for row in rows_of(80)]
    ran = fit(rows, "--json", "-")
    assert ran.code == 0, ran.err
    found = json.loads(ran.out)
    assert [one["role"] for one in found["against"]] == ["best single"]
    assert (found["cost_usd"], found["cost_weight"]) == (None, None)
    assert "thrift" not in ran.err
