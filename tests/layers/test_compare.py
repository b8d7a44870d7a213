"""A comparison is fair, resumes, refuses with a reason, and is written whole."""

from __future__ import annotations

import importlib
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

torch = pytest.importorskip("torch")

from junctor.errors import MissingExtra, UnknownName, UserError  # noqa: E402
from junctor.layers import catalogue, compare, plots, text_data  # noqa: E402
from junctor.layers.compare import CompareSettings  # noqa: E402

pytestmark = pytest.mark.slow

TEXT = "the junction sends the long train down the slow line and the short one down the fast line. " * 12
TINY = CompareSettings(
    ("top-k", "loss-free"),
    steps=5,
    seeds=2,
    batch=2,
    held=4,
    layers=2,
    d_model=16,
    heads=2,
    experts=4,
    hidden=16,
    sequence=16,
)
SHAKESPEARE = Path(__file__).parents[3] / "shared" / "data" / "tinyshakespeare" / "input.txt"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    path = tmp_path / "text.txt"
    path.write_text(TEXT)
    return path


def test_all_gates_see_the_same_data_and_a_run_is_reproducible(monkeypatch: pytest.MonkeyPatch) -> None:
    text = text_data.as_text(TEXT)
    seen: dict[str, list[torch.Tensor]] = {}
    real = text_data.random_windows

    def spy(*words: object) -> tuple[torch.Tensor, torch.Tensor]:
        made = real(*words)
        seen[now].append(made[0])
        return made

    monkeypatch.setattr(text_data, "random_windows", spy)
    runs = {}
    for now in ("dense", "top-k", "loss-free", "again"):
        seen[now] = []
        runs[now] = compare.train(TINY, "top-k" if now == "again" else now, 0, text, "")
    assert all(torch.equal(a, b) for other in seen.values() for a, b in zip(seen["dense"], other, strict=True))
    assert runs["top-k"].losses == runs["again"].losses
    assert runs["top-k"].held == runs["again"].held
    assert runs["top-k"].losses != runs["loss-free"].losses


def test_the_document_has_a_row_with_figures_per_gate(data: Path, tmp_path: Path) -> None:
    told: list[tuple[str, int, int]] = []
    made = compare.compare(TINY, data, tmp_path / "out", lambda *words: told.append(words))
    assert {row["gate"] for row in made["rows"]} == {"dense", "top-k", "loss-free"}
    assert [row["loss"] for row in made["rows"]] == sorted(row["loss"] for row in made["rows"])
    for row in made["rows"]:
        assert row["loss_low"] <= row["loss"] <= row["loss_high"]
        assert row["active_share"] == pytest.approx(1.0)
        assert row["ms_per_step"] > 0
    routed = next(row for row in made["rows"] if row["gate"] == "top-k")
    assert routed["experts_per_token"] == 2.0
    assert 0 <= routed["entropy"] <= 1
    assert 0 <= routed["max_violation"] <= 3
    assert routed["srp"] is not None
    assert 0 <= routed["flip_rate"] <= 1
    assert len(routed["vs_dense"]) == 3
    assert [step for step, _ in made["curves"]["top-k"]["train"][1]] == [1, 2, 3, 4, 5]
    assert json.loads((tmp_path / "out" / "compare.json").read_text())["rows"] == made["rows"]
    assert told[-1][1:] == (30, 30)


