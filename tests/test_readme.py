"""The README is executed: its commands, its configuration, its table, its client and its policy do what they say."""

from __future__ import annotations

import os
import re
import socket
import subprocess
import sys
import time
import tomllib
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from junctor.config import load_config
from junctor.outcomes.reading import read_table
from junctor.testing import check_policy

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text("utf-8")
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", README, re.DOTALL | re.MULTILINE)


def blocks(language: str) -> list[str]:
    return [text for kind, text in BLOCKS if kind == language]


def commands() -> list[str]:
    """Every shell command of the README, continuation lines joined, comments cut."""
    joined = "\n".join(blocks("sh")).replace("\\\n", " ")
    return [re.sub(r"\s+#.*$", "", line).strip() for line in joined.splitlines() if line.strip()]


@dataclass
class Served:
    """A demo that has run, and its gateway."""

    folder: Path
    port: int
    env: dict[str, str]

    def sh(self, command: str) -> subprocess.CompletedProcess[str]:
        command = command.replace("127.0.0.1:8080", f"127.0.0.1:{self.port}")
        return subprocess.run(["sh", "-c", command], capture_output=True, text=True, cwd=self.folder, env=self.env, check=False)


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    folder = tmp_path_factory.mktemp("readme")
    bin_folder = str(Path(sys.executable).parent)
    env = os.environ | {
        "PATH": f"{bin_folder}{os.pathsep}{os.environ['PATH']}",
        "XDG_CACHE_HOME": str(folder / "cache"),
        "COLUMNS": "120",
    }
    ran = subprocess.run(
        [sys.executable, "-m", "junctor", "demo", "--no-serve", "--tasks", "120", "--seeds", "2"],
        capture_output=True,
        text=True,
        cwd=folder,
        env=env,
        check=False,
    )
    assert ran.returncode == 0, ran.stderr
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "junctor", "serve", "--config", "demo/junctor.toml", "--port", str(port)]
    log = (folder / "serve.log").open("wb")
    with log, subprocess.Popen(command, cwd=folder, env=env, stdout=log, stderr=log) as process:
        for _ in range(100):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/healthz", timeout=1).close()
                break
            except OSError:
                time.sleep(0.1)
        yield Served(folder, port, env)
        process.terminate()
        assert process.wait(20) == 0, (folder / "serve.log").read_text()


def test_make_targets_of_the_readme_exist() -> None:
    makefile = (ROOT / "Makefile").read_text()
    named = [command.split()[1] for command in commands() if command.startswith("make ")]
    assert {"run", "test"} <= set(named)
    for target in named:
        assert re.search(rf"^{target}:", makefile, re.MULTILINE)


@pytest.mark.slow
def test_the_first_request_is_answered_and_explained(served: Served) -> None:
    curl = next(command for command in commands() if command.startswith("curl"))
    replied = served.sh(curl)
    assert replied.returncode == 0, replied.stderr
    assert "9.6" in replied.stdout
    id_ = re.search(r"x-junctor-decision: (\S+)", replied.stdout)
    assert id_ is not None
    for command in commands():
        if command.startswith(("junctor route", "junctor explain")):
            ran = served.sh(command.replace("DECISION_ID", id_[1]))
            assert ran.returncode == 0, ran.stderr
            assert "->" in ran.stdout


@pytest.mark.slow
def test_the_openai_client_works_unchanged(served: Served) -> None:
    code = next(text for text in blocks("python") if "from openai import OpenAI" in text)
    code = code.replace("127.0.0.1:8080", f"127.0.0.1:{served.port}")
    ran = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=served.env, check=False)
    assert ran.returncode == 0, ran.stderr
    assert "150" in ran.stdout


@pytest.mark.slow
def test_logs_are_imported_judged_and_fitted(served: Served) -> None:
    feedback = '{"decision_id": "%s", "quality": 1.0}'
    curl = next(command for command in commands() if command.startswith("curl"))
    for _ in range(3):
        id_ = re.search(r"x-junctor-decision: (\S+)", served.sh(curl).stdout)
        assert id_ is not None
        url = f"http://127.0.0.1:{served.port}/v1/feedback"
        body = (feedback % id_[1]).encode()
        urllib.request.urlopen(urllib.request.Request(url, body, {"content-type": "application/json"}), timeout=5).close()
    run = [c for c in commands() if c.startswith(("junctor import journal", "junctor bench", "junctor fit"))]
    assert len(run) >= 3
    for command in run:
        ran = served.sh(command.replace("junctor bench", "junctor bench --seeds 2"))
        assert ran.returncode == 0, ran.stderr
    assert (served.folder / "live.parquet").is_file()
    assert (served.folder / "report.html").is_file()
    assert (served.folder / "policies" / "auto" / "policy.toml").is_file()


def test_the_configuration_of_the_readme_is_valid(tmp_path: Path) -> None:
    text = next(block for block in blocks("toml") if "[providers" in block)
    (tmp_path / "junctor.toml").write_text(text)
    config = load_config(tmp_path / "junctor.toml")
    assert config.targets["o3-mini@low"].settings == {"reasoning_effort": "low"}
    assert config.aliases["auto"].policy == "start"


def test_the_table_of_the_readme_reads(tmp_path: Path) -> None:
    (tmp_path / "t.csv").write_text(blocks("csv")[0])
    table = read_table(tmp_path / "t.csv")
    assert table.targets.ids == ("small", "large")
    assert table.label_name == "dataset"


def test_the_policy_of_the_readme_keeps_the_contract() -> None:
    code = next(text for text in blocks("python") if "class ShortestConfig" in text)
    names: dict[str, object] = {"__name__": "readme"}
    exec(compile(code, "README.md", "exec"), names)
    config = names["ShortestConfig"]
    assert callable(config)
    check_policy(config())
    door = tomllib.loads(next(block for block in blocks("toml") if "entry-points" in block))
    assert "shortest" in door["project"]["entry-points"]["junctor.policies"]


def test_every_link_of_the_readme_leads_somewhere() -> None:
    for link in re.findall(r"\]\(([^)#]+)\)", README):
        assert link.startswith("http") or (ROOT / link).exists(), link
