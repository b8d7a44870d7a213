"""The importers, each on a small file in the published form, and on one that is not."""

from __future__ import annotations

import json
import os
import pickle
import sys
import types
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import polars as pl
import pytest

from junctor.errors import MissingExtra, TableError, UnknownName, UserError
from junctor.outcomes import OutcomeTable, split_table
from junctor.outcomes.importers import FORMATS, import_outcomes
from junctor.types import Price

NAN = np.nan


def refused(name: str, path: Path, **options: Any) -> TableError:
    with pytest.raises(TableError) as caught:
        import_outcomes(name, path, **options)
    assert str(path) in caught.value.field
    assert caught.value.fix
    return caught.value


def jsonl(path: Path, rows: list[dict[str, Any]]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


# --- the door ---------------------------------------------------------------------------------------------------------------


def test_an_unknown_format_is_refused_with_the_nearest() -> None:
    with pytest.raises(UnknownName, match="did you mean 'routerbench'"):
        import_outcomes("router-bench", "x")
    with pytest.raises(UnknownName, match="sprout"):
        import_outcomes("zzz", "x")


@pytest.mark.parametrize("name", FORMATS)
def test_every_format_refuses_a_missing_file_by_name(name: str, tmp_path: Path) -> None:
    assert refused(name, tmp_path / "none.parquet", trust_pickle=True).message == "does not exist"


@pytest.mark.parametrize("name", [n for n in FORMATS if n not in ("routerbench", "routereval", "journal")])
def test_every_folder_format_refuses_an_empty_folder(name: str, tmp_path: Path) -> None:
    assert "holds no" in refused(name, tmp_path).message


def test_an_option_that_a_format_does_not_have_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"embedllm.clip: this format has no such option"):
        import_outcomes("embedllm", tmp_path, clip=True)


# --- routerbench ------------------------------------------------------------------------------------------------------------

ROUTERBENCH: dict[str, list[Any]] = {
    "sample_id": ["mmlu.1", "mtbench.2"],
    "prompt": ["What is 2+2?", "['first turn', \"second turn\"]"],
    "eval_name": ["mmlu", "mtbench"],
    "gpt-4": [1.0, 0.8],
    "org/small": [0.0, None],
    "gpt-4|model_response": ["4", "long"],
    "org/small|model_response": ["5", "long"],
    "gpt-4|total_cost": [0.03, 0.06],
    "org/small|total_cost": [0.001, 0.002],
    "oracle_model_to_route_to": ["gpt-4", "no_model_correct"],
}


def is_routerbench(table: OutcomeTable) -> None:
    assert table.targets.ids == ("gpt-4", "org/small")
    assert table.texts == ["What is 2+2?", "first turn\nsecond turn"]
    assert table.ids == ("mmlu.1", "mtbench.2")
    np.testing.assert_array_equal(table.quality, [[1, 0], [0.8, NAN]])
    assert table.cost_usd is not None
    np.testing.assert_array_equal(table.cost_usd, [[0.03, 0.001], [0.06, 0.002]])
    assert (table.label_name, table.label) == ("eval_name", ["mmlu", "mtbench"])


@pytest.mark.parametrize("suffix", ["parquet", "csv"])
def test_routerbench_columns_read_from_files_that_run_no_code(tmp_path: Path, suffix: str) -> None:
    path = tmp_path / f"rb.{suffix}"
    frame = pl.DataFrame(ROUTERBENCH)
    frame.write_csv(path) if suffix == "csv" else frame.write_parquet(path)
    is_routerbench(import_outcomes("routerbench", path))


def test_a_pickle_is_refused_with_the_risk_unless_it_is_trusted(tmp_path: Path) -> None:
    path = tmp_path / "routerbench_0shot.pkl"
    path.write_bytes(pickle.dumps(Trap(tmp_path / "sprung")))
    error = refused("routerbench", path)
    assert "runs whatever code it holds" in error.message
    assert "--trust-pickle" in error.fix
    assert not (tmp_path / "sprung").exists()


class Trap:
    """Makes a folder when unpickled: the smallest proof that code ran."""

    def __init__(self, place: Path) -> None:
        self.place = place

    def __reduce__(self) -> tuple[Callable[[str], None], tuple[str]]:
        return os.mkdir, (str(self.place),)