def test_finished_runs_are_kept_and_new_gates_and_seeds_added(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    out, done = tmp_path / "out", []
    real = compare.train

    def spy(*words: object) -> compare.Run:
        done.append((words[1], words[2]))
        return real(*words)

    monkeypatch.setattr(compare, "train", spy)
    compare.compare(replace(TINY, gates=("top-k",), seeds=1, dense=False), data, out)
    assert done == [("top-k", 0)]
    compare.compare(replace(TINY, seeds=1, dense=False), data, out)
    assert done == [("top-k", 0), ("loss-free", 0)]
    (out / "runs" / "top-k-0.json").write_text('{"gate": "to')  # a run that was cut off
    compare.compare(replace(TINY, seeds=1, dense=False), data, out)
    assert done[2:] == [("top-k", 0)]
    compare.compare(replace(TINY, seeds=1, steps=6, dense=False), data, out)  # other settings: all anew
    assert len(done) == 5


def test_a_gate_that_takes_another_number_of_experts_gets_another_width() -> None:
    config = compare.model_config(TINY, "top-k:k=1", 9)
    assert (config.settings, config.hidden) == ({"k": 1}, 32)
    assert compare.model_config(replace(TINY, match=False), "top-k:k=1", 9).hidden == 16
    assert compare.model_config(TINY, "top-k:k=4", 9).hidden == 8
    assert compare.model_config(replace(TINY, k=3), "top-k", 9).settings == {"k": 3}
    assert compare.model_config(TINY, "dense", 9).hidden == 32
    before = torch.random.get_rng_state()
    compare.matched_hidden(TINY, "top-k", {})
    assert torch.equal(before, torch.random.get_rng_state())


def test_a_refusal_is_reported_and_the_others_go_on(data: Path, tmp_path: Path) -> None:
    wrong = replace(TINY, gates=("top-k:k=9", "top-k:nonsense=1", "top-k"), seeds=1, dense=False)
    made = compare.compare(wrong, data, tmp_path / "out")
    rows = {row["gate"]: row for row in made["rows"]}
    assert "9" in rows["top-k:k=9"]["refused"]
    assert "nonsense" in rows["top-k:nonsense=1"]["refused"]
    assert not rows["top-k"]["refused"]
    assert made["rows"][0]["gate"] == "top-k"


@pytest.mark.parametrize("name", [one.name for one in catalogue.GATES if not one.causal][:2])
def test_gates_that_see_the_future_need_a_word(name: str, data: Path, tmp_path: Path) -> None:
    made = compare.compare(replace(TINY, gates=(name,), seeds=1, dense=False), data, tmp_path / "out")
    assert made["rows"][0]["refused"]


def test_bad_settings_are_named(data: Path, tmp_path: Path) -> None:
    with pytest.raises(UnknownName, match="known"):
        compare.compare(replace(TINY, gates=("nobody",)), data, tmp_path)
    for change in ({"steps": 0}, {"k": 5}, {"gates": (), "dense": False}):
        with pytest.raises(UserError):
            compare.check(replace(TINY, **change))
    with pytest.raises(UserError, match="sets nothing"):
        compare.parse_gate("top-k:k")
    assert compare.parse_gate("a:k=1+mode=soft+rate=0.5") == ("a", {"k": 1, "mode": "soft", "rate": 0.5})


def test_intervals_over_seeds() -> None:
    assert compare.interval([2.0]) == (2.0, 2.0, 2.0)
    middle, low, high = compare.interval([1.0, 2.0, 3.0])
    assert (middle, high - middle) == pytest.approx((2.0, 4.303 / 3**0.5))
    assert low == pytest.approx(4.0 - high)


def test_pictures_are_drawn(data: Path, tmp_path: Path) -> None:
    pytest.importorskip("matplotlib")
    made = compare.compare(replace(TINY, seeds=1, steps=2), data, tmp_path / "out")
    paths = plots.draw_comparison(made, tmp_path / "out")
    assert {path.suffix for path in paths} == {".svg", ".png"}
    assert all(path.stat().st_size > 2000 for path in paths)
    assert len(paths) == 6
    again = plots.draw_comparison(made, tmp_path / "again")
    assert (tmp_path / "out" / "losses.svg").read_text() == (tmp_path / "again" / "losses.svg").read_text()
    assert len(again) == 6


def test_without_matplotlib_it_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(MissingExtra, match="matplotlib"):
        plots.save_curves({"a": [[(1, 2.0)]]}, tmp_path / "x", title="t", up="u")
    monkeypatch.undo()
    assert len(plots.save_curves({}, tmp_path / "x", title="t", up="u")) == 2
    with pytest.raises(UserError, match="written"):
        plots.save_curves({}, tmp_path / "x.svg" / "y", title="t", up="u")


@pytest.fixture
def junctor(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path):
    from junctor.cli import main

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("COLUMNS", "140")

    def run(*words: str) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["junctor", "layers", *words])
        with pytest.raises(SystemExit) as ended:
            main()
        printed = capsys.readouterr()
        return int(ended.value.code or 0), printed.out, printed.err

    return run


