"""Core + serve stays small: a fresh environment with no extra decides and serves, within 200 MB and 45 packages."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
MOST_MB = 200
MOST_PACKAGES = 45
NOT_OURS = {"pip", "setuptools", "wheel"}

CENSUS = """
import importlib.metadata, json
sizes = {}
for package in importlib.metadata.distributions():
    files = [package.locate_file(f) for f in package.files or []]
    sizes[package.metadata["Name"].lower()] = sum(f.stat().st_size for f in files if f.exists())
print(json.dumps(sizes))
"""

SERVE = """
import asyncio, json, sys
from pathlib import Path
from junctor.build import build_engine
from junctor.config import parse_config
from junctor.gateway import serving
from junctor.types import Message, Request

config = parse_config({
    "journal": {"path": ""},
    "providers": {"embedded": {}},
    "targets": {"arithmetic": {"provider": "embedded"}, "text": {"provider": "embedded"}},
    "policies": {"first": {"use": "fixed", "settings": {"target": "arithmetic"}}},
    "aliases": {"auto": "first"},
}, Path("."))
engine = build_engine(config)
text = "What is 6 * 7?"
body = {"model": "auto", "messages": [{"role": "user", "content": text}]}
request = Request(id="r1", text=text, messages=(Message("user", text),), params=body)
answer = asyncio.run(engine.complete(request, "auto"))
heavy = [m for m in ("polars", "sklearn", "scipy", "matplotlib", "torch", "tokenizers") if m in sys.modules]
print(json.dumps({"answer": json.loads(answer.reply.body)["choices"][0]["message"]["content"], "heavy": heavy}))
"""


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_a_fresh_install_without_extras_is_small_and_serves(tmp_path: Path) -> None:
    env = tmp_path / "venv"
    subprocess.run([sys.executable, "-m", "venv", str(env)], check=True)
    python = str(env / "bin" / "python")
    subprocess.run([python, "-m", "pip", "install", "-q", str(ROOT)], check=True, capture_output=True)
    census = subprocess.run([python, "-c", CENSUS], check=True, capture_output=True, text=True, cwd=tmp_path)
    sizes = {name: size for name, size in json.loads(census.stdout).items() if name not in NOT_OURS}
    print(f"{len(sizes)} packages, {sum(sizes.values()) / 1e6:.0f} MB")
    assert "junctor" in sizes
    assert len(sizes) <= MOST_PACKAGES, sorted(sizes)
    assert sum(sizes.values()) / 1e6 <= MOST_MB, sizes
    assert not {"scikit-learn", "polars", "torch", "matplotlib", "tokenizers"} & set(sizes)
    served = subprocess.run([python, "-c", SERVE], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert served.returncode == 0, served.stderr
    said = json.loads(served.stdout)
    assert "42" in said["answer"]
    assert said["heavy"] == []
    (tmp_path / "t.csv").write_text("query,score:a,score:b\nhello,1,0\n")
    bench = subprocess.run([f"{env}/bin/junctor", "bench", "t.csv"], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert bench.returncode == 2
    assert "pip install 'junctor[bench]'" in bench.stderr
    assert "Traceback" not in bench.stderr