def test_a_trusted_pickle_needs_pandas_and_says_how_to_get_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rb.pkl"
    path.write_bytes(b"")
    monkeypatch.setitem(sys.modules, "pandas", None)
    with pytest.raises(MissingExtra, match=r"pip install pandas$|\(pip install pandas\)"):
        import_outcomes("routerbench", path, trust_pickle=True)


class Column:
    def __init__(self, values: list[Any]) -> None:
        self.values = values

    def tolist(self) -> list[Any]:
        return self.values


class DataFrame:
    """As much of a pandas DataFrame as the importer reads; the real one is used where pandas is installed."""

    def __init__(self, columns: dict[str, list[Any]]) -> None:
        self.held = columns

    @property
    def columns(self) -> list[str]:
        return list(self.held)

    def __getitem__(self, name: str) -> Column:
        return Column(self.held[name])

    def __len__(self) -> int:
        return len(next(iter(self.held.values()), []))


def with_pandas(monkeypatch: pytest.MonkeyPatch, read_pickle: Callable[[Path], Any]) -> None:
    module = types.ModuleType("pandas")
    module.read_pickle = read_pickle  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "pandas", module)


def test_a_trusted_pickle_reads_like_the_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rb.pkl"
    path.write_bytes(b"")
    given = ROUTERBENCH | {"prompt": ["What is 2+2?", ["first turn", "second turn"]], "gpt-4": [np.float64(1), 0.8]}
    with_pandas(monkeypatch, lambda _: DataFrame(given | {"org/small": [np.bool_(0), NAN]}))
    is_routerbench(import_outcomes("routerbench", path, trust_pickle=True))


def test_a_real_pandas_pickle_reads(tmp_path: Path) -> None:
    pandas = pytest.importorskip("pandas", reason="pandas is not installed")
    path = tmp_path / "rb.pkl"
    pandas.DataFrame(ROUTERBENCH).to_pickle(path)
    is_routerbench(import_outcomes("routerbench", path, trust_pickle=True))


def test_a_damaged_pickle_and_one_of_something_else_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "rb.pkl"
    path.write_bytes(b"not a pickle")

    def fails(_: Path) -> None:
        raise pickle.UnpicklingError("invalid load key")

    with_pandas(monkeypatch, fails)
    assert "cannot be unpickled: invalid load key" in refused("routerbench", path, trust_pickle=True).message
    with_pandas(monkeypatch, lambda _: {"a": 1})
    assert "holds a dict, not a DataFrame" in refused("routerbench", path, trust_pickle=True).message
    with_pandas(monkeypatch, lambda _: DataFrame({}))
    assert "has no columns" in refused("routerbench", path, trust_pickle=True).message


@pytest.mark.parametrize(
    ("drop", "message"),
    [
        (("prompt",), "so this is not RouterBench"),
        (("gpt-4|total_cost", "org/small|total_cost", "gpt-4|model_response", "org/small|model_response"), "names no models"),
    ],
)
def test_what_is_not_routerbench_is_refused(tmp_path: Path, drop: tuple[str, ...], message: str) -> None:
    path = tmp_path / "rb.parquet"
    pl.DataFrame({name: values for name, values in ROUTERBENCH.items() if name not in drop}).write_parquet(path)
    assert message in refused("routerbench", path).message


def test_brackets_that_are_no_list_of_turns_stay_as_they_are(tmp_path: Path) -> None:
    path = tmp_path / "rb.parquet"
    prompts = ["[1, 2]", "[not python]"]
    pl.DataFrame(ROUTERBENCH | {"prompt": prompts}).write_parquet(path)
    assert import_outcomes("routerbench", path).texts == prompts


# --- sprout -----------------------------------------------------------------------------------------------------------------


def sprout(path: Path, prompts: list[str]) -> Path:
    cells = [{"score": 0.5, "num_input_tokens": 100, "num_output_tokens": 10, "response": "r"} for _ in prompts]
    other = [None, *({"score": 1.0, "num_input_tokens": 1, "num_output_tokens": 1, "response": "r"} for _ in prompts[1:])]
    keys = [f"{path.stem}-{i}" for i in range(len(prompts))]
    frame = pl.DataFrame({"key": keys, "prompt": prompts, "dataset": ["math"] * len(prompts), "a-model": cells, "b": other})
    frame.write_parquet(path)
    return path