def test_the_command_compares_and_reports(junctor, data: Path) -> None:
    shape = {"sequence": 16, "width": 16, "depth": 2, "experts": 4, "hidden": 16, "batch": 2, "held": 4, "steps": 2, "seeds": 1}
    size = [word for key, value in shape.items() for word in (f"--{key}", str(value))]
    code, out, err = junctor("compare", "--gates", "top-k,loss-free:rate=0.01", "--data", str(data), "--out", "o", *size)
    assert code == 0, err
    assert "dense" in out
    assert "loss-free:rate=0.01" in out
    assert "one seed" in out
    assert Path("o/losses.png").exists()
    code, out, err = junctor("report", "o")
    assert code == 0, err
    assert "SRP" in out
    code, out, err = junctor("report", "o/runs/top-k-0.json", "--plots", "drawn")
    assert {path.stem for path in Path("drawn").iterdir()} == {"max_violation", "entropy", "loads"}
    assert code == 0, err
    assert "blocks.0.ffn" in out
    code, out, _ = junctor("report", "o", "--json")
    assert {row["gate"] for row in json.loads(out)["rows"]} == {"dense", "top-k", "loss-free:rate=0.01"}
    code, _, err = junctor("report", "nowhere")
    assert (code, err.count("\n")) == (2, 1)
    Path("x.json").write_text("[1]")
    assert junctor("report", "x.json")[0] == 2
    Path("x.json").write_text("{")
    assert junctor("report", "x.json")[0] == 2
    assert junctor("compare", "--gates", "nobody", "--data", str(data), "--out", "o")[0] == 2


def test_the_list_says_where_each_part_comes_from(junctor) -> None:
    listed = json.loads(junctor("list", "--json")[1])
    gates = {one["key"]: one["causal"] for one in listed if one["kind"] == "gate"}
    assert gates == {one.name: one.causal for one in catalogue.GATES}
    assert {"moe-lrc", "committee", "llep", "n-eff"} <= {one["key"] for one in listed if one["kind"] != "gate"}
    assert all({"key", "source", "status", "causal"} <= set(one) for one in listed)
    for one in listed:
        module, _, name = one["where"].partition(":")
        assert hasattr(importlib.import_module(module), name), one["key"]
    shown = junctor("list")[1]
    assert all(key in shown for key in ("loss-free", "lora-bank", "llep"))


PUBLISHED = """
linear cosine yuan2 hyperrouter rmoe got-smoe mh-moe omnimoe mor lime stablemoe hash competesmoe erc gnn-moe
mofme ssr bip loss-free base top-k smile locmoe sam rexmoe uoe dynamic-moe adamoe blockffn da-moe dynamoe
ec-dlm pmoe entropy-hybrid smear kalavai mhr poly phatgoose glider dynmole lora-mixer comol remix flylora ept
same t2mir post-moe multilingual testam magnet load max-vio entropy flip-rate moe-lrc committee specialisation
llep
"""


def test_the_list_has_every_published_system_with_its_source(junctor) -> None:
    listed = {one["key"]: one for one in json.loads(junctor("list", "--json")[1])}
    assert set(PUBLISHED.split()) - set(listed) == set()
    for one in listed.values():
        assert one["source"]
        assert one["status"] in {"faithful", "adapted", "simulated", "ours"}
        routed = one["kind"] in {"gate", "system"}
        assert isinstance(one["causal"], bool) is routed, one["key"]


def test_gates_that_look_at_experts_or_heads_are_compared(junctor, data: Path) -> None:
    shape = {"sequence": 16, "width": 16, "depth": 2, "experts": 4, "hidden": 16, "batch": 2, "held": 4, "steps": 2, "seeds": 1}
    size = [word for key, value in shape.items() for word in (f"--{key}", str(value))]
    gates = "erc,competesmoe,competesmoe:warmup=0+rate=1+most=2,mh-moe"
    code, _, err = junctor(
        "compare", "--gates", gates, "--data", str(data), "--out", "o", "--no-plots", "--json", "c.json", *size
    )
    assert code == 0, err
    rows = {row["gate"]: row for row in json.loads(Path("c.json").read_text())["rows"]}
    assert set(rows) == {"dense", *gates.split(",")}
    assert not any(row["refused"] for row in rows.values()), rows
    assert all(row["active_share"] == 1.0 for row in rows.values())  # a head's experts are as narrow as it: K is per head


def test_without_torch_the_extra_is_named(junctor, monkeypatch: pytest.MonkeyPatch, data: Path) -> None:
    import importlib.util

    real = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name, *rest: None if name == "torch" else real(name, *rest))
    code, _, err = junctor("compare", "--gates", "top-k", "--data", str(data), "--out", "o")
    assert code == 2
    assert "junctor[layers]" in err
    assert junctor("list", "--json")[0] == 0


@pytest.mark.slow
@pytest.mark.data
@pytest.mark.skipif(not SHAKESPEARE.exists(), reason="the text lies beside the repository")
def test_the_real_text_is_learned(tmp_path: Path) -> None:
    settings = CompareSettings(("loss-free",), steps=20, seeds=1, batch=8, held=8, dense=False)
    made = compare.compare(settings, SHAKESPEARE, tmp_path)
    assert made["rows"][0]["loss"] < 3.2
