"""The command line: its flags are a promise, its mistakes are one line, its tables have a JSON twin."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import typer
import typer.core

from junctor.cli import app

TABLE = "\n".join(
    ["query,dataset,score:small,score:large,cost_usd:small,cost_usd:large"]
    + [f"{'hard' if i % 3 == 0 else 'easy'} question {i},d{i % 2},{int(i % 3 != 0)},1,0.001,0.02" for i in range(120)]
)

CONFIG = """
[journal]
path = "j"
[providers.scripted]
[targets.small]
provider = "scripted"
[targets.large]
provider = "scripted"
[policies.knn]
artefact = "knn"
[policies.plain]
use = "fixed"
settings = { target = "large" }
[aliases]
auto = "knn"
plain = "plain"
"""


@pytest.fixture
def table(tmp_path: Path) -> Path:
    path = tmp_path / "t.csv"
    path.write_text(TABLE)
    return path


SURFACE = {
    "audit": "config json most",
    "bench": (
        "board card clip data drop-empty encoder engine experiments gold html jobs json label out policies queries quick "
        "resamples seeds sets split suite targets text"
    ),
    "demo": "folder port seed seeds serve tasks",
    "doctor": "config json offline probe",
    "explain": "config journal json",
    "fit": "clip drop-empty encoder gold json label out policy queries seed set split targets test text thrift",
    "formats": "",
    "guards": "",
    "import": "out trust-pickle",
    "keys": "",
    "layers": "",
    "logs": "alias config errors follow journal json last since tenant text",
    "policies": "board family json kind",
    "route": "budget-usd config json label model quality-floor",
    "serve": "config host port",
    "spend": "by config cpu-us journal json since",
    "trials": "config journal json last",
}


def test_the_flags_grow_only_on_purpose() -> None:
    group = typer.main.get_command(app)
    assert isinstance(group, typer.core.TyperGroup)
    found = {}
    for name, command in group.commands.items():
        flags = [
            p.opts[0].removeprefix("--") for p in command.params if isinstance(p, typer.core.TyperOption) and p.name != "help"
        ]
        found[name] = " ".join(sorted(flags))
    assert found == SURFACE


def test_shells_get_their_completion() -> None:
    script = Path(sys.executable).with_name("junctor")
    env = {**os.environ, "_TYPER_COMPLETE_TEST_DISABLE_SHELL_DETECTION": "1"}
    for shell, sign in (("bash", "complete -o default"), ("zsh", "#compdef junctor"), ("fish", "complete --command junctor")):
        command = [script, "--show-completion", shell]
        ran = subprocess.run(command, env=env, capture_output=True, text=True, timeout=60, check=True)
        assert "_JUNCTOR_COMPLETE" in ran.stdout
        assert sign in ran.stdout


def test_completion_knows_the_commands() -> None:
    asked = {**os.environ, "_JUNCTOR_COMPLETE": "complete_zsh", "_TYPER_COMPLETE_ARGS": "junctor do"}
    ran = subprocess.run([sys.executable, "-m", "junctor"], env=asked, capture_output=True, text=True, timeout=60, check=False)
    assert "doctor" in ran.stdout


def test_every_command_teaches(junctor) -> None:
    for name in SURFACE:
        ran = junctor(name, "--help")
        assert ran.code == 0
        assert "Usage: junctor" in ran.out or "Usage" in ran.out
    assert "junctor demo" in junctor("--help").out
    assert junctor("--version").out.startswith("junctor 0.")


def test_policies_lists_what_is_registered(junctor) -> None:
    listed = json.loads(junctor("policies", "--json").out)
    assert {"knn", "utility", "static", "embedded"} <= {entry["name"] for entry in listed}
    knn = next(entry for entry in listed if entry["name"] == "knn")
    assert (knn["kind"], knn["family"], knn["needs"]) == ("estimator", "neighbours and tables", ["embedding"])
    assert (knn["learns"], knn["onboards"], knn["replays"]) == (False, True, False)
    shown = junctor("policies").out
    assert "knn" in shown
    assert "latent traits" in shown
    only = json.loads(junctor("policies", "--kind", "encoder", "--json").out)
    assert {entry["kind"] for entry in only} == {"encoder"}
    assert "majority" in junctor("policies", "--kind", "aggregate").out


def test_policies_of_one_family(junctor) -> None:
    listed = json.loads(junctor("policies", "--family", "online", "--json").out)
    assert {"linucb", "exp3"} <= {entry["name"] for entry in listed}
    assert {entry["family"] for entry in listed} == {"online"}
    estimators = junctor("policies", "--family", "label first", "--kind", "estimator").out
    assert "adaptdhm" in estimators
    assert "arch-router" not in estimators


def test_one_policy_in_full(junctor, tmp_path: Path) -> None:
    from junctor.bench.suite_document import ExperimentFacts, SetFacts, Standing, SuiteBoard, Table

    shown = junctor("policies", "carrot").out
    for said in ("estimator, regression", "adapted", "What replaces what", "shrinkage", "pull to the mean", "claimed"):
        assert said in shown
    assert "there is no board here" in shown or "found here" in shown
    bar = Standing(policy="knn", figures={"quality": (0.5, 0.5, 0.5)}, rank=2, clears_the_cheap_bars="bar")
    first = Standing(
        policy="carrot",
        figures={"quality": (0.75, 0.7, 0.8)},
        rank=1,
        clears_the_cheap_bars="yes",
        vs_best_bar=(0.25, 0.2, 0.3),
    )
    table = Table(experiment="standard", set="mine", headline="quality", rows=(first, bar), best_bar="knn")
    suite = SuiteBoard(
        tables=(table,),
        sets=(SetFacts(name="mine", title="A set of mine", queries=9, targets=2),),
        experiments=(ExperimentFacts(name="standard", title="Standard protocol", question="?"),),
        left_out={"fixed": "it needs a setting"},
        quick=True,
    )
    suite.save(tmp_path / "docs" / "board" / "board.json")
    shown = junctor("policies", "carrot").out
    for said in ("A set of mine", "0.750", "[0.700", "+0.250", "knn", "yes", "not to be quoted"):
        assert said in shown
    assert "it needs a setting" in junctor("policies", "fixed").out
    page = json.loads(junctor("policies", "carrot", "--board", "docs/board/board.json", "--json").out)
    assert page["about"]["settings"][0]["name"] == "k"
    assert page["figures"][0]["rank"] == "1 of 2"


def test_bench_prints_a_board_and_its_json_twin(junctor, table: Path, tmp_path: Path) -> None:
    ran = junctor("bench", str(table), "--policies", "knn", "--seeds", "2", "--json", "-", "--html", "r.html")
    assert ran.code == 0, ran.err
    board = json.loads(ran.out)
    assert board["schema"] == 1
    quality = {row["policy"]: row["value"] for row in board["rows"] if row["metric"] == "quality"}
    assert quality["oracle"] >= quality["knn"]
    assert "knn" in ran.err
    assert "<html" in (tmp_path / "r.html").read_text()


def test_fit_route_and_explain_tell_one_story(junctor, table: Path, tmp_path: Path) -> None:
    fitted = junctor("fit", str(table), "--policy", "knn", "--out", "knn", "--set", "cost_weight=0.2")
    assert fitted.code == 0, fitted.err
    assert (tmp_path / "knn" / "policy.toml").is_file()
    (tmp_path / "junctor.toml").write_text(CONFIG)
    routed = junctor("route", "easy question 7", "--json")
    assert routed.code == 0, routed.err
    decision = json.loads(routed.out)["decision"]
    assert decision["target"] in {"small", "large"}
    assert {row["target"] for row in decision["ranked"]} == {"small", "large"}
    assert decision["reasons"]
    shown = junctor("route", "easy question 7", "--label", "dataset=d1", "--model", "plain")
    assert "-> large" in shown.out
    assert not (tmp_path / "j").exists(), "a dry run must not be journalled"


def test_explain_prints_decision_attempts_and_feedback(junctor, tmp_path: Path) -> None:
    from junctor.journal import DecisionRecord, FeedbackRecord, Journal, OutcomeRecord
    from junctor.types import Attempt, Call, Decision, Outcome, Ranked

    ranked = (Ranked(target="a", score=0.9, predicted=Outcome(quality=0.9, cost_usd=0.01)),)
    decision = Decision(id="d1", plan=Call("a"), target="a", ranked=ranked, policy="knn", reasons=("it is the best",))
    failed = Attempt(target="a", started_s=0.0, ended_s=0.5, error="upstream_timeout", detail="silent")
    with Journal(tmp_path / "j") as journal:
        journal.append(DecisionRecord(at=0.0, decision=decision, alias="auto", text="hi", refusals={"c": "no tools"}))
        journal.append(OutcomeRecord(at=1.0, id="d1", target="b", outcome=Outcome(cost_usd=0.02), attempts=(failed,)))
        journal.append(FeedbackRecord(at=2.0, id="d1", outcome=Outcome(quality=0.5), comment="so-so"))
    shown = junctor("explain", "d1", "--journal", "j").out
    for piece in ("it is the best", "not eligible: c: no tools", "upstream_timeout", "served by b", "quality 0.5", "so-so"):
        assert piece in shown
    assert len(json.loads(junctor("explain", "d1", "--journal", "j", "--json").out)) == 3
    missing = junctor("explain", "nope", "--journal", "j")
    assert (missing.code, "is not in the journal" in missing.err) == (2, True)


def test_import_writes_a_table(junctor, tmp_path: Path) -> None:
    assert "routerbench" in junctor("formats").out
    (tmp_path / "e.csv").write_text(
        "prompt_id,prompt,model_id,model_name,category_id,category,label\n"
        "0,what,0,a,0,x,1\n0,what,1,b,0,x,0\n1,why,0,a,0,x,0\n1,why,1,b,0,x,1\n"
    )
    ran = junctor("import", "embedllm", "e.csv", "--out", "t.csv")
    assert ran.code == 0, ran.err
    assert "2 queries x 2 targets" in ran.out
    assert "score:a" in (tmp_path / "t.csv").read_text()


MISTAKES = [
    ("bench missing.csv", "missing.csv"),
    ("bench t.csv --policies nope", "no policy or estimator is called 'nope'|'nope'"),
    ("bench t.csv --encoder nope", "no encoder is called 'nope'"),
    ("bench t.csv --split fold", "fold"),
    ("bench t.csv --label nope", "nope"),
    ("bench t.csv --text nope", "nope"),
    ("bench t.csv --split 50/60", "50/60"),
    ("bench t.csv --seeds 0", "--seeds"),
    ("bench t.csv --nope", "No such option"),
    ("bench", "Missing argument|Usage"),
    ("bench --seeds 2", "no table is named"),
    ("bench --suite nope", "no suite 'nope'"),
    ("bench t.csv --suite published", "--sets t.csv"),
    ("bench --suite published --engine nope", "no engine 'nope'"),
    ("bench --suite published --sets nope", "sets: nope"),
    ("bench --suite published --data nope", "is not a folder"),
    ("bench --suite published --sets t.csv --experiments nope", "experiments: nope"),
    ("bench --suite published --sets t.csv --encoder lexical --policies nope", "policies: nope"),
    ("fit t.csv --policy nope --out x", "'nope'"),
    ("fit t.csv --policy knn --out x --set kk=3", "kk"),
    ("fit t.csv --policy knn --out x --set k", "is not name=value"),
    ("serve", "junctor.toml: does not exist"),
    ("serve --config bad.toml", "gateway.prot"),
    ("route hi --config bad.toml", "gateway.prot"),
    ("route hi --label x --config ok.toml", "is not name=value"),
    ("route hi --model nope --config ok.toml", "nope"),
    ("import nope t.csv --out x.csv", "nope"),
    ("import routerbench t.pkl --out x.csv", "--trust-pickle"),
    ("policies --kind nope", "nope"),
    ("policies --family nope", "there is no family 'nope'"),
    ("policies --family online --kind encoder", "have no family"),
    ("policies carot", "did you mean 'carrot'?"),
    ("policies knn --kind policy", "one part needs no filter"),
    ("policies knn --board t.csv", "is not a suite's board"),
]


@pytest.mark.parametrize(("command", "says"), MISTAKES)
def test_each_mistake_is_one_line_and_exit_code_2(junctor, table: Path, tmp_path: Path, command: str, says: str) -> None:
    (tmp_path / "bad.toml").write_text("[gateway]\nprot = 1\n")
    (tmp_path / "ok.toml").write_text(
        "[providers.scripted]\n[targets.a]\nprovider='scripted'\n[policies.p]\nuse='random'\n[aliases]\nauto='p'\n"
    )
    (tmp_path / "t.pkl").write_bytes(b"\x80\x04N.")
    ran = junctor(*command.split())
    assert ran.code == 2, ran.err + ran.out
    said = ran.err + ran.out
    assert any(part in said for part in says.split("|")), said
    assert "Traceback" not in said
    errors = [line for line in ran.err.splitlines() if line.startswith("error:")]
    assert len(errors) == 1 or command == "bench"


def test_serving_leaves_the_threads_of_linear_algebra_to_the_gateway(
    junctor, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An environment that the command itself had set would look like the user's wish, and two threads would stay."""
    from junctor.gateway import serving

    seen: dict[str, str | None] = {}

    def no_serve(engine: object, **_: object) -> None:
        seen["threads"] = os.environ.get("OPENBLAS_NUM_THREADS")

    monkeypatch.delenv("OPENBLAS_NUM_THREADS", raising=False)
    monkeypatch.setattr(serving, "serve", no_serve)
    (tmp_path / "junctor.toml").write_text(
        "[journal]\npath=''\n[providers.scripted]\n[targets.a]\nprovider='scripted'\n"
        "[policies.p]\nuse='random'\n[aliases]\nauto='p'\n"
    )
    assert junctor("serve").code == 0
    assert seen == {"threads": None}