def test_sprout_structs_become_measures_and_file_names_the_split(tmp_path: Path) -> None:
    for split, prompts in {"train": ["a", "b"], "validation": ["c", "d"], "test": ["e", "f"]}.items():
        sprout(tmp_path / f"{split}-00000-of-00001.parquet", prompts)
    prices = {"a-model": Price(input_usd_per_mtok=1.0, output_usd_per_mtok=20.0, usd_per_call=0.5)}
    table = import_outcomes("sprout", tmp_path, prices=prices)
    assert table.targets.ids == ("a-model", "b")
    assert sorted(table.texts) == list("abcdef")
    assert [len(side) for side in (split_table(table).train, split_table(table).validation)] == [2, 1]
    np.testing.assert_array_equal(table.quality[:2], [[0.5, NAN], [0.5, 1.0]])
    assert table.cost_usd is not None
    np.testing.assert_allclose(table.cost_usd[:, 0], 0.5 + (100 * 1 + 10 * 20) / 1e6)
    assert np.isnan(table.cost_usd[:, 1]).all(), "no price, no cost"
    assert table.input_tokens is not None
    assert table.input_tokens[0, 0] == 100
    assert table.label == ["math"] * 6


def test_what_is_not_sprout_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "t.parquet"
    pl.DataFrame({"prompt": ["x"], "model": [1.0]}).write_parquet(path)
    assert "names no models" in refused("sprout", path).message
    pl.DataFrame({"text": ["x"]}).write_parquet(path)
    assert "not SPROUT" in refused("sprout", path).message


# --- embedllm ---------------------------------------------------------------------------------------------------------------


def embedllm(path: Path, rows: list[tuple[int, str, int]]) -> None:
    columns = {
        "prompt_id": [p for p, _, _ in rows],
        "prompt": [f"prompt {p}" for p, _, _ in rows],
        "model_name": [m for _, m, _ in rows],
        "label": [label for _, _, label in rows],
        "category": ["c"] * len(rows),
    }
    pl.DataFrame(columns).write_csv(path)


def test_embedllm_files_become_one_table_and_the_best_label_counts(tmp_path: Path) -> None:
    embedllm(tmp_path / "train.csv", [(7, "a", 0), (7, "b", 1), (7, "a", 1), (8, "a", 0)])
    embedllm(tmp_path / "test.csv", [(9, "b", 0), (9, "a", 1)])
    table = import_outcomes("embedllm", tmp_path)
    assert (table.ids, table.targets.ids, table.split) == (("7", "8", "9"), ("a", "b"), ["train", "train", "test"])
    np.testing.assert_array_equal(table.quality, [[1, 1], [0, NAN], [1, 0]])
    assert table.label_name == "category"
    assert table.samples == {}


def test_embedllm_reads_one_file_without_a_split(tmp_path: Path) -> None:
    embedllm(tmp_path / "train.csv", [(7, "a", 0)])
    assert import_outcomes("embedllm", tmp_path / "train.csv").split is None


@pytest.mark.parametrize("drop", ["prompt_id", "label", "model_name"])
def test_what_is_not_embedllm_is_refused(tmp_path: Path, drop: str) -> None:
    path = tmp_path / "train.csv"
    embedllm(path, [(7, "a", 0)])
    pl.read_csv(path).drop(drop).write_csv(path)
    assert "not EmbedLLM" in (error := refused("embedllm", path)).message or "names no models" in error.message


# --- routereval -------------------------------------------------------------------------------------------------------------


def routereval() -> dict[str, Any]:
    def pool(models: list[str]) -> dict[str, Any]:
        data = {
            "train_score": np.array([[1.0] * len(models), [0.0] * len(models)]),
            "val_score": np.array([[0.5] * len(models)]),
            "test_score": np.array([[1.0, *[0.0] * (len(models) - 1)]]),
        }
        return {"data": data, "model": np.array(models)}

    groups = ("all_strong", "all_weak", "strong_to_weak")
    return {
        "easy": {size: {group: pool([f"{group}{i}" for i in range(size)]) for group in groups} for size in (3, 5)},
        "prompt": {"train_prompt": np.array(["a", "b"]), "val_prompt": np.array(["c"]), "test_prompt": np.array(["d"])},
        "embedding": {"train_embed": np.zeros((2, 3), np.float32)},
    }


