"""The plug-in door works with a real installed package: listed, fitted, judged and checked like a built-in policy."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent

CHECK = """
from junctor.registry import load
from junctor.testing import check_policy
check_policy(load("policy", "short-first")())
print("conforms")
"""


@pytest.mark.slow
def test_an_installed_plugin_is_a_policy_like_any_other(tmp_path: Path) -> None:
    site = tmp_path / "site"
    install = [sys.executable, "-m", "pip", "install", "-q", "--no-deps", "--target", str(site), str(ROOT / "plugin_example")]
    subprocess.run(install, check=True, capture_output=True)
    env = os.environ | {"PYTHONPATH": str(site)}

    def junctor(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "junctor", *words]
        return subprocess.run(command, capture_output=True, text=True, env=env, cwd=tmp_path, check=False)

    listed = json.loads(junctor("policies", "--kind", "policy", "--json").stdout)
    assert "short-first" in {entry["name"] for entry in listed}
    rows = ["query,dataset,score:small,score:large,cost_usd:small,cost_usd:large"]
    rows += [f"q{i} {'word ' * (i % 60)},d{i % 2},{int(i % 60 < 15)},1,0.001,0.02" for i in range(300)]
    (tmp_path / "t.csv").write_text("\n".join(rows))
    judged = junctor("bench", "t.csv", "--policies", "short-first", "--seeds", "2", "--json", "-")
    assert judged.returncode == 0, judged.stderr
    quality = {r["policy"]: r["value"] for r in json.loads(judged.stdout)["rows"] if r["metric"] == "quality"}
    assert quality["short-first"] > quality["cheapest"]
    checked = subprocess.run([sys.executable, "-c", CHECK], capture_output=True, text=True, env=env, check=False)
    assert checked.stdout.strip() == "conforms", checked.stderr