def plain(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): plain(inner) for key, inner in value.items()}
    return value.tolist() if isinstance(value, np.ndarray) else value


@pytest.mark.parametrize("protocol", range(2, pickle.HIGHEST_PROTOCOL + 1))
def test_a_routereval_pickle_reads_when_trusted(tmp_path: Path, protocol: int) -> None:
    path = tmp_path / "gsm8k_router_dataset.pkl"
    path.write_bytes(pickle.dumps(routereval(), protocol=protocol))
    assert "--trust-pickle" in refused("routereval", path).fix
    table = import_outcomes("routereval", path, trust_pickle=True)
    assert table.targets.ids == tuple(f"strong_to_weak{i}" for i in range(5))
    assert (table.texts, table.split) == (list("abcd"), ["train", "train", "validation", "test"])
    assert table.quality[:, 1].tolist() == [1, 0, 0.5, 0]
    assert table.label == ["gsm8k"] * 4


def test_even_a_trusted_routereval_pickle_runs_no_code(tmp_path: Path) -> None:
    path = tmp_path / "x_router_dataset.pkl"
    path.write_bytes(pickle.dumps({"prompt": Trap(tmp_path / "sprung")}))
    assert "neither plain data nor a numpy array" in refused("routereval", path, trust_pickle=True).message
    assert not (tmp_path / "sprung").exists()
    Trap(tmp_path / "sprung").__reduce__()[0](str(tmp_path / "sprung"))
    assert (tmp_path / "sprung").exists(), "the trap itself works"


def test_routereval_json_needs_no_trust_and_any_pool_can_be_named(tmp_path: Path) -> None:
    path = tmp_path / "arc.json"
    path.write_text(json.dumps(plain(routereval())))
    table = import_outcomes("routereval", path, size=3, group="all_weak")
    assert table.targets.ids == ("all_weak0", "all_weak1", "all_weak2")
    for options, message in (
        ({"level": "hard"}, "no pool 'hard'"),
        ({"size": 7}, "no pool '7'"),
        ({"group": "x"}, "no pool 'x'"),
    ):
        assert message in refused("routereval", path, **options).message


def test_a_routereval_file_of_one_pool_reads(tmp_path: Path) -> None:
    path = tmp_path / "own.json"
    whole = plain(routereval())
    path.write_text(json.dumps({**whole["easy"]["3"]["all_strong"], "prompt": whole["prompt"]}))
    assert len(import_outcomes("routereval", path).targets) == 3


@pytest.mark.parametrize(
    ("break_it", "message"),
    [
        (lambda d: d.pop("prompt"), "has no 'prompt'"),
        (lambda d: d.update(easy=3), "is not RouterEval"),
        (lambda d: d["easy"]["5"]["strong_to_weak"]["data"].update(test_score=[[1.0]]), "has shape (1, 1), not (1, 5)"),
        (lambda d: d["easy"]["5"]["strong_to_weak"]["data"].update(test_score=["x"]), "not a matrix"),
        (lambda d: d["easy"]["5"]["strong_to_weak"]["data"].update(test_score=[[2, 0, 0, 0, 0]]), "outside [0, 1]"),
    ],
)
def test_what_is_not_routereval_is_refused(tmp_path: Path, break_it: Callable[[dict[str, Any]], Any], message: str) -> None:
    data = plain(routereval())
    break_it(data)
    path = tmp_path / "x.json"
    path.write_text(json.dumps(data))
    assert message in refused("routereval", path).message
    path.write_text("{")
    assert "is not JSON" in refused("routereval", path).message


# --- llmrouterbench ---------------------------------------------------------------------------------------------------------


def result(folder: Path, model: str, stamp: str, scores: list[float | None], **changes: Any) -> Path:
    records = [
        {
            "index": i + 1,
            "origin_query": f"query {i}",
            "prompt": f"Q: query {i}",
            "prompt_tokens": 10,
            "completion_tokens": 5,
            "cost": 0.01,
            "score": score,
            "prediction": "",
            "ground_truth": "",
            "raw_output": "",
        }
        for i, score in enumerate(scores)
    ]
    found = {"dataset_name": "aime", "split": "test", "model_name": model, "demo": False, "records": records, **changes}
    path = folder / "aime" / "test" / model / f"aime-test-{model}-{stamp}.json"
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(json.dumps(found))
    return path


def test_llmrouterbench_takes_the_latest_run_of_each_model_and_no_demo(tmp_path: Path) -> None:
    result(tmp_path, "a", "20250101_000000", [0.0, 0.0])
    result(tmp_path, "a", "20250201_000000", [1.0, 0.5])
    result(tmp_path, "b", "20250101_120000", [0.0, None])
    result(tmp_path, "b", "20260101_120000", [1.0, 1.0], demo=True)
    table = import_outcomes("llmrouterbench", tmp_path)
    assert table.targets.ids == ("a", "b")
    assert table.ids == ("aime/test/1", "aime/test/2")
    assert table.texts == ["query 0", "query 1"]
    np.testing.assert_array_equal(table.quality, [[1, 0], [0.5, NAN]])
    assert table.cost_usd is not None
    assert table.cost_usd[0].tolist() == [0.01, 0.01]
    assert (table.label, table.split) == (["aime", "aime"], None)


def test_llmrouterbench_says_when_models_were_asked_different_things(tmp_path: Path) -> None:
    result(tmp_path, "a", "20250101_000000", [1.0])
    path = result(tmp_path, "b", "20250101_000000", [1.0])
    path.write_text(path.read_text().replace('"query 0"', '"QUERY  0"'))
    assert import_outcomes("llmrouterbench", tmp_path).notes == ()
    path.write_text(path.read_text().replace('"QUERY  0"', '["other"]'))
    assert "1 records name another query text" in import_outcomes("llmrouterbench", tmp_path).notes[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"records": [{"index": 1}]}, "is no record"),
        ({"records": [{"index": 1, "score": "high"}]}, "'high' is not a number"),
        ({"records": []}, "holds no records"),
        ({"records": [{"index": 1, "score": 3.0}]}, "outside [0, 1]"),
    ],
)
def test_a_bad_llmrouterbench_record_is_named(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    assert message in refused("llmrouterbench", result(tmp_path, "a", "20250101_000000", [1.0], **changes)).message


def test_what_is_not_llmrouterbench_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text('{"records": []}')
    assert "has no dataset_name" in refused("llmrouterbench", path).message
    path.write_text("nope")
    assert "is not JSON" in refused("llmrouterbench", path).message


# --- routerarena ------------------------------------------------------------------------------------------------------------


def cached(index: str, model: str, score: float | None, **changes: Any) -> dict[str, Any]:
    return {
        "global_index": index,
        "question": f"about {index}",
        "llm_selected": model,
        "generated_answer": "x",
        "token_usage": {"input_tokens": 20, "output_tokens": 4, "total_tokens": 24},
        "success": True,
        "evaluation_result": {"score": score, "metric": "m", "inference_cost": 0.002},
        "run_number": 1,
        **changes,
    }


def test_routerarena_reads_a_folder_of_models(tmp_path: Path) -> None:
    jsonl(tmp_path / "a.jsonl", [cached("AIME_1", "model-a", 1.0), cached("MMLU_law_7", "model-a", 0.5)])
    failed = cached("MMLU_law_7", "", 1.0, success=False, token_usage=None)
    jsonl(tmp_path / "b.jsonl", [cached("AIME_1", "b", 0.0), {**failed, "llm_selected": None}])
    table = import_outcomes("routerarena", tmp_path)
    assert table.targets.ids == ("model-a", "b")
    np.testing.assert_array_equal(table.quality, [[1, 0], [0.5, NAN]])
    assert table.label == ["AIME", "MMLU_law"]
    assert table.texts[0] == "about AIME_1"
    assert table.output_tokens is not None
    np.testing.assert_array_equal(table.output_tokens, [[4, 4], [4, NAN]])


def test_routerarena_runs_are_samples_and_negative_scores_need_clipping(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "a.jsonl", [cached("X_1", "a", -0.2), cached("X_1", "a", 1.0, run_number=2)])
    assert "clip=True" in refused("routerarena", path).fix
    table = import_outcomes("routerarena", path, clip=True)
    assert table.quality.tolist() == [[0.5]]
    assert table.samples["quality"].tolist() == [[[0, 1]]]


@pytest.mark.parametrize("row", [{"question": "x"}, cached("X_1", "a", 1.0, evaluation_result=[1])])
def test_what_is_not_routerarena_is_refused_by_record(tmp_path: Path, row: dict[str, Any]) -> None:
    path = jsonl(tmp_path / "a.jsonl", [cached("X_1", "a", 1.0), row])
    assert refused("routerarena", path).field.endswith("record 2")


# --- llmrouter --------------------------------------------------------------------------------------------------------------


def routed(query: str, model: str, performance: Any, **changes: Any) -> dict[str, Any]:
    return {
        "task_name": "gsm8k",
        "query": query,
        "ground_truth": "4",
        "metric": "GSM8K",
        "choices": None,
        "model_name": model,
        "input_tokens": 1000,
        "output_tokens": 100,
        "response_time": 1.5,
        "performance": performance,
        **changes,
    }


def test_llmrouter_reads_both_files_with_prices(tmp_path: Path) -> None:
    data = tmp_path / "routing_data"
    jsonl(data / "default_routing_train_data.jsonl", [routed("a", "x", 1.0), routed("a", "y", 0.0), routed("b", "x", 0.5)])
    jsonl(data / "default_routing_test_data.jsonl", [routed("a", "x", 1.0), routed("c", "y", 1.0)])
    candidates = tmp_path / "default_llm.json"
    candidates.write_text(
        json.dumps({"x": {"feature": "small", "input_price": 0.2, "output_price": 1.0, "model": "org/x"}, "y": {}})
    )
    table = import_outcomes("llmrouter", data, candidates=candidates)
    assert sorted(zip(table.texts, table.split or (), strict=True)) == [
        ("a", "test"),
        ("a", "train"),
        ("b", "train"),
        ("c", "test"),
    ]
    x = table.targets.get("x")
    assert x is not None
    assert (x.description, x.model, x.price) == ("small", "org/x", Price(input_usd_per_mtok=0.2, output_usd_per_mtok=1.0))
    column = table.only(["x"])
    assert column.cost_usd is not None
    assert column.cost_usd[column.mask].tolist() == pytest.approx([3e-4] * 3)
    assert table.label_name == "task_name"
    assert "1 test rows repeat training prompts and were left out" in split_table(table).notes


def test_llmrouter_queries_differ_by_task_and_truth_too(tmp_path: Path) -> None:
    path = jsonl(tmp_path / "d.jsonl", [routed("a", "x", 1), routed("a", "x", 0, ground_truth="5"), routed("a", "x", 0)])
    table = import_outcomes("llmrouter", path)
    np.testing.assert_array_equal(table.samples["quality"], [[[1, 0]], [[0, NAN]]])
    assert table.split is None


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"task_name": "gsm8k", "model_name": "x", "performance": 0.5}, "has no query"),
        ({"query": "x", "performance": 0.5}, "has no model_name"),
        (routed("x", "m", "good"), "'good' is not a number"),
    ],
)
def test_what_is_not_llmrouter_is_refused_by_record(tmp_path: Path, row: dict[str, Any], message: str) -> None:
    error = refused("llmrouter", jsonl(tmp_path / "d.jsonl", [row]))
    assert message in error.message
    assert "record 1" in error.field


@pytest.mark.parametrize("content", ["[]", "{", '{"x": {"input_price": "free"}}'])
def test_bad_candidates_are_named(tmp_path: Path, content: str) -> None:
    path = tmp_path / "llm.json"
    path.write_text(content)
    with pytest.raises(TableError) as caught:
        import_outcomes("llmrouter", jsonl(tmp_path / "d.jsonl", [routed("a", "x", 1)]), candidates=path)
    assert str(path) in caught.value.field
